"""The public `create_model`, and the pretrained models, whose weights are part of the package."""

import dataclasses
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..models.names import resolve_shortcut
from ..runtime.files import found

if TYPE_CHECKING:
    from ..models.network import Network

WEIGHTS = Path(__file__).parent / "weights"  # a model folder for each, which also holds MEASURED
MEASURED = "measured.json"
MODEL_FILES = ("config.json", "recipe.json")  # a model folder has the first, a run folder the second


def list_pretrained(pattern: str = "*") -> list[str]:
    """Return the names of the pretrained models that match a shell pattern, the smallest first."""
    found = [path.parent.name for path in WEIGHTS.glob(f"*/{MEASURED}")]
    names = [name for name in found if fnmatch(name, pattern)]
    return sorted(names, key=lambda name: measured(name)["parameters"])


def measured(name: str) -> dict[str, Any]:
    """Return what was measured of a pretrained model as it is stored, and how it was trained.

    Raises:
        UsageError: there are no pretrained weights for this network.
    """
    facts: dict[str, Any] = json.loads((_folder(name) / MEASURED).read_text(encoding="utf-8"))
    return facts


def find_model(name_or_folder: str | Path) -> Path:
    """Return a model's folder: the given one if it exists, else that of the pretrained model of this name.

    Raises:
        UsageError: there is neither.
    """
    path = Path(name_or_folder)
    known = str(path) in list_pretrained()
    # a folder without a model, say an empty one left by something else, does not hide a pretrained model
    if found(path.exists) and not (known and not any((path / name).is_file() for name in MODEL_FILES)):
        return path
    if str(path) not in list_pretrained():
        raise UsageError(
            f"{path} is not a run folder, a model folder or the name of a pretrained model; {_available()}"
        )
    return _folder(str(path))


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    shortcut: str | None = None,
    variant: str | None = None,
    in_channels: int = 3,
    checkpoint_activations: bool = False,
) -> "Network":
    """Create a network of the paper, with fresh weights or pretrained.

    Fresh weights are drawn from torch's global random generator.

    Args:
        name: a network of the paper; see `build_model`. `list_models` has their names.
        pretrained: load the weights that are part of the package (trained on CIFAR-10, stored in half
            precision; no download) and return the model in evaluation mode. Its `config` has normalisation
            and class names. See `list_pretrained`.
        num_classes: length of the output. If it is not that of the pretrained model, the last layer has
            fresh weights.
        in_channels: number of channels of the images; a pretrained first layer is adapted: see
            `adapt_channels`.
        shortcut, variant, checkpoint_activations: see `build_model`.

    Raises:
        UsageError: the name, the shortcut option or the number of classes is not valid, or there are no
            pretrained weights for this network.
    """
    from ..models.build import build_model  # loads torch, which listing names does without

    network = build_model(
        name,
        num_classes=num_classes,
        shortcut=shortcut,
        variant=variant,
        in_channels=in_channels,
        checkpoint_activations=checkpoint_activations,
    )
    return _load_pretrained(network, name, shortcut) if pretrained else network


def _load_pretrained(network: "Network", name: str, shortcut: str | None) -> "Network":
    """Load a pretrained model's weights into a network; a last layer of another size keeps its own."""
    from ..models.network import adapt_channels
    from .model_folder import load_model

    source = load_model(_folder(name))
    config = source.config
    if resolve_shortcut(name, shortcut) != config.shortcut:
        raise UsageError(f"{name} is pretrained with shortcut option {config.shortcut}, not {shortcut}")
    state, own = source.state_dict(), network.state_dict()
    stem, classifier = f"{network.stem_name}.weight", network.classifier_name
    classes, channels = len(own[f"{classifier}.bias"]), own[stem].shape[1]
    if classes != len(config.class_names):
        state = {key: value for key, value in state.items() if not key.startswith(f"{classifier}.")}
        config = dataclasses.replace(config, class_names=tuple(map(str, range(classes))))
    state[stem] = adapt_channels(state[stem], channels)
    network.load_state_dict(state, strict=False)
    network.config = dataclasses.replace(config, in_channels=channels)
    return network.eval()


def _folder(name: str) -> Path:
    folder = WEIGHTS / name
    if not (folder / MEASURED).is_file():
        raise UsageError(f"there are no pretrained weights for '{name}'; {_available()}")
    return folder


def _available() -> str:
    return f"pretrained models: {', '.join(list_pretrained()) or 'none'}"
