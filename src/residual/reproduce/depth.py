"""The paper's claim in figures: what 34 layers change in the error of a network of 18, and how surely."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, Literal

from ..evaluation.metrics import Z95

Result = dict[str, Any]
Measure = Literal["training", "test"]
MEASURES: tuple[Measure, ...] = ("training", "test")
# of a measure: the keys of its error, and of the number of images that it is a share of
KEYS = {"training": ("training_error", "training_error_images"), "test": ("error", "images")}


@dataclass(frozen=True)
class Difference:
    """Mean errors of 18 and 34 layers over their seeds, in percent; the margin is that of 95 %."""

    shallow: float
    deep: float
    margin: float

    @property
    def value(self) -> float:
        """How many points higher the error of 34 layers is."""
        return self.deep - self.shallow

    @property
    def finding(self) -> Literal["higher", "lower", "open"]:
        """What is found of the error of 34 layers: open if the difference is within the margin."""
        if abs(self.value) <= self.margin:
            return "open"
        return "higher" if self.value > 0 else "lower"


def difference(shallow: Sequence[Result], deep: Sequence[Result], measure: Measure) -> Difference:
    """Compare runs of two depths, a run for each seed.

    Errors vary with the images they are measured on, by a binomial distribution, and with the seed. All seeds
    share their images, so that only the second part falls with the number of seeds; with one seed it is
    unknown, and left out.
    """
    key, count = KEYS[measure]
    means, variance = [], 0.0
    for runs in (shallow, deep):
        errors = [run[key] for run in runs]
        means.append(statistics.mean(errors))
        variance += means[-1] * (100 - means[-1]) / min(run[count] for run in runs)
        variance += statistics.variance(errors) / len(errors) if len(errors) > 1 else 0.0
    return Difference(means[0], means[1], Z95 * sqrt(variance))


def claim(plain: Difference, residual: Difference) -> str:
    """Say whether the claim holds: the deeper plain network has a higher error, the residual one has not."""
    if plain.finding == "lower" or residual.finding == "higher":
        return "does not hold"
    if plain.finding == "open":
        return "is open, since the plain networks differ within the margin"
    if residual.finding == "open":
        return "holds; the residual networks differ within the margin"
    return "holds"
