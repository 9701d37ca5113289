"""A region of decoded pixels, resized with antialiasing."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F

from .region import Region

# pixels, at the scale of the result, over which the filter reaches to each side
REACH = {"bilinear": 1, "bicubic": 2}


def reach(region: Region, interpolation: str) -> int:
    """Return how many pixels around a region its resizing reads; none where its edges are whole numbers."""
    if _edges_are_whole(region):
        return 0
    scale = max(
        1.0, (region.right - region.left) / region.width, (region.bottom - region.top) / region.height
    )
    return math.ceil(REACH[interpolation] * scale) + 1


def resize(pixels: NDArray[np.uint8], region: Region, interpolation: str) -> NDArray[np.uint8]:
    """Resize a region of pixels [H, W, 3] to [region.height, region.width, 3].

    If all edges are whole numbers, the region is cut out first, as torchvision's `resized_crop` does: torch
    resizes it, which takes less than half of Pillow's time. If not, Pillow resizes it as if the whole image
    were resized and the result cropped, so that the filter also sees pixels outside of the region.
    """
    if _edges_are_whole(region):
        cut = pixels[int(region.top) : int(region.bottom), int(region.left) : int(region.right)]
        if cut.shape[:2] == (region.height, region.width):
            return cut.copy()
        return _by_torch(cut, region, interpolation)
    margin = reach(region, interpolation)
    left, top = max(0, int(region.left) - margin), max(0, int(region.top) - margin)
    right, bottom = math.ceil(region.right) + margin, math.ceil(region.bottom) + margin
    around = Image.fromarray(np.ascontiguousarray(pixels[top:bottom, left:right]))
    box = (
        *(region.left - left, region.top - top),
        *(min(region.right - left, around.width), min(region.bottom - top, around.height)),
    )
    return np.array(
        around.resize((region.width, region.height), Image.Resampling[interpolation.upper()], box)
    )


def _by_torch(cut: NDArray[np.uint8], region: Region, interpolation: str) -> NDArray[np.uint8]:
    """Resize whole pixels [H, W, 3]; in channels-last memory torch computes in uint8, as Pillow does."""
    planes = torch.from_numpy(cut)[None].permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    resized = F.interpolate(planes, (region.height, region.width), mode=interpolation, antialias=True)
    found: NDArray[Any] = resized[0].permute(1, 2, 0).contiguous().numpy()
    return found


def _edges_are_whole(region: Region) -> bool:
    return all(edge == int(edge) for edge in (region.left, region.top, region.right, region.bottom))
