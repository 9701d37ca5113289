"""An image in whatever form a caller has it: a file, its content, a Pillow image, an array or a tensor."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .decode import BadImageError, cut, decode, decode_bytes
from .pillow import decode_image
from .region import Choose, whole

AnyImage = str | Path | bytes | Image.Image | NDArray[np.uint8] | Tensor
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's, by the number of channels


def pixels_of(image: AnyImage, choose: Choose = whole, interpolation: str = "bilinear") -> Tensor:
    """Return a region of an image as uint8 [height, width, 3], resized with antialiasing; see `decode`.

    Args:
        image: a path; the bytes of an image file; a Pillow image, turned upright if its EXIF data say so; or
            uint8 values [H, W] (grey) or [H, W, C] with C of 1 (grey), 2 (grey and alpha), 3 (RGB) or 4
            (RGBA).
        choose: takes the upright image's height and width, and returns the region.
        interpolation: "bilinear" or "bicubic".

    Raises:
        BadImageError: it cannot be decoded, or is something else.
    """
    if isinstance(image, str | Path):
        return decode(Path(image), choose, interpolation)
    if isinstance(image, bytes | bytearray):
        return decode_bytes(bytes(image), "the image", choose, interpolation)
    picture = image if isinstance(image, Image.Image) else _picture(image)
    try:
        pixels = decode_image(picture)
    except Exception as error:  # of any class, where its file is corrupted
        raise BadImageError("the image", " ".join(str(error).split()) or type(error).__name__) from error
    return cut(pixels, choose, interpolation)


def _picture(values: Any) -> Image.Image:
    """Make a Pillow image of an array or tensor."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if not isinstance(array, np.ndarray):
        kind = type(values).__name__
        raise BadImageError("the image", f"a {kind} is neither path, bytes, Pillow image nor array")
    if array.dtype != np.uint8:
        raise BadImageError("the image", f"its values are {array.dtype}: give uint8, from 0 to 255")
    planes = array[..., None] if array.ndim == 2 else array
    if planes.ndim != 3 or planes.shape[2] not in MODES or not planes.size:
        raise BadImageError("the image", f"its shape is {list(array.shape)}: give [H, W] or [H, W, 1 to 4]")
    mode = MODES[planes.shape[2]]
    return Image.fromarray(np.ascontiguousarray(planes[..., 0] if mode == "L" else planes), mode)
