"""Mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019): each image of a batch mixed with its neighbour."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed: `share` is what an image keeps of itself (the papers' lambda).

    `box` is (top, left, bottom, right) of cutmix's rectangle in pixels, without the last row and column.
    """

    kind: Literal["none", "mixup", "cutmix"] = "none"
    share: float = 1.0
    box: tuple[int, int, int, int] = (0, 0, 0, 0)


def draw_mix(random: np.random.Generator, mixup: float, cutmix: float, height: int, width: int) -> Mix:
    """Draw how a batch of images of `height` x `width` pixels is mixed, as torchvision's recipes do.

    `mixup` and `cutmix` are the alphas of Beta(alpha, alpha), 0 for not at all; with both, each is as likely.
    """
    if not mixup and not cutmix:
        return Mix()
    if mixup and (not cutmix or random.random() < 0.5):
        return Mix("mixup", float(random.beta(mixup, mixup)))
    side = 0.5 * float(np.sqrt(1 - random.beta(cutmix, cutmix)))
    row, column = (int(centre) for centre in random.integers((height, width)))
    tall, wide = int(side * height), int(side * width)
    top, bottom = max(row - tall, 0), min(row + tall, height)
    left, right = max(column - wide, 0), min(column + wide, width)
    # of the rectangle as it is after clamping and rounding
    share = 1 - (bottom - top) * (right - left) / (height * width)
    return Mix("cutmix", share, (top, left, bottom, right))


def apply_mix(images: Tensor, labels: Tensor, classes: int, mix: Mix) -> tuple[Tensor, Tensor]:
    """Mix images [B, C, H, W], floating-point, with the same batch rolled by one; targets along with them.

    Returns images in the same memory order and targets [B, classes] float32; both arguments as they are
    where nothing is mixed.
    """
    if mix.kind == "none":
        return images, labels
    if mix.kind == "mixup":
        mixed = images.lerp(images.roll(1, 0), 1 - mix.share)
    else:
        top, left, bottom, right = mix.box
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = images[:, :, top:bottom, left:right].roll(1, 0)
    targets = F.one_hot(labels, classes).float()
    return mixed, targets.lerp(targets.roll(1, 0), 1 - mix.share)
