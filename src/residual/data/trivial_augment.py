"""TrivialAugment (wide): one random operation of random strength on each image (Mueller and Hutter, 2021).

Operations and ranges are those of torchvision's `TrivialAugmentWide`, computed by Pillow.
"""

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor, from_numpy

BINS = 31  # strengths of an operation, evenly spaced from none to the largest
SHEAR, SHIFT, TURN, CHANGE = 0.99, 32.0, 135.0, 0.99  # the largest: factor, pixels, degrees, factor - 1
Operation = Callable[[Image.Image, float, int], Image.Image]  # of strength 0..1 and sign


def _affine(image: Image.Image, *coefficients: float) -> Image.Image:
    """Take the pixel at (a x + b y + c, d x + e y + f) for the one at (x, y); black outside."""
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST)


def _shear_x(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return _affine(image, 1, sign * SHEAR * strength, 0, 0, 1, 0)


def _shear_y(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return _affine(image, 1, 0, 0, sign * SHEAR * strength, 1, 0)


def _shift_x(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return _affine(image, 1, 0, int(sign * SHIFT * strength), 0, 1, 0)


def _shift_y(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return _affine(image, 1, 0, 0, 0, 1, int(sign * SHIFT * strength))


def _rotate(image: Image.Image, strength: float, sign: int) -> Image.Image:
    return image.rotate(sign * TURN * strength, Image.Resampling.NEAREST)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, strength, sign: kind(image).enhance(1 + sign * CHANGE * strength)


def _posterize(image: Image.Image, strength: float, _sign: int) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(6 * strength))


def _solarize(image: Image.Image, strength: float, _sign: int) -> Image.Image:
    return ImageOps.solarize(image, math.ceil(255 * (1 - strength)))


OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, _strength, _sign: image,
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "shift_x": _shift_x,
    "shift_y": _shift_y,
    "rotate": _rotate,
    "brightness": _enhance(ImageEnhance.Brightness),
    "colour": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "posterize": _posterize,
    "solarize": _solarize,
    "autocontrast": lambda image, _strength, _sign: ImageOps.autocontrast(image),
    "equalize": lambda image, _strength, _sign: ImageOps.equalize(image),
}


def trivial_augment(image: Tensor, random: np.random.Generator) -> Tensor:
    """Apply an operation that is drawn, with its strength and sign, to an image, uint8 [H, W, 3]."""
    operation = list(OPERATIONS.values())[random.integers(len(OPERATIONS))]
    strength, sign = random.integers(BINS) / (BINS - 1), 1 if random.random() < 0.5 else -1
    return from_numpy(np.array(operation(Image.fromarray(image.numpy()), strength, sign)))
