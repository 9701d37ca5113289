"""A perceptual hash and a small grey copy of each photograph, kept in the user's cache beside the index."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..runtime.files import read_bounded, write_atomically
from . import index
from .arrays import unpack
from .decode import BadImageError, decode
from .region import Region
from .scan import Listing, Paths, Progress
from .workers import cores, map_in_workers

SIDE = 32  # pixels of the grey copies
DECODED = 64  # pixels of a side that an image is decoded to, whatever its shape
HASH_BYTES = 8
FEW = 256  # images that are hashed sooner than worker processes have started


@dataclass(frozen=True, eq=False)
class Prints:
    """Of N images: hashes uint8 [N, 8], grey copies uint8 [N, SIDE, SIDE], heights and widths int32 [N, 2].

    An image that cannot be decoded has the size 0 x 0.
    """

    hashes: NDArray[np.uint8]
    copies: NDArray[np.uint8]
    sizes: NDArray[np.int32]

    @classmethod
    def empty(cls, count: int) -> Self:
        """Return those of so many images that are not decoded yet."""
        return cls(
            np.zeros((count, HASH_BYTES), np.uint8),
            np.zeros((count, SIDE, SIDE), np.uint8),
            np.zeros((count, 2), np.int32),
        )

    @property
    def good(self) -> NDArray[np.bool_]:
        """Which images could be decoded [N]."""
        return self.sizes[:, 0] > 0


class _Print(NamedTuple):
    """What is kept of one image."""

    hash: NDArray[np.uint8]
    copy: NDArray[np.uint8]
    size: tuple[int, int]


def make_prints(
    source: Path, root: Path, listing: Listing, numbers: list[int], progress: Progress | None = None
) -> Prints:
    """Hash images, but for those that were hashed before and have not changed.

    Args:
        source: the folder or CSV file that the images are kept under.
        root: what their paths are relative to.
        listing: paths, sizes in bytes and times of change.
        numbers: which images of the listing are wanted.
        progress: is called with the number of images so far.
    """
    wanted = _keys(listing, numbers)
    file = index.kept_file(source, "-hashes.npz")
    prints = _known(file, wanted)
    missing = np.flatnonzero(~prints.good).tolist()
    if not missing:
        return prints
    paths = Paths.of(listing.paths[numbers[place]] for place in missing)
    workers = min(8, cores()) if len(missing) >= FEW else 0
    from imagehash import phash  # before worker processes are forked: it takes a while

    found = map_in_workers(partial(_print_of, phash, root, paths), range(len(paths)), workers)
    for done, (place, each) in enumerate(zip(missing, found, strict=True), start=1):
        if each is not None:
            prints.hashes[place], prints.copies[place], prints.sizes[place] = each
        if progress is not None:
            progress(done)
    if prints.good[missing].any():
        _keep(file, wanted, prints)
    return prints


def _print_of(phash: Callable[..., Any], root: Path, paths: Paths, place: int) -> _Print | None:
    """Decode and hash an image; None if it cannot be decoded, or is gone."""
    seen: list[tuple[int, int]] = []

    def small(height: int, width: int) -> Region:
        seen.append((height, width))
        return Region(0, 0, width, height, DECODED, DECODED)

    try:
        pixels = decode(root / paths[place], small)
    except BadImageError:
        return None
    grey = Image.fromarray(pixels.numpy()).convert("L")
    copy = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BOX))
    return _Print(np.packbits(phash(grey).hash), copy, seen[-1])


def _keys(listing: Listing, numbers: list[int]) -> NDArray[np.uint64]:
    """Return a number for path, size and time of change of each image."""
    digests = []
    for number in numbers:
        state = f"\0{listing.sizes[number]}\0{listing.times[number]}".encode()
        digests.append(hashlib.sha256(os.fsencode(listing.paths[number]) + state).digest()[:8])
    return np.frombuffer(b"".join(digests), np.uint64)


def _known(file: Path, wanted: NDArray[np.uint64]) -> Prints:
    """Return what is kept of the wanted images, none of it if the file is missing or damaged."""
    prints = Prints.empty(len(wanted))
    try:
        content = read_bounded(file, index.MAX_INDEX)
        kept = unpack(content, len(content))
        keys, *parts = (kept[name] for name in ("keys", "hashes", "copies", "sizes"))
    except (OSError, ValueError, KeyError):
        return prints
    fields: list[NDArray[Any]] = [prints.hashes, prints.copies, prints.sizes]
    fit = keys.dtype == np.uint64 and keys.ndim == 1
    for part, field in zip(parts, fields, strict=True):
        fit = fit and part.dtype == field.dtype and part.shape == (len(keys), *field.shape[1:])
    if not fit:
        return prints
    _, here, there = np.intersect1d(wanted, keys, return_indices=True)
    for part, field in zip(parts, fields, strict=True):
        field[here] = part[there]
    return prints


def _keep(file: Path, keys: NDArray[np.uint64], prints: Prints) -> None:
    """Keep what could be decoded; where that cannot be written, it is computed again the next time."""
    good = prints.good

    def write(out: BinaryIO) -> None:
        np.savez(
            out,
            keys=keys[good],
            hashes=prints.hashes[good],
            copies=prints.copies[good],
            sizes=prints.sizes[good],
        )

    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, write)
    except OSError:
        return
