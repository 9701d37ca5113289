"""Datasets in memory: uint8 images and labels, a training and a test set; the validation set."""

import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import DataError, UsageError

VALIDATION_SEED = 0  # the same validation set for every run, whatever its training seed


@dataclass(frozen=True, eq=False)
class Split:
    """Images in memory: uint8 [N, H, W, 3] (R, G, B), with labels [N] as int64."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])

    def take(self, indices: Tensor) -> "Split":
        """Return the images with these indices, in their order."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])

    def to(self, device: torch.device) -> "Split":
        """Return the split on a device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class Dataset:
    """A named dataset; `class_names[label]` says what a label means.

    Raises:
        DataError: training and test images are not uint8 [N, H, W, 3] of one size, or a label has no class.
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        for part, split in (("training", self.train), ("test", self.test)):
            _check(f"the {part} set of {self.name}", split, len(self.class_names))
        sizes = [tuple(split.images.shape[1:3]) for split in (self.train, self.test)]
        if sizes[0] != sizes[1]:
            raise DataError(
                f"{self.name} has training images of {sizes[0]} pixels, test images of {sizes[1]}"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of every image, in pixels."""
        height, width = self.train.images.shape[1:3]
        return height, width


def _check(name: str, split: Split, classes: int) -> None:
    images, labels = split.images, split.labels
    if images.dim() != 4 or images.shape[3] != 3 or images.dtype != torch.uint8:
        raise DataError(
            f"{name} must be uint8 images [N, H, W, 3], not {images.dtype} {list(images.shape)}; "
            "repeat a grayscale image three times"
        )
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64 or not len(labels):
        raise DataError(
            f"{name} needs an int64 label for each of its {len(images)} images, and at least one image; "
            f"its labels are {labels.dtype} {list(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"{name} has labels from {low} to {high} but {classes} class names")


def split_validation(images: int, count: int) -> tuple[Tensor, Tensor]:
    """Set `count` of so many training images apart, as the paper's 45k/5k split does (section 4.2).

    The choice depends on the two numbers alone, never on a run's seed.

    Returns:
        The indices of the training images that remain, and of the validation set, both ascending.

    Raises:
        UsageError: nothing would remain to train on.
    """
    if count >= images:
        raise UsageError(f"validation must be smaller than the training set of {images}, not {count}")
    order = torch.randperm(images, generator=torch.Generator().manual_seed(VALIDATION_SEED))
    return order[count:].sort().values, order[:count].sort().values


def indices_sha256(indices: Tensor) -> str:
    """Return the SHA-256 of a validation set's indices (as int32), by which it can be recognised."""
    return hashlib.sha256(indices.to(torch.int32).numpy().tobytes()).hexdigest()
