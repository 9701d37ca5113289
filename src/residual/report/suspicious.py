"""Images whose label looks wrong, found by what the trained network says of them.

After "confident learning" (Northcutt et al., "Estimating Uncertainty in Dataset Labels", 2021): an image is
suspicious if another class is as probable as it is, on average, for images that are labelled as that class.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 4096  # images whose probabilities are in memory at once


@dataclass(frozen=True, eq=False)
class Suspicion:
    """How wrong each label looks.

    Args:
        margin: [N], the probability of the label less that of the most probable other class, -1 to 1.
        likely: [N], that other class.
        flagged: [N], whether it is as probable as that class's threshold asks for.
    """

    margin: Tensor
    likely: Tensor
    flagged: Tensor

    @property
    def order(self) -> Tensor:
        """The indices of all images, the most suspicious label first."""
        return self.margin.argsort(stable=True)


def suspect(logits: Tensor, labels: Tensor) -> Suspicion:
    """Judge the labels [N] of a set of images by their logits [N, classes]."""
    thresholds = _thresholds(logits, labels)
    columns = []
    for start in range(0, len(labels), CHUNK):
        own = labels[start : start + CHUNK, None]
        shares = logits[start : start + CHUNK].double().softmax(1)
        label = shares.gather(1, own)[:, 0]
        others = shares.scatter(1, own, -1.0)
        probable, likely = others.max(1)
        confident = (others >= thresholds) & (others > label[:, None])
        columns.append((label - probable, likely, confident.any(1)))
    margin, likely, flagged = (torch.cat(column) for column in zip(*columns, strict=True))
    return Suspicion(margin, likely, flagged)


def _thresholds(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each class's mean probability among images with its label; above 1 where there are none."""
    classes = logits.shape[1]
    sums, counts = torch.zeros(classes, dtype=torch.float64), torch.zeros(classes, dtype=torch.float64)
    for start in range(0, len(labels), CHUNK):
        own = labels[start : start + CHUNK]
        shares = logits[start : start + CHUNK].double().softmax(1)
        sums.index_add_(0, own, shares.gather(1, own[:, None])[:, 0])
        counts.index_add_(0, own, torch.ones(len(own), dtype=torch.float64))
    return torch.where(counts > 0, sums / counts.clamp_min(1), 2.0)
