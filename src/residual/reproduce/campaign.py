"""Trains the planned runs that have no result file yet."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import ResidualError, RunError
from ..recipes.schema import FOLDER, Recipe
from ..training.jobs import STOPPED, Job, outcome, run_jobs
from ..training.run_folder import Run
from .photographs import load_imagenette
from .plan import Budget
from .results import result_path, save_result


def reproduce(
    recipes: Sequence[Recipe],
    *,
    results: Path,
    runs: Path,
    jobs: int = 1,
    budget: Budget | None = None,
    data_dir: Path | None = None,
    device: str | None = None,
    say: Callable[[str], None] = lambda _line: None,
) -> list[Path]:
    """Train the runs that have no result file yet, and write one for each that finishes.

    A call that is stopped, by its budget or a signal, saves the runs in progress; the next call resumes them.

    Returns:
        The result files that were written.

    Raises:
        InterruptedRunError: a signal came.
        DataError, UsageError: the data cannot be loaded, or photographs are not those of Imagenette.
        RunError: a run failed; the others were trained nevertheless.
    """
    missing = [recipe for recipe in recipes if not result_path(results, recipe).exists()]
    if any(recipe.data == FOLDER for recipe in missing):
        load_imagenette(data_dir)
    results.mkdir(parents=True, exist_ok=True)
    say(f"{len(recipes) - len(missing)} of {len(recipes)} runs have a result; {len(missing)} to train")
    planned = [Job(recipe, runs / result_path(results, recipe).stem) for recipe in missing]
    written: list[Path] = []
    failed: list[str] = []

    def finished(job: Job, code: int) -> None:
        name = job.output.name
        if code == STOPPED:
            say(f"{name}: {outcome(code)}")
            return
        try:
            if code:
                raise RunError(f"exit code {code}")
            run = Run.open(job.output)
            written.append(save_result(results, run, data_dir))
            say(f"{name}: test error {run.result['error']:.2f} %")  # type: ignore[index]
        except ResidualError as error:  # the other runs go on
            failed.append(name)
            say(f"{name}: failed: {error}")

    stop = (budget or Budget(None)).spent
    run_jobs(planned, jobs, data_dir=data_dir, device=device, finished=finished, stop=stop)
    if failed:
        raise RunError(f"{len(failed)} of {len(planned)} runs failed: {', '.join(failed)}")
    if len(written) < len(missing):
        say(f"{len(missing) - len(written)} runs are left; the next call resumes them")
    return written
