"""Features of images in a file: NumPy's .npy with the paths beside it, or Parquet; written as they come."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import UsageError
from ..runtime.extras import how_to_install
from ..runtime.files import written_atomically

SUFFIXES = (".npy", ".parquet")
ROWS = 4096  # of a Parquet file that are in memory at once
Values = NDArray[np.float32]


class FeatureFile(ABC):
    """A file that takes the features of one image after the other."""

    count = 0

    def add(self, path: str, features: Tensor) -> None:
        """Add an image's features, float32 [D]."""
        self._add(path, features.numpy())
        self.count += 1

    @abstractmethod
    def _add(self, path: str, features: Values) -> None: ...

    @abstractmethod
    def finish(self) -> None:
        """Write what is left."""


@contextmanager
def feature_file(path: Path, size: int) -> Iterator[FeatureFile]:
    """Open a file for features [N, `size`]; it gets its name at the end of the block, unless that raises.

    FILE.npy is an array [N, `size`]; FILE.paths.json beside it is the list of the N paths. FILE.parquet has
    the columns `path` and `features`, a list of `size` values.

    Raises:
        UsageError: the name has neither suffix, or pyarrow is not installed.
        OSError: the file cannot be written.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(f"features are written to a file named .npy or .parquet, not {path.name}")
    with ExitStack() as stack:
        if path.suffix == ".npy":
            names = stack.enter_context(written_atomically(paths_beside(path)))
            values = stack.enter_context(written_atomically(path))
            opened: FeatureFile = _Npy(values, names, size)
        else:
            kinds, writer = _parquet_writer(stack.enter_context(written_atomically(path)))
            opened = _Parquet(kinds, stack.enter_context(writer), size)
        yield opened
        opened.finish()


def paths_beside(path: Path) -> Path:
    """Return where the paths of the rows of a .npy file are."""
    return path.with_suffix(".paths.json")


def _parquet_writer(file: BinaryIO) -> tuple[Any, Any]:
    """Return the types of the columns and what writes them."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(
            f"Parquet files need pyarrow: {how_to_install('parquet')}; .npy needs nothing more"
        ) from error
    kinds = pa.schema([("path", pa.string()), ("features", pa.list_(pa.float32()))])
    return kinds, parquet.ParquetWriter(file, kinds)


class _Npy(FeatureFile):
    def __init__(self, values: BinaryIO, names: BinaryIO, size: int) -> None:
        self._values, self._names, self._size = values, names, size
        self._write_header()
        self._names.write(b"[")

    def _add(self, path: str, features: Values) -> None:
        self._names.write(b",\n" if self.count else b"\n")
        self._names.write(json.dumps(path).encode())
        self._values.write(features.astype("<f4").tobytes())

    def finish(self) -> None:
        self._names.write(b"\n]\n")
        self._values.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        """Write the number of rows so far; NumPy leaves room, so that any number has the same length."""
        header = {"descr": "<f4", "fortran_order": False, "shape": (self.count, self._size)}
        np.lib.format.write_array_header_1_0(self._values, header)


class _Parquet(FeatureFile):
    def __init__(self, kinds: Any, writer: Any, size: int) -> None:
        self._kinds, self._writer, self._size = kinds, writer, size
        self._paths, self._rows = list[str](), list[Values]()

    def _add(self, path: str, features: Values) -> None:
        # Parquet's text is UTF-8, which a file's name need not be
        self._paths.append(path.encode("utf-8", "backslashreplace").decode())
        self._rows.append(features)
        if len(self._rows) == ROWS:
            self._write()

    def finish(self) -> None:
        self._write()

    def _write(self) -> None:
        import pyarrow as pa

        if self._rows:
            starts = np.arange(0, (len(self._rows) + 1) * self._size, self._size, dtype=np.int32)
            features = pa.ListArray.from_arrays(starts, np.concatenate(self._rows))
            paths = pa.array(self._paths, pa.string())
            self._writer.write_table(pa.Table.from_arrays([paths, features], schema=self._kinds))
        self._paths, self._rows = [], []
