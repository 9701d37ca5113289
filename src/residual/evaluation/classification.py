"""The error of a network on a set of pictures: exactly N of them, each once, one view of each."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.dataset import Split
from ..data.preprocessing import Preprocessing
from ..errors import CheckpointError
from ..models.fold import optimize_for_inference
from ..models.resnet import ResNet

BATCH_SIZE = 250


@dataclass(frozen=True)
class Evaluation:
    """What a network makes of a set: errors in percent, mean cross-entropy, `confusion[true][predicted]`.

    `per_class_error` is None for a class without images.
    """

    images: int
    error: float
    top5_error: float
    loss: float
    per_class_error: list[float | None]
    confusion: list[list[int]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


@torch.no_grad()
def evaluate_split(
    network: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    device: torch.device,
    progress: Callable[[int], None] = lambda _done: None,
) -> Evaluation:
    """Evaluate the single view of each original picture (section 4.2).

    The network is put into evaluation mode meanwhile; `split` holds uint8 images [N, H, W, 3].
    `progress` is told how many images are done.
    """
    was_training = network.training
    network.eval()
    ready = optimize_for_inference(network) if isinstance(network, ResNet) else network
    preprocessing = preprocessing.to(device)
    scores = []
    for start in range(0, len(split), BATCH_SIZE):
        images = preprocessing.apply(split.images[start : start + BATCH_SIZE].to(device))
        scores.append(ready(images.permute(0, 3, 1, 2)).float().cpu())
        progress(start + len(images))
    network.train(was_training)
    return score(torch.cat(scores), split.labels.cpu())


def score(scores: Tensor, labels: Tensor) -> Evaluation:
    """Compare logits [N, classes] with labels [N].

    Raises:
        CheckpointError: a logit is not finite, so no figure would mean anything.
    """
    count, classes = scores.shape
    bad = count - int(scores.isfinite().all(1).sum())
    if bad:
        raise CheckpointError(
            f"the logits of {bad} of {count} images are not finite, so there is no error to report: "
            "the weights or BN statistics are corrupted, or training diverged"
        )
    best = scores.topk(min(5, classes), dim=1).indices
    hits = best == labels[:, None]
    pairs = labels * classes + best[:, 0]
    confusion = torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    right, of_class = confusion.diagonal().tolist(), confusion.sum(1).tolist()
    per_class = [100 * (n - hit) / n if n else None for hit, n in zip(right, of_class, strict=True)]
    return Evaluation(
        images=count,
        error=100 * (count - int(hits[:, 0].sum())) / count,
        top5_error=100 * (count - int(hits.sum())) / count,
        loss=float(F.cross_entropy(scores.double(), labels)),
        per_class_error=per_class,
        confusion=confusion.tolist(),
    )
