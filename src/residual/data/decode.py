"""Image files as uint8 pixels: whatever its format, an image becomes upright RGB, or is named as bad.

Transparent pixels are composited on white. Colour profiles are not applied. Values of 16 bits become their
upper 8 bits. Of several frames or pictures in one file, the first is taken.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from ..errors import DataError
from ..runtime.files import read_bounded
from . import jpeg
from .orientation import stored, upright, upright_size
from .pillow import MAX_PIXELS, check_size, decode_any, size_of_any
from .region import Choose, Region, whole
from .resize import reach, resize

MAX_BYTES = 8 * MAX_PIXELS  # of four channels of 16 bits, uncompressed


class BadImageError(DataError):
    """An image that cannot be decoded; `path` names it and `reason` says why."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"cannot decode {path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:  # it crosses processes
        return type(self), (self.path, self.reason)


def decode(path: Path, choose: Choose = whole, interpolation: str = "bilinear") -> Tensor:
    """Decode a region of an image, resized with antialiasing.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the region then still has at least the size that it
    is resized to. A region with whole-number edges is resized fastest; see `resize`.

    Args:
        path: the file.
        choose: takes the upright image's height and width, and returns the region.
        interpolation: "bilinear" or "bicubic".

    Returns:
        uint8 [height, width, 3] (R, G, B) of the chosen region, with the black that belongs around it.

    Raises:
        BadImageError: the file is missing, no image, truncated or too large.
    """
    return decode_bytes(read_file(path), str(path), choose, interpolation)


def read_file(path: Path) -> bytes:
    """Return the content of an image file.

    Raises:
        BadImageError: the file is missing or too large.
    """
    with _named_as_bad(str(path)):
        return read_bounded(path, MAX_BYTES)


def decode_bytes(
    data: bytes, name: str = "the image", choose: Choose = whole, interpolation: str = "bilinear"
) -> Tensor:
    """Decode a region of an image file's content; `name` is what an error calls it. See `decode`.

    Raises:
        BadImageError: as `decode`.
    """
    with _named_as_bad(name):
        if not data:
            raise ValueError("the file is empty")
        header = jpeg.read_header(data)
        if header is None:
            pixels = decode_any(data)
        else:
            check_size(header.height, header.width)
    if header is None:
        return cut(pixels, choose, interpolation)
    height, width = upright_size(header.height, header.width, header.orientation)
    chosen = choose(height, width)
    region = stored(chosen, height, width, header.orientation)
    scale = jpeg.scale_for(
        region.bottom - region.top, region.right - region.left, region.height, region.width
    )
    region = _scaled(region, scale)
    with _named_as_bad(name):
        pixels = jpeg.decode_scaled(data, header, scale, region.bottom + reach(region, interpolation))
    resized = upright(resize(pixels, region, interpolation), header.orientation)
    return chosen.padded(from_numpy(np.ascontiguousarray(resized)))


def cut(pixels: NDArray[np.uint8], choose: Choose, interpolation: str) -> Tensor:
    """Return the chosen region of an image's pixels [H, W, 3], resized with antialiasing."""
    chosen = choose(*pixels.shape[:2])
    return chosen.padded(from_numpy(resize(pixels, chosen, interpolation)))


def image_size(path: Path) -> tuple[int, int]:
    """Return height and width of the upright image, from the file's header alone.

    Raises:
        BadImageError: the file is missing, no image or too large.
    """
    with _named_as_bad(str(path)):
        if not path.is_file():  # a pipe may never end
            raise ValueError("it is missing or not a regular file")
        with path.open("rb") as file:
            return size_of_any(file)


def size_of_bytes(data: bytes, name: str) -> tuple[int, int]:
    """Return height and width of the upright image in a file's content; `name` is what an error calls it.

    Raises:
        BadImageError: it is no image, or too large.
    """
    with _named_as_bad(name):
        return size_of_any(io.BytesIO(data))


def _scaled(region: Region, scale: int) -> Region:
    """Return the region in pixels that each stand for `scale` x `scale` of the image."""
    left, top, right, bottom = region.left, region.top, region.right, region.bottom
    return Region(left / scale, top / scale, right / scale, bottom / scale, region.height, region.width)


@contextmanager
def _named_as_bad(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadImageError(name, error.strerror or _one_line(error)) from error
    except Exception as error:  # decoders fail in many ways on a corrupted file, with any class of error
        raise BadImageError(name, _one_line(error)) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or f"corrupted ({type(error).__name__})"
