"""Photographs in files, with labels: an image is decoded when it is asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Self

import torch
from torch import Tensor

from ..errors import DataError, UsageError
from .decode import decode
from .findings import Findings
from .region import Choose, whole
from .scan import Paths
from .split import VALIDATION_KEY, set_apart, validation_counts

OnBadImage = Literal["stop", "skip"]


@dataclass(frozen=True, eq=False)
class Photos:
    """Image files below `root`, by their paths relative to it, with labels [N] as int64.

    `fingerprint` is the SHA-256 of paths, sizes and labels, so that it tells other images from these.
    `groups` [N] numbers what must stay on one side of a split, such as near-duplicates; None: nothing must.
    """

    root: Path
    files: Sequence[str]
    labels: Tensor
    class_names: tuple[str, ...]
    on_bad_image: OnBadImage = "stop"
    fingerprint: str = ""
    groups: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image whole, uint8 [H, W, 3], and its label."""
        return self.region(index, whole), int(self.labels[index])

    def region(self, index: int, choose: Choose, interpolation: str = "bilinear") -> Tensor:
        """Decode a region of an image, uint8 [height, width, 3].

        Raises:
            BadImageError: it cannot be decoded.
        """
        return decode(self.root / self.files[index], choose, interpolation)

    def take(self, indices: Tensor) -> Self:
        """Return the images with these indices, in their order."""
        files = Paths.of(self.files[index] for index in indices.tolist())
        chosen = indices.to(torch.int64).contiguous().numpy().tobytes()
        fingerprint = hashlib.sha256(self.fingerprint.encode() + chosen).hexdigest()
        groups = None if self.groups is None else self.groups[indices]
        return replace(self, files=files, labels=self.labels[indices], fingerprint=fingerprint, groups=groups)


def split_photos(photos: Photos, count: int) -> tuple[Tensor, Tensor]:
    """Set `count` photographs of all classes apart for validation; about as many where groups stay whole.

    The choice depends on paths, labels and groups alone, never on a run's seed.

    Returns:
        The indices of the training images that remain, and of the validation set, both ascending.

    Raises:
        UsageError: nothing would remain to train on.
        DataError: none can be set apart: each class is one image or one group.
    """
    if count >= len(photos):
        raise UsageError(f"validation must be smaller than the training set of {len(photos)}, not {count}")
    labels: list[int] = photos.labels.tolist()
    groups = None if photos.groups is None else photos.groups.tolist()
    wanted = validation_counts(labels, count)
    held = set_apart(VALIDATION_KEY, photos.files, labels, wanted, groups)
    if not held:
        raise DataError(
            "no training image can be set apart for validation: those of each class are one image, or belong "
            "together as a group or near-duplicates"
        )
    apart = torch.zeros(len(photos), dtype=torch.bool)
    apart[sorted(held)] = True
    return (~apart).nonzero()[:, 0], apart.nonzero()[:, 0]


@dataclass(frozen=True, eq=False)
class PhotoDataset:
    """A training and a test set of photographs; `class_names[label]` says what a label means.

    `changed` is a line that says how the images differ from those of the last time; None if they do not.
    """

    name: str
    train: Photos
    test: Photos
    class_names: tuple[str, ...]
    changed: str | None = None
    findings: Findings = Findings()  # noqa: RUF009, a frozen value

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the paths, sizes and labels of both sets."""
        return hashlib.sha256((self.train.fingerprint + self.test.fingerprint).encode()).hexdigest()

    def __post_init__(self) -> None:
        if not len(self.train) or not len(self.test):
            raise DataError(f"{self.name} has no {'training' if not len(self.train) else 'test'} images")
