"""The error of a network on a set of pictures: exactly N of them, each once, one view of each."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .data import Normalization, Split
from .models import ResNet, optimize_for_inference

BATCH_SIZE = 250


@dataclass(frozen=True)
class Evaluation:
    """What a network makes of a set: errors in percent, mean cross-entropy, `confusion[true][predicted]`."""

    images: int
    error: float
    top5_error: float
    loss: float
    per_class_error: list[float]
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@torch.no_grad()
def evaluate_split(
    network: nn.Module, split: Split, normalization: Normalization, device: torch.device
) -> Evaluation:
    """Evaluate the single view of each original picture (section 4.2).

    The network is put into evaluation mode meanwhile; `split` holds uint8 pictures [N, H, W, 3].
    """
    was_training = network.training
    network.eval()
    ready = optimize_for_inference(network) if isinstance(network, ResNet) else network
    normalization = normalization.to(device)
    scores = []
    for start in range(0, len(split), BATCH_SIZE):
        images = normalization.apply(split.images[start : start + BATCH_SIZE].to(device))
        scores.append(ready(images.permute(0, 3, 1, 2)).float().cpu())
    network.train(was_training)
    return score(torch.cat(scores), split.labels.cpu())


def score(scores: Tensor, labels: Tensor) -> Evaluation:
    """Compare class scores before the softmax [N, classes] with labels [N]."""
    count, classes = scores.shape
    best = scores.topk(min(5, classes), dim=1).indices
    hits = best == labels[:, None]
    pairs = labels * classes + best[:, 0]
    confusion = torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    of_class = confusion.sum(1)
    per_class = 100 - 100 * confusion.diagonal() / of_class.clamp_min(1).double()
    return Evaluation(
        images=count,
        error=100 * (count - int(hits[:, 0].sum())) / count,
        top5_error=100 * (count - int(hits.sum())) / count,
        loss=float(F.cross_entropy(scores.double(), labels)),
        per_class_error=torch.where(of_class > 0, per_class, 0.0).tolist(),
        confusion=confusion.tolist(),
    )
