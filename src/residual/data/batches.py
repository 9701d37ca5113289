"""Training batches: the step's number alone decides which pictures they hold and how each is changed.

The pictures of epoch e are an endless stream's stretch from e * N to (e + 1) * N, in an order, with crop
offsets and flips, drawn from (seed, e). Batch k is the stream's stretch from k * B to (k + 1) * B. So every
picture comes once an epoch, every batch is full, and where B does not divide N, one batch an epoch
ends an epoch and begins the next; there is no smaller batch. Nothing else is needed for an exact resume.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError
from ..recipes.schema import Augment
from .dataset import Split
from .normalization import Normalization


@dataclass(frozen=True, eq=False)
class Draws:
    """An epoch's random choices: order [N], crop offsets [N, 2] (row, column), flips [N]."""

    order: Tensor
    offsets: Tensor
    flips: Tensor

    @classmethod
    def of_epoch(cls, seed: int, epoch: int, size: int, augment: Augment) -> "Draws":
        """Draw them from (seed, epoch) on the CPU, so that they are the same for every device."""
        generator = _generator(seed, epoch)
        order = torch.randperm(size, generator=generator)
        offsets = torch.randint(2 * augment.padding + 1, (size, 2), generator=generator)
        if augment.flip and augment.alternate_flip:
            # drawn once for each image, not for each place in the order, which changes with the epoch
            of_images = torch.rand(size, generator=_generator(seed, -1)) < 0.5
            return cls(order, offsets, of_images[order] ^ bool(epoch % 2))
        flips = torch.rand(size, generator=generator) < (0.5 if augment.flip else 0.0)
        return cls(order, offsets, flips)


def _generator(seed: int, epoch: int) -> torch.Generator:
    # a generator takes 32 bits of a seed and no more: multiples of 2^32 / 1.618 keep the epochs of seeds
    # below a thousand over a million apart
    return torch.Generator().manual_seed((seed * 2654435769 + epoch) % 2**32)


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Pad pictures [N, H, W, C] with zeros, cut [H, W] out at each offset, mirror those that flip.

    Offsets [N, 2] run from 0 to 2 * padding; `padding` is in pixels (section 4.2).
    """
    count, height, width, channels = images.shape
    wide = width + 2 * padding
    tall = height + 2 * padding
    padded = images.new_zeros(count, tall, wide, channels)
    padded[:, padding : padding + height, padding : padding + width] = images
    # a view of every possible crop; indexing it copies the chosen ones, a whole picture at a time
    row, picture = wide * channels, tall * wide * channels
    crops = padded.as_strided(
        (count, 2 * padding + 1, 2 * padding + 1, height, width, channels),
        (picture, row, channels, row, channels, 1),
    )
    chosen = crops[torch.arange(count, device=images.device), offsets[:, 0], offsets[:, 1]]
    return torch.where(flips[:, None, None, None], chosen.flip(2), chosen)


class TrainBatches:
    """The stream of augmented batches of a training set, on the set's device.

    Raises:
        UsageError: the batch is larger than the set.
    """

    def __init__(
        self, split: Split, normalization: Normalization, batch_size: int, augment: Augment, seed: int
    ) -> None:
        if batch_size > len(split):
            raise UsageError(f"batch_size must be at most the training set's {len(split)}, not {batch_size}")
        self.split, self.normalization = split, normalization
        self.batch_size, self.augment, self.seed = batch_size, augment, seed
        self._epochs: dict[int, Draws] = {}

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return step's pictures, float32 [B, 3, H, W] in channels-last memory, and labels [B]."""
        draws = self.draws(step * self.batch_size, self.batch_size)
        return self.make(
            draws.order.to(self.device), draws.offsets.to(self.device), draws.flips.to(self.device)
        )

    @property
    def device(self) -> torch.device:
        """Where the pictures are."""
        return self.split.images.device

    def make(self, order: Tensor, offsets: Tensor, flips: Tensor) -> tuple[Tensor, Tensor]:
        """Make a batch of the pictures `order` [B], from draws on the device."""
        images = self.normalization.apply(self.split.images[order])
        if self.augment.padding or self.augment.flip:
            images = crop_and_flip(images, offsets, flips, self.augment.padding)
        return images.permute(0, 3, 1, 2), self.split.labels[order]

    def draws(self, position: int, count: int) -> Draws:
        """Cut a stretch of the stream, by its first position and its length, out of its epochs."""
        size = len(self.split)
        epoch, start = divmod(position, size)
        parts, missing = [], count
        while missing:
            whole = self._epoch(epoch)
            stop = min(start + missing, size)
            parts.append(Draws(whole.order[start:stop], whole.offsets[start:stop], whole.flips[start:stop]))
            missing -= stop - start
            epoch, start = epoch + 1, 0
        if len(parts) == 1:
            return parts[0]
        return Draws(
            *(torch.cat([getattr(p, name) for p in parts]) for name in ("order", "offsets", "flips"))
        )

    def _epoch(self, epoch: int) -> Draws:
        if epoch not in self._epochs:
            kept = {e: d for e, d in self._epochs.items() if e == epoch - 1}
            drawn = Draws.of_epoch(self.seed, epoch, len(self.split), self.augment)
            self._epochs = {**kept, epoch: drawn}
        return self._epochs[epoch]
