"""A folder of photographs as tar files in WebDataset format: `KEY.jpg` and `KEY.cls` for each image."""

import errno
import hashlib
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from ...errors import DataError, UsageError
from ...runtime.files import found, is_abandoned, read_bounded, write_json, written_atomically
from ..decode import MAX_BYTES, BadImageError
from ..folder import load_folder
from ..photos import Photos
from ..scan import SUFFIXES, Paths, Progress
from .index import HEAD, MAX_HEAD, SETS, Index, Integers, Samples, Shard, check_name, write_index

BLOCK = 512  # bytes, the unit of a tar file
END = 2 * BLOCK  # of zeros
DONE = "shards.part.json"  # the shards that are complete, until all are


def write_shards(
    folder: str | Path,
    out: str | Path,
    *,
    size: int = 256 << 20,
    group: str | None = None,
    progress: Progress | None = None,
    compared: Progress | None = None,
) -> Index:
    """Write the training and the test set of a folder of photographs as shards with an index.

    The shards hold the files as they are, in the order of `load_folder`'s lists, and are the same, byte for
    byte, whenever they are written from the same files. What an interrupted call has completed is kept: the
    next one goes on from there, if the images have not changed.

    Args:
        folder: a folder or CSV file, as `load_folder` takes it.
        out: the folder to write; it may exist.
        size: of a shard at most, in bytes; one that holds a single image may be larger.
        group: see `load_folder`.
        progress: is called with the number of images written so far.
        compared: see `load_folder`.

    Returns:
        The index.

    Raises:
        DataError: an image cannot be read or has just changed, or the shards cannot be written.
        UsageError: `out` has shards already, or `size` is not above 0.
    """
    out = Path(out)
    if size <= 0:
        raise UsageError(f"the size of a shard must be above 0, not {size}")
    if found((out / HEAD).exists):
        raise UsageError(f"{out} holds shards already: take another folder")
    dataset = load_folder(folder, group=group, compared=compared)
    if dataset.train.source is not None:
        raise UsageError(f"{folder} holds shards already: copy them as they are")
    shards: list[Shard] = []
    sets: dict[str, Samples] = {}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for left in filter(is_abandoned, out.glob(".*.tmp")):  # by a killed process
            left.unlink(missing_ok=True)
        done = _Done.read(out / DONE)
        for part, photos in zip(SETS, (dataset.train, dataset.test), strict=True):
            plan = _Plan.of(photos, size)
            first, before = len(shards), sum(len(samples) for samples in sets.values())
            for number, (start, stop) in enumerate(pairwise(plan.cuts)):
                shards.append(done.shard(f"{part}-{number:06d}.tar", photos, plan, start, stop))
                if progress is not None:
                    progress(before + stop)
            sets[part] = plan.samples(photos, first)
        done.remove_others(shards)
        index = Index(dataset.name, dataset.class_names, tuple(shards), sets, dataset.findings, group)
        write_index(out, index)
        (out / DONE).unlink(missing_ok=True)
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise DataError(f"cannot write shards to {out}: {reason}") from error
    return index


@dataclass(frozen=True, eq=False)
class _Plan:
    """Where each image [N] will lie, from the files' sizes alone; `cuts` begin shards, the last ends them."""

    lengths: Integers
    times: Integers
    offsets: Integers
    numbers: Integers  # of the set's shards
    cuts: list[int]

    @classmethod
    def of(cls, photos: Photos, size: int) -> "_Plan":
        """Look at all files, and cut where the next image would make a shard larger than `size`."""
        states = [_state(photos, index) for index in range(len(photos))]
        lengths, times = (np.array(column, np.int64) for column in zip(*states, strict=True))
        offsets, numbers, cuts, at = [], [], [0], 0
        for index, (length, label) in enumerate(zip(lengths.tolist(), photos.labels.tolist(), strict=True)):
            needed = 2 * BLOCK + _padded(length) + _padded(len(str(label)))
            if at and at + needed + END > size:
                cuts.append(index)
                at = 0
            offsets.append(at + BLOCK)
            numbers.append(len(cuts) - 1)
            at += needed
        cuts.append(len(photos))
        return cls(lengths, times, np.array(offsets, np.int64), np.array(numbers, np.int64), cuts)

    def samples(self, photos: Photos, first: int) -> Samples:
        """Return what the index holds of the set, whose first shard has the number `first`."""
        groups = None if photos.groups is None else photos.groups.numpy()
        columns = (self.numbers + first, self.offsets, self.lengths, photos.labels.numpy())
        return Samples(*columns, Paths.of(photos.files), groups)


