"""A data set in memory: 8-bit pictures and labels, in a training and a test part."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError

HOLDOUT_SEED = 0  # the same hold-out for every run, whatever its training seed


@dataclass(frozen=True, eq=False)
class Split:
    """Pictures [N, H, W, 3] as uint8 (R, G, B) and labels [N] as int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Tensor) -> "Split":
        """Return the part with these indices, in their order."""
        return Split(self.images[indices], self.labels[indices])

    def to(self, device: torch.device) -> "Split":
        """Return the split on a device."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A named data set; `class_names[label]` says what a label means."""

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]


def hold_out(split: Split, count: int) -> tuple[Split, Split, str]:
    """Set `count` pictures apart, as the paper's 45k/5k split does (section 4.2).

    The choice depends on the split's size alone, never on a run's seed.

    Returns:
        The remaining part, the held-out part, and the SHA-256 of the held-out indices (int32,
        ascending), to be recorded.

    Raises:
        UsageError: nothing would remain to train on.
    """
    if count >= len(split):
        raise UsageError(f"holdout must be smaller than the training set of {len(split)}, not {count}")
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(HOLDOUT_SEED))
    held, rest = order[:count].sort().values, order[count:].sort().values
    digest = hashlib.sha256(held.to(torch.int32).numpy().tobytes()).hexdigest()
    return split.take(rest), split.take(held), digest
