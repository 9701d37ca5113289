"""Files that are written atomically, and read only up to an expected size."""

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

MAX_WEIGHTS = 2**31  # bytes; the deepest network with its optimizer takes a fifth of it
MAX_CONFIG = 2**22  # bytes; a mean of 224 x 224 pixels takes half of it


def read_bounded(path: Path, limit: int) -> bytes:
    """Read a regular file of at most `limit` bytes.

    A device or a pipe may never end, and a huge file would fill the memory: neither is opened.

    Raises:
        OSError: it is something else, or larger, or cannot be read.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError("not a regular file")
    if found.st_size > limit:
        raise OSError(f"{found.st_size:,} bytes, where at most {limit:,} are expected")
    with path.open("rb") as file:
        return file.read(found.st_size)  # no more, should it grow meanwhile


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under a temporary name, sync it to the disk, then rename it."""
    with written_atomically(path) as file:
        write(file)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Give a file to write that gets its name at the end of the block, unless that raises."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def found(test: Callable[[], bool]) -> bool:
    """Call `path.exists`, `.is_file` or `.is_dir`; False for a name that is too long or holds a NUL."""
    try:
        return test()
    except (OSError, ValueError):
        return False


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, values: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def is_abandoned(path: Path) -> bool:
    """Tell whether a temporary file or folder is over an hour old, so that a killed process left it.

    The process number in its name does not tell: numbers are reused, and machines may share a disk.
    """
    try:
        return time.time() - path.stat().st_mtime > 3600
    except OSError:  # it has its final name by now
        return False


def _sync_folder(folder: Path) -> None:
    """Make a rename durable; only POSIX systems can open a folder for that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
