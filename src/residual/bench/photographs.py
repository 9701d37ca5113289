"""Photographs decoded into batches: this package beside a plain Pillow program, with the same draws."""

import math
import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..data.decode import decode
from ..data.folder import load_photos
from ..data.region import Region
from .contest import Work, compare
from .records import Record, make_record

SIDE = 224
SHORTER = (256, 480)  # section 3.4
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)  # Szegedy et al. 2015
LARGE = (4000, 3000)
BATCH, LARGE_BATCH, LARGE_FILES = 50, 4, 8


def bench_decode(folder: Path, repeats: int) -> list[Record]:
    """Measure how many images per second one core decodes into uint8 batches of 224 x 224.

    Raises:
        DataError: the folder holds no photographs.
    """
    photos = load_photos(folder)
    files = [str(photos.root / file) for file in photos.files]
    with tempfile.TemporaryDirectory() as temporary:
        large = _enlarged(files[:LARGE_FILES], Path(temporary))
        return [
            _compare("shorter side 256 to 480, crop of 224", files, "scale", BATCH, repeats),
            _compare("crop of 0.08 to 1 of the area, to 224", files, "area", BATCH, repeats),
            _compare("the first of these, 12 megapixels", large, "scale", LARGE_BATCH, repeats),
        ]


def _compare(case: str, files: list[str], crop: str, batch_size: int, repeats: int) -> Record:
    arguments = {"files": files, "crop": crop, "batch_size": batch_size}
    contestants: dict[str, tuple[Work, dict[str, Any]]] = {
        "ours": (ours, arguments),
        "Pillow": (baseline, arguments),
    }
    found = compare(contestants, dict.fromkeys(contestants, 4), repeats, batch_size)
    return make_record("decode", case, batch_size, found, "ours", ("Pillow",))


def ours(files: Sequence[str], crop: str, batch_size: int) -> Iterator[None]:
    """Decode one batch after the other with this package."""
    torch.set_num_threads(1)
    draw = random.Random(0)
    choose = partial({"scale": _scale_region, "area": _area_region}[crop], draw)
    for names in _batches(files, batch_size):
        torch.stack([decode(Path(name), choose) for name in names])
        yield


def baseline(files: Sequence[str], crop: str, batch_size: int) -> Iterator[None]:
    """Decode one batch after the other as most training scripts do."""
    draw = random.Random(0)
    cut: Callable[[random.Random, Image.Image], Image.Image] = {"scale": _scaled, "area": _resized}[crop]
    for names in _batches(files, batch_size):
        images: list[NDArray[np.uint8]] = []
        for name in names:
            with Image.open(name) as image:
                images.append(np.asarray(cut(draw, image.convert("RGB"))))
        torch.from_numpy(np.stack(images))
        yield


def _batches(files: Sequence[str], batch_size: int) -> Iterator[list[str]]:
    position = 0
    while True:
        yield [files[(position + i) % len(files)] for i in range(batch_size)]
        position += batch_size


def _scale_region(draw: random.Random, height: int, width: int) -> Region:
    """Choose the crop in the image as it is stored: then it need not be resized whole."""
    side = round(SIDE * min(height, width) / draw.randint(*SHORTER))
    top, left = (int(draw.random() * (length - side + 1)) for length in (height, width))
    return Region(left, top, left + side, top + side, SIDE, SIDE)


def _scaled(draw: random.Random, image: Image.Image) -> Image.Image:
    scale = draw.randint(*SHORTER) / min(image.size)
    height, width = round(image.height * scale), round(image.width * scale)
    top, left = (int(draw.random() * (length - SIDE + 1)) for length in (height, width))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + SIDE, top + SIDE))


def _area_region(draw: random.Random, height: int, width: int) -> Region:
    return Region(*_area_box(draw, height, width), SIDE, SIDE)


def _resized(draw: random.Random, image: Image.Image) -> Image.Image:
    box = _area_box(draw, image.height, image.width)
    return image.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def _area_box(draw: random.Random, height: int, width: int) -> tuple[int, int, int, int]:
    area = height * width * draw.uniform(*AREA)
    aspect = math.exp(draw.uniform(*map(math.log, ASPECT)))
    wide = min(width, max(1, round(math.sqrt(area * aspect))))
    tall = min(height, max(1, round(math.sqrt(area / aspect))))
    left, top = draw.randint(0, width - wide), draw.randint(0, height - tall)
    return left, top, left + wide, top + tall


def _enlarged(files: list[str], folder: Path) -> list[str]:
    """Write photographs enlarged to 12 megapixels."""
    written = []
    for number, name in enumerate(files):
        with Image.open(name) as image:
            large = image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC)
        written.append(str(folder / f"{number}.jpg"))
        large.save(written[-1], quality=90)
    return written
