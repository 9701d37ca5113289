"""Image files as uint8 pixels: whatever its format, an image becomes upright RGB, or is named as bad."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor, from_numpy

from ..errors import DataError
from .region import Choose, whole


class BadImageError(DataError):
    """An image that cannot be decoded; `path` names it and `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot decode {path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # it crosses processes
        return type(self), (self.path, self.reason)


def decode(path: Path, choose: Choose = whole, interpolation: str = "bilinear") -> Tensor:
    """Decode a region of an image, resized with antialiasing.

    Returns:
        uint8 [height, width, 3] (R, G, B) of the chosen region.

    Raises:
        BadImageError: the file is missing, no image, truncated or too large.
    """
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadImageError(str(path), str(error)) from error
    region = choose(image.height, image.width)
    box = (region.left, region.top, region.right, region.bottom)
    size = (region.width, region.height)
    return from_numpy(np.array(image.resize(size, Image.Resampling[interpolation.upper()], box)))
