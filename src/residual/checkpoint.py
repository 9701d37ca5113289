"""Checkpoints of a run in progress: written whole, with a checksum, read without running code.

A checkpoint is `KIND-STEP.pt` with `KIND-STEP.pt.sha256` beside it. The checksum is written first and the
checkpoint renamed into place last, so a checkpoint that can be found is complete at every moment.
"""

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import torch

from .errors import CheckpointError
from .files import write_atomically, write_text

FORMAT = 1


def save_checkpoint(folder: Path, kind: str, step: int, state: dict[str, Any]) -> Path:
    """Save a state of tensors and plain values, then delete the older ones of its kind.

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
    for old in folder.glob(f"{kind}-*.pt"):
        if old != path:
            old.unlink(missing_ok=True)
            _checksum(old).unlink(missing_ok=True)
    return path


def find_checkpoint(folder: Path, kind: str = "last") -> Path | None:
    """Return the newest checkpoint of a kind, None if there is none."""
    return max(folder.glob(f"{kind}-*.pt"), default=None)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint after comparing its checksum; torch alone would take a flipped bit in silence.

    Raises:
        CheckpointError: it is cut, altered, of another format, or would run code.
    """
    try:
        content = path.read_bytes()
        expected = _checksum(path).read_text().strip()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(f"the checkpoint {path} is cut or altered: its SHA-256 is not the recorded one")
    state = load_pickle(path, content)
    if state.get("format") != FORMAT:
        raise CheckpointError(f"the checkpoint {path} has format {state.get('format')}, not {FORMAT}")
    return state


def load_pickle(path: Path, content: bytes) -> dict[str, Any]:
    """Read a `torch.save` file that holds a dictionary, on the CPU, refusing whatever would run code.

    Raises:
        CheckpointError: it would run code, or cannot be read.
    """
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # a parser that meets foreign bytes may fail in any way
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise CheckpointError(f"{path} is a pickle that would run code: refused, not run") from error
        raise CheckpointError(
            f"{path} is cut or altered, or no checkpoint, or would run code: refused"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path} holds no dictionary of weights")
    return state


def _checksum(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")
