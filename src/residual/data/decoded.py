"""Photographs decoded once, with a shorter side of at most so many pixels, in a memory-mapped file.

A folder `KEY/` holds `pixels` (uint8 [h, w, 3] of one image after the other), `ends.npy` (the position of
each one's end), `sizes.npy` (height and width of the original and of what is stored) and `bad.json`.
"""

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from ..runtime.files import found, read_bounded
from .cifar import cache_folder
from .decode import BadImageError
from .photos import Photos
from .region import Choose, Region, whole
from .resize import resize
from .scan import Progress
from .workers import map_in_workers

FORMAT = 1  # part of the key: other formats are not read
LARGEST = 1 << 30  # bytes of bad.json
MISSING = (-1, -1)  # the size of an image whose file was not there


class _Store:
    """The files of a cache; each process maps them when it first needs them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[type, tuple[Path]]:  # the maps do not cross processes
        return type(self), (self.folder,)

    @cached_property
    def ends(self) -> NDArray[np.int64]:
        found: NDArray[np.int64] = _mapped(self.folder / "ends.npy")
        return found

    @cached_property
    def sizes(self) -> NDArray[np.int32]:
        found: NDArray[np.int32] = _mapped(self.folder / "sizes.npy")
        return found

    @cached_property
    def bad(self) -> dict[str, str]:
        found: dict[str, str] = json.loads(read_bounded(self.folder / "bad.json", LARGEST))
        return found

    @cached_property
    def pixels(self) -> NDArray[np.uint8]:
        # "c" rather than "r": torch warns of arrays that it could not write to
        return np.memmap(self.folder / "pixels", np.uint8, "c")

    def is_whole(self, count: int) -> bool:
        """Tell whether all files are there, undamaged as far as their sizes tell, for `count` images."""
        try:
            length = (self.folder / "pixels").stat().st_size
            sizes = self.sizes[:, 2:].astype(np.int64)
            return (
                (self.ends.dtype, self.sizes.dtype) == (np.dtype(np.int64), np.dtype(np.int32))
                and self.ends.shape == (count,)
                and self.sizes.shape == (count, 4)
                and int(self.ends[-1]) == length
                and bool((sizes >= 0).all() and (np.diff(self.ends, prepend=0) == 3 * sizes.prod(1)).all())
                and bool((self.sizes[:, :2][sizes.all(1)] > 0).all())
                and all(isinstance(reason, str) for reason in self.bad.values())
                and {str(number) for number in np.flatnonzero(~sizes.all(1))} == self.bad.keys()
            )
        except Exception:  # NumPy and JSON fail with many classes of error on a damaged file
            return False

    def image(self, number: int) -> NDArray[np.uint8]:
        """Return an image's pixels as they are stored."""
        start = int(self.ends[number - 1]) if number else 0
        height, width = (int(side) for side in self.sizes[number, 2:])
        return self.pixels[start : start + height * width * 3].reshape(height, width, 3)


@dataclass(frozen=True, eq=False)
class DecodedPhotos(Photos):
    """Photographs whose pixels are in a cache; `numbers` are their places in it."""

    store: _Store = field(kw_only=True)
    numbers: Tensor = field(kw_only=True)

    def region(self, index: int, choose: Choose, interpolation: str = "bilinear") -> Tensor:
        """Resize a region of a stored image; `choose` gets the size of the original, as in `Photos`."""
        number = int(self.numbers[index])
        reason = self.store.bad.get(str(number))
        if reason is not None:
            raise BadImageError(self.name(index), reason)
        height, width, tall, wide = (int(side) for side in self.store.sizes[number])
        chosen = choose(height, width)
        region = Region(
            chosen.left * wide / width,
            chosen.top * tall / height,
            chosen.right * wide / width,
            chosen.bottom * tall / height,
            chosen.height,
            chosen.width,
        )
        return chosen.padded(torch.from_numpy(resize(self.store.image(number), region, interpolation)))

    def ahead(self, indices: Sequence[int]) -> Self:
        """Return these: nothing is read of the files."""
        return self

    def in_blocks(self, images: int) -> Self:
        """Return these, as above."""
        return self

    def take(self, indices: Tensor) -> Self:
        """Return the images with these indices, in their order."""
        taken = super().take(indices)
        return replace(taken, numbers=self.numbers[indices])


