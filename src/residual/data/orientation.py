"""The eight EXIF orientations: from the pixels as they are stored to the upright image, and back."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .region import Region

# orientation -> rows and columns change places; then columns, then rows run the other way
_STEPS = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def upright_size(height: int, width: int, orientation: int) -> tuple[int, int]:
    """Return height and width of the upright image."""
    return (width, height) if _STEPS[orientation][0] else (height, width)


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn stored pixels [H, W, C] upright; a view."""
    swapped, columns, rows = _STEPS[orientation]
    turned = np.swapaxes(pixels, 0, 1) if swapped else pixels
    return turned[:: -1 if rows else 1, :: -1 if columns else 1]


def stored(region: Region, height: int, width: int, orientation: int) -> Region:
    """Return where a region of the upright image, `height` x `width`, lies in the stored pixels."""
    swapped, columns, rows = _STEPS[orientation]
    left, top, right, bottom = region.left, region.top, region.right, region.bottom
    if columns:
        left, right = width - right, width - left
    if rows:
        top, bottom = height - bottom, height - top
    if swapped:
        return Region(top, left, bottom, right, region.width, region.height)
    return Region(left, top, right, bottom, region.height, region.width)
