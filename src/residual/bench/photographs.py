"""Photographs decoded into batches: this package beside a plain Pillow program, with the same crops."""

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..data.decode import decode
from ..data.folder import load_photos
from ..data.photo_augment import Place, choose_crop
from ..data.region import Choose, Region
from ..recipes.augment import ResizedCrop, ScaleCrop
from ..runtime.device import cpu_threads
from .contest import Work, compare
from .records import Record, make_record

SIDE = 224
AUGMENT: dict[str, ScaleCrop | ResizedCrop] = {"scale": ScaleCrop(), "area": ResizedCrop()}
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
    with cpu_threads(1):
        for names in _batches(files, batch_size, crop):
            torch.stack([decode(Path(name), choose) for name, choose in names])
            yield


def baseline(files: Sequence[str], crop: str, batch_size: int) -> Iterator[None]:
    """Decode one batch after the other as most training scripts do."""
    cut: Callable[[Region, Image.Image], Image.Image] = {"scale": _scaled, "area": _resized}[crop]
    for names in _batches(files, batch_size, crop):
        images: list[NDArray[np.uint8]] = []
        for name, choose in names:
            with Image.open(name) as image:
                images.append(np.asarray(cut(choose(image.height, image.width), image.convert("RGB"))))
        torch.from_numpy(np.stack(images))
        yield


def _batches(files: Sequence[str], batch_size: int, crop: str) -> Iterator[list[tuple[str, Choose]]]:
    """Yield files and what chooses the crop of each, the same for all contestants."""
    augment = AUGMENT[crop]
    for first in itertools.count(step=batch_size):
        places = [Place(0, 0, position) for position in range(first, first + batch_size)]
        yield [(files[p.position % len(files)], choose_crop(augment, SIDE, p)) for p in places]


def _scaled(region: Region, image: Image.Image) -> Image.Image:
    """Resize the whole image, then crop."""
    scale = SIDE / (region.bottom - region.top)
    width, height, left, top = (
        round(length * scale) for length in (image.width, image.height, region.left, region.top)
    )
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    return resized.crop((left, top, left + SIDE, top + SIDE))


def _resized(region: Region, image: Image.Image) -> Image.Image:
    """Crop, then resize."""
    box = (int(region.left), int(region.top), int(region.right), int(region.bottom))
    return image.crop(box).resize((SIDE, SIDE), Image.Resampling.BILINEAR)


def _enlarged(files: list[str], folder: Path) -> list[str]:
    """Write photographs enlarged to 12 megapixels."""
    written = []
    for number, name in enumerate(files):
        with Image.open(name) as image:
            large = image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC)
        written.append(str(folder / f"{number}.jpg"))
        large.save(written[-1], quality=90)
    return written
