"""Import of other projects' checkpoints of the paper's networks, as model folders.

Keys are renamed to ours and every key and shape is compared. Where a project orders channels differently, the
weights are reordered so that our network computes the same function.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ..data.cifar import RELEASES
from ..data.normalization import Normalization
from ..data.preprocessing import Preprocessing
from ..errors import CheckpointError, UsageError
from ..models.blocks import BasicBlock, Bottleneck
from ..models.build import CIFAR_WIDTHS, build_model
from ..models.names import SHORTCUTS, parse_name
from ..models.network import Network
from ..runtime.files import found, read_bounded
from ..runtime.unpickle import MAX_BYTES, load_pickle
from .model_folder import ModelConfig, load_weights, model_card, save_model

State = dict[str, Tensor]
ZEROS = ("both", "last")


@dataclass(frozen=True)
class Project:
    """Another project and the normalisation that it trains with, on the 0..1 scale."""

    name: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


AKAMASTER = Project("akamaster/pytorch_resnet_cifar10", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def import_checkpoint(
    file: str | Path,
    *,
    model: str,
    output: str | Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    zeros: str | None = None,
) -> ModelConfig:
    """Convert another project's checkpoint to a model folder.

    Args:
        file: a `torch.save` file or a `.safetensors` file, of weights or of a dictionary that holds
            them under "state_dict", "model" or "net".
        model: the network's name here; the shortcut option is detected from the weights.
        output: the model folder, which must not exist.
        mean, std: normalisation of the channels on the 0..1 scale; required unless the project is
            recognised by its keys.
        zeros: where the project's option A pads zero channels, which cannot be detected from the weights:
            "last" (after the others) or "both" (on both sides). The default is "both" for akamaster's, else
            "last".

    Raises:
        CheckpointError: the file is truncated, would run code, or holds another network or values that
            are not finite.
        UsageError: the normalisation is required and not given, `zeros` is not valid, or the output exists.
    """
    file, output = Path(file), Path(output)
    if found(output.exists):
        raise UsageError(f"{output} exists already: a model is never overwritten")
    parse_name(model)
    state = {key.removeprefix("module."): value for key, value in _read(file).items()}
    project = _recognise(state)
    state = _rename(state)
    shortcut = _shortcut_of(model, state)
    classes = state["fc.bias"].numel() if "fc.bias" in state else 10
    network = build_model(model, num_classes=classes, shortcut=shortcut)
    load_weights(network, state, str(file))
    _check_finite(network, file)
    if zeros is not None and (shortcut != "A" or zeros not in ZEROS):
        raise UsageError("--zeros must be both or last, and applies to networks with shortcut option A only")
    source = project.name if project else "unknown"
    if shortcut == "A" and (zeros or default_zeros(source)) == "both":
        load_weights(network, _zeros_last(state, parse_name(model).bottleneck), str(file))
    release = next((r for r in RELEASES.values() if r.num_classes == classes), None)
    names = release.class_names if release else ()
    config = ModelConfig(
        network=model,
        shortcut=shortcut,
        class_names=names or tuple(f"class {label}" for label in range(classes)),
        preprocessing=Preprocessing((32, 32), _normalization(project, mean, std)),
        data=release.name if release else "unknown",
        recipe=source,
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        save_model(output, network, config, model_card(config, {"imported from": f"`{file.name}`"}))
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise UsageError(f"cannot write {output}: {error}") from error
    return config


def default_zeros(project: str) -> str:
    """Return where a project's option A is assumed to pad zeros: on "both" sides, or "last"."""
    return "both" if project == AKAMASTER.name else "last"


def _check_finite(network: Network, file: Path) -> None:
    """Refuse weights and BN statistics that are not finite, as they are in float32."""
    wrong = [name for name, value in network.state_dict().items() if not value.isfinite().all()]
    if wrong:
        raise CheckpointError(
            f"{file} holds values that are not finite, the first in {wrong[0]}: not imported"
        )


def _read(file: Path) -> State:
    """Read the weights out of a file."""
    try:
        content = read_bounded(file, MAX_BYTES)
        values: dict[str, Any] = (
            load(content) if file.suffix == ".safetensors" else load_pickle(file, content)
        )
    except (SafetensorError, KeyError) as error:
        raise CheckpointError(f"{file} is truncated or corrupted: {error}") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error
    inner = (values[key] for key in ("state_dict", "model", "net") if isinstance(values.get(key), dict))
    weights = next(inner, values)
    state = {k: v for k, v in weights.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not state:
        raise CheckpointError(f"{file} holds no weights")
    return state


def _recognise(state: State) -> Project | None:
    """Recognise a project by its keys: akamaster's classifier is `linear`, on the paper's 64 features."""
    weight = state.get("linear.weight")
    return AKAMASTER if weight is not None and weight.shape[1:] == CIFAR_WIDTHS[-1:] else None


def _rename(state: State) -> State:
    """Rename the keys to torchvision's."""
    return {
        key.replace("linear.", "fc.").replace(".shortcut.", ".downsample."): v for key, v in state.items()
    }


def _shortcut_of(model: str, state: State) -> str | None:
    """Detect the shortcut option from the projections among the weights."""
    if parse_name(model).family == "plain":
        return None
    given = _projections(state)
    with torch.device("meta"):
        fits = (o for o in SHORTCUTS if _projections(build_model(model, shortcut=o).state_dict()) == given)
        return next(fits, "A")


def _projections(state: State) -> set[str]:
    return {key for key in state if key.endswith("downsample.0.weight")}


def _zeros_last(state: State, bottleneck: bool) -> State:
    """Reorder channels so that option A's zeros, which a project puts on both sides, come last.

    A stage's channel j is the project's channel `order[j]`: first those that the shortcut carries over
    from the stage before, in that stage's order, then the new ones. Only channels on the
    shortcut's path are reordered; those between a block's convolutions stay.
    """
    block, last = (Bottleneck, 3) if bottleneck else (BasicBlock, 2)
    reordered = dict(state)
    order = torch.arange(CIFAR_WIDTHS[0])
    for index, width in enumerate((block.expansion * width for width in CIFAR_WIDTHS), start=1):
        incoming = order
        side = (width - len(incoming)) // 2
        new = torch.cat([torch.arange(side), torch.arange(side + len(incoming), width)])
        order = torch.cat([incoming + side, new])
        for key, value in state.items():
            if not key.startswith(f"layer{index}."):
                continue
            first_block = key.startswith(f"layer{index}.0.")
            if key.endswith("conv1.weight"):
                reordered[key] = value[:, incoming if first_block else order]
            elif f".conv{last}." in key or (f".bn{last}." in key and value.dim() == 1):
                reordered[key] = value[order]
    reordered["fc.weight"] = state["fc.weight"][:, order]
    return reordered


def _normalization(
    project: Project | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Normalization:
    if mean is None and std is None and project is not None:
        return Normalization.of_channels(project.mean, project.std)
    if mean is None or std is None:
        raise UsageError(
            "the project is not recognised by the keys: give its normalisation with --mean and --std"
        )
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
        raise UsageError(
            "--mean and --std must be three numbers each (R, G, B on the 0..1 scale), std above 0"
        )
    if max(*mean, *std) > 1 or min(mean) < 0:
        raise UsageError("--mean and --std must be on the 0..1 scale: divide values for 0..255 by 255")
    return Normalization.of_channels(mean, std)
