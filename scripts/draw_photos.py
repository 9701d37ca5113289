"""Draw the photographs of the tutorial: shapes of four classes on varied backgrounds, as JPEG files.

    python scripts/draw_photos.py photos

writes `photos/train/CLASS/` and `photos/val/CLASS/` for the classes circle, cross, square and triangle. As in
most collections, not all is well with them: one training image and one test image have a wrong label, a test
image is a smaller copy of a training image, and one image was stored on its side, with the orientation in its
EXIF record. The same seed draws the same images. It needs NumPy and Pillow only.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

CLASSES = ("circle", "cross", "square", "triangle")
FINE = 4  # shapes are drawn this much larger, for smooth edges
ORIENTATION = 0x0112  # EXIF's tag
ON_ITS_SIDE = 6  # its value for an image that is upright after a quarter turn clockwise
Points = list[tuple[float, float]]


def draw_folder(folder: Path, train: int, val: int, seed: int) -> None:
    """Draw so many training and test images of each class, then put the faults in."""
    for label, name in enumerate(CLASSES):
        for number in range(1, train + val + 1):
            path = _path(folder, name, number, train)
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng((seed, label, number))
            draw(name, rng).save(path, quality=int(rng.integers(75, 93)))
    if train >= 8 and val >= 8:
        _add_faults(folder, train, seed)


def _path(folder: Path, name: str, number: int, train: int) -> Path:
    return folder / ("train" if number <= train else "val") / name / f"{name}-{number:02}.jpg"


def _add_faults(folder: Path, train: int, seed: int) -> None:
    rng = np.random.default_rng((seed, len(CLASSES)))
    draw("circle", rng).save(_path(folder, "square", 7, train), quality=88)  # two wrong labels
    draw("cross", rng).save(_path(folder, "triangle", train + 8, train), quality=88)
    with Image.open(_path(folder, "cross", 3, train)) as original:  # a leak
        smaller = original.resize((original.width * 7 // 8, original.height * 7 // 8))
        smaller.save(_path(folder, "cross", train + 2, train), quality=80)
    with Image.open(_path(folder, "triangle", 5, train)) as upright:
        turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[ORIENTATION] = ON_ITS_SIDE
    turned.save(_path(folder, "triangle", 5, train), quality=90, exif=exif)


def draw(name: str, rng: np.random.Generator) -> Image.Image:
    """Draw one photograph, 64 to 96 pixels a side."""
    width, height = (int(side) for side in rng.integers(64, 97, size=2))
    ground, ink = _colours(rng)
    pixels = _background(rng, width, height, ground)
    mask = np.asarray(_mask(name, rng, width, height), np.float64)[..., None] / 255
    shade = ink + rng.normal(0, 12, size=3) + _smooth(rng, width, height, 3) * 14
    pixels = pixels * (1 - mask) + shade * mask
    pixels = pixels + rng.normal(0, rng.uniform(3, 16), size=pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _colours(rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a colour for the background and one for the shape, which differ in brightness."""
    while True:
        ground, ink = rng.uniform(20, 235, size=(2, 3))
        if abs(float((ground - ink) @ (0.299, 0.587, 0.114))) > 55:
            return ground, ink


def _background(
    rng: np.random.Generator, width: int, height: int, colour: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return a plain, cloudy, graded or striped background, float64 [H, W, 3]."""
    rows, columns = np.mgrid[0:height, 0:width]
    angle = rng.uniform(0, 2 * math.pi)
    along = (columns * math.cos(angle) + rows * math.sin(angle))[..., None]
    kind = rng.integers(4)
    if kind == 1:
        varied = _smooth(rng, width, height, 5) * rng.uniform(15, 40)
    elif kind == 2:
        varied = along / max(width, height) * rng.uniform(-60, 60, size=3)
    elif kind == 3:
        varied = np.sin(along * rng.uniform(0.25, 0.9)) * rng.uniform(8, 26)
    else:
        varied = np.zeros((height, width, 1))
    return colour + varied + _smooth(rng, width, height, 8) * 10


def _smooth(rng: np.random.Generator, width: int, height: int, cells: int) -> NDArray[np.float64]:
    """Return noise without detail, float64 [H, W, 3], by stretching a small image of noise."""
    small = rng.normal(0, 1, size=(cells, cells, 3)).astype(np.float32)
    channels = [
        np.asarray(Image.fromarray(small[..., channel]).resize((width, height), Image.Resampling.BICUBIC))
        for channel in range(3)
    ]
    return np.stack(channels, axis=2).astype(np.float64)


def _mask(name: str, rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return where the shape is, as a grey image; a third of the shapes are outlines."""
    side = min(width, height)
    radius = side * rng.uniform(0.3, 0.44)
    x = rng.uniform(radius, width - radius) * FINE
    y = rng.uniform(radius, height - radius) * FINE
    turn = rng.uniform(-0.3, 0.3)
    points = [(x + FINE * a, y + FINE * b) for a, b in _outline(name, radius, turn)]
    mask = Image.new("L", (width * FINE, height * FINE))
    pen = ImageDraw.Draw(mask)
    if rng.random() < 1 / 3:
        thickness = round(FINE * radius * rng.uniform(0.2, 0.34))
        pen.line([*points, *points[:2]], fill=255, width=thickness, joint="curve")
    else:
        pen.polygon(points, fill=255)
    return mask.resize((width, height), Image.Resampling.BOX)


def _outline(name: str, radius: float, turn: float) -> Points:
    """Return the corners of a shape around the origin, turned by an angle."""
    shapes: dict[str, Callable[[], Points]] = {
        "circle": lambda: _polygon(60, 0),
        "square": lambda: _polygon(4, math.pi / 4),
        "triangle": lambda: _polygon(3, -math.pi / 2),
        "cross": _cross,
    }
    cosine, sine = math.cos(turn), math.sin(turn)
    return [(radius * (a * cosine - b * sine), radius * (a * sine + b * cosine)) for a, b in shapes[name]()]


def _polygon(corners: int, start: float) -> Points:
    angles = [start + 2 * math.pi * corner / corners for corner in range(corners)]
    return [(math.cos(angle), math.sin(angle)) for angle in angles]


def _cross() -> Points:
    arm, half = 1.0, 0.3
    quarter = [(half, -arm), (half, -half), (arm, -half)]
    turned: Points = []
    for _ in range(4):
        turned += quarter
        quarter = [(-b, a) for a, b in quarter]
    return turned


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=30, help="training images of each class")
    parser.add_argument("--val", type=int, default=15, help="test images of each class")
    parser.add_argument("--seed", type=int, default=4)
    arguments = parser.parse_args()
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} exists already")
    draw_folder(arguments.folder, arguments.train, arguments.val, arguments.seed)


if __name__ == "__main__":
    main()
