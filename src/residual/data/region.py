"""Which rectangle of a photograph is taken, and the size that it is resized to."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Region:
    """A rectangle of an image, in pixels of the upright image, resized to `height` x `width` pixels.

    The rectangle lies inside the image; its edges need not be whole numbers. `around` is how many rows and
    columns of black are put around what was resized: left, top, right, bottom.
    """

    left: float
    top: float
    right: float
    bottom: float
    height: int
    width: int
    around: tuple[int, int, int, int] = (0, 0, 0, 0)

    def padded(self, pixels: Tensor) -> Tensor:
        """Put black around pixels [height, width, 3]."""
        left, top, right, bottom = self.around
        return F.pad(pixels, (0, 0, left, right, top, bottom)) if any(self.around) else pixels


# takes an upright image's height and width, in pixels; may be called in another process, so it must pickle
Choose = Callable[[int, int], Region]


def whole(height: int, width: int) -> Region:
    """Choose the whole image, as it is."""
    return Region(0, 0, width, height, height, width)
