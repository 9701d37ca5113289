"""Images whose label looks wrong, found by what the trained network makes of all images.

A network learns wrong labels by heart, so its own confidence in training images tells little. A linear
classifier on features from the middle of the network is asked instead, which is fitted to the labels of all
other images. What it says is judged as in "confident learning" (Northcutt et al., "Confident Learning:
Estimating Uncertainty in Dataset Labels", 2021).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

PENALTY = 1.0  # of the squared weights, for features of unit variance
CHUNK = 4096  # images in float64 at once


@dataclass(frozen=True, eq=False)
class Suspicion:
    """How wrong each label looks.

    Args:
        margin: [N], the score of the label less the highest score of another class; low is suspicious.
        likely: [N], that other class.
        flagged: [N], whether the image scores as high for it as images with its label do on average.
    """

    margin: Tensor
    likely: Tensor
    flagged: Tensor

    @property
    def order(self) -> Tensor:
        """The indices of all images, the most suspicious label first."""
        return self.margin.argsort(stable=True)


def suspect(features: Tensor, labels: Tensor, classes: int) -> Suspicion:
    """Judge the labels [N] of images by their features [N, D]."""
    return judge_labels(leave_one_out(features, labels, classes), labels)


def judge_labels(scores: Tensor, labels: Tensor) -> Suspicion:
    """Judge labels [N] by scores [N, classes] that resemble probabilities."""
    own = scores.gather(1, labels[:, None])
    thresholds = torch.full((scores.shape[1],), torch.inf, dtype=scores.dtype)
    for label in range(scores.shape[1]):
        if (labels == label).any():  # a class without images has nothing that is usual for it
            thresholds[label] = own[labels == label].mean()
    others = scores.scatter(1, labels[:, None], -torch.inf)
    highest, likely = others.max(1)
    flagged = ((others >= thresholds) & (others > own)).any(1)
    return Suspicion(own[:, 0] - highest, likely, flagged)


def leave_one_out(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the scores [N, classes] of each image by ridge regression on the other images' one-hot labels.

    It is not fitted N times: with h the image's own weight in its fitted score s (the diagonal of the hat
    matrix) and y its target, the score without it is (s - h y) / (1 - h).
    """
    count, width = features.shape
    mean = sum((part.sum(0) for part in _chunks(features)), torch.zeros(width, dtype=torch.float64)) / count
    squares = (((part - mean) ** 2).sum(0) for part in _chunks(features))
    deviation = (sum(squares, torch.zeros(width, dtype=torch.float64)) / count).sqrt().clamp_min(1e-6)
    targets = F.one_hot(labels, classes).to(torch.uint8)
    prior = torch.bincount(labels, minlength=classes).double() / count
    gram = torch.zeros(width, width, dtype=torch.float64)
    moment = torch.zeros(width, classes, dtype=torch.float64)
    for part, target in zip(_chunks(features), _chunks(targets), strict=True):
        part = (part - mean) / deviation
        gram += part.T @ part / count
        moment += part.T @ (target - prior) / count
    values, vectors = torch.linalg.eigh(gram)
    shrunk = 1 / (values.clamp_min(0) + PENALTY)
    weights = shrunk[:, None] * (vectors.T @ moment)
    scores = []
    for part, target in zip(_chunks(features), _chunks(targets), strict=True):
        part = ((part - mean) / deviation) @ vectors
        influence = (1 + (part**2 * shrunk).sum(1, keepdim=True)) / count
        without = (part @ weights - influence * (target - prior)) / (1 - influence).clamp_min(1e-6)
        scores.append((without + prior).float())
    return torch.cat(scores)


def _chunks(values: Tensor) -> Iterator[Tensor]:
    for start in range(0, len(values), CHUNK):
        yield values[start : start + CHUNK].double()
