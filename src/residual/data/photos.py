"""Photographs in files, with labels: an image is decoded when it is asked for."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError, UsageError
from .decode import decode_bytes, image_size, read_file, size_of_bytes
from .findings import Findings
from .region import Choose, whole
from .scan import Paths
from .split import VALIDATION_KEY, set_apart, validation_counts

OnBadImage = Literal["stop", "skip"]


class SourceError(DataError):
    """What holds many images cannot be read, which is the fault of none of them: it is never skipped."""


class Source(Protocol):
    """Images whose files lie inside other files, such as shards; it pickles, for worker processes."""

    @property
    def root(self) -> str:
        """Where the other files are."""

    def read(self, index: int) -> bytes:
        """Return the content of an image file.

        Raises:
            SourceError: it cannot be read.
        """

    def place(self, index: int) -> str:
        """Say where the content lies."""

    def take(self, indices: Tensor) -> Self:
        """Return those with these indices, in their order."""

    def ahead(self, indices: Sequence[int]) -> Self:
        """Return a copy that begins to read these images, so that several are on their way at once."""

    def in_blocks(self, images: int) -> Self:
        """Return a copy that reads blocks of neighbours at once, and keeps those of so many images."""

    def release(self) -> None:
        """Remove the blocks that are kept."""


@dataclass(frozen=True, eq=False)
class Photos:
    """Image files below `root`, by their paths relative to it, with labels [N] as int64.

    `fingerprint` is the SHA-256 of paths, sizes and labels, so that it tells other images from these.
    `groups` [N] numbers what must stay on one side of a split, such as near-duplicates; None: nothing must.
    With a `source` the content of the files is read from there; their paths are then names alone.
    """

    root: Path
    files: Sequence[str]
    labels: Tensor
    class_names: tuple[str, ...]
    on_bad_image: OnBadImage = "stop"
    fingerprint: str = ""
    groups: Tensor | None = None
    source: Source | None = None

    @property
    def where(self) -> str:
        """Where the images are, for messages."""
        return str(self.root) if self.source is None else self.source.root

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image whole, uint8 [H, W, 3], and its label."""
        return self.region(index, whole), int(self.labels[index])

    def region(self, index: int, choose: Choose, interpolation: str = "bilinear") -> Tensor:
        """Decode a region of an image, uint8 [height, width, 3].

        Raises:
            BadImageError: it cannot be decoded.
            SourceError: the source cannot be read.
        """
        return decode_bytes(self.content(index), self.name(index), choose, interpolation)

    def content(self, index: int) -> bytes:
        """Return the content of an image's file.

        Raises:
            BadImageError: there is no such file, or it cannot be read.
            SourceError: the source cannot be read.
        """
        return read_file(self.root / self.files[index]) if self.source is None else self.source.read(index)

    def ahead(self, indices: Sequence[int]) -> Self:
        """Return photographs of which these are wanted next: a slow source reads several at once."""
        return self if self.source is None else replace(self, source=self.source.ahead(indices))

    def in_blocks(self, images: int) -> Self:
        """Return photographs of which neighbours come at about the same time: they are read at once.

        What a slow source has read of them is kept, for the last so many images.
        """
        return self if self.source is None else replace(self, source=self.source.in_blocks(images))

    def release(self) -> None:
        """Remove what is kept of neighbours; it is read again where it is needed."""
        if self.source is not None:
            self.source.release()

    def name(self, index: int) -> str:
        """Return what errors call an image."""
        file = self.files[index]
        return str(self.root / file) if self.source is None else f"{file} in {self.source.place(index)}"

    def size(self, index: int) -> tuple[int, int]:
        """Return height and width of an upright image, from its header.

        Raises:
            BadImageError: it has none.
            SourceError: the source cannot be read.
        """
        if self.source is None:
            return image_size(self.root / self.files[index])
        return size_of_bytes(self.source.read(index), self.name(index))

    def take(self, indices: Tensor) -> Self:
        """Return the images with these indices, in their order."""
        files = Paths.of(self.files[index] for index in indices.tolist())
        chosen = indices.to(torch.int64).contiguous().numpy().tobytes()
        fingerprint = hashlib.sha256(self.fingerprint.encode() + chosen).hexdigest()
        groups = None if self.groups is None else self.groups[indices]
        source = None if self.source is None else self.source.take(indices)
        labels = self.labels[indices]
        return replace(
            self, files=files, labels=labels, fingerprint=fingerprint, groups=groups, source=source
        )


def fingerprint_of(files: Paths, sizes: NDArray[np.int64], labels: Tensor) -> str:
    """Return the SHA-256 of paths, sizes in bytes [N] and labels [N]."""
    digest = hashlib.sha256()
    for part in (files.text, files.ends, sizes, labels.numpy()):
        digest.update(part.tobytes())
    return digest.hexdigest()


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
