"""What a folder held when it was last read, kept in the user's cache, so that changes are noticed."""

import hashlib
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..runtime.files import read_bounded, write_atomically
from .arrays import unpack
from .cifar import cache_folder
from .scan import Listing, Paths

MAX_INDEX = 1 << 32  # bytes


def index_folder() -> Path:
    """Return where indices are kept."""
    return cache_folder() / "index"


def kept_file(root: Path, ending: str = ".npz") -> Path:
    """Return where something is kept of a folder or CSV file."""
    return index_folder() / f"{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]}{ending}"


def check_index(root: Path, listing: Listing) -> str | None:
    """Compare a listing with the one of the last time, and keep it instead.

    Returns:
        A line that says how many images are new, gone or changed; None if none are, or at the first time.
    """
    path = kept_file(root)
    before = _read(path)
    if before is not None and _same(before, listing):
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, lambda file: _write(file, listing))
    except OSError:  # without a place to keep it, changes go unnoticed; nothing else depends on it
        return None
    return _difference(root, before, listing) if before is not None else None


def _same(a: Listing, b: Listing) -> bool:
    def parts(listing: Listing) -> tuple[NDArray[Any], ...]:
        return listing.paths.text, listing.paths.ends, listing.sizes, listing.times

    return all(map(np.array_equal, parts(a), parts(b)))


def _difference(root: Path, before: Listing, now: Listing) -> str | None:
    def states(listing: Listing) -> dict[str, tuple[int, int]]:
        pairs = zip(listing.sizes.tolist(), listing.times.tolist(), strict=True)
        return dict(zip(listing.paths, pairs, strict=True))

    old, new = states(before), states(now)
    counts = {
        "new": len(new.keys() - old.keys()),
        "gone": len(old.keys() - new.keys()),
        "changed": sum(new[path] != old[path] for path in new.keys() & old.keys()),
    }
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
    return f"{root} has changed since it was last read: of {len(old):,} images, {told}"


def _write(file: BinaryIO, listing: Listing) -> None:
    np.savez(
        file,
        text=listing.paths.text,
        ends=listing.paths.ends,
        sizes=listing.sizes,
        times=listing.times,
    )


def _read(path: Path) -> Listing | None:
    """Read an index; None if there is none, or a damaged one."""
    try:
        content = read_bounded(path, MAX_INDEX)
        arrays = unpack(content, len(content))
        text, ends, sizes, times = (arrays[name] for name in ("text", "ends", "sizes", "times"))
    except (OSError, ValueError, KeyError):
        return None
    parts, types = (text, ends, sizes, times), (np.uint8, np.int64, np.int64, np.int64)
    kinds = [part.dtype == kind and part.ndim == 1 for part, kind in zip(parts, types, strict=True)]
    whole = all(kinds) and len(ends) == len(sizes) == len(times)
    if not (whole and (np.diff(ends, prepend=0) >= 0).all() and (ends[-1] if len(ends) else 0) == len(text)):
        return None
    return Listing(Paths(text, ends), sizes, times, Paths.of(()))
