"""The tables of the report: classes, confusions."""

from dataclasses import dataclass

from ..evaluation.metrics import wilson_interval
from .outcome import Outcome

READABLE = 20  # classes whose confusion matrix is shown whole
MOST_CLASSES = 200  # rows of the table of classes
MOST_PAIRS = 25  # rows of the table of confusions


@dataclass(frozen=True)
class ClassRow:
    """A class: images, error in percent with its interval (None without test images), most common mistake."""

    name: str
    training: int
    images: int
    error: float | None
    interval: tuple[float, float] | None
    confused: str
    times: int


@dataclass(frozen=True)
class Pair:
    """Images of a class that were taken for another, and their share of that class in percent."""

    true: str
    predicted: str
    times: int
    share: float


def class_rows(outcome: Outcome) -> list[ClassRow]:
    """Return a row for each class, the highest error first, at most 200."""
    names, rows = outcome.class_names, []
    for label, counts in enumerate(outcome.test.confusion):
        images = sum(counts)
        others = [0 if other == label else count for other, count in enumerate(counts)]
        times = max(others)
        rows.append(
            ClassRow(
                names[label],
                outcome.training_images[label],
                images,
                outcome.test.per_class_error[label],
                wilson_interval(images - counts[label], images) if images else None,
                names[others.index(times)] if times else "",
                times,
            )
        )
    return sorted(rows, key=lambda row: -1.0 if row.error is None else row.error, reverse=True)[:MOST_CLASSES]


def pairs(outcome: Outcome) -> list[Pair]:
    """Return the most frequent confusions, at most 25."""
    names, found = outcome.class_names, []
    for label, counts in enumerate(outcome.test.confusion):
        images = sum(counts)
        for other, times in enumerate(counts):
            if times and other != label:
                found.append(Pair(names[label], names[other], times, 100 * times / images))
    return sorted(found, key=lambda pair: (-pair.times, -pair.share))[:MOST_PAIRS]
