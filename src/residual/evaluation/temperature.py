"""Temperature scaling: one number that makes a network's confidences agree with its accuracy.

Logits are divided by it before the softmax, so that predictions and errors stay as they are: Guo et al., "On
Calibration of Modern Neural Networks" (2017), section 4.2.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .metrics import Calibration

LEAST = 50  # images; the optimum of fewer is mostly chance
RANGE = (0.05, 20.0)  # temperatures that are considered
STEPS = 60  # of the search at most; it takes about six
CHUNK = 4096  # images whose probabilities are in memory at once


@dataclass(frozen=True, eq=False)
class Temperature:
    """A fitted temperature, and the test set's expected calibration error without and with it, in percent.

    `source` is the set that it was fitted on, "validation" or "test", with so many `images`. In the latter
    case `after` is measured by cross-fitting: each half of the images with the other half's temperature.
    `each` [N] is the temperature that each test image is measured with.
    """

    each: Tensor

    value: float = 1.0
    source: str = "test"
    images: int = 0
    before: float = 0.0
    after: float = 0.0

    def facts(self) -> dict[str, str]:
        """Return the rows of a model card."""
        return {
            "temperature": f"{self.value:.3f}, fitted on the {self.images:,} {self.source} images",
            "expected calibration error": f"{self.before:.1f} %, with the temperature {self.after:.1f} %",
        }


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature of the lowest mean negative log-likelihood.

    The loss is convex in the inverse of the temperature, so Newton's method finds the optimum, with bisection
    where a step would leave the interval that holds it. The temperature is 1 where there is little to fit on:
    fewer than 50 images, or no mistake, for then the optimum is a confidence without bounds.

    Args:
        logits: [N, classes].
        labels: [N].
    """
    if len(labels) < LEAST or bool((logits.argmax(1) == labels).all()):
        return 1.0
    low, high, inverse = 1 / RANGE[1], 1 / RANGE[0], 1.0
    for _ in range(STEPS):
        slope, curvature = _derivatives(logits, labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        before, inverse = inverse, inverse - slope / max(curvature, 1e-30)
        if not low < inverse < high:
            inverse = (low + high) / 2
        if abs(inverse - before) <= 1e-9 * before:
            break
    found = 1 / inverse
    better = negative_log_likelihood(logits, labels, found) < negative_log_likelihood(logits, labels)
    return found if better else 1.0


def negative_log_likelihood(logits: Tensor, labels: Tensor, temperature: float = 1.0) -> float:
    """Return its mean over images, of logits [N, classes] at a temperature."""
    total = sum(
        float(F.cross_entropy(z / temperature, y, reduction="sum")) for z, y in _chunks(logits, labels)
    )
    return total / len(labels)


def calibrate(test: tuple[Tensor, Tensor], validation: tuple[Tensor, Tensor] | None = None) -> Temperature:
    """Fit a temperature on the validation set, else on the test set, and measure what it does on the latter.

    Args:
        test: logits [N, classes] and labels [N] of the test set.
        validation: the same of the validation set, if there is one.
    """
    source, (logits, labels) = ("test", test) if validation is None else ("validation", validation)
    value = fit_temperature(logits, labels)
    each = torch.full((len(test[1]),), value, dtype=torch.float64)
    if validation is None:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        halves = order[::2], order[1::2]
        for own, other in (halves, halves[::-1]):
            each[own] = fit_temperature(logits[other], labels[other])
    before, after = _calibration_error(*test, torch.ones_like(each)), _calibration_error(*test, each)
    return Temperature(each, value, source, len(labels), before, after)


def confidences(logits: Tensor, labels: Tensor, each: Tensor) -> tuple[Tensor, Tensor]:
    """Return confidences [N] of logits divided by `each` [N], and whether predictions are right [N]."""
    parts = []
    for (z, y), (t, _) in zip(_chunks(logits, labels), _chunks(each, labels), strict=True):
        confidence, predicted = (z / t[:, None]).softmax(1).max(1)
        parts.append((confidence, predicted == y))
    confidence, right = (torch.cat(column) for column in zip(*parts, strict=True))
    return confidence, right


def _calibration_error(logits: Tensor, labels: Tensor, each: Tensor) -> float:
    calibration = Calibration()
    calibration.add(*confidences(logits, labels, each))
    return calibration.error(len(labels))


def _derivatives(logits: Tensor, labels: Tensor, inverse: float) -> tuple[float, float]:
    """Return the loss's two derivatives with respect to the inverse of the temperature, times the images."""
    slope = curvature = 0.0
    for z, y in _chunks(logits, labels):
        shares = (inverse * z).softmax(1)
        expected = (shares * z).sum(1)
        slope += float((expected - z.gather(1, y[:, None])[:, 0]).sum())
        curvature += float(((shares * z * z).sum(1) - expected**2).sum())
    return slope, curvature


def _chunks(logits: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits in float64 and labels, a few images at a time."""
    for start in range(0, len(labels), CHUNK):
        yield logits[start : start + CHUNK].double(), labels[start : start + CHUNK]
