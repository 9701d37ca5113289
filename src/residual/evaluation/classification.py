"""Classification error of a network: every image counts exactly once."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.dataset import Split
from ..data.preprocessing import Preprocessing
from ..data.sampler import bounds
from ..errors import CheckpointError, DataError
from ..models.fold import optimize_for_inference
from ..models.network import Network
from ..runtime import ranks
from ..runtime.launch import ALONE, Part
from .metrics import Calibration, wilson_interval

BATCH_SIZE = 250


@dataclass(frozen=True)
class Evaluation:
    """The figures of an evaluation: errors in percent, mean cross-entropy, `confusion[true][predicted]`.

    `error_interval` is the 95 % confidence interval of the error (Wilson's), `macro_error` the mean of the
    errors of the classes that have images, `calibration_error` the expected calibration error in percent (15
    bins). `per_class_error` is None for a class without images. `skipped` names files that could not be
    decoded, which count in no figure; `notes` say what else should be known of the figures.
    """

    images: int
    error: float
    error_interval: tuple[float, float]
    top5_error: float
    macro_error: float
    calibration_error: float
    loss: float
    per_class_error: list[float | None]
    confusion: list[list[int]]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


class Accumulator:
    """Sums up an evaluation batch by batch, on the CPU.

    It keeps counts and a float64 sum of the losses, but no logits, so memory does not grow with the images.
    """

    def __init__(self) -> None:
        self._images = self._not_finite = self._top5 = 0
        self._loss = 0.0
        self._confusion: Tensor | None = None
        self._calibration = Calibration()

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch of logits, or logarithms of probabilities, [B, classes] and labels [B]."""
        logits, labels = logits.cpu(), labels.cpu()
        count, classes = logits.shape
        if self._confusion is None:
            self._confusion = torch.zeros(classes, classes, dtype=torch.int64)
        best = logits.topk(min(5, classes), dim=1).indices
        self._images += count
        self._not_finite += count - int(logits.isfinite().all(1).sum())
        self._top5 += int((best == labels[:, None]).sum())
        self._loss += float(F.cross_entropy(logits.double(), labels, reduction="sum"))
        confidence = logits.double().softmax(1).gather(1, best[:, :1]).nan_to_num()
        self._calibration.add(confidence[:, 0], best[:, 0] == labels)
        self._confusion.index_put_((labels, best[:, 0]), torch.tensor(1), accumulate=True)

    def sum_over_ranks(self) -> None:
        """Add up what all ranks have seen, so that each has all of it."""
        own = torch.zeros(0, 0) if self._confusion is None else self._confusion
        classes = max(ranks.gathered(len(own)))
        own = own if len(own) else torch.zeros(classes, classes)  # a rank may have seen no image
        counts = torch.tensor([self._images, self._not_finite, self._top5, self._loss], dtype=torch.float64)
        parts = [counts, self._calibration.sums.flatten(), own.double().flatten()]
        sums = ranks.sum_over_ranks(torch.cat(parts))
        counts, calibration, confusion = torch.split(sums, [len(part) for part in parts])
        self._images, self._not_finite, self._top5 = (int(count) for count in counts[:3])
        self._loss, self._calibration.sums = float(counts[3]), calibration.view(2, -1)
        self._confusion = confusion.view(classes, classes).long() if classes else None

    def result(self) -> Evaluation:
        """Return the figures of all images so far.

        Raises:
            CheckpointError: logits are not finite, so no figure would be meaningful.
            DataError: there were no images.
        """
        images, confusion = self._images, self._confusion
        if confusion is None or not images:
            raise DataError("there are no images to evaluate on")
        if self._not_finite:
            raise CheckpointError(
                f"the logits of {self._not_finite} of {images} images are not finite, so there is no error "
                "to report: the weights or BN statistics are corrupted, or training diverged"
            )
        right, of_class = confusion.diagonal().tolist(), confusion.sum(1).tolist()
        errors = [100 * (n - hit) / n if n else None for hit, n in zip(right, of_class, strict=True)]
        return Evaluation(
            images=images,
            error=100 * (images - sum(right)) / images,
            error_interval=wilson_interval(images - sum(right), images),
            top5_error=100 * (images - self._top5) / images,
            macro_error=fmean(error for error in errors if error is not None),
            calibration_error=self._calibration.error(images),
            loss=self._loss / images,
            per_class_error=errors,
            confusion=confusion.tolist(),
        )


@torch.no_grad()
def evaluate_split(
    network: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    device: torch.device,
    progress: Callable[[int], None] = lambda _done: None,
    part: Part = ALONE,
) -> Evaluation:
    """Evaluate the single view of each original image (section 4.2).

    The network is put into evaluation mode and back; `split` holds uint8 images [N, H, W, 3]. `progress` is
    called with the number of images done. `part` is (rank, ranks) where several ranks evaluate together: each
    takes its share of the batches, so that every image counts once, and all return the same figures.

    Raises:
        CheckpointError: a logit is not finite.
    """
    was_training = network.training
    network.eval()
    ready = optimize_for_inference(network) if isinstance(network, Network) else network
    preprocessing = preprocessing.to(device)
    figures = Accumulator()
    starts = range(0, len(split), BATCH_SIZE)
    own = slice(*bounds(len(starts), part[1])[part[0]])
    for number, start in enumerate(starts[own], start=1):
        batch = slice(start, start + BATCH_SIZE)
        images = preprocessing.apply(split.images[batch].to(device))
        figures.add(ready(images.permute(0, 3, 1, 2)).float(), split.labels[batch])
        progress(min(len(split), number * part[1] * BATCH_SIZE))
    network.train(was_training)
    if part != ALONE:
        figures.sum_over_ranks()
    return figures.result()
