"""Photographs decoded into batches: this package beside a plain Pillow program, with the same crops."""

import io
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..data.folder import load_photos
from ..data.photo_augment import Place, choose_crop
from ..data.photos import Photos
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

    Args:
        folder: photographs, or shards of them.
        repeats: number of rounds.

    Raises:
        DataError: the folder holds no photographs.
    """
    photos = load_photos(folder)
    with tempfile.TemporaryDirectory() as temporary:
        large = _enlarged(photos, Path(temporary))
        return [
            _compare("shorter side 256 to 480, crop of 224", photos, "scale", BATCH, repeats),
            _compare("crop of 0.08 to 1 of the area, to 224", photos, "area", BATCH, repeats),
            _compare("the first of these, 12 megapixels", large, "scale", LARGE_BATCH, repeats),
        ]


def _compare(case: str, photos: Photos, crop: str, batch_size: int, repeats: int) -> Record:
    arguments = {"photos": photos, "crop": crop, "batch_size": batch_size}
    contestants: dict[str, tuple[Work, dict[str, Any]]] = {
        "ours": (ours, arguments),
        "Pillow": (baseline, arguments),
    }
    found = compare(contestants, dict.fromkeys(contestants, 4), repeats, batch_size)
    return make_record("decode", case, batch_size, found, "ours", ("Pillow",))


def ours(photos: Photos, crop: str, batch_size: int) -> Iterator[None]:
    """Decode one batch after the other with this package."""
    with cpu_threads(1):
        for chosen in _batches(photos, batch_size, crop):
            torch.stack([photos.region(index, choose) for index, choose in chosen])
            yield


def baseline(photos: Photos, crop: str, batch_size: int) -> Iterator[None]:
    """Decode one batch after the other as most training scripts do."""
    cut: Callable[[Region, Image.Image], Image.Image] = {"scale": _scaled, "area": _resized}[crop]
    for chosen in _batches(photos, batch_size, crop):
        images: list[NDArray[np.uint8]] = []
        for index, choose in chosen:
            with _opened(photos, index) as image:
                images.append(np.asarray(cut(choose(image.height, image.width), image.convert("RGB"))))
        torch.from_numpy(np.stack(images))
        yield


def _opened(photos: Photos, index: int) -> Image.Image:
    if photos.source is None:
        return Image.open(photos.root / photos.files[index])
    return Image.open(io.BytesIO(photos.content(index)))


def _batches(photos: Photos, batch_size: int, crop: str) -> Iterator[list[tuple[int, Choose]]]:
    """Yield images and what chooses the crop of each, the same for all contestants."""
    augment = AUGMENT[crop]
    for first in itertools.count(step=batch_size):
        places = [Place(0, 0, position) for position in range(first, first + batch_size)]
        yield [(p.position % len(photos), choose_crop(augment, SIDE, p)) for p in places]


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


def _enlarged(photos: Photos, folder: Path) -> Photos:
    """Write the first photographs enlarged to 12 megapixels."""
    written = []
    for index in range(min(LARGE_FILES, len(photos))):
        with _opened(photos, index) as image:
            large = image.convert("RGB").resize(LARGE, Image.Resampling.BICUBIC)
        written.append(f"{index}.jpg")
        large.save(folder / written[-1], quality=90)
    return Photos(folder, written, photos.labels[: len(written)], photos.class_names)
