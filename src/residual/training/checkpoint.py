"""Checkpoints of a run in progress: written atomically, with a checksum, and read without running code.

A checkpoint is `KIND-STEP.pt` with `KIND-STEP.pt.sha256` beside it. The checksum is written first and the
checkpoint renamed into place last, so a checkpoint that can be found is complete at every moment. A disk may
still corrupt it later, so a run keeps more than one to go back to.
"""

import hashlib
import io
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..runtime.files import MAX_WEIGHTS, read_bounded, write_atomically, write_text
from ..runtime.unpickle import load_pickle

FORMAT = 2  # 1 had the schedule's only state, the end of the warm-up, beside the other keys


def save_checkpoint(folder: Path, kind: str, step: int, state: dict[str, Any], keep: int = 1) -> Path:
    """Save a state of tensors and plain values, then delete all but the newest `keep` of its kind.

    Raises:
        CheckpointError: it cannot be written; an older checkpoint stays as it was.
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
    """Return the step in a checkpoint's name, -1 if it has another name."""
    step = path.stem.rpartition("-")[2]
    return int(step) if step.isdecimal() else -1


def load_newest(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Load the newest checkpoint that can be read.

    Returns:
        Its path (None if the folder holds none), its state, and what is wrong with each that is newer.

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
            f"put a copy of one back, or delete {folder} and resume to start again at step 0"
        )
    return None, {}, []


def delete_after(folder: Path, step: int) -> None:
    """Delete the checkpoints, of every kind, of steps that a resume will take again."""
    for path in [*find_checkpoints(folder), *find_checkpoints(folder, "best")]:
        if step_of(path) > step:
            _delete(path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint after comparing its checksum; torch alone would not notice a flipped bit.

    Raises:
        CheckpointError: it is truncated, corrupted, of a newer format, or would run code.
    """
    try:
        content = read_bounded(path, MAX_WEIGHTS)
        expected = read_bounded(_checksum(path), 1024).decode(errors="replace").strip()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(
            f"the checkpoint {path} is truncated or corrupted: its SHA-256 is not the recorded one"
        )
    state = load_pickle(path, content)
    found = state.get("format")
    if type(found) is not int or not 1 <= found <= FORMAT:
        number = found if type(found) is int else "unknown"
        raise CheckpointError(f"{path} has format {number}; this version reads up to {FORMAT}: upgrade")
    if found == 1:
        state["schedule"] = {"warmup_end": state.pop("warmup_end", None)}
    return state


def evaluated_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the weights in a checkpoint that were evaluated: their average, where the run has one."""
    weights: dict[str, Any] = state.get("average", state["network"])
    return weights


def check_keys(state: Mapping[str, Any], kinds: Mapping[str, type | tuple[type, ...]], source: str) -> None:
    """Check that a state has certain keys, with values of certain types.

    Raises:
        CheckpointError: one is missing or of another type.
    """
    for key, kind in kinds.items():
        if not isinstance(state.get(key, KeyError), kind):
            what = f"its '{key}' is not what it should be" if key in state else f"it lacks '{key}'"
            raise CheckpointError(f"{source} does not fit: {what}; delete it to resume from an earlier one")


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
