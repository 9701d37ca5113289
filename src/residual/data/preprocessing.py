"""How images become what a network takes: resized to one size, then normalized; kept with every model."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import DataError
from ..recipes.schema import Fit
from .any_image import AnyImage, pixels_of
from .dataset import Split
from .normalization import Normalization
from .photos import Photos
from .region import Region, whole

Interpolation = Literal["bilinear", "bicubic"]
MAX_SIDE = 4096  # pixels
MAX_GROWTH = 64  # of the pixels that a resized image may have before its crop, to those that remain


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """Resize images to `image_size` (height, width) and normalize them.

    Images that have the size already are only normalized. Others are resized with antialiasing:

    - "crop": so that the shorter side has `resize` pixels (None: as few as cover the size), center crop;
    - "pad": so that the whole image just fits in, black around it;
    - "squish": to the size, whatever becomes of the aspect ratio.

    Raises:
        ValueError: the size, `resize` or a choice is out of range, or a per-pixel mean has another size.
    """

    image_size: tuple[int, int]
    normalization: Normalization
    resize: int | None = None
    fit: Fit = "crop"
    interpolation: Interpolation = "bilinear"

    def __post_init__(self) -> None:
        size, mean = self.image_size, self.normalization.mean
        if len(size) != 2 or not all(type(side) is int and 1 <= side <= MAX_SIDE for side in size):
            raise ValueError(f"image_size must be (height, width), each from 1 to {MAX_SIDE:,} pixels")
        if self.fit not in get_args(Fit) or self.interpolation not in get_args(Interpolation):
            raise ValueError(
                f"fit must be one of {get_args(Fit)}, interpolation one of {get_args(Interpolation)}"
            )
        if self.resize is not None and not (
            self.fit == "crop" and type(self.resize) is int and max(size) <= self.resize <= MAX_SIDE
        ):
            raise ValueError(
                f"resize goes with fit 'crop' and is from {max(size)} (the longer side of image_size) to "
                f"{MAX_SIDE:,}"
            )
        if mean.dim() == 3 and tuple(mean.shape[:2]) != size:
            raise ValueError("the per-pixel mean has another size than the images")

    @classmethod
    def measure(cls, split: Split) -> "Preprocessing":
        """Take the size of a training set's images, and measure their mean and standard deviation."""
        height, width = split.images.shape[1:3]
        return cls((height, width), Normalization.of(split))

    def to(self, device: torch.device) -> "Preprocessing":
        """Return it with mean and standard deviation on a device."""
        return replace(self, normalization=self.normalization.to(device))

    def apply(self, images: Tensor) -> Tensor:
        """Map uint8 images [N, H, W, 3] of any size to float32 [N, *image_size, 3].

        Raises:
            DataError: as `resized`.
        """
        return self.normalization.apply(self.resized(images))

    def resized(self, images: Tensor) -> Tensor:
        """Return uint8 images [N, H, W, 3] as uint8 [N, *image_size, 3].

        Raises:
            DataError: the images are so narrow that a crop would need far too much memory.
        """
        height, width = images.shape[1:3]
        if (height, width) == self.image_size:
            return images
        (tall, wide), (to_tall, to_wide) = self._resized_size(height, width), self.image_size
        if tall * wide > MAX_GROWTH * max(self.image_size) ** 2:
            raise DataError(
                f"images of {height}x{width} pixels are too narrow to crop: use fit='pad' or 'squish'"
            )
        if (tall, wide) != (height, width):
            planes = images.permute(0, 3, 1, 2).float()
            planes = F.interpolate(planes, (tall, wide), mode=self.interpolation, antialias=True)
            images = planes.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        top, left = self._center(tall, wide)
        if self.fit == "pad":
            return F.pad(
                images, (0, 0, -left, to_wide - wide + left, -top, to_tall - tall + top)
            ).contiguous()
        return images[:, top : top + to_tall, left : left + to_wide].contiguous()

    def region(self, height: int, width: int) -> Region:
        """Choose the part of an image that remains of it, and its size, to decode it at once.

        `resized` of what is decoded only pads it; the result is that of `resized` of the whole image, up to
        the rounding of another library's antialiasing.
        """
        if (height, width) == self.image_size:
            return whole(height, width)
        (tall, wide), (to_tall, to_wide) = self._resized_size(height, width), self.image_size
        if self.fit != "crop":
            return Region(0, 0, width, height, tall, wide)
        top, left = self._center(tall, wide)
        rows, columns = height / tall, width / wide
        right, bottom = min(width, (left + to_wide) * columns), min(height, (top + to_tall) * rows)
        return Region(left * columns, top * rows, right, bottom, to_tall, to_wide)

    def load(self, photos: Photos, index: int) -> Tensor:
        """Decode a photograph as uint8 [*image_size, 3].

        Raises:
            BadImageError: it cannot be decoded.
        """
        return self.resized(photos.region(index, self.region, self.interpolation)[None])[0]

    def read(self, image: AnyImage) -> Tensor:
        """Return an image in any form as uint8 [*image_size, 3]; see `pixels_of`.

        Raises:
            BadImageError: it cannot be decoded.
        """
        return self.resized(pixels_of(image, self.region, self.interpolation)[None])[0]

    def _center(self, height: int, width: int) -> tuple[int, int]:
        """Return the first row and column of `image_size` in the center; below 0 where it is padded."""
        return round((height - self.image_size[0]) / 2), round((width - self.image_size[1]) / 2)

    def _resized_size(self, height: int, width: int) -> tuple[int, int]:
        """Return what size an image is resized to before it is cropped or padded."""
        if self.fit == "squish":
            return self.image_size
        tall, wide = self.image_size
        if self.resize is not None:
            scale = self.resize, min(height, width)
        else:  # the side that must fit: exact in whole numbers
            by_height = (tall * width >= wide * height) == (self.fit == "crop")
            scale = (tall, height) if by_height else (wide, width)
        return max(1, height * scale[0] // scale[1]), max(1, width * scale[0] // scale[1])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON; see `Normalization.as_dict`."""
        return {
            "image_size": list(self.image_size),
            "resize": self.resize,
            "fit": self.fit,
            "interpolation": self.interpolation,
            **self.normalization.as_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        """Read back what `as_dict` gave.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError, OverflowError: it is something else.
        """
        return cls(
            image_size=tuple(values["image_size"]),
            normalization=Normalization.from_dict(values),
            resize=values["resize"],
            fit=values["fit"],
            interpolation=values["interpolation"],
        )
