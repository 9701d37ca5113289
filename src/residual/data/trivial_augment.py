"""TrivialAugment (wide): one random operation of random strength on an image (Mueller & Hutter 2021)."""

from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

BINS = 31  # of magnitudes, from none to the strongest
SHEAR = 0.99  # tangent of the angle
SHIFT = 32  # pixels
ROTATION = 135  # degrees
ENHANCEMENT = 0.99  # what is added to the factor 1
FEWEST_BITS = 2  # of 8

# of an image, a share of the strongest magnitude from 0 to 1, and a sign, 1 or -1
Operation = Callable[[Image.Image, float, int], Image.Image]


def _affine(image: Image.Image, *inverse: float) -> Image.Image:
    """Map output to input coordinates by two rows of a matrix; nearest pixel, 0 outside."""
    return image.transform(image.size, Image.Transform.AFFINE, inverse, Image.Resampling.NEAREST)


def _posterize(image: Image.Image, share: float, sign: int) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(share * (8 - FEWEST_BITS)))


def _solarize(image: Image.Image, share: float, sign: int) -> Image.Image:
    # by a table: Pillow's own takes whole thresholds only, by its types
    threshold = round(255 * (1 - share), 3)  # half of the thresholds are whole: 187, not 187.00000000000003
    return image.point([level if level < threshold else 255 - level for level in range(256)] * 3)


def _enhance(by: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    return lambda image, share, sign: by(image).enhance(1 + sign * share * ENHANCEMENT)


# shears are about the upper left corner, rotations about the centre, as torchvision has them
OPERATIONS: dict[str, Operation] = {
    "Identity": lambda image, share, sign: image,
    "ShearX": lambda image, share, sign: _affine(image, 1, sign * share * SHEAR, 0, 0, 1, 0),
    "ShearY": lambda image, share, sign: _affine(image, 1, 0, 0, sign * share * SHEAR, 1, 0),
    "TranslateX": lambda image, share, sign: _affine(image, 1, 0, -sign * int(share * SHIFT), 0, 1, 0),
    "TranslateY": lambda image, share, sign: _affine(image, 1, 0, 0, 0, 1, -sign * int(share * SHIFT)),
    "Rotate": lambda image, share, sign: image.rotate(sign * share * ROTATION),
    "Brightness": _enhance(ImageEnhance.Brightness),
    "Color": _enhance(ImageEnhance.Color),
    "Contrast": _enhance(ImageEnhance.Contrast),
    "Sharpness": _enhance(ImageEnhance.Sharpness),
    "Posterize": _posterize,
    "Solarize": _solarize,
    "AutoContrast": lambda image, share, sign: ImageOps.autocontrast(image),
    "Equalize": lambda image, share, sign: ImageOps.equalize(image),
}
_NAMES = tuple(OPERATIONS)


def trivial_augment(image: Tensor, random: np.random.Generator) -> Tensor:
    """Apply one operation to an image, uint8 [H, W, 3] in CPU memory, and return the same.

    Operation, magnitude and sign are uniform; the space is the paper's wide one, in torchvision's form.
    The three are drawn whether the operation needs them or not, so draws do not depend on draws.
    """
    operation, level, negative = (int(drawn) for drawn in random.integers((len(_NAMES), BINS, 2)))
    changed = OPERATIONS[_NAMES[operation]](
        Image.fromarray(image.numpy()), level / (BINS - 1), -1 if negative else 1
    )
    return torch.from_numpy(np.array(changed))
