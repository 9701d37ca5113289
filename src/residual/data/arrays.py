"""Arrays of whole numbers in .npz files, which may be anyone's: nothing is allocated that is not there."""

import io
import zipfile
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = (np.uint8, np.int32, np.int64, np.uint64)


def unpack(data: bytes, most: int) -> dict[str, NDArray[Any]]:
    """Return the arrays in an .npz file by their names.

    Args:
        data: the file's content.
        most: bytes that all arrays may take.

    Raises:
        ValueError: it is no such file, a corrupted one, or larger.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as file:
            members = file.infolist()
            if sum(member.file_size for member in members) > most:
                raise ValueError(f"unpacked it would have more than {most:,} bytes")
            return {m.filename.removesuffix(".npy"): _array(m.filename, file.read(m)) for m in members}
    except Exception as error:  # zipfile and NumPy fail with many classes of error on a corrupted file
        raise ValueError(" ".join(str(error).split())[:200]) from error


def _array(name: str, data: bytes) -> NDArray[Any]:
    content = io.BytesIO(data)
    np.lib.format.read_magic(content)
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(content)
    if kind not in KINDS or by_columns:
        raise ValueError(f"{name} has the type {kind} and {len(shape)} dimensions")
    values: NDArray[Any] = np.frombuffer(content.getbuffer()[content.tell() :], kind)
    try:
        return values.reshape(shape)
    except ValueError:
        raise ValueError(f"{name} has {len(values)} values, not {' x '.join(map(str, shape))}") from None
