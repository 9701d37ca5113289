"""Files that are written whole or not at all, and read only up to a size that is expected."""

import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


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
    """Write a file under a temporary name, sync it to the disk, then give it its name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def found(test: Callable[[], bool]) -> bool:
    """Ask `path.exists`, `.is_file` or `.is_dir`; a name too long or with a NUL in it names nothing."""
    try:
        return test()
    except (OSError, ValueError):
        return False


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def write_json(path: Path, values: Any) -> None:
    """Write a value as indented JSON, whole or not at all."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def is_abandoned(path: Path) -> bool:
    """Tell whether a file or folder that takes a moment to write is an hour old: a killed process left it.

    A process number in a name would not tell: numbers are used again, and a disk can be shared by machines.
    """
    try:
        return time.time() - path.stat().st_mtime > 3600
    except OSError:  # it has its final name by now
        return False


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut; only POSIX systems can open a folder for that."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
