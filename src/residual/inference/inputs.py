"""Which images a user means: files, folders, shell patterns, shards, or a list on standard input."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from ..data.scan import Paths, scan
from ..errors import DataError, UsageError
from ..runtime.files import found
from .shards import ShardImages, shard_images

STANDARD_INPUT = "-"


def find_images(given: Sequence[str], listed: BinaryIO | None = None) -> Paths | ShardImages:
    """Return the paths of images, in the order given.

    Args:
        given: shards alone, in a folder or at an address; or files, which are taken whatever their suffix,
            even if they do not exist; folders, whose images are found by their suffix (see `scan`); patterns
            such as "photos/**/*.jpg", where the shell has not expanded them; and "-" for the paths in
            `listed`.
        listed: paths of files and folders, one a line, or each ended by a NUL as `find -print0` writes them.

    Raises:
        UsageError: nothing is given, or "-" twice or without a list, or shards beside something else.
        DataError: a folder cannot be read, there are no images, or shards are incomplete.
    """
    if not given:
        raise UsageError("which images? Give files, folders, patterns, or - for a list on standard input")
    if list(given).count(STANDARD_INPUT) > 1:
        raise UsageError("standard input (-) can be read only once")
    in_shards = shard_images(given)
    if in_shards is not None:
        return in_shards
    paths = Paths.of(_found(given, listed))
    if not len(paths):
        names = ["standard input" if name == STANDARD_INPUT else name for name in given]
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise DataError(f"there are no images in {shown}")
    return paths


def _found(given: Iterable[str], listed: BinaryIO | None) -> Iterator[str]:
    for name in given:
        if name == STANDARD_INPUT:
            for line in _lines(listed):
                yield from _images(line)
        elif glob.has_magic(name) and not _exists(name):
            # "**" finds what is in the folders as well as the folders
            matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (keeps the path's form)
            for match in matches or [name]:
                if "**" not in name or not Path(match).is_dir():
                    yield from _images(match)
        else:
            yield from _images(name)


def _images(name: str) -> Iterator[str]:
    """Yield the images of a folder, or the name of anything else."""
    if not found(Path(name).is_dir):
        yield name
        return
    for path in scan(Path(name)).paths:
        yield os.path.join(name, path)  # noqa: PTH118 (keeps "./" before a name that begins with "-")


def _exists(name: str) -> bool:
    return found(lambda: os.path.lexists(name))  # a link that leads nowhere is named as a bad image


def _lines(listed: BinaryIO | None) -> Iterator[str]:
    """Yield the names in a list."""
    try:
        content = b"" if listed is None else listed.read()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the list of images: {error}") from error
    if listed is None:
        raise UsageError("cannot read the list of images: standard input is closed")
    separator = b"\0" if b"\0" in content else b"\n"
    for line in content.split(separator):
        name = line.removesuffix(b"\r") if separator == b"\n" else line
        if name:
            yield _decoded(name)


def _decoded(name: bytes) -> str:
    """Decode a path; on Windows, lists are UTF-8 as its tools write them, perhaps with a byte order mark."""
    return os.fsdecode(name.removeprefix(b"\xef\xbb\xbf"))


def standard_input() -> BinaryIO | None:
    """Return standard input as bytes, None where it is closed."""
    return getattr(sys.stdin, "buffer", None)
