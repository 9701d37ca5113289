"""A model folder in Hub layout (config, weights, card): alone enough to evaluate or predict."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ..data.normalization import Normalization
from ..data.preprocessing import Preprocessing
from ..errors import CheckpointError, UsageError
from ..models.build import build_model
from ..models.names import MAX_CLASSES
from ..models.network import Network
from ..runtime.files import MAX_CONFIG, found, read_bounded, write_atomically, write_text
from .hub import fetch, is_hub_name
from .own_network import refuse_other_folders

COUNTER = "num_batches_tracked"  # how long BN was trained: no weight, and no inference reads it
MAX_NAME = 1000  # characters of a class name
FORMAT = 2  # of config.json; 1 had no number, and `input_size` and `normalization` for `preprocessing`


@dataclass(frozen=True)
class ModelConfig:
    """What must be known beside the weights to use a network.

    `recipe` names how it was trained, `data` on what; `variant` is as `build_model` takes it. Confidences are
    the softmax of logits divided by `temperature`.
    """

    network: str
    shortcut: str | None
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    data: str
    recipe: str
    variant: str | None = None
    in_channels: int = 3
    temperature: float = 1.0

    @property
    def normalization(self) -> Normalization:
        """How images of the right size become the network's input: `normalization.apply(images)`."""
        return self.preprocessing.normalization

    @property
    def input_size(self) -> tuple[int, int, int]:
        """Channels, height and width of the network's input."""
        return self.in_channels, *self.preprocessing.image_size

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {
            "format": FORMAT,
            "network": self.network,
            "shortcut": self.shortcut,
            "variant": self.variant,
            "in_channels": self.in_channels,
            "class_names": list(self.class_names),
            "data": self.data,
            "recipe": self.recipe,
            "preprocessing": self.preprocessing.as_dict(),
            "temperature": self.temperature,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """Read back what `as_dict` gave, here or in an older version.

        Raises:
            CheckpointError: a newer version wrote it.
            KeyError, TypeError, ValueError, RuntimeError, OverflowError: it is something else.
        """
        preprocessing = _read_preprocessing(values)  # first of all, for it looks at the format
        config = cls(
            network=values["network"],
            shortcut=values["shortcut"],
            class_names=tuple(values["class_names"]),
            preprocessing=preprocessing,
            data=values["data"],
            recipe=values["recipe"],
            variant=values.get("variant"),  # earlier versions had no networks with one
            in_channels=values.get("in_channels", 3),
            temperature=values.get("temperature", 1.0),  # absent where none was fitted
        )
        _check_config(config, values["class_names"])
        return config

    def create(self) -> Network:
        """Create the network, with fresh weights."""
        return build_model(
            self.network,
            num_classes=len(self.class_names),
            shortcut=self.shortcut,
            variant=self.variant,
            in_channels=self.in_channels,
        )


def _format(values: Any) -> int:
    """Return a config's format, if this version reads it."""
    found = values.get("format", 1) if isinstance(values, Mapping) else None
    if type(found) is not int or found < 1:
        raise ValueError("not a config, or its format is not a number")
    if found > FORMAT:
        raise CheckpointError(
            f"it has format {found}, this version of residual reads up to {FORMAT}: upgrade residual"
        )
    return found


def _read_preprocessing(values: Any) -> Preprocessing:
    """Read it from a config; in format 1, images are only normalized."""
    if _format(values) > 1:
        return Preprocessing.from_dict(values["preprocessing"])
    size = values["input_size"]
    if len(size) != 3 or size[0] != 3:
        raise ValueError("input_size must be [3, height, width]")
    return Preprocessing(tuple(size[1:]), Normalization.from_dict(values["normalization"]))


def portable_state(network: nn.Module, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Return weights and BN statistics by name: on the CPU, in the usual memory order, sorted."""
    state = network.state_dict()
    names = (name for name in sorted(state) if not name.endswith(COUNTER))
    return {name: state[name].detach().to("cpu", dtype).contiguous() for name in names}


def save_model(
    folder: Path, network: nn.Module, config: ModelConfig, card: str, dtype: torch.dtype = torch.float32
) -> str:
    """Write a model folder, its weights as `dtype`; their bytes depend on the weights alone.

    Returns:
        The SHA-256 of `model.safetensors`.
    """
    folder.mkdir(exist_ok=True)
    weights = save(portable_state(network, dtype), metadata={"format": "pt"})
    write_atomically(folder / "model.safetensors", lambda file: file.write(weights))
    digest = hashlib.sha256(weights).hexdigest()
    write_text(folder / "config.json", _compact_json({**config.as_dict(), "weights_sha256": digest}))
    write_text(folder / "README.md", card)
    return digest


def load_model(folder: str | Path) -> Network:
    """Load a network from a model folder, or from a run folder that holds one, in evaluation mode.

    "hf-hub:USER/NAME" is fetched, see `push`. The network's attribute `config`, a `ModelConfig`, tells class
    names and preprocessing.

    Raises:
        UsageError: there is no model in the folder.
        CheckpointError: the weights cannot be fetched, or are cut, altered or of another network.
    """
    folder = find_config(fetch(folder) if is_hub_name(folder) else Path(folder))
    refuse_other_folders(folder)
    config, network, digest = _read_config(folder / "config.json")
    path = folder / "model.safetensors"
    try:
        content = read_bounded(path, _expected_size(network))
        state = load(content)
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing, truncated or corrupted: {error}") from error
    load_weights(network, state, str(path))
    if digest is not None and hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{path} is altered: its SHA-256 is not the one in config.json")
    network.config = config
    return network.eval()


def find_config(folder: Path) -> Path:
    """Return the model folder in a run folder, or the model folder itself.

    Raises:
        UsageError: there is no model in the folder.
    """
    if not found((folder / "config.json").is_file):
        if found((folder / "recipe.json").is_file) and not found((folder / "model" / "config.json").is_file):
            raise UsageError(
                f"the run {folder} is not finished: 'residual train --resume {folder}' resumes it"
            )
        folder = folder / "model"
    if not found((folder / "config.json").is_file):
        raise UsageError(f"{folder.parent} is neither a run folder nor a model folder: it has no config.json")
    return folder


def load_weights(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Put weights into a network after comparing every key and shape.

    Raises:
        CheckpointError: as `check_weights`.
    """
    check_weights(network, state, source)
    network.load_state_dict({k: v for k, v in state.items() if not k.endswith(COUNTER)}, strict=False)


def check_weights(network: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Compare every key, shape and type of weights with a network's.

    Raises:
        CheckpointError: keys are missing or unexpected, shapes differ, or whole numbers stand where
            floating point is expected; the first of each are shown.
    """
    wanted = {name: value for name, value in network.state_dict().items() if not name.endswith(COUNTER)}
    given = {name: value for name, value in state.items() if not name.endswith(COUNTER)}
    shapes = [
        f"{name} {list(given[name].shape)} instead of {list(wanted[name].shape)}"
        for name in wanted.keys() & given.keys()
        if given[name].shape != wanted[name].shape
    ]
    problems = {
        "missing": sorted(wanted.keys() - given.keys()),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "of another shape": sorted(shapes),
        "of another type": sorted(
            name
            for name, value in given.items()
            if not value.is_floating_point() and (name not in wanted or wanted[name].is_floating_point())
        ),
    }
    if any(problems.values()):
        found = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"{source} holds another network: {found}")


def _some(names: list[str]) -> str:
    """Show the first few of a list and how many more there are."""
    more = len(names) - 4
    return ", ".join(names[:4]) + (f" and {more} more" if more > 0 else "")


def _read_config(path: Path) -> tuple[ModelConfig, Network, str | None]:
    """Read a model folder's config and the weights' digest, and create the network that it describes."""
    try:
        values = json.loads(read_bounded(path, MAX_CONFIG).decode())
        config = ModelConfig.from_dict(values)
        return config, config.create(), values.get("weights_sha256")
    except CheckpointError as error:
        raise CheckpointError(f"cannot read {path}: {error}") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RuntimeError, UsageError) as error:
        raise CheckpointError(f"{path} is truncated or corrupted: {type(error).__name__}: {error}") from error


def _check_config(config: ModelConfig, class_names: Any) -> None:
    """Refuse values that a damaged or hostile file may hold.

    Raises:
        ValueError: a value has the wrong type or size.
    """
    texts = (config.network, config.data, config.recipe)
    options = (config.shortcut, config.variant)
    if not all(isinstance(v, str) for v in texts) or not all(isinstance(v, str | None) for v in options):
        raise ValueError("network, shortcut, variant, data and recipe must be text")
    if type(config.in_channels) is not int:
        raise ValueError("in_channels must be a whole number")
    if type(config.temperature) not in (int, float) or not (
        config.temperature > 0 and isfinite(config.temperature)
    ):
        raise ValueError("temperature must be a finite number above 0")
    if not isinstance(class_names, list | tuple) or not 1 <= len(class_names) <= MAX_CLASSES:
        raise ValueError(f"class_names must be a list of 1 to {MAX_CLASSES:,} names")
    if not all(isinstance(name, str) and len(name) <= MAX_NAME for name in class_names):
        raise ValueError(f"class_names must be texts of at most {MAX_NAME:,} characters")


def _expected_size(network: nn.Module) -> int:
    """Return the most bytes that a network's weights may take in a file: 64-bit values, and a long header."""
    values: list[Tensor] = list(network.state_dict().values())
    return 2**20 + sum(8 * value.numel() + 1024 for value in values)


def _compact_json(values: dict[str, Any]) -> str:
    """Write one key a line, so that a per-pixel mean does not fill three thousand lines."""
    lines = (f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
    return "{\n" + ",\n".join(lines) + "\n}\n"
