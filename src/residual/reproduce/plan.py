"""Which runs a table or figure needs, which are missing, and their training in the time there is."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ResidualError, RunError, UsageError
from ..jobs import STOPPED, Job, outcome, run_jobs
from ..models import complexity
from ..recipe import Recipe
from ..recipes import CIFAR_RECIPES, get_recipe
from ..run import Run
from .results import result_path, save_result

FIGURE_6_STEPS = (
    2000  # where the whole schedule is out of reach, its beginning shows plain and residual nets part
)


@dataclass(frozen=True)
class Target:
    """A table or figure: its networks, and how many seeds of each the paper's claim needs."""

    networks: tuple[str, ...]
    seeds: int = 5
    stop_after: int = 0


TARGETS = {
    "table6": Target(("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")),
    "figure6": Target(("plain20", "plain56", "resnet20", "resnet56"), seeds=1, stop_after=FIGURE_6_STEPS),
    "figure7": Target(("plain20", "plain56", "resnet20", "resnet56"), seeds=1, stop_after=FIGURE_6_STEPS),
    "headlines": Target(("resnet20", "resnet44", "resnet47_bottleneck"), seeds=1),
}


class Budget:
    """The time that a call may take, in seconds; None for as long as it needs."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    @classmethod
    def parse(cls, text: str | None) -> "Budget":
        """Read "90s", "25m" or "2h".

        Raises:
            UsageError: it is none of these.
        """
        if text is None:
            return cls(None)
        units = {"s": 1, "m": 60, "h": 3600}
        number, unit = text[:-1], text[-1:]
        if unit not in units or not re.fullmatch(r"\d+(\.\d+)?", number):
            raise UsageError(f"a budget is a number and s, m or h, such as 25m, not '{text}'")
        return cls(float(number) * units[unit])

    def spent(self) -> bool:
        """Tell whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end


def plan(target: str, recipe: str, networks: Sequence[str] = (), seeds: int | None = None) -> list[Recipe]:
    """Return the recipes of every run that a target needs, the cheapest first, seed by seed.

    Seeds are 0, 1, 2, ... so that nobody can choose among them.

    Raises:
        UsageError: there is no such target or network, or the recipe is not one for the paper's nets.
    """
    if target not in TARGETS:
        raise UsageError(f"nothing to reproduce called '{target}': take {', '.join(TARGETS)}")
    if recipe not in CIFAR_RECIPES:
        raise UsageError(f"no recipe '{recipe}' to reproduce by: take {', '.join(CIFAR_RECIPES)}")
    wanted = TARGETS[target]
    changes = {"curve": "test"} | ({"stop_after": wanted.stop_after} if wanted.stop_after else {})
    chosen = sorted(networks or wanted.networks, key=lambda name: complexity(name).multiply_adds)
    return [
        get_recipe(recipe, network).replace({**changes, "seed": seed})
        for seed in range(seeds or wanted.seeds)
        for network in chosen
    ]


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
    """Train the runs that have no result file yet; each that ends leaves one.

    A call that is stopped, by its budget or by a signal, saves the runs in progress; the next goes on.

    Returns:
        The result files that were written.

    Raises:
        InterruptedRunError: a signal came.
        DataError: the data cannot be loaded.
        RunError: a run failed; the others were trained all the same.
    """
    results.mkdir(parents=True, exist_ok=True)
    missing = [recipe for recipe in recipes if not result_path(results, recipe).exists()]
    say(f"{len(recipes) - len(missing)} of {len(recipes)} runs are there; {len(missing)} to train")
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
        say(f"{len(missing) - len(written)} runs are still to do; the next call goes on with them")
    return written
