"""Mixup and cutmix: each image of a batch is mixed with the one before it, and so are their classes."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed: `share` of each image stays; the rest is its partner's.

    With a rectangle (top, left, bottom, right; cutmix) the partner's pixels stand in it; without one (mixup)
    all pixels are weighted means.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def draw_mix(random: np.random.Generator, mixup: float, cutmix: float, height: int, width: int) -> Mix:
    """Draw how a batch of images of height x width pixels is mixed.

    Args:
        random: draws.
        mixup: alpha of mixup's Beta(alpha, alpha) (Zhang et al., 2018); 0: never.
        cutmix: alpha of cutmix's (Yun et al., 2019); 0: never. With both above 0 each has every other batch,
            at random, as in torchvision's reference.
        height, width: in pixels.
    """
    cut = cutmix > 0 and (not mixup or random.random() < 0.5)
    alpha = cutmix if cut else mixup
    share = float(random.beta(alpha, alpha))
    if not cut:
        return Mix(share)
    half = 0.5 * math.sqrt(1 - share)
    row, column = int(random.integers(height)), int(random.integers(width))
    down, across = int(half * height), int(half * width)
    box = (max(row - down, 0), max(column - across, 0), min(row + down, height), min(column + across, width))
    area = (box[2] - box[0]) * (box[3] - box[1])  # smaller where the rectangle is cut off at an edge
    return Mix(1 - area / (height * width), box)


def apply_mix(images: Tensor, labels: Tensor, classes: int, mix: Mix) -> tuple[Tensor, Tensor]:
    """Mix images [B, C, H, W] and labels [B]; return images and shares of the classes [B, classes]."""
    partners = images.roll(1, 0)
    if mix.box is None:
        mixed = torch.lerp(partners, images, mix.share)
    else:
        top, left, bottom, right = mix.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    targets = F.one_hot(labels, classes).float()
    return mixed, torch.lerp(targets.roll(1, 0), targets, mix.share)
