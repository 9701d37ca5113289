"""The learning rate as a function of the recipe, the step and a small state that the checkpoint keeps."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..recipes.messages import shortened
from ..recipes.schema import Recipe

ENDLESS = 2**40  # steps: the length of a run with a time, until it is fitted to the time
OF_TIME = ("iterations", "fitted_at", "done")  # the fields that only a run with a time has


@dataclass(frozen=True)
class ScheduleState:
    """What the learning rate depends on beside recipe and step: what was observed during training.

    `warmup_end` is the first step after the warm-up, None while it lasts and for recipes without one. The
    others are of the plateau schedule: how often the rate was dropped, the lowest validation error so far in
    percent, and how many evaluations there were since it or since the last drop.

    The last three are of a run with a time (`recipe.time`): how many steps the schedule takes by the latest
    fit, None before the first; the step of that fit; and what part of the schedule was done then, 0 to 1.
    """

    warmup_end: int | None = None
    drops: int = 0
    lowest_error: float | None = None
    waited: int = 0
    iterations: int | None = None
    fitted_at: int = 0
    done: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for a checkpoint."""
        own = () if self.iterations is not None else OF_TIME
        return {name: value for name, value in asdict(self).items() if name not in own}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ScheduleState":
        """Read back what `as_dict` gave.

        Raises:
            TypeError, ValueError: it is something else.
        """
        state = cls(**values)
        counts = {"drops": state.drops, "waited": state.waited, "fitted_at": state.fitted_at}
        counts |= {} if state.warmup_end is None else {"warmup_end": state.warmup_end}
        counts |= {} if state.iterations is None else {"iterations": state.iterations}
        for name, count in counts.items():
            if type(count) is not int or count < 0:
                raise ValueError(f"{name} is {shortened(count)}")
        lowest = state.lowest_error
        if lowest is not None and (type(lowest) not in (int, float) or not 0 <= lowest <= 100):
            raise ValueError(f"lowest_error is {shortened(lowest)}")
        if type(state.done) not in (int, float) or not 0 <= state.done < 1:
            raise ValueError(f"done is {shortened(state.done)}")
        if state.iterations is not None and state.iterations <= state.fitted_at:
            raise ValueError(f"iterations is {state.iterations}, fitted at step {state.fitted_at}")
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


def after_fit(recipe: Recipe, state: ScheduleState, step: int, iterations: int) -> ScheduleState:
    """Return the state after the schedule of a run with a time was fitted to so many steps in all.

    What is done of the schedule stays done; what is left of it is spread over the steps that are left. So
    the learning rate never jumps, and past its peak it never rises. The first fit spreads all of it.
    """
    if state.iterations is None:
        return replace(state, iterations=iterations)
    return replace(state, iterations=iterations, fitted_at=step, done=part_done(recipe, step, state))


def fitted(recipe: Recipe, state: ScheduleState) -> Recipe:
    """Return the recipe with the iterations that the schedule has now: its own, unless it has a time."""
    if not recipe.time:
        return recipe
    return recipe.model_copy(update={"iterations": state.iterations or ENDLESS})


def position(recipe: Recipe, step: int, state: ScheduleState) -> float:
    """Return where on the schedule a step is, from 0 to the iterations that the schedule has now.

    It is the step itself, unless the recipe has a time; see `after_fit`. Before the first fit it is 0.
    """
    return (state.iterations or 0) * part_done(recipe, step, state) if recipe.time else step


def part_done(recipe: Recipe, step: int, state: ScheduleState) -> float:
    """Return what part of the schedule is done before a step, 0 to 1."""
    if not recipe.time:
        return step / recipe.iterations
    if state.iterations is None:
        return 0.0
    return state.done + (1 - state.done) * (step - state.fitted_at) / (state.iterations - state.fitted_at)


def is_evaluated(recipe: Recipe, step: int, state: ScheduleState) -> bool:
    """Tell whether an evaluation follows so many steps; with a time, after equal parts of the schedule."""
    whole = fitted(recipe, state)
    if not recipe.time:
        return step % whole.evaluation_period == 0
    parts = math.ceil(whole.iterations / whole.evaluation_period)
    before, now = (int(parts * part_done(recipe, taken, state)) for taken in (step - 1, step))
    return now > before


def is_early(recipe: Recipe, step: int, state: ScheduleState) -> bool:
    """Tell whether a step's batch is resized to `augment.early_size`."""
    return position(recipe, step, state) < fitted(recipe, state).early_steps


def learning_rate(recipe: Recipe, step: int, state: ScheduleState) -> float:
    """Return the learning rate of a step (0 is the first).

    Args:
        recipe: its schedule's drops are fractions of its iterations, or of those that its time is enough for.
        step: the step about to be taken.
        state: what was observed so far.
    """
    schedule = recipe.schedule
    if warming_up(recipe, state):
        return schedule.warmup_learning_rate
    place, iterations = position(recipe, step, state), state.iterations or recipe.iterations
    if schedule.shape in ("triangle", "cosine"):
        return recipe.optimizer.learning_rate * _rise_and_fall(
            place, iterations, schedule.peak, schedule.shape == "cosine"
        )
    drops = state.drops
    if schedule.shape == "steps":
        drops = sum(place >= round(drop * iterations) for drop in schedule.drops)
    return recipe.optimizer.learning_rate * schedule.factor**drops


def _rise_and_fall(step: float, iterations: int, peak: float, cosine: bool) -> float:
    """Rise linearly to 1 at the fraction `peak` of the run, then fall, linearly or by a cosine, towards 0."""
    rise = (step + 1) / max(1.0, peak * iterations)
    fall = (iterations - step) / max(1.0, (1 - peak) * iterations)
    if cosine:
        fall = (1 - math.cos(math.pi * min(fall, 1.0))) / 2
    return min(rise, fall, 1.0)
