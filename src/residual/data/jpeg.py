"""JPEG at 1/1, 1/2, 1/4 or 1/8 of its size, and no further down than a region reaches.

The decoder is libjpeg-turbo, through simplejpeg where the extra `jpeg` is installed, else through Pillow:
the pixels are the same, but simplejpeg takes a fifth less time.
"""

import importlib.util
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .pillow import check_scans, quiet

HAS_SIMPLEJPEG = importlib.util.find_spec("simplejpeg") is not None
SCALES = (8, 4, 2, 1)  # one pixel is decoded for so many, in either direction
_SEQUENTIAL, _PROGRESSIVE, _START_OF_SCAN, _EXIF = (0xC0, 0xC1), 0xC2, 0xDA, 0xE1
_OTHER_FRAMES = {0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}
_CONTEXT = 8  # rows below, to which upsampled colour reaches
_ORIENTATION = 0x0112  # the EXIF tag


@dataclass(frozen=True)
class Header:
    """What a JPEG's header says of it; height and width are those of the stored pixels."""

    height: int
    width: int
    orientation: int
    height_at: int  # the position of the height in the file
    can_stop: bool  # rows follow each other, so that decoding can end early


def read_header(data: bytes) -> Header | None:
    """Read the header of a complete 8-bit gray or three-channel JPEG; None for anything else."""
    # decoders fill up the rest of a truncated file with gray, so its end must be there
    if data[:3] != b"\xff\xd8\xff" or data[-2:] != b"\xff\xd9":
        return None
    frame, orientation = None, 1
    for marker, start, end in _segments(data):
        if marker in _OTHER_FRAMES:
            return None
        if marker == _EXIF and data[start : start + 6] == b"Exif\0\0":
            orientation = _orientation(data[start:end])
        if marker in (*_SEQUENTIAL, _PROGRESSIVE):
            frame = marker, start
        if marker == _START_OF_SCAN and frame is not None:
            kind, at = frame
            height, width = (int.from_bytes(data[at + i : at + i + 2], "big") for i in (1, 3))
            precision, components = data[at], data[at + 5]
            if precision != 8 or components not in (1, 3) or not height or not width:
                return None
            can_stop = kind in _SEQUENTIAL and data[start] == components
            return Header(height, width, orientation, at + 1, can_stop)
    return None


def scale_for(height: float, width: float, to_height: int, to_width: int) -> int:
    """Return the coarsest scale at which `height` x `width` pixels still have the size that is needed."""
    return next((n for n in SCALES if height >= n * to_height and width >= n * to_width), 1)


def decode_scaled(data: bytes, header: Header, scale: int, bottom: float) -> NDArray[np.uint8]:
    """Decode a JPEG at 1 / `scale` of its size, down to row `bottom` of the result or further.

    Raises:
        Exception: the file is corrupted; of whatever class the decoder raises.
    """
    if not header.can_stop:
        check_scans(data)
    rows = (math.ceil(bottom) + _CONTEXT) * scale
    if header.can_stop and rows < header.height:  # a smaller height in the header ends decoding there
        at = header.height_at
        data = data[:at] + rows.to_bytes(2, "big") + data[at + 2 :]
    else:
        rows = header.height
    shape = (-(-rows // scale), -(-header.width // scale), 3)
    if HAS_SIMPLEJPEG:
        import simplejpeg

        least = {"min_height": shape[0], "min_width": shape[1], "min_factor": scale} if scale > 1 else {}
        try:  # as lenient as Pillow: not strict, it does not mind bytes between two markers
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, strict=False, **least)
            if pixels.shape == shape:
                return pixels
        except ValueError:  # an odd file, for example with unusual subsampling
            pass
    return _by_pillow(data, scale, shape)


def _by_pillow(data: bytes, scale: int, shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    with quiet():
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        image.draft(None, (image.width // scale, image.height // scale))
        pixels = np.array(image.convert("RGB"))
    if pixels.shape != shape:
        raise ValueError(f"it has {pixels.shape[1]} x {pixels.shape[0]} pixels, not as its header says")
    return pixels


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and end of each segment up to the first scan; stop at what is no segment."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > len(data) or end < at + 4:
            return
        yield marker, at + 4, end
        if marker == _START_OF_SCAN:
            return
        at = end


def _orientation(exif: bytes) -> int:
    found = Image.Exif()
    try:
        with quiet():
            found.load(exif)
            value = int(found.get(_ORIENTATION, 1))
    except Exception:  # EXIF data can be damaged in any way; the pixels are unharmed
        return 1
    return value if value in range(1, 9) else 1