class _Done:
    """The shards that are complete, with a digest of what they were written from."""

    def __init__(self, path: Path, known: dict[str, tuple[str, Shard]]) -> None:
        self.path, self.known = path, known

    @classmethod
    def read(cls, path: Path) -> "_Done":
        """Read what an interrupted call left; nothing, if that is damaged."""
        try:
            values = json.loads(read_bounded(path, MAX_HEAD))
            for name in values:
                check_name(name)  # some of these files are removed
            return cls(path, {name: (state, Shard(**shard)) for name, (state, shard) in values.items()})
        except (OSError, ValueError, TypeError, AttributeError, RecursionError, ValidationError):
            return cls(path, {})

    def remove_others(self, shards: list[Shard]) -> None:
        """Remove what an interrupted call wrote of other images or in another size."""
        for name in self.known.keys() - {shard.name for shard in shards}:
            self.path.with_name(name).unlink(missing_ok=True)

    def shard(self, name: str, photos: Photos, plan: _Plan, start: int, stop: int) -> Shard:
        """Write a shard of the images from `start` up to `stop`, unless it is there."""
        target = self.path.with_name(name)
        state = _digest(photos, plan, start, stop)
        before = self.known.get(name)
        if before is not None and before[0] == state and _has_size(target, before[1].size):
            return before[1]
        shard = _write(target, photos, plan, start, stop)
        self.known[name] = state, shard
        write_json(
            self.path, {key: (digest, each.model_dump()) for key, (digest, each) in self.known.items()}
        )
        return shard


def _has_size(path: Path, size: int) -> bool:
    return found(path.is_file) and path.stat().st_size == size


def _state(photos: Photos, index: int) -> tuple[int, int]:
    """Return size and time of change of an image's file."""
    path = photos.root / photos.files[index]
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}; mend or remove it") from error
    if state.st_size > MAX_BYTES:
        raise DataError(f"{path} has {state.st_size:,} bytes, more than any image: remove it")
    return state.st_size, state.st_mtime_ns


def _digest(photos: Photos, plan: _Plan, start: int, stop: int) -> str:
    files = Paths.of(photos.files[index] for index in range(start, stop))
    digest = hashlib.sha256(str(start).encode())  # keys count from there
    parts = (plan.lengths[start:stop], plan.times[start:stop], photos.labels[start:stop].numpy())
    for part in (files.text, files.ends, *parts):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _write(target: Path, photos: Photos, plan: _Plan, start: int, stop: int) -> Shard:
    digest, size = hashlib.sha256(), 0
    with written_atomically(target) as file:
        for piece in _pieces(photos, plan, start, stop):
            digest.update(piece)
            size += file.write(piece)
    return Shard(name=target.name, size=size, sha256=digest.hexdigest(), images=stop - start)


def _pieces(photos: Photos, plan: _Plan, start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes of a shard."""
    for index in range(start, stop):
        file = photos.files[index]
        try:
            data = photos.content(index)
        except BadImageError as error:
            raise DataError(f"cannot read {error.path}: {error.reason}; mend or remove it") from error
        if len(data) != plan.lengths[index]:
            raise DataError(f"{photos.name(index)} has just changed: leave the images alone and try again")
        key = f"{index:09d}"
        suffix = Path(file).suffix.lower()
        yield _member(key + (suffix if suffix in SUFFIXES else ".img"), data)
        yield _member(f"{key}.cls", str(int(photos.labels[index])).encode())
    yield bytes(END)


def _member(name: str, data: bytes) -> bytes:
    """Return a file of a tar, the same whoever writes it and when."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(_padded(len(data)) - len(data))


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK
