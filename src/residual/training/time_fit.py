"""How fast a run is, when it will end, and how many steps fit into its time (`recipe.time`)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

from ..data.dataset import Dataset
from ..errors import RunError
from ..recipes.schema import Recipe
from .photo_report import SAMPLE
from .prepare import Prepared
from .schedule import ENDLESS, ScheduleState, fitted, is_early, part_done

FORWARD = 1 / 3  # of a step's time: a convolution's two gradients take as long as it twice
WRITING = 4.0  # seconds for model folder, curves, report and result
SPARE = 0.02  # of the time, for what is not foreseen
FIRST_STEPS = 20  # are measured for the first fit, or fewer if they take this part of the time:
FIRST_SHARE = 0.02
INTERVAL = 0.05  # of the time, between two fits
FINAL = 0.95  # from here the schedule is not fitted again
FEWEST = 10  # steps that are worth a run


@dataclass(frozen=True)
class Images:
    """What costs time beside the steps: images evaluated each time and at the end, and images' sizes.

    `test_pixels` are the pixels of a tested image, `early_pixels` those of an image in an early batch, both
    relative to those of an image in any other batch.
    """

    evaluated: int = 0
    at_end: int = 0
    test_pixels: float = 1.0
    early_pixels: float = 1.0


class Pace:
    """The speed of a run: measured, and for what has not been seen yet estimated from what has.

    The cost of a step is taken as proportional to the pixels of its batch, and the evaluation of an image as
    a third of its share of a step, until one has been measured. What was measured last counts for half.

    Args:
        recipe: the run's; its time counts from `began`.
        images: see there.
        began: `now()` when the run began, reading of the data included; by default this moment.
        now: the clock, in seconds.
    """

    def __init__(
        self,
        recipe: Recipe,
        images: Images = Images(),
        began: float | None = None,
        now: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.recipe, self.images, self.now = recipe, images, now
        self.earlier = 0.0  # seconds that the run took before it was resumed
        self._began = now() if began is None else began
        self._mark: tuple[int, float] = (0, self._began)  # since when steps are measured
        self._first: float | None = None  # seconds of this process's first step, which starts workers
        self._step: float | None = None  # seconds of a step with images of the usual size
        self._image: float | None = None  # seconds of an evaluated image
        self._evaluating = 0.0  # seconds of the evaluations since the mark
        self._next: int | None = None  # the step of the next fit

    def spent(self) -> float:
        """Return the seconds that the run has taken, with those before it was resumed."""
        return self.earlier + self.now() - self._began

    def start(self, step: int) -> None:
        """Note that the first step of this process comes now."""
        self._mark = (step, self.now())

    def took_step(self, step: int) -> None:
        """Note that so many steps have been taken; measures from the first one's end."""
        if self._first is None:
            self._first = self.now() - self._mark[1]
            self._mark = (step, self.now())

    def evaluated(self, seconds: float) -> None:
        """Note how long the evaluation of `images.evaluated` took."""
        self._evaluating += seconds
        self._image = seconds / max(1, self.images.evaluated)

    def is_due(self, step: int, state: ScheduleState) -> bool:
        """Tell whether the schedule's length is to be fitted after so many steps."""
        recipe = self.recipe
        if not recipe.time or part_done(recipe, step, state) >= FINAL:
            return False
        if self._next is not None:
            return step >= self._next
        first, since = self._mark
        enough = step - first >= 2 and self.now() - since >= FIRST_SHARE * recipe.time
        return enough or step - first >= FIRST_STEPS or self.spent() >= recipe.time

    def measure(self, step: int, state: ScheduleState) -> bool:
        """Measure the steps since the last measurement; return whether any step has been measured yet."""
        first, since = self._mark
        cost = sum(self._cost(number, state) for number in range(first, step))
        if cost:
            found = max(self.now() - since - self._evaluating, 1e-9) / cost
            self._step = found if self._step is None else (self._step + found) / 2
            self._mark, self._evaluating = (step, self.now()), 0.0
        return self._step is not None

    def fit(self, step: int, state: ScheduleState) -> int:
        """Return how many steps in all fit into the time: at least one more than have been taken.

        Raises:
            RunError: at the first fit, if the time is not enough for a training.
        """
        recipe, left = self.recipe, self.recipe.time * (1 - SPARE) - self.spent()
        if not self.measure(step, state):
            assert self._first is not None
            self._step = self._first / self._cost(step - 1, state)
        fewest, most = 0, ENDLESS - step
        while fewest < most:  # the largest number that fits
            middle = (fewest + most + 1) // 2
            fits = self._seconds_for(step, middle, state) <= left
            fewest, most = (middle, most) if fits else (fewest, middle - 1)
        if state.iterations is None and step + fewest < min(FEWEST, recipe.stop_after or FEWEST):
            raise RunError(self._too_short(step, state))
        assert self._step is not None
        self._next = step + max(1, int(INTERVAL * recipe.time / self._step))
        return step + max(1, fewest)

    def left(self, step: int, state: ScheduleState) -> float | None:
        """Return in how many seconds the run will end, None while nothing is known of its speed."""
        last = fitted(self.recipe, state).last_step
        if not self.measure(step, state) or last == ENDLESS:
            return None
        return self._seconds_for(step, last - step, state) if last > step else self._ending()

    def _too_short(self, step: int, state: ScheduleState) -> str:
        rest = self._seconds_for(step, max(1, FEWEST - step), state)
        needed = 10 * ceil((self.spent() + rest) / (1 - SPARE) / 10)
        return (
            f"{self.recipe.time:g} s are too short to train: {self.spent():.0f} s are over after {step} "
            f"steps, and {FEWEST} steps with their evaluation take about {needed} s here; give more time, "
            "or make the images or the network smaller"
        )

    def _cost(self, step: int, state: ScheduleState) -> float:
        """Return the time of a step, relative to one with images of the usual size."""
        pixels = self.images.early_pixels if is_early(self.recipe, step, state) else 1.0
        return pixels * (FORWARD if step < self.recipe.optimizer.frozen else 1.0)

    def _seconds_for(self, step: int, count: int, state: ScheduleState) -> float:
        """Return how long the last `count` steps and all evaluations take."""
        recipe, images = self.recipe, self.images
        assert self._step is not None
        done = part_done(recipe, step, state)
        whole = recipe if not recipe.time else recipe.model_copy(update={"iterations": step + count})
        part_of_a_step = (1 - done) / (whole.iterations - step)
        early = 0.0  # steps with smaller images that are left
        if recipe.augment.early_size:
            early = min(count, max(0.0, (recipe.augment.early_share - done) / part_of_a_step))
        frozen = min(count, max(0, recipe.optimizer.frozen - step)) * (1 - FORWARD)
        steps = (count - frozen) * (1 - early / count * (1 - images.early_pixels))
        parts = whole.iterations / whole.evaluation_period
        times = ceil(count * part_of_a_step * parts) if images.evaluated else 0
        return steps * self._step + times * self._evaluation(images.evaluated) + self._ending()

    def _evaluation(self, images: int) -> float:
        """Return how long the evaluation of so many images takes."""
        if self._image is not None:
            return images * self._image
        assert self._step is not None
        start = max(0.0, (self._first or 0.0) - self._step)  # of the workers
        return start + images * self._step * FORWARD * self.images.test_pixels / self.recipe.batch_size

    def _ending(self) -> float:
        return WRITING + (self._evaluation(self.images.at_end) if self.images.at_end else 0.0)


