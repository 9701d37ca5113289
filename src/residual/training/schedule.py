"""The learning rate as a function of the recipe, the step and a small state that the checkpoint keeps."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..recipes.schema import Recipe


@dataclass(frozen=True)
class ScheduleState:
    """What the learning rate depends on beside recipe and step: what was observed during training.

    `warmup_end` is the first step after the warm-up, None while it lasts and for recipes without one. The
    others are of the plateau schedule: how often the rate was dropped, the lowest validation error so far in
    percent, and how many evaluations there were since it or since the last drop.
    """

    warmup_end: int | None = None
    drops: int = 0
    lowest_error: float | None = None
    waited: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ScheduleState":
        """Read back what `as_dict` gave.

        Raises:
            TypeError, ValueError: it is something else.
        """
        state = cls(**values)
        counts = {"drops": state.drops, "waited": state.waited}
        if state.warmup_end is not None:
            counts["warmup_end"] = state.warmup_end
        for name, count in counts.items():
            if type(count) is not int or count < 0:
                raise ValueError(f"{name} is {count!r:.80}")
        lowest = state.lowest_error
        if lowest is not None and (type(lowest) not in (int, float) or not 0 <= lowest <= 100):
            raise ValueError(f"lowest_error is {lowest!r:.80}")
        return state


def warming_up(recipe: Recipe, state: ScheduleState) -> bool:
    """Tell whether the warm-up lasts, and with it the need for `after_warmup_window`."""
    return bool(recipe.schedule.warmup_learning_rate) and state.warmup_end is None


def after_warmup_window(recipe: Recipe, state: ScheduleState, step: int, error: float) -> ScheduleState:
    """Return the state after a window of the warm-up that had this training error, in percent."""
    return replace(state, warmup_end=step) if error < recipe.schedule.warmup_error else state


def after_evaluation(recipe: Recipe, state: ScheduleState, error: float) -> ScheduleState:
    """Return the state after an evaluation with this validation error, in percent (section 3.4).

    Only a plateau schedule heeds it, and not during the warm-up. Once the rate has been dropped, the lowest
    error stays and a new wait begins.
    """
    schedule = recipe.schedule
    if schedule.shape != "plateau" or warming_up(recipe, state):
        return state
    if state.lowest_error is None or error < state.lowest_error:
        return replace(state, lowest_error=error, waited=0)
    if state.waited + 1 < schedule.patience or state.drops >= schedule.max_drops:
        return replace(state, waited=state.waited + 1)
    return replace(state, drops=state.drops + 1, waited=0)


def learning_rate(recipe: Recipe, step: int, state: ScheduleState) -> float:
    """Return the learning rate of a step (0 is the first).

    Args:
        recipe: its schedule's drops are fractions of its iterations.
        step: the step about to be taken.
        state: what was observed so far.
    """
    schedule = recipe.schedule
    if warming_up(recipe, state):
        return schedule.warmup_learning_rate
    if schedule.shape in ("triangle", "cosine"):
        return recipe.optimizer.learning_rate * _rise_and_fall(
            step, recipe.iterations, schedule.peak, schedule.shape == "cosine"
        )
    drops = state.drops
    if schedule.shape == "steps":
        drops = sum(step >= round(drop * recipe.iterations) for drop in schedule.drops)
    return recipe.optimizer.learning_rate * schedule.factor**drops


def _rise_and_fall(step: int, iterations: int, peak: float, cosine: bool) -> float:
    """Rise linearly to 1 at the fraction `peak` of the run, then fall, linearly or by a cosine, towards 0."""
    rise = (step + 1) / max(1.0, peak * iterations)
    fall = (iterations - step) / max(1.0, (1 - peak) * iterations)
    if cosine:
        fall = (1 - math.cos(math.pi * min(fall, 1.0))) / 2
    return min(rise, fall, 1.0)
