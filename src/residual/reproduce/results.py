"""Result files: one JSON a finished run, the only source of every number in the pages."""

import json
import re
from pathlib import Path
from typing import Any

from ..errors import RunError, UsageError
from ..files import write_json
from ..recipe import Recipe, from_dict
from ..recipes import RECIPES
from ..run import Run, without_paths
from .responses import measure_responses

# keys that do not change what is learnt, only what is shown, kept or how it is launched
NEUTRAL = {
    "name",
    "network",
    "seed",
    "curve",
    "stop_after",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
}
NEUTRAL |= {"capture", "checkpoint_activations", "deterministic"}


def recipe_label(recipe: Recipe) -> str:
    """Name a recipe with whatever was changed in it, so that a changed one never passes for the paper's."""
    known = recipe.name in RECIPES
    base = RECIPES[recipe.name](recipe.network) if known else Recipe(network=recipe.network)
    usual, own = base.flat(), recipe.flat()
    changed = [f"{key}={own[key]}" for key in own if own[key] != usual[key] and key not in NEUTRAL]
    return ", ".join([recipe.name, *changed])


def result_path(folder: Path, recipe: Recipe) -> Path:
    """Name a run's result file by what the run is: network, shortcut, recipe, steps and seed."""
    part = f"-first{recipe.last_step}" if recipe.last_step < recipe.iterations else ""
    label = re.sub(r"[^A-Za-z0-9.=]+", "-", recipe_label(recipe))
    return folder / f"{recipe.network}-{label}{part}-seed{recipe.seed}.json"


def save_result(folder: Path, run: Run, data_dir: Path | None = None) -> Path:
    """Write a finished run's result file: figures, curve, responses, and how they came about.

    Raises:
        RunError: the run has not ended.
    """
    figures, recipe = run.result, run.recipe
    if figures is None:
        raise RunError(f"the run {run.path} has not ended")
    path = result_path(folder, recipe)
    record = {
        **{key: figures[key] for key in figures if key != "top5_error"},
        **provenance(run),
        "schedule_iterations": recipe.iterations,
        "recipe_in_full": recipe.as_dict(),
        "curve": _curve(run),
        "responses": measure_responses(run, data_dir),
        "resumed": len(run.environment["resumed"]),
    }
    write_json(path, record)
    return path


def provenance(run: Run) -> dict[str, Any]:
    """Return how a run's figures came about: recipe, machine, versions, commit, command and date."""
    recipe, environment = run.recipe, run.environment
    return {
        "recipe": recipe_label(recipe),
        "batch_size": recipe.batch_size,
        **{key: environment[key] for key in ("hardware", "versions", "commit", "date")},
        "command": without_paths(environment["command"]),
    }


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read every result file, in the order of their names; each is labelled by what its recipe is today.

    Raises:
        RunError: a file is damaged.
    """
    try:
        results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        return [{**run, "recipe": recipe_label(from_dict(run["recipe_in_full"]))} for run in results]
    except (ValueError, KeyError, UsageError) as error:
        raise RunError(f"a result file in {folder} is damaged: {error}") from error


def _curve(run: Run) -> dict[str, list[list[float]]]:
    """Return [step, error] pairs, at most some 160 of each kind, which a picture can show."""
    curve = {}
    for kind in ("train", "test", "holdout"):
        points = [[record["step"], round(record["error"], 3)] for record in run.metrics(kind)]
        if points:
            curve[kind] = points[:: max(1, len(points) // 160)]
    return curve