def pace_of(prepared: Prepared, began: float | None = None) -> Pace:
    """Return the pace of a run that was prepared; see `Pace` for `began`.

    Raises:
        RunError: the time of the recipe is over before training began.
    """
    recipe, data = prepared.recipe, prepared.data
    validation, test = len(data.validation or ()), len(data.dataset.test)
    evaluated = validation + (test if recipe.curve == "test" else 0)
    at_end = test + (test + validation if validation else 0)  # the last step, the best one, their report
    at_end += data.batches.size if recipe.recompute_batchnorm else 0
    in_memory = isinstance(data.dataset, Dataset)
    at_end += 0 if in_memory else validation + min(data.batches.size, SAMPLE)  # for the report
    height, width = data.dataset.image_size if isinstance(data.dataset, Dataset) else (recipe.image_size,) * 2
    tested = 1.0 if in_memory else ((recipe.test_size or recipe.image_size) / recipe.image_size) ** 2
    early = recipe.augment.early_size**2 / (height * width) if recipe.augment.early_size else 1.0
    pace = Pace(recipe, Images(evaluated, at_end, tested, early), began)
    if 0 < recipe.time <= pace.spent():
        raise RunError(
            f"{recipe.time:g} s are too short to train: {pace.spent():.0f} s were over before the first "
            "step; give more time"
        )
    return pace
