"""Training batches by their step: images in memory on the device, or decoded one by one in threads.

The sampler says which images a batch holds; preprocessing and augmentation run on the device. So a batch is
the same whichever loader makes it.
"""

from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from ..errors import UsageError
from ..recipes.schema import Augment
from .augment import crop_and_flip
from .dataset import ImageDataset, Split
from .preprocessing import Preprocessing
from .sampler import Draws, Sampler


class Loader(ABC):
    """The stream of augmented batches of a training set.

    Raises:
        UsageError: the batch is larger than the training set.
    """

    def __init__(
        self, size: int, preprocessing: Preprocessing, batch_size: int, augment: Augment, seed: int
    ) -> None:
        if batch_size > size:
            raise UsageError(f"batch_size must be at most the training set's {size}, not {batch_size}")
        self.preprocessing, self.batch_size, self.augment = preprocessing, batch_size, augment
        self.sampler = Sampler(size, augment, seed)

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the batches are made."""

    @abstractmethod
    def take(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images with these indices, uint8 [B, H, W, 3], and their labels [B], on the device."""

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return step's images, float32 [B, 3, H, W] in channels-last memory, and labels [B]."""
        draws = self.draws(step * self.batch_size, self.batch_size).to(self.device)
        return self.make(draws.order, draws.offsets, draws.flips)

    def draws(self, position: int, count: int) -> Draws:
        """Return the draws, on the CPU, of a stretch of the stream: its first position and its length."""
        return self.sampler.draws(position, count)

    def make(self, order: Tensor, offsets: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
        """Make a batch of the images `order` [B], from draws on the device."""
        raw, labels = self.take(order)
        images = self.preprocessing.apply(raw)
        if self.augment.padding or self.augment.flip:
            images = crop_and_flip(images, offsets, flips, self.augment.padding)
        return images.permute(0, 3, 1, 2), labels


class TrainBatches(Loader):
    """Batches of images in memory, made where `split` is."""

    def __init__(
        self, split: Split, preprocessing: Preprocessing, batch_size: int, augment: Augment, seed: int
    ) -> None:
        super().__init__(len(split), preprocessing, batch_size, augment, seed)
        self.split = split

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.split.images.device

    def take(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images with these indices, uint8 [B, H, W, 3], and their labels [B]."""
        return self.split.images[order], self.split.labels[order]


class DecodedBatches(Loader):
    """Batches of any dataset, whose images are decoded in `workers` threads and may differ in size.

    `preprocessing` and `device` are those of the batches.
    """

    def __init__(
        self,
        split: ImageDataset,
        preprocessing: Preprocessing,
        batch_size: int,
        augment: Augment,
        seed: int,
        device: torch.device,
        workers: int = 4,
    ) -> None:
        super().__init__(len(split), preprocessing.to(device), batch_size, augment, seed)
        self.split, self._device = split, device
        self._pool = ThreadPoolExecutor(workers, "decode")

    @property
    def device(self) -> torch.device:
        """Where the batches are made."""
        return self._device

    def take(self, order: Tensor) -> tuple[Tensor, Tensor]:
        """Decode the images with these indices and resize each; see `Loader.take`."""
        items = list(self._pool.map(self._decode, order.tolist()))
        images = torch.stack([image for image, _ in items])
        return images.to(self.device), torch.tensor([label for _, label in items], device=self.device)

    def _decode(self, index: int) -> tuple[Tensor, int]:
        image, label = self.split[index]
        return self.preprocessing.resized(image[None])[0], label
