"""How far an error can be trusted, and how far a network's confidence can: Wilson interval, calibration."""

from math import sqrt

import torch
from torch import Tensor

Z95 = 1.959963984540054  # the standard normal distribution has 95 % within that many standard deviations
BINS = 15  # as in Guo et al.


def wilson_interval(wrong: int, images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of an error, in percent.

    It is the score interval of Wilson, "Probable Inference, the Law of Succession, and Statistical Inference"
    (1927), which holds for few images and for errors near 0 and 100 % too.
    """
    rate, z2 = wrong / images, Z95**2 / images
    center = rate + z2 / 2
    spread = Z95 * sqrt(rate * (1 - rate) / images + z2 / images / 4)
    low, high = ((center + sign * spread) / (1 + z2) for sign in (-1, 1))
    return 100 * max(0.0, min(low, rate)), 100 * min(1.0, max(high, rate))  # whatever the rounding


class Calibration:
    """Sums up confidences, the probabilities of the predicted classes, and how often they were right."""

    def __init__(self) -> None:
        self.sums = torch.zeros(2, BINS, dtype=torch.float64)  # of the confidences, and of what was right

    def add(self, confidence: Tensor, right: Tensor) -> None:
        """Add a batch of confidences [B], float64 from 0 to 1, and whether each prediction was right [B]."""
        bins = (confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)  # (0, 1/15], (1/15, 2/15], ...
        self.sums[0].index_add_(0, bins, confidence)
        self.sums[1].index_add_(0, bins, right.double())

    def error(self, images: int) -> float:
        """Return the expected calibration error of all images, in percent.

        It is the mean difference between confidence and accuracy in bins of equal width, weighted by their
        images: Guo et al., "On Calibration of Modern Neural Networks" (2017).
        """
        return 100 * float((self.sums[0] - self.sums[1]).abs().sum()) / images
