"""Files of `torch.save`, read without running code and without using more memory than their size."""

import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError


def load_pickle(path: Path, content: bytes) -> dict[str, Any]:
    """Read a `torch.save` file that holds a dictionary, on the CPU, refusing whatever would run code.

    Every tensor in it is a plain one (dense, real, in memory) and no larger than the file.

    Raises:
        CheckpointError: it would run code, cannot be read, or holds tensors of other kinds.
    """
    try:
        _refuse_bombs(path, content)
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # parsing arbitrary bytes may fail in any way
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise CheckpointError(f"{path} is a pickle that would run code: refused, not run") from error
        raise CheckpointError(
            f"{path} is truncated or corrupted, is not a checkpoint, or would run code: refused"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no dictionary of weights")
    for tensor in _tensors(state):
        if tensor.is_quantized:
            raise CheckpointError(f"{path} holds a quantised network, not its float weights: refused")
        if not _is_plain(tensor):
            raise CheckpointError(f"{path} holds a tensor that is not dense, real and in memory: refused")
        if tensor.numel() * tensor.element_size() > len(content):  # an expanded one
            raise CheckpointError(f"{path} holds a tensor of more elements than the file: refused")
    return state


def _refuse_bombs(path: Path, content: bytes) -> None:
    """Refuse what would use far more memory than the size of the file, before torch reads it.

    Raises:
        CheckpointError: it is compressed, which torch never does, or creates byte arrays of a given length.
    """
    if b"\nbytearray\n" in content:
        raise CheckpointError(f"{path} holds byte arrays, which weights never need: refused")
    if not content.startswith(b"PK\x03\x04"):
        return  # torch's format of before 2020, or something else
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = archive.infolist()
    stored = all(part.compress_type == zipfile.ZIP_STORED for part in parts)
    if not stored or sum(part.file_size for part in parts) > len(content):
        raise CheckpointError(f"{path} is a compressed archive, which torch.save never writes: refused")


def _tensors(state: Any) -> Iterator[Tensor]:
    """Yield every tensor in dictionaries, lists and tuples, which may be nested or contain themselves."""
    waiting, seen = [state], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_complex())
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
    )
