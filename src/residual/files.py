"""Files that are either whole or not there."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO


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
