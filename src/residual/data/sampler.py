"""Which images each training batch holds and how each is augmented, from the seed and the position alone.

The training images form an endless stream: epoch e is its stretch from e * N to (e + 1) * N, in an order,
with crop offsets and flips, drawn from (seed, e). Batch k is the stretch from k * B to (k + 1) * B. So
every image comes once an epoch and every batch is full: where B does not divide N, a batch ends one epoch and
begins the next. An exact resume needs nothing but the step.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..recipes.augment import PadCrop


@dataclass(frozen=True, eq=False)
class Draws:
    """Random choices for N images: indices `order` [N], crop offsets [N, 2] (row, column), flips [N]."""

    order: Tensor
    offsets: Tensor
    flips: Tensor

    @classmethod
    def of_epoch(cls, seed: int, epoch: int, size: int, augment: PadCrop) -> "Draws":
        """Draw an epoch's from (seed, epoch) on the CPU, so that they are the same for every device."""
        generator = epoch_generator(seed, epoch)
        order = torch.randperm(size, generator=generator)
        offsets = torch.randint(2 * augment.padding + 1, (size, 2), generator=generator)
        if augment.flip and augment.alternate_flip:
            # drawn once for each image, not for each place in the order, which changes with the epoch
            of_images = torch.rand(size, generator=epoch_generator(seed, -1)) < 0.5
            return cls(order, offsets, of_images[order] ^ bool(epoch % 2))
        flips = torch.rand(size, generator=generator) < (0.5 if augment.flip else 0.0)
        return cls(order, offsets, flips)

    def __len__(self) -> int:
        return len(self.order)

    def part(self, start: int, stop: int) -> "Draws":
        """Return those from `start` up to `stop`."""
        return Draws(self.order[start:stop], self.offsets[start:stop], self.flips[start:stop])

    def slice_for(self, rank: int, ranks: int) -> "Draws":
        """Return one rank's share of a global batch.

        The shares of rank 0, 1, ..., put together, are the global batch; their sizes differ by at most one.
        """
        return self.part(*bounds(len(self), ranks)[rank])

    def to(self, device: torch.device) -> "Draws":
        """Return them on a device."""
        return Draws(self.order.to(device), self.offsets.to(device), self.flips.to(device))


def bounds(count: int, parts: int) -> list[tuple[int, int]]:
    """Return where each part of `count` images begins and ends; their sizes differ by at most one."""
    return list(pairwise(count * number // parts for number in range(parts + 1)))


def epoch_generator(seed: int, epoch: int) -> torch.Generator:
    """Return the generator of an epoch's draws."""
    # a generator takes 32 bits of a seed and no more: multiples of 2^32 / 1.618 keep the epochs of seeds
    # below a thousand over a million apart
    return torch.Generator().manual_seed((seed * 2654435769 + epoch) % 2**32)


class Sampler:
    """The stream of draws over `size` images, a function of the seed and the position.

    It keeps the draws of the last two epochs only to save time; what it returns depends on no earlier call.
    """

    def __init__(self, size: int, augment: PadCrop, seed: int) -> None:
        self.size, self.augment, self.seed = size, augment, seed
        self._epochs: dict[int, Draws] = {}

    def draws(self, position: int, count: int) -> Draws:
        """Return the stretch of the stream that begins at `position`."""
        epoch, start = divmod(position, self.size)
        parts, missing = [], count
        while missing:
            stop = min(start + missing, self.size)
            parts.append(self._epoch(epoch).part(start, stop))
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
            self._epochs = {**kept, epoch: Draws.of_epoch(self.seed, epoch, self.size, self.augment)}
        return self._epochs[epoch]


@dataclass(frozen=True, eq=False)
class Members:
    """The images of each class, to draw all classes equally often."""

    of_class: tuple[Tensor, ...]  # indices

    @classmethod
    def of(cls, labels: Tensor) -> "Members":
        """Collect the indices of the images with each label [N]."""
        return cls(tuple((labels == label).nonzero()[:, 0] for label in sorted(set(labels.tolist()))))

    def order(self, seed: int, epoch: int, size: int) -> Tensor:
        """Return the order [size] of an epoch in which all classes come equally often, up to one.

        The images of a class come equally often too, up to one: which come once more is drawn anew.
        """
        generator, classes = epoch_generator(seed, epoch), len(self.of_class)
        chosen = []
        for place, images in enumerate(self.of_class):
            turns = size // classes + ((place + epoch) % classes < size % classes)
            rounds = -(-turns // len(images))
            again = [torch.randperm(len(images), generator=generator) for _ in range(rounds)]
            chosen.append(images[torch.cat(again)[:turns]] if again else images[:0])
        together = torch.cat(chosen)
        return together[torch.randperm(size, generator=generator)]


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """Return a weight [classes] for each class, inverse to its images; over the images their mean is 1."""
    counts = torch.bincount(labels, minlength=classes).double()
    weights = len(labels) / ((counts > 0).sum() * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 0.0).float()
