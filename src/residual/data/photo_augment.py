"""The crop of each training photograph, drawn from the seed and the image's place in the stream alone."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..recipes.augment import ResizedCrop, ScaleCrop
from ..recipes.schema import Fit
from .region import Choose, Region

Box = tuple[int, int, int, int]  # left, top, right, bottom

PAPER_CROP = 224  # pixels, for which the range of the shorter side is given
RATIOS = (3 / 4, 4 / 3)  # of width to height of a resized crop
TRIES = 10  # for a resized crop that lies inside the image


@dataclass(frozen=True)
class Place:
    """Where in the endless stream of training images one stands: all that its random choices depend on."""

    seed: int
    epoch: int
    position: int

    def random(self, purpose: int) -> np.random.Generator:
        """Return a generator for one purpose; a counter-based one, so that none depends on another."""
        counter = [0, 0, self.position, self.epoch]
        return np.random.Generator(np.random.Philox(key=[self.seed, purpose], counter=counter))


@dataclass(frozen=True)
class RandomScale:
    """Resize the shorter side to a length drawn from a range, and crop a square at random (section 3.4).

    The square is chosen in the image as it is, in whole pixels: then only the square need be resized.
    """

    size: int
    shortest: int
    longest: int
    place: Place

    def __call__(self, height: int, width: int) -> Region:
        """Choose the crop of an image of that size."""
        random = self.place.random(0)
        shorter = int(random.integers(self.shortest, self.longest, endpoint=True))
        side = max(1, round(self.size * min(height, width) / shorter))
        top = int(random.integers(height - side, endpoint=True))
        left = int(random.integers(width - side, endpoint=True))
        return Region(left, top, left + side, top + side, self.size, self.size)


@dataclass(frozen=True)
class RandomArea:
    """Take a rectangle of random area and aspect ratio, and resize it to a square, as torchvision does.

    Where ten tries find none inside the image, it is the largest central one with an allowed ratio.
    """

    size: int
    smallest: float  # area, as a share of the image
    place: Place

    def __call__(self, height: int, width: int) -> Region:
        """Choose the crop of an image of that size."""
        return Region(*self.box(height, width), self.size, self.size)

    def box(self, height: int, width: int, accept: Callable[[Box], bool] = lambda _box: True) -> Box:
        """Return the rectangle in whole pixels: one that is drawn and accepted, or the central one."""
        random = self.place.random(0)
        for _ in range(TRIES):
            area = height * width * random.uniform(self.smallest, 1)
            ratio = math.exp(random.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                top = int(random.integers(height - tall, endpoint=True))
                left = int(random.integers(width - wide, endpoint=True))
                box = (left, top, left + wide, top + tall)
                if accept(box):
                    return box
        wide, tall = min(width, round(height * RATIOS[1])), min(height, round(width / RATIOS[0]))
        top, left = (height - tall) // 2, (width - wide) // 2
        return left, top, left + wide, top + tall


@dataclass(frozen=True)
class SquishedArea:
    """Squeeze the image to a square, and take from that what `RandomArea` takes."""

    crop: RandomArea

    def __call__(self, height: int, width: int) -> Region:
        """Choose the crop of an image of that size."""
        side = max(height, width)
        across, down = width / side, height / side
        left, top, right, bottom = self.crop.box(side, side)
        left, right = _apart(left * across, right * across)
        top, bottom = _apart(top * down, bottom * down)
        return Region(left, top, right, bottom, self.crop.size, self.crop.size)


@dataclass(frozen=True)
class PaddedArea:
    """Put black around the image so that it is a square, and take from that what `RandomArea` takes.

    At least the share of the image itself that the crop may be of the square must be in it.
    """

    crop: RandomArea

    def __call__(self, height: int, width: int) -> Region:
        """Choose the crop of an image of that size."""
        side, size = max(height, width), self.crop.size
        low, high = (side - width) // 2, (side - height) // 2  # the first column and row of the image

        def inside(box: Box) -> Box:
            left, top, right, bottom = box
            return max(left, low), max(top, high), min(right, low + width), min(bottom, high + height)

        def shows_enough(box: Box) -> bool:
            left, top, right, bottom = inside(box)
            return max(0, right - left) * max(0, bottom - top) >= self.crop.smallest * height * width

        box = self.crop.box(side, side, shows_enough)
        left, top, right, bottom = inside(box)
        first, wide = _scaled(left - box[0], right - left, box[2] - box[0], size)
        upper, tall = _scaled(top - box[1], bottom - top, box[3] - box[1], size)
        edges = (left - low, top - high, right - low, bottom - high)
        return Region(*edges, tall, wide, (first, upper, size - wide - first, size - tall - upper))


def _scaled(start: int, length: int, of: int, size: int) -> tuple[int, int]:
    """Return start and length of a stretch of `of` pixels that becomes `size` pixels, as `Preprocessing`."""
    length_there = max(1, length * size // of)
    return min(round(start * size / of), size - length_there), length_there


def _apart(low: float, high: float) -> tuple[int, int]:
    """Round two edges to whole pixels, at least one apart."""
    first = min(round(low), math.ceil(high) - 1)
    return first, max(first + 1, round(high))


def choose_crop(augment: ScaleCrop | ResizedCrop, size: int, place: Place, fit: Fit = "crop") -> Choose:
    """Return what chooses the crop, of `size` pixels, of the image at a place."""
    if isinstance(augment, ScaleCrop):
        return RandomScale(size, scaled(augment.shortest, size), scaled(augment.longest, size), place)
    crop = RandomArea(size, augment.smallest, place)
    if fit == "crop":
        return crop
    return SquishedArea(crop) if fit == "squish" else PaddedArea(crop)


def longest_side(augment: ScaleCrop | ResizedCrop, size: int) -> int:
    """Return the shorter side, in pixels, beyond which an image that is kept decoded gains little."""
    return scaled(augment.longest, size) if isinstance(augment, ScaleCrop) else 2 * size


def scaled(side: int, size: int) -> int:
    """Scale the length of a side, given for crops of 224 pixels, to crops of another size."""
    return max(size, round(side * size / PAPER_CROP))
