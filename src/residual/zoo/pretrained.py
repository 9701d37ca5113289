"""Networks that come trained with the package: which there are, and how to get one by its name."""

import dataclasses
import json
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from ..models.names import resolve_shortcut
from ..runtime.files import found

if TYPE_CHECKING:
    from ..models.resnet import ResNet

WEIGHTS = Path(__file__).parent / "weights"  # one model folder a network, and in it the file that follows
MEASURED = "measured.json"
MODEL_FILES = ("config.json", "recipe.json")  # a model folder has the first, a run folder the second


def list_pretrained(pattern: str = "*") -> list[str]:
    """Return the names of the networks that come trained and fit a shell pattern, the shallowest first."""
    found = [path.parent.name for path in WEIGHTS.glob(f"*/{MEASURED}")]
    names = [name for name in found if fnmatch(name, pattern)]
    return sorted(names, key=lambda name: measured(name)["parameters"])


def measured(name: str) -> dict[str, Any]:
    """Return what was measured of a trained network as it is stored, and how it was trained.

    Raises:
        UsageError: the network does not come trained.
    """
    facts: dict[str, Any] = json.loads((_folder(name) / MEASURED).read_text(encoding="utf-8"))
    return facts


def find_model(name_or_folder: str | Path) -> Path:
    """Return the folder of a model: one that exists, or else that of a network that comes trained.

    Raises:
        UsageError: it is neither.
    """
    path = Path(name_or_folder)
    known = str(path) in list_pretrained()
    # a folder without a model, say an empty one left by something else, does not hide a pretrained model
    if found(path.exists) and not (known and not any((path / name).is_file() for name in MODEL_FILES)):
        return path
    if str(path) not in list_pretrained():
        raise UsageError(
            f"{path} is no run folder and no model folder, nor does '{path}' come trained; {_those_that_do()}"
        )
    return _folder(str(path))


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    num_classes: int = 10,
    shortcut: str | None = None,
    checkpoint_activations: bool = False,
) -> "ResNet":
    """Create a network of the paper, fresh from torch's global random generator or trained.

    Args:
        name: `resnet{6n+2}`, `plain{6n+2}` or `resnet{9n+2}_bottleneck` (section 4.2), up to 2,000 layers.
        pretrained: with the weights that come with the package (trained on CIFAR-10, stored in half
            precision), in evaluation mode; its `config` tells normalisation and class names. See
            `list_pretrained`. No network is needed.
        num_classes: length of the output; for a trained network with another number than its own, the last
            layer is fresh.
        shortcut: "A" (zero-padded identity, the paper's choice on CIFAR and the default),
            "B" (projection where dimensions change) or "C" (projections everywhere).
            Plain nets have none and take none.
        checkpoint_activations: train with less memory and one more forward pass; see `ResNet`.

    Raises:
        UsageError: the name, the shortcut option or the number of classes does not fit, or the network does
            not come trained.
    """
    from ..models.build import create_model as create_fresh_model
    from .model_folder import load_model  # both load torch, which a list of names does without

    network = create_fresh_model(
        name, num_classes=num_classes, shortcut=shortcut, checkpoint_activations=checkpoint_activations
    )
    if not pretrained:
        return network
    source = load_model(_folder(name))
    config = source.config
    if resolve_shortcut(name, shortcut) != config.shortcut:
        raise UsageError(f"{name} comes trained with shortcut option {config.shortcut}, not {shortcut}")
    state = source.state_dict()
    if num_classes != len(config.class_names):
        state = {key: value for key, value in state.items() if not key.startswith("fc.")}
        config = dataclasses.replace(config, class_names=tuple(map(str, range(num_classes))))
    network.load_state_dict(state, strict=False)
    network.config = config
    return network.eval()


def _folder(name: str) -> Path:
    folder = WEIGHTS / name
    if not (folder / MEASURED).is_file():
        raise UsageError(f"'{name}' does not come trained; {_those_that_do()}")
    return folder


def _those_that_do() -> str:
    return f"those that do: {', '.join(list_pretrained()) or 'none'}"
