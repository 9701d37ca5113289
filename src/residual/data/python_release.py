"""CIFAR's Python releases: pickled arrays, read by an unpickler that takes arrays and runs nothing."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

MARGIN = 1 << 20  # bytes that a file may have beside its pixels: labels, names, the pickle's own


class _Part:
    """Stands for an array or a dtype: what it was made from, and the state that it was given."""

    def __init__(self, arguments: tuple[Any, ...]) -> None:
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _part(*arguments: Any) -> _Part:
    return _Part(arguments)


def _encode(text: str, encoding: str) -> bytes:
    """Make the bytes that a pickle of protocol 2 holds as text where Python 3 wrote it."""
    if encoding not in ("latin1", b"latin1"):
        raise pickle.UnpicklingError(f"bytes as {encoding!r}")
    return text.encode("latin1")


TAKEN = {
    ("numpy.core.multiarray", "_reconstruct"): _part,
    ("numpy._core.multiarray", "_reconstruct"): _part,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _part,
    ("_codecs", "encode"): _encode,
}


class _RefusedError(pickle.UnpicklingError):
    """A pickle asks for a name that no array needs."""


class _Unpickler(pickle._Unpickler):
    """Builds lists, dictionaries, numbers, strings and parts of arrays; every other name is refused.

    It is the one in Python, since the one in C takes memory for what a file claims to hold.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        if (module, name) not in TAKEN:
            raise _RefusedError(ascii(f"{module}.{name}")[1:-1])
        return TAKEN[module, name]


def read_batch(path: Path, count: int, width: int, labels: tuple[str, ...]) -> NDArray[np.uint8]:
    """Read a batch, as records of the binary release: uint8 [count, labels + width].

    Args:
        path: the file.
        count: how many images it should hold.
        width: bytes of an image.
        labels: the keys of its lists of labels, in the order of a record's bytes.

    Raises:
        DataError: the file is missing, truncated or corrupted, or would run code.
    """
    values = _load(path, 2 * count * width + MARGIN)  # twice: a byte may take two where Python 3 wrote it
    columns = [_labels(values.get(key.encode()), count) for key in labels]
    pixels = _pixels(values.get(b"data"), count, width)
    if pixels is None or not all(columns):
        wanted = ", ".join(("data", *labels))
        raise DataError(f"{path} is corrupted: it should hold {wanted} of {count:,} images as uint8")
    return np.concatenate([np.array(columns, np.uint8).T, pixels], axis=1)


def read_names(path: Path, key: str) -> tuple[str, ...]:
    """Read a list of class names; there are none where the file does not hold them.

    Raises:
        DataError: as `read_batch`.
    """
    names = _load(path, MARGIN).get(key.encode())
    if not isinstance(names, list) or not all(isinstance(name, bytes) for name in names):
        return ()
    return tuple(name.decode(errors="replace") for name in names)


def _load(path: Path, limit: int) -> dict[Any, Any]:
    if not path.is_file():
        raise DataError(f"{path} is missing: delete {path.parent} and let it be extracted again")
    if path.stat().st_size > limit:
        raise DataError(f"{path} is corrupted: {path.stat().st_size:,} bytes, more than such a file has")
    try:
        values = _Unpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except _RefusedError as error:
        raise DataError(f"{path} asks for {error}, which is no part of an array: refused, not run") from error
    except Exception as error:  # foreign bytes may make an unpickler fail in any way
        raise DataError(f"{path} is truncated or corrupted: {error or type(error).__name__}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} is corrupted: it holds no dictionary")
    return values


def _labels(values: Any, count: int) -> list[int] | None:
    good = isinstance(values, list) and all(type(value) is int and 0 <= value < 256 for value in values)
    return values if good and len(values) == count else None


def _pixels(value: Any, count: int, width: int) -> NDArray[np.uint8] | None:
    """Make the array that a part stands for, if it is one of bytes [count, width]."""
    match value:
        case _Part(state=(_, shape, _Part(arguments=(b"u1" | "u1", *_)), fortran, bytes() as content)):
            if shape == (count, width) and len(content) == count * width:
                return np.frombuffer(content, np.uint8).reshape(shape, order="F" if fortran else "C")
    return None
