"""Images of any format through Pillow: opened without its warnings, and converted to upright RGB."""

import io
import threading
import warnings
from contextlib import AbstractContextManager
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# not all that Pillow knows: some formats run other programs
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
MAX_PIXELS = 178_000_000  # Pillow itself refuses more than 178,956,970
MAX_SCANS = 100  # of a progressive JPEG, each of which passes over all pixels; usual files have about ten
_TOO_MANY = f"it has more than {MAX_PIXELS // 1_000_000} million pixels"


class _Silence:
    """Pillow's warnings silenced: from the first thread that enters to the last that leaves.

    Filters are the process's, so two threads that each saved and restored them would leave the wrong ones.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_SILENCE = _Silence()


def quiet() -> AbstractContextManager[None]:
    """Silence Pillow's warnings."""
    return _SILENCE


class TooManyPixelsError(ValueError):
    """An image that is too large to be decoded."""


def check_size(height: int, width: int) -> None:
    """Refuse an image before it is decoded.

    Raises:
        TooManyPixelsError: it has too many pixels.
    """
    if height * width > MAX_PIXELS:
        raise TooManyPixelsError(_TOO_MANY)


def check_scans(data: bytes) -> None:
    """Refuse a progressive JPEG that would take hours to decode.

    Raises:
        ValueError: it has too many scans.
    """
    if data.count(b"\xff\xda") > MAX_SCANS:
        raise ValueError(f"it has more than {MAX_SCANS} scans")


def decode_any(data: bytes) -> NDArray[np.uint8]:
    """Decode the first picture of an image file as upright uint8 [H, W, 3].

    Raises:
        Exception: it is no image, or a corrupted one; of whatever class Pillow's decoders raise.
    """
    with quiet():
        image = _open(io.BytesIO(data))
        if "progressive" in image.info:
            check_scans(data)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # each copy of a large image takes 4 bytes a pixel
        return np.array(_to_rgb(image, image.format))


def decode_image(image: Image.Image) -> NDArray[np.uint8]:
    """Return an image that the caller opened or made, as upright uint8 [H, W, 3].

    Raises:
        Exception: as `decode_any`.
    """
    with quiet():
        check_size(image.height, image.width)
        image.load()
        return np.array(_to_rgb(ImageOps.exif_transpose(image), image.format))


def size_of_any(file: BinaryIO) -> tuple[int, int]:
    """Return height and width of the upright image, from the header.

    Raises:
        Exception: as `decode_any`.
    """
    with quiet():
        image = _open(file)
        # a TIFF file's size is that of the upright image already
        orientation = 1 if image.format == "TIFF" else image.getexif().get(0x0112, 1)
        return (image.width, image.height) if orientation in range(5, 9) else (image.height, image.width)


def _open(file: BinaryIO) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise ValueError(f"it is none of {', '.join(FORMATS)}, or its header is corrupted") from None
    except Image.DecompressionBombError:
        raise TooManyPixelsError(_TOO_MANY) from None
    check_size(image.height, image.width)
    return image


def _to_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    """Convert any mode of Pillow's."""
    if image.mode.startswith(("I", "F")):
        return Image.fromarray(_eight_bits(np.asarray(image), image.mode, file_format)).convert("RGB")
    if image.has_transparency_data or image.mode in ("La", "RGBa"):
        above = image.convert("RGBA")
        white = Image.new("RGBA", above.size, "white")
        return Image.alpha_composite(white, above).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: NDArray[Any], mode: str, file_format: str | None) -> NDArray[np.uint8]:
    """Scale gray values of 16 bits, or floating-point values of 0 to 1, to 0 to 255."""
    if mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):
            raise ValueError("its floating-point values are not from 0 to 1: convert it to 8 or 16 bits")
        scaled = values * np.float32(255)
        return np.rint(scaled, out=scaled).astype(np.uint8)
    if mode == "I" and file_format not in ("PNG", "PPM"):  # there, Pillow holds 16 bits as "I"
        raise ValueError("it has 32 bits per value, of unknown range: convert it to 8 or 16 bits")
    return (values >> 8).astype(np.uint8)
