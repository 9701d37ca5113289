"""What a network says of each photograph, kept for reports and for the temperature."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from ..data.photos import Photos
from ..models.resnet import ResNet
from ..runtime import ranks

LARGEST = 200_000_000  # bytes of logits that are kept: 50,000 images of 1,000 classes


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits and features of photographs, one crop each, in their order.

    Args:
        photos: those that could be decoded, with their labels.
        logits: [len(photos), classes], float32 on the CPU.
        features: [len(photos), D], the means of the feature maps of a ResNet's third stage: of four the last
            but one, and of the three of a network for small images the last, whose others have few features.
            None of other networks, and of so many that they would fill the memory.
    """

    photos: Photos
    logits: Tensor
    features: Tensor | None = None


class Recorder:
    """Keeps logits and features of an evaluation of photographs, batch by batch."""

    def __init__(self, photos: Photos) -> None:
        self._photos = photos
        self._indices: list[int] = []
        self._logits: list[Tensor] = []
        self._features: list[Tensor] = []

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Keep the features of what a network is applied to meanwhile."""
        if not isinstance(network, ResNet) or len(network.stages) < 3:
            yield
            return
        handle = network.get_submodule(network.stages[2]).register_forward_hook(self._see)
        try:
            yield
        finally:
            handle.remove()

    def _see(self, _module: nn.Module, _inputs: tuple[Tensor, ...], maps: Tensor) -> None:
        if fits_in_memory(len(self._photos), maps.shape[1]):
            self._features.append(maps.mean((2, 3)).to("cpu", torch.float32))

    def add(self, indices: list[int], logits: Tensor) -> None:
        """Add a batch: indices of photographs and their logits [B, classes]."""
        self._indices += indices
        self._logits.append(logits.to("cpu", torch.float32))

    def gather(self) -> None:
        """Give each rank what all ranks have added, in the order of the ranks."""
        found = ranks.gathered((self._indices, self._logits, self._features))
        for name, lists in zip(("_indices", "_logits", "_features"), zip(*found, strict=True), strict=True):
            setattr(self, name, list(chain.from_iterable(lists)))

    def predictions(self) -> Predictions:
        """Return all that was added."""
        photos = self._photos.take(torch.tensor(self._indices))
        return Predictions(
            photos, torch.cat(self._logits), torch.cat(self._features) if self._features else None
        )


def fits_in_memory(images: int, values: int) -> bool:
    """Tell whether so many values of each image are few enough to be kept, as float32."""
    return 4 * images * values <= LARGEST
