"""Random erasing (Zhong et al. 2020): a rectangle of some images is set to 0."""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# torchvision's defaults
AREA = (0.02, 0.33)  # as a share of the image
RATIO = (0.3, 3.3)  # height / width
TRIES = 10


def draw_erasing(
    random: np.random.Generator, count: int, probability: float, height: int, width: int
) -> NDArray[np.int64]:
    """Draw a rectangle for each image: (top, left, bottom, right) in pixels, [count, 4].

    Without the last row and column; all 0 for images that are not erased.
    """
    boxes = np.zeros((count, 4), np.int64)
    for index in np.flatnonzero(random.random(count) < probability):
        boxes[index] = _draw_box(random, height, width)
    return boxes


def _draw_box(random: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    for _ in range(TRIES):
        area = height * width * random.uniform(*AREA)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if tall < height and wide < width:
            top, left = random.integers((height - tall + 1, width - wide + 1))
            return int(top), int(left), int(top) + tall, int(left) + wide
    return 0, 0, 0, 0


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Set the rectangles `boxes` [B, 4], on the same device, of images [B, C, H, W] to 0, in a copy."""
    top, left, bottom, right = boxes[:, :, None].unbind(1)  # each [B, 1]
    rows = torch.arange(images.shape[2], device=images.device)
    columns = torch.arange(images.shape[3], device=images.device)
    tall = (rows >= top) & (rows < bottom)
    wide = (columns >= left) & (columns < right)
    # a clone keeps the memory order; masked_fill does not
    return images.clone().masked_fill_((tall[:, :, None] & wide[:, None])[:, None], 0)
