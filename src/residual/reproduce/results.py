"""Result files: one JSON file for each finished run, the only source of the numbers in the pages."""

import json
import re
from pathlib import Path
from typing import Any

from ..errors import RunError, UsageError
from ..recipes.catalog import recipe_label
from ..recipes.schema import FOLDER, Recipe, from_dict
from ..runtime.environment import without_paths
from ..runtime.files import read_bounded, write_json
from ..training.run_files import MAX_FILE
from ..training.run_folder import Run
from .photographs import image_facts
from .responses import measure_responses


def result_path(folder: Path, recipe: Recipe) -> Path:
    """Return the path of a run's result file, named by network, recipe, steps and seed."""
    part = f"-first{recipe.last_step}" if recipe.last_step < recipe.iterations else ""
    label = re.sub(r"[^A-Za-z0-9.=]+", "-", recipe_label(recipe))
    return folder / f"{recipe.network}-{label}{part}-seed{recipe.seed}.json"


def save_result(folder: Path, run: Run, data_dir: Path | None = None) -> Path:
    """Write a finished run's result file: figures, curve, layer responses or photographs, and provenance.

    Raises:
        RunError: the run is not finished.
        DataError: the photographs are gone, or others than it was trained on.
    """
    figures, recipe = run.result, run.recipe
    if figures is None:
        raise RunError(f"the run {run.path} is not finished")
    path = result_path(folder, recipe)
    record = {
        **{key: figures[key] for key in figures if key != "top5_error"},
        **provenance(run),
        "schedule_iterations": recipe.iterations,
        "curve": _curve(run),
        **(
            image_facts(run, data_dir)
            if recipe.data == FOLDER
            else {"responses": measure_responses(run, data_dir)}
        ),
    }
    write_json(path, record)
    return path


def provenance(run: Run) -> dict[str, Any]:
    """Return the provenance of a run's figures: recipe, machine, versions, commit, command, date, resumes."""
    recipe, environment = run.recipe, run.environment
    return {
        "recipe": recipe_label(recipe),
        "recipe_in_full": recipe.as_dict(),
        "batch_size": recipe.batch_size,
        **{key: environment[key] for key in ("hardware", "versions", "commit", "date")},
        "command": without_paths(environment["command"]),
        "precision": environment.get("precision", recipe.precision),
        "resumed": [
            {key: resume[key] for key in ("step", "hardware", "commit")} for resume in environment["resumed"]
        ],
    }


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Read all result files in the order of their names; a run's label compares its recipe with today's.

    Raises:
        RunError: a file is corrupted.
    """
    return [_load_result(path) for path in sorted(folder.glob("*.json"))]


def _load_result(path: Path) -> dict[str, Any]:
    try:
        run: dict[str, Any] = json.loads(read_bounded(path, MAX_FILE))
        recipe = from_dict(run["recipe_in_full"])
        return {**run, "recipe": recipe_label(recipe), **_whole_windows(run, recipe)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, UsageError) as error:
        raise RunError(f"the result file {path} is corrupted: {error}") from error


def _whole_windows(run: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Return curve and training error with a last window of fewer steps counted with the one before it.

    A window of a few steps is noisy: the last one of 7,812 steps has 12.
    """
    points = run.get("curve", {}).get("train", [])
    if len(points) < 2:
        return {}
    (before, error), (end, last) = points[-2:]
    steps = end - before
    if not 0 < steps < recipe.log_every:
        return {}
    joined = (recipe.log_every * error + steps * last) / (recipe.log_every + steps)
    return {"training_error": joined, "curve": {**run["curve"], "train": [*points[:-2], [end, joined]]}}


def _curve(run: Run) -> dict[str, list[list[float]]]:
    """Return [step, error] pairs, thinned to at most 160 of each kind, the last one included."""
    curve = {}
    for kind in ("train", "test", "validation"):
        points = [[record["step"], round(record["error"], 3)] for record in run.metrics(kind)]
        if points:
            every = -(-len(points) // 160)
            curve[kind] = points[::-1][::every][::-1]
    return curve
