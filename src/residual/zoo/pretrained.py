"""The public `create_model`, and the pretrained models, whose weights are part of the package."""

import dataclasses
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, UsageError
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

    A model of the hub, "hf-hub:USER/NAME", is fetched: see `fetch`.

    Raises:
        UsageError: there is neither.
        CheckpointError: the model cannot be fetched.
    """
    from .hub import fetch, is_hub_name

    if is_hub_name(name_or_folder):
        return fetch(name_or_folder)
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


def open_model(model: "str | Path | Network") -> "Network":
    """Return a network that has a config: a given one, or one that `find_model` finds.

    Raises:
        UsageError: there is no such model.
        CheckpointError: it cannot be loaded, or the given network has no config.
    """
    from ..models.network import Network
    from .model_folder import load_model

    network = model if isinstance(model, Network) else load_model(find_model(model))
    if network.config is None:
        raise CheckpointError(
            "this network is not from a model folder, so its classes and preprocessing are not known"
        )
    return network


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    shortcut: str | None = None,
    variant: str | None = None,
    in_channels: int | None = None,
    checkpoint_activations: bool = False,
) -> "Network":
    """Create a network of the paper, with fresh weights, pretrained, or with weights from elsewhere.

    Fresh weights are drawn from torch's global random generator. With other weights the model is returned in
    evaluation mode, and its `config` has class names and preprocessing.

    Args:
        name: a network of the paper; see `build_model`. `list_models` has their names. Or "hf-hub:USER/NAME",
            which is short for that name as `weights`.
        pretrained: load the weights that are part of the package (trained on CIFAR-10, stored in half
            precision; no download). See `list_pretrained`.
        weights: a file of another project or "hf-hub:USER/NAME", see `import_checkpoint`; or a model or run
            folder of this package.
        num_classes: length of the output; by default that of the weights. If theirs is another, the last
            layer is fresh, and the classes in `config` are named 0, 1, ...
        in_channels: number of channels of the images; by default 3, or that of the weights. A trained first
            layer of others is adapted: see `adapt_channels`.
        shortcut, variant, checkpoint_activations: see `build_model`.

    Raises:
        UsageError: the name, an option or the number of classes is not valid, or there are no pretrained
            weights for this network.
        CheckpointError: the weights cannot be read or are of another network.
    """
    from ..models.build import build_model  # loads torch, which listing names does without

    source = _source(name, pretrained, weights, num_classes, shortcut, variant)
    if source is not None:
        return _adapted(source, num_classes, in_channels, checkpoint_activations)
    return build_model(
        name,
        num_classes=num_classes,
        shortcut=shortcut,
        variant=variant,
        in_channels=3 if in_channels is None else in_channels,
        checkpoint_activations=checkpoint_activations,
    )


def _source(
    name: str,
    pretrained: bool,
    weights: str | Path | None,
    num_classes: int | None,
    shortcut: str | None,
    variant: str | None,
) -> "Network | None":
    """Load the network that has the weights; None for fresh ones."""
    from .convert.importing import load_foreign
    from .convert.source import Options
    from .hub import is_hub_name
    from .model_folder import load_model

    model: str | None = name
    if is_hub_name(name):
        if weights is not None:
            raise UsageError(f"{name} has weights of its own: give the network's name, or no weights")
        model, weights = None, name
    if pretrained and weights is not None:
        raise UsageError("give either pretrained=True or weights, not both")
    if pretrained:
        source = load_model(_folder(name))
        shortcut = resolve_shortcut(name, shortcut)
    elif weights is not None:
        source = load_foreign(weights, Options(model, variant), num_classes).network
    else:
        return None
    if shortcut not in (None, source.config.shortcut):
        raise UsageError(
            f"{name} is pretrained with shortcut option {source.config.shortcut}, not {shortcut}"
        )
    return source


def _adapted(
    source: "Network", num_classes: int | None, in_channels: int | None, checkpoint_activations: bool
) -> "Network":
    """Put a network's weights into one of other classes, whose last layer stays fresh, or other channels."""
    from ..models.build import build_model
    from ..models.network import adapt_channels

    config = source.config
    classes = len(config.class_names) if num_classes is None else num_classes
    channels = config.in_channels if in_channels is None else in_channels
    if (classes, channels) == (len(config.class_names), config.in_channels) and not checkpoint_activations:
        return source
    network = build_model(
        config.network,
        num_classes=classes,
        shortcut=config.shortcut,
        variant=config.variant,
        in_channels=channels,
        checkpoint_activations=checkpoint_activations,
    )
    state, stem = source.state_dict(), f"{network.stem_name}.weight"
    if classes != len(config.class_names):
        state = {k: v for k, v in state.items() if not k.startswith(f"{network.classifier_name}.")}
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