def keep_decoded(
    photos: Photos,
    shorter: int,
    limit: int,
    folder: Path | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> DecodedPhotos:
    """Decode photographs once and keep them, or find those that were kept.

    Images with a shorter side of more than `shorter` pixels are reduced to it; the pixels of others are kept
    as they are. What is kept belongs to the paths, sizes and labels of the files (`photos.fingerprint`).

    Args:
        photos: the photographs.
        shorter: in pixels.
        limit: how many bytes it may take.
        folder: where it is kept; by default in the user's cache folder.
        workers: processes that decode; with 0, this one does.
        progress: is called with the number of images so far.

    Raises:
        DataError: it does not fit into `limit` or on the disk, or cannot be written.
    """
    folder = cache_folder() / "decoded" if folder is None else folder
    own = photos.fingerprint or "\n".join([str(photos.root.resolve()), *photos.files])
    key = hashlib.sha256(f"{FORMAT} {shorter} {own}".encode(errors="surrogateescape")).hexdigest()[:24]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock"):  # one builds, others wait for it
            store = _Store(folder / key)
            if not store.is_whole(len(photos)) or _came_back(photos, store):
                shutil.rmtree(folder / key, ignore_errors=True)
                _build(photos, shorter, limit, folder / key, workers, progress)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DataError(f"cannot keep decoded images in {folder}: {reason}") from error
    fields = {name: getattr(photos, name) for name in Photos.__dataclass_fields__}
    return DecodedPhotos(**fields, store=_Store(folder / key), numbers=torch.arange(len(photos)))


def _came_back(photos: Photos, store: _Store) -> bool:
    """Tell whether a file is there that was missing when the others were decoded."""
    missing = np.flatnonzero(store.sizes[:, 0] == MISSING[0]).tolist()
    return photos.source is None and any((photos.root / photos.files[number]).is_file() for number in missing)


def _build(
    photos: Photos, shorter: int, limit: int, target: Path, workers: int, progress: Progress | None
) -> None:
    _check_room(photos, shorter, limit, target.parent, workers)
    prefix = f".{target.name}-"
    for left in target.parent.glob(f"{prefix}*"):  # by a killed process: the lock is ours
        shutil.rmtree(left, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        _write(staging, _in_workers(partial(_reduced_or_reason, photos, shorter), photos, workers), progress)
        staging.replace(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_room(photos: Photos, shorter: int, limit: int, folder: Path, workers: int) -> None:
    """Refuse, before anything is decoded, what would not fit."""
    needed = sum(_in_workers(partial(_bytes_needed, photos, shorter), photos, workers))
    free = shutil.disk_usage(folder).free
    for room, what in ((limit, "allowed"), (free, f"free on the disk of {folder}")):
        if needed > room:
            raise DataError(
                f"{len(photos):,} decoded images with a shorter side of up to {shorter} pixels need "
                f"{_readable(needed)}, but {_readable(room)} are {what}"
            )


def _readable(count: int) -> str:
    """Write so many bytes in GiB, or in MiB where that would show no figure."""
    return f"{count / 2**30:.2f} GiB" if count > 2**29 else f"{count / 2**20:.2f} MiB"


def _in_workers(function: Callable[[int], Any], photos: Photos, workers: int) -> Iterator[Any]:
    return map_in_workers(function, range(len(photos)), workers)


def _write(folder: Path, images: Iterator[Any], progress: Progress | None) -> None:
    ends, sizes, bad = [], [], {}
    end = 0
    with (folder / "pixels").open("wb") as file:
        for number, (size, pixels) in enumerate(images):
            if isinstance(pixels, str):
                bad[number] = pixels
                sizes.append((*size, 0, 0))
            else:
                end += file.write(pixels.numpy().data)
                sizes.append((*size, *pixels.shape[:2]))
            ends.append(end)
            if progress is not None:
                progress(number + 1)
        file.flush()
        os.fsync(file.fileno())
    np.save(folder / "ends.npy", np.array(ends, np.int64))
    np.save(folder / "sizes.npy", np.array(sizes, np.int32))
    (folder / "bad.json").write_text(json.dumps(bad), encoding="utf-8")


def _reduced(shorter: int, height: int, width: int) -> Region:
    """Choose the whole image, with a shorter side of at most `shorter`."""
    least = min(height, width)
    if least <= shorter:
        return whole(height, width)
    return Region(0, 0, width, height, round(height * shorter / least), round(width * shorter / least))


def _bytes_needed(photos: Photos, shorter: int, index: int) -> int:
    try:
        region = _reduced(shorter, *photos.size(index))
    except BadImageError:
        return 0
    return region.height * region.width * 3


def _reduced_or_reason(photos: Photos, shorter: int, index: int) -> tuple[tuple[int, int], Tensor | str]:
    """Decode an image; return the size of the original and the pixels, or why there are none."""
    seen: list[tuple[int, int]] = []

    def choose(height: int, width: int) -> Region:
        seen.append((height, width))
        return _reduced(shorter, height, width)

    try:
        pixels = photos.region(index, choose)
        return seen[-1], pixels
    except BadImageError as error:
        there = photos.source is not None or found((photos.root / photos.files[index]).is_file)
        return (0, 0) if there else MISSING, error.reason


def _mapped(path: Path) -> Any:
    return np.load(path, mmap_mode="r", allow_pickle=False)
