"""Training batches by their step, and those of images in memory.

The sampler says which images a batch holds; preprocessing and augmentation run on the device.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from ..errors import UsageError
from ..recipes.augment import PadCrop
from ..runtime.launch import ALONE, Part
from .augment import crop_and_flip
from .dataset import Split
from .preprocessing import Preprocessing
from .sampler import Draws, Sampler


class Batches(ABC):
    """The stream of a training set's augmented batches, each a function of its step.

    `part` is (rank, ranks) of a process that takes its share of each batch of `batch_size`: the shares of
    all ranks, put together, are the batch that one process takes. `class_weights` [classes] says how much
    the loss of an image of each class counts; None: all the same.

    Raises:
        UsageError: the batch is larger than the training set, or smaller than the number of ranks.
    """

    class_weights: Tensor | None = None

    def __init__(self, size: int, batch_size: int, part: Part = ALONE) -> None:
        if batch_size > size:
            raise UsageError(
                f"batch_size must be at most the training set's {size}, not {batch_size}: lower it, or "
                "add images"
            )
        if part[1] > batch_size:
            raise UsageError(f"{part[1]} processes cannot share a batch of {batch_size}: raise batch_size")
        self.size, self.batch_size, self.part = size, batch_size, part
        self.bad: dict[str, str] = {}  # files that were met and could not be decoded, with the reason

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the batches are made."""

    @abstractmethod
    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return step's images, float32 [B, 3, H, W] in channels-last memory, and their targets.

        The targets are labels [B], or the shares of the classes [B, classes] where images are mixed. B is
        the batch size, or what `part` takes of it.
        """

    @abstractmethod
    def close(self) -> None:
        """End whatever makes batches in the background."""


class TrainBatches(Batches):
    """Batches of images in memory, made where `split` is."""

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        batch_size: int,
        augment: PadCrop,
        seed: int,
        part: Part = ALONE,
    ) -> None:
        super().__init__(len(split), batch_size, part)
        self.split, self.preprocessing, self.augment = split, preprocessing, augment
        self.sampler = Sampler(len(split), augment, seed)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.split.images.device

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return step's images, float32 [B, 3, H, W] in channels-last memory, and labels [B]."""
        draws = self.draws(step * self.batch_size, self.batch_size).slice_for(*self.part).to(self.device)
        return self.make(draws.order, draws.offsets, draws.flips)

    def close(self) -> None:
        """Do nothing: nothing runs in the background."""

    def draws(self, position: int, count: int) -> Draws:
        """Return the draws, on the CPU, of a stretch of the stream: its first position and its length."""
        return self.sampler.draws(position, count)

    def make(self, order: Tensor, offsets: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
        """Make a batch of the images `order` [B], from draws on the device."""
        images = self.preprocessing.apply(self.split.images[order])
        if self.augment.padding or self.augment.flip:
            images = crop_and_flip(images, offsets, flips, self.augment.padding)
        return images.permute(0, 3, 1, 2), self.split.labels[order]
