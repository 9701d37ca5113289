"""The runs below a folder: what each trains and how far it is, from its small files alone; without torch."""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import ResidualError, RunError
from ..recipes.catalog import recipe_label
from ..recipes.schema import FOLDER, Recipe
from ..runtime.files import found
from .run_folder import Run

State = Literal["finished", "running", "stopped", "broken"]


@dataclass(frozen=True)
class RunSummary:
    """A run, or a broken run folder, of which only `path` and `problem` are known.

    Args:
        path: the run folder.
        state: "finished", "running" in some process, "stopped" and not finished, or "broken".
        step: the last one, of a stopped run that of the newest checkpoint, where a resume begins.
        steps: of the whole run; None while a run that is fitted to a time has no result.
        error: in percent: of a finished run on the test set; else the lowest on the validation set, or the
            last on the test set; None where there was no evaluation.
        measured_on: "test" or "validation".
        date: when it began, ISO 8601.
        network, recipe, data, seed: what was trained, how and on what.
        problem: why the folder cannot be read.
    """

    path: Path
    state: State
    step: int | None = None
    steps: int | None = None
    error: float | None = None
    measured_on: str | None = None
    date: str | None = None
    network: str | None = None
    recipe: str | None = None
    data: str | None = None
    seed: int | None = None
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "path": str(self.path)}


def list_runs(folder: Path) -> list[RunSummary]:
    """Return the runs in a folder or below it, by their dates, then the broken ones by their paths.

    Raises:
        RunError: there is no such folder.
    """
    if not found(folder.is_dir):
        raise RunError(f"there is no folder {folder}")
    runs = [_summary(path) for path in _run_folders(folder)]
    return sorted(runs, key=lambda run: (run.state == "broken", run.date or "", str(run.path)))


def _run_folders(folder: Path) -> Iterator[Path]:
    """Yield the folders that have a run's first two files or one of them beside checkpoints."""
    for parent, folders, files in os.walk(folder):
        if "recipe.json" in files and ("environment.json" in files or "checkpoints" in folders):
            folders.clear()
            yield Path(parent)
        folders[:] = sorted(name for name in folders if not name.startswith("."))


def _summary(path: Path) -> RunSummary:
    try:
        return _read(Run.open(path))
    except (ResidualError, OSError, KeyError, ValueError, TypeError, OverflowError) as error:
        problem = " ".join(str(error).split())
        return RunSummary(path, "broken", problem=problem or type(error).__name__)


def _read(run: Run) -> RunSummary:
    recipe, began, result = run.recipe, run.environment, run.result
    known: dict[str, Any] = {"date": began["date"], "network": recipe.network, "seed": recipe.seed}
    if result is not None:
        names = {key: result[key] for key in ("network", "recipe", "data")}
        steps, error = result["iterations"], float(result["error"])
        return RunSummary(run.path, "finished", steps, steps, error, "test", **{**known, **names})
    known |= {"recipe": recipe_label(recipe), "data": _data(recipe, began)}
    running = run.in_use
    records = run.metrics()
    last = max((record["step"] for record in records), default=0)
    step = last if running else run.last_checkpoint or 0
    steps = None if recipe.time else recipe.last_step
    return RunSummary(run.path, "running" if running else "stopped", step, steps, *_error(records), **known)


def _data(recipe: Recipe, began: dict[str, Any]) -> str:
    """Name the data of a run that has no result yet."""
    named = str(began.get("dataset") or recipe.data)
    folder = began.get("data_dir")
    return Path(folder).name if recipe.data == FOLDER and named == FOLDER and folder else named


def _error(records: list[dict[str, Any]]) -> tuple[float | None, str | None]:
    """Return an unfinished run's error so far; of the test set the last, for nothing is chosen on it."""
    validation = [float(record["error"]) for record in records if record["kind"] == "validation"]
    test = [float(record["error"]) for record in records if record["kind"] == "test"]
    if validation:
        return min(validation), "validation"
    return (test[-1], "test") if test else (None, None)
