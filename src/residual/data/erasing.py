"""Random erasing: a rectangle of an image becomes 0 (Zhong et al., 2017), as torchvision does it."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

AREA = (0.02, 0.33)  # of a rectangle, as a share of the image
RATIO = (0.3, 3.3)  # of its height to its width
TRIES = 10


def draw_erasing(
    random: np.random.Generator, count: int, probability: float, height: int, width: int
) -> NDArray[np.int64]:
    """Draw a rectangle (top, left, bottom, right) for each of `count` images; an empty one for most.

    Returns:
        int64 [count, 4], in pixels. Of each image a rectangle is erased with the given probability.
    """
    boxes = np.zeros((count, 4), np.int64)
    for number in np.flatnonzero(random.random(count) < probability):
        boxes[number] = _rectangle(random, height, width)
    return boxes


def _rectangle(random: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Draw a rectangle inside the image; an empty one if ten tries find none."""
    for _ in range(TRIES):
        area = height * width * random.uniform(*AREA)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if tall < height and wide < width:
            top = int(random.integers(height - tall, endpoint=True))
            left = int(random.integers(width - wide, endpoint=True))
            return top, left, top + tall, left + wide
    return 0, 0, 0, 0


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Set the rectangles `boxes` [B, 4] of images [B, C, H, W] to 0, all at once."""
    top, left, bottom, right = boxes[:, :, None, None].unbind(1)
    rows = torch.arange(images.shape[2], device=images.device)[None, :, None]
    columns = torch.arange(images.shape[3], device=images.device)[None, None, :]
    inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
    return images.masked_fill(inside[:, None], 0.0)
