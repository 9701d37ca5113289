"""The learning-rate range test: a learning rate for a network and its data, from at most 100 steps."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..data.loader import Batches
from ..errors import NonFiniteLossError, RunError
from ..recipes.schema import Recipe
from ..runtime import device as devices
from ..runtime.progress import Reporter
from .engine import Engine
from .muon import Muon
from .prepare import Prepared

STEPS = 100
LOWEST, HIGHEST = 1e-4, 10.0
SMOOTHING = 0.9  # of the loss: what part of the former mean a step leaves
BLOWN_UP = 3.0  # times the lowest smoothed loss, from where the test stops
SAFETY = 10.0


@dataclass(frozen=True)
class FoundRate:
    """A range test: the learning rates tried, the smoothed loss at each, and the rate chosen."""

    rate: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]


def find_rate(
    recipe: Recipe, network: nn.Module, batches: Batches, progress: Callable[[int], None] = lambda _done: None
) -> FoundRate:
    """Try learning rates that rise exponentially, a step each, on a copy of the network (Smith, 2015).

    Everything but the rate is as the recipe has it, without warm-up and frozen layers. It ends where the
    smoothed loss is far above its lowest value. The rate chosen is a tenth of that at which the loss was
    lowest: there it is about to diverge, and momentum makes the loss rise some steps later than the rate
    that is to blame. With Muon the rate of the other layers alone is varied; Muon's own, `optimizer.muon`,
    stays. The same recipe, network and batches give the same rate.

    Args:
        recipe: its precision is resolved.
        network: on the device; it stays as it is.
        batches: the steps' batches.
        progress: called with the number of steps taken.

    Raises:
        RunError: the loss did not fall at any rate.
    """
    changes = {"schedule.shape": "steps", "schedule.drops": (), "schedule.warmup_learning_rate": 0.0}
    changes |= {"optimizer.frozen": 0, "ema.span": 0.0, "time": 0.0, "iterations": STEPS, "stop_after": 0}
    changes |= {"augment.early_share": 1.0, "capture": False, "compile": False}
    plain = recipe.replace({**changes, "optimizer.learning_rate": LOWEST})
    engine = Engine(plain, copy.deepcopy(network).train(), batches)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for step in range(STEPS):
        rate = LOWEST * (HIGHEST / LOWEST) ** (step / (STEPS - 1))
        engine.recipe = plain.replace({"optimizer.learning_rate": rate})
        if isinstance(engine.optimizer, Muon):
            engine.optimizer.angle_per_rate = recipe.optimizer.muon / rate
        try:
            engine.take_step()
            engine.wait()
        except NonFiniteLossError:
            break
        loss, _ = engine.window.read()
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        rates.append(rate)
        losses.append(mean / (1 - SMOOTHING ** (step + 1)))
        progress(step + 1)
        if losses[-1] > BLOWN_UP * min(losses):
            break
    return FoundRate(choose(rates, losses), tuple(rates), tuple(losses))


def range_test(prepared: Prepared, reporter: Reporter) -> FoundRate:
    """Find a rate for a run that was prepared, and say which.

    Raises:
        RunError: see `find_rate`.
    """
    recipe = prepared.recipe.replace({"precision": prepared.precision})
    batches = prepared.data.batches
    with devices.cuda_settings(recipe.deterministic), reporter.working("learning rates", STEPS) as progress:
        try:
            found = find_rate(recipe, prepared.network, batches, progress)
        finally:
            batches.close()
    muon = "; Muon's own rate, optimizer.muon, stays" if recipe.optimizer.muon else ""
    reporter.say(
        f"learning rate {found.rate:g}, found in a range test of {len(found.rates)} steps: "
        f"a tenth of the rate with the lowest loss{muon}"
    )
    return found


def choose(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Return a tenth of the rate with the lowest loss, with two digits.

    Raises:
        RunError: that is the first of all.
    """
    lowest = min(range(len(losses)), key=losses.__getitem__, default=0)
    if lowest == 0:
        raise RunError("--find-lr: the loss fell at no learning rate, so there is none to take; give --lr")
    rate = rates[lowest] / SAFETY
    digits = 1 - math.floor(math.log10(rate))
    return round(rate, digits)


def plot(found: FoundRate, path: Path) -> None:
    """Draw the smoothed loss against the learning rate, the rate chosen marked, into a PNG.

    Raises:
        RunError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # loads matplotlib, which nothing before needs

    from .curves import COLOURS, save_figure, style

    with style():
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot(found.rates, found.losses, color=COLOURS[0], linewidth=2.2)
        axes.axvline(found.rate, color=COLOURS[1], linestyle="--", label=f"chosen: {found.rate:g}")
        top = 1.5 * found.losses[0]
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed", ylim=(0, top))
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
        save_figure(figure, path)
