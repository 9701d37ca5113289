"""An uploaded image as pixels, or the status that refuses it."""

from io import BytesIO

from torch import Tensor

from ..data.decode import BadImageError
from ..data.jpeg import read_header
from ..data.pillow import TooManyPixelsError, size_of_any
from ..errors import DataError
from ..inference.classifier import Classifier
from .limits import Limits, Refused

# how files begin of the formats that are decoded: JPEG, PNG, GIF, BMP, TIFF, PNM; WebP has it at byte 8
_BEGINNINGS = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM"),
    *(b"II*\0", b"II\0*", b"II+\0", b"MM\0*", b"MM*\0", b"MM\0+"),
    *(b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf"),
)


def load(classifier: Classifier, content: bytes, limits: Limits) -> Tensor:
    """Decode an image file's content as the uint8 values that the classifier takes.

    Raises:
        Refused: 413, it has too many pixels; 415, it is of no known format; 422, it is damaged.
    """
    if not content:
        raise Refused(422, "the image is empty: it has 0 bytes")
    try:
        height, width = _size(content)
    except TooManyPixelsError as error:
        raise Refused(413, str(error)) from None
    except Exception as error:  # of any class, where the header is corrupted
        raise _refused(content, error) from None
    if height * width > limits.pixels:
        raise Refused(413, f"it has {height:,} x {width:,} pixels, more than {limits.pixels:,}")
    try:
        return classifier.load(content)
    except BadImageError as error:
        raise Refused(422, f"the image is damaged: {error.reason}") from None
    except DataError as error:  # so long and narrow that its crop would not fit into memory
        raise Refused(422, str(error)) from None


def _size(content: bytes) -> tuple[int, int]:
    header = read_header(content)
    return size_of_any(BytesIO(content)) if header is None else (header.height, header.width)


def _refused(content: bytes, error: Exception) -> Refused:
    if content.startswith(_BEGINNINGS) or (content[:4] == b"RIFF" and content[8:12] == b"WEBP"):
        return Refused(422, f"the image is damaged: {' '.join(str(error).split()) or type(error).__name__}")
    return Refused(415, "it is no image of a known format: send JPEG, PNG, GIF, WebP, BMP, TIFF or PNM")
