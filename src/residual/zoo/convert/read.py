"""Files of other projects, read without running code: weights, and the JSON files beside them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ...errors import CheckpointError
from ...runtime.files import MAX_CONFIG, MAX_WEIGHTS, found, read_bounded
from ...runtime.unpickle import load_pickle
from .source import State, WeightsFile

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "model_ema", "state_dict_ema", "ema")
# of all keys, from DataParallel, Lightning, torch.compile
PREFIXES = ("module.", "model.", "net.", "_orig_mod.")
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")  # their names in a folder of the Hugging Face Hub
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


def read(path: Path, origin: str) -> WeightsFile:
    """Read a file of weights, or a folder in Hub layout.

    Weights with a name of the Hub's are read together with the JSON files beside them.

    Raises:
        CheckpointError: it cannot be read, is truncated, would run code, or holds no weights.
    """
    if found((path / CONFIG).is_file):
        path = next(
            (path / name for name in WEIGHTS_FILES if (path / name).is_file()), path / WEIGHTS_FILES[0]
        )
    if path.name not in WEIGHTS_FILES:
        return WeightsFile(origin, _read_weights(path))
    beside = path.parent
    return WeightsFile(
        origin, _read_weights(path), read_config(beside / CONFIG), read_config(beside / PREPROCESSOR)
    )


def read_config(path: Path) -> Mapping[str, Any] | None:
    """Read a JSON file that holds an object; None if there is no such file.

    Raises:
        CheckpointError: it is something else.
    """
    if not found(path.exists):
        return None
    try:
        values = json.loads(read_bounded(path, MAX_CONFIG))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is truncated or corrupted: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is truncated or corrupted: it holds no JSON object")
    return values


def _read_weights(path: Path) -> State:
    try:
        content = read_bounded(path, MAX_WEIGHTS)
        values: dict[str, Any] = (
            load(content) if path.suffix == ".safetensors" else load_pickle(path, content)
        )
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{path} is truncated or corrupted: {error}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    state = {k: v for k, v in _unwrapped(values).items() if isinstance(k, str) and isinstance(v, Tensor)}
    state.pop("n_averaged", None)  # of torch's AveragedModel
    if not state:
        raise CheckpointError(f"{path} holds no weights")
    return _without_prefixes(state)


def _unwrapped(values: dict[str, Any]) -> dict[str, Any]:
    """Return the weights in a training checkpoint; those of the last step if there are also averages."""
    for _ in range(3):  # levels, for one that contains itself would have no end
        inner = (values[key] for key in WRAPPERS if isinstance(values.get(key), dict))
        values = next(inner, values)
    return values


def _without_prefixes(state: State) -> State:
    state = {key.removeprefix("module."): value for key, value in state.items()}
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state
