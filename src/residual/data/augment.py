"""Augmentation of a whole batch at once, on the device that holds it."""

import torch
from torch import Tensor
from torch.nn import functional as F


def crop_and_flip(images: Tensor, offsets: Tensor, flips: Tensor, padding: int) -> Tensor:
    """Pad images [N, H, W, C] with zeros, crop [H, W] at each offset, mirror those that flip (section 4.2).

    Offsets [N, 2] run from 0 to 2 * padding; `padding` is in pixels.
    """
    count, height, width, channels = images.shape
    wide = width + 2 * padding
    tall = height + 2 * padding
    padded = images.new_zeros(count, tall, wide, channels)
    padded[:, padding : padding + height, padding : padding + width] = images
    # a view of every possible crop; indexing it copies the chosen ones, a whole image at a time
    row, image = wide * channels, tall * wide * channels
    crops = padded.as_strided(
        (count, 2 * padding + 1, 2 * padding + 1, height, width, channels),
        (image, row, channels, row, channels, 1),
    )
    chosen = crops[torch.arange(count, device=images.device), offsets[:, 0], offsets[:, 1]]
    return torch.where(flips[:, None, None, None], chosen.flip(2), chosen)


def shrink(images: Tensor, size: int) -> Tensor:
    """Resize square images [N, C, H, H] to [N, C, size, size], antialiased; the memory order stays."""
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True)
