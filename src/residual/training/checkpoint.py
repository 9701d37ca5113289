"""Checkpoints of a run in progress: written whole, with a checksum, read without running code.

A checkpoint is `KIND-STEP.pt` with `KIND-STEP.pt.sha256` beside it. The checksum is written first and the
checkpoint renamed into place last, so a checkpoint that can be found is complete at every moment. A disk may
still damage it later, so a run keeps more than one to go back to.
"""

import hashlib
import io
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..runtime.files import read_bounded, write_atomically, write_text

FORMAT = 1
MAX_BYTES = 2**31  # of a file; the deepest network with its optimizer takes a fifth of it


def save_checkpoint(folder: Path, kind: str, step: int, state: dict[str, Any], keep: int = 1) -> Path:
    """Save a state of tensors and plain values, then delete all but the newest `keep` of its kind.

    Raises:
        CheckpointError: the disk does not take it; an older checkpoint stays as it was.
    """
    path = folder / f"{kind}-{step:08d}.pt"
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **state}, buffer)
    try:
        folder.mkdir(exist_ok=True)
        write_text(_checksum(path), hashlib.sha256(buffer.getbuffer()).hexdigest() + "\n")
        write_atomically(path, lambda file: file.write(buffer.getbuffer()))
    except OSError as error:
        raise CheckpointError(f"cannot write the checkpoint {path}: {error}") from error
    for old in find_checkpoints(folder, kind)[keep:]:
        _delete(old)
    return path


def find_checkpoint(folder: Path, kind: str = "last") -> Path | None:
    """Return the newest checkpoint of a kind, None if there is none."""
    return next(iter(find_checkpoints(folder, kind)), None)


def find_checkpoints(folder: Path, kind: str = "last") -> list[Path]:
    """Return the checkpoints of a kind, the newest first."""
    named = (path for path in folder.glob(f"{kind}-*.pt") if step_of(path) >= 0)
    return sorted(named, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """Return the step in a checkpoint's name, -1 if it is not named as one."""
    step = path.stem.rpartition("-")[2]
    return int(step) if step.isdecimal() else -1


def load_newest(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Load the newest checkpoint that can be read.

    Returns:
        Its path (None if the folder holds none), its state, and what is wrong with each newer one.

    Raises:
        CheckpointError: there are checkpoints, and none of them can be read.
    """
    faults: list[str] = []
    for path in find_checkpoints(folder):
        try:
            return path, load_checkpoint(path), faults
        except CheckpointError as error:
            faults.append(str(error))
    if faults:
        raise CheckpointError(
            f"no checkpoint can be read: {'; '.join(faults)}; "
            f"put a copy of one back, or delete {folder} and resume to train anew from step 0"
        )
    return None, {}, []


def delete_after(folder: Path, step: int) -> None:
    """Delete the checkpoints, of every kind, of steps that a resume will take again."""
    for path in [*find_checkpoints(folder), *find_checkpoints(folder, "best")]:
        if step_of(path) > step:
            _delete(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint after comparing its checksum; torch alone would take a flipped bit in silence.

    Raises:
        CheckpointError: it is cut, altered, of another format, or would run code.
    """
    try:
        content = read_bounded(path, MAX_BYTES)
        expected = read_bounded(_checksum(path), 1024).decode(errors="replace").strip()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"the checkpoint {path} is cut or altered: its SHA-256 is not the recorded one")
    state = load_pickle(path, content)
    found = state.get("format")
    if isinstance(found, Tensor) or found != FORMAT:
        raise CheckpointError(f"the checkpoint {path} has format {found}, not {FORMAT}")
    return state


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
    except Exception as error:  # a parser that meets foreign bytes may fail in any way
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise CheckpointError(f"{path} is a pickle that would run code: refused, not run") from error
        raise CheckpointError(
            f"{path} is cut or altered, or no checkpoint, or would run code: refused"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no dictionary of weights")
    for tensor in _tensors(state):
        if not _is_plain(tensor):
            raise CheckpointError(f"{path} holds a tensor that is not dense, real and in memory: refused")
        if tensor.numel() * tensor.element_size() > len(content):  # an expanded one
            raise CheckpointError(f"{path} holds a tensor of more elements than the file: refused")
    return state


def _refuse_bombs(path: Path, content: bytes) -> None:
    """Refuse what would take far more memory than the file has bytes, before torch reads it.

    Raises:
        CheckpointError: it is compressed, which torch never does, or makes byte arrays of a named length.
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
    """Give every tensor in dictionaries, lists and tuples, which may be nested deeply or hold themselves."""
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


def _checksum(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _delete(path: Path) -> None:
    """Delete a checkpoint and its checksum, whatever lies under their names."""
    for part in (path, _checksum(path)):
        with suppress(OSError):
            if part.is_dir():
                shutil.rmtree(part)
            else:
                part.unlink(missing_ok=True)
