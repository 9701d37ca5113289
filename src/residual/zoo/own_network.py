"""The model folder of a network of the caller's own, which only its own code can build."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save
from torch import nn

from ..errors import UsageError
from ..runtime.files import MAX_CONFIG, read_bounded, write_atomically, write_text

if TYPE_CHECKING:
    from .model_folder import ModelConfig

MARK = "own_network"  # the key in config.json that tells such a folder from others


def class_path(network: nn.Module) -> str:
    """Return where a network's class is defined, for example `torch.nn.modules.container.Sequential`."""
    return f"{type(network).__module__}.{type(network).__qualname__}"


def save_own_network(folder: Path, network: nn.Module, config: "ModelConfig", card: str) -> str:
    """Write a model folder that holds the network's whole `state_dict` under its own names and types.

    Returns:
        The SHA-256 of `model.safetensors`.
    """
    folder.mkdir(exist_ok=True)
    # copies, since tied weights share memory, which safetensors refuses
    state = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    weights = save(state, metadata={"format": "pt"})
    write_atomically(folder / "model.safetensors", lambda file: file.write(weights))
    digest = hashlib.sha256(weights).hexdigest()
    values = {MARK: config.network, **config.as_dict(), "weights_sha256": digest}
    write_text(folder / "config.json", json.dumps(values) + "\n")
    write_text(folder / "README.md", card)
    return digest


def refuse_other_folders(folder: Path) -> None:
    """Refuse to load what `save_own_network` wrote, or another project; anything else is left to its reader.

    Raises:
        UsageError: it is such a folder; the message says how to load it.
    """
    try:
        values = json.loads(read_bounded(folder / "config.json", MAX_CONFIG))
        keys = set(values) if isinstance(values, dict) else set()
    except (OSError, ValueError, RecursionError):
        return
    if MARK in keys:
        raise UsageError(
            f"{folder} holds a network of your own, '{values[MARK]!s:.200}', which residual cannot build: "
            "create it and call its load_state_dict(safetensors.torch.load_file('model.safetensors'))"
        )
    if "network" not in keys and keys & {"architecture", "model_type"}:  # timm's, transformers'
        raise UsageError(
            f"{folder} holds a model of another project: convert it by 'residual import {folder} --output F'"
        )
