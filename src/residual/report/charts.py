"""Charts of the report as plain coordinates, which its template draws as SVG."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

import torch
from torch import Tensor

from ..evaluation.temperature import confidences
from .outcome import Curve

WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 14, 46
BINS = 10  # of the calibration curve
MOST_POINTS = 400  # of a curve


@dataclass(frozen=True)
class Line:
    """A curve: its name, which is its CSS class too, and its points in pixels."""

    name: str
    points: list[tuple[float, float]]

    @property
    def path(self) -> str:
        """The points of an SVG polyline."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)


@dataclass(frozen=True)
class Chart:
    """Lines with ticks: places in pixels and their labels."""

    lines: list[Line]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    x_label: str
    y_label: str
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    right: int = WIDTH - RIGHT
    top: int = TOP
    bottom: int = HEIGHT - BOTTOM


def error_chart(curves: Mapping[str, Curve]) -> Chart:
    """Draw errors in percent against epochs."""
    points = [point for curve in curves.values() for point in curve]
    last = max((x for x, _ in points), default=1.0) or 1.0
    highest = min(100.0, max((y for _, y in points), default=0.0) * 1.05 or 1.0)
    return _chart(
        {name: _thin(curve) for name, curve in curves.items()}, last, highest, ("epochs", "error (%)")
    )


def calibration_chart(logits: Tensor, labels: Tensor, each: Tensor) -> Chart:
    """Draw accuracy against confidence, of logits [N, classes] as they are and divided by `each` [N]."""
    curves = {
        "perfect": [(0.0, 0.0), (100.0, 100.0)],
        "before": reliability(logits, labels, torch.ones_like(each)),
        "after": reliability(logits, labels, each),
    }
    return _chart(curves, 100.0, 100.0, ("confidence (%)", "right (%)"))


def reliability(logits: Tensor, labels: Tensor, each: Tensor) -> list[tuple[float, float]]:
    """Return mean confidence and accuracy in percent of the images in each of ten bins of confidence."""
    confidence, right = confidences(logits, labels, each)
    bins = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
    found = []
    for number in range(BINS):
        own = bins == number
        if own.any():
            found.append((100 * float(confidence[own].mean()), 100 * float(right[own].double().mean())))
    return found


def _chart(curves: Mapping[str, Curve], last: float, highest: float, labels: tuple[str, str]) -> Chart:
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return LEFT + wide * x / last, TOP + tall * (1 - y / highest)

    return Chart(
        [Line(name, [place(x, y) for x, y in curve]) for name, curve in curves.items()],
        [(place(x, 0)[0], f"{x:g}") for x in ticks(last)],
        [(place(0, y)[1], f"{y:g}") for y in ticks(highest)],
        *labels,
    )


def ticks(highest: float) -> list[float]:
    """Return 4 to 10 round numbers from 0 up to at most the highest value."""
    unit: float = 10.0 ** floor(log10(highest / 5))
    step = next(unit * factor for factor in (1, 2, 5, 10) if highest / (unit * factor) <= 8)
    return [round(step * number, 10) for number in range(floor(highest / step + 1e-9) + 1)]


def _thin(curve: Curve) -> Sequence[tuple[float, float]]:
    """Leave points out of a long curve, but never the last."""
    stride = ceil(len(curve) / MOST_POINTS)
    return curve if stride <= 1 else [*curve[:-1:stride], curve[-1]]
