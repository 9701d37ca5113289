"""What a network says of each photograph, kept for reports and for the temperature."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.photos import Photos

LARGEST = 200_000_000  # bytes of logits that are kept: 50,000 images of 1,000 classes


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of photographs, one crop each, in their order.

    Args:
        photos: those that could be decoded, with their labels.
        logits: [len(photos), classes], float32 on the CPU.
    """

    photos: Photos
    logits: Tensor


class Recorder:
    """Keeps the logits of an evaluation of photographs, batch by batch."""

    def __init__(self, photos: Photos) -> None:
        self._photos = photos
        self._indices: list[int] = []
        self._logits: list[Tensor] = []

    def add(self, indices: list[int], logits: Tensor) -> None:
        """Add a batch: indices of photographs and their logits [B, classes]."""
        self._indices += indices
        self._logits.append(logits.to("cpu", torch.float32))

    def predictions(self) -> Predictions:
        """Return all that was added."""
        return Predictions(self._photos.take(torch.tensor(self._indices)), torch.cat(self._logits))


def fits_in_memory(images: int, classes: int) -> bool:
    """Tell whether the logits of so many images are few enough to be kept."""
    return 4 * images * classes <= LARGEST
