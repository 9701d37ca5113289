"""Which rectangle of a photograph is taken, and the size that it is resized to."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Region:
    """A rectangle of an image, in pixels of the upright image, resized to `height` x `width` pixels.

    The rectangle lies inside the image; its edges need not be whole numbers.
    """

    left: float
    top: float
    right: float
    bottom: float
    height: int
    width: int


# takes an upright image's height and width, in pixels; may be called in another process, so it must pickle
Choose = Callable[[int, int], Region]


def whole(height: int, width: int) -> Region:
    """Choose the whole image, as it is."""
    return Region(0, 0, width, height, height, width)
