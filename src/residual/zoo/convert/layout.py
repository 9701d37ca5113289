"""The network's name and its shortcut option, read off weights under our keys."""

import re

import torch
from torch import Tensor

from ...models.build import IMAGENET_BLOCKS, build_model
from ...models.names import SHORTCUTS, NetworkName, parse_name
from .source import State

VGG_CONVOLUTIONS = 16


def network_of(state: State) -> str | None:
    """Return the name of the residual network or VGG whose blocks weights have; None if there is none.

    Networks with option A have the same keys as plain ones: the residual one is returned.
    """
    if any(key.startswith("features.") for key in state):
        kernels = [value.dim() for key, value in state.items() if re.fullmatch(r"features\.\d+\.weight", key)]
        bn = "_bn" if 1 in kernels else ""
        return f"vgg19{bn}" if kernels.count(4) == VGG_CONVOLUTIONS else None
    found = {tuple(map(int, match.groups())) for key in state if (match := _BLOCK.match(key))}
    depths = tuple(sum(stage == number for stage, _ in found) for number in range(1, 5))
    bottleneck = "layer1.0.conv3.weight" in state
    stem = stem_of(state)
    if stem is not None and stem.shape[-1] == 7:
        names = [f"resnet{layers}" for layers, blocks in IMAGENET_BLOCKS.items() if blocks == depths]
        return next((name for name in names if parse_name(name).bottleneck == bottleneck), None)
    n = depths[0]
    if n == 0 or depths != (n, n, n, 0):
        return None
    return str(NetworkName("resnet", (9 if bottleneck else 6) * n + 2, bottleneck))


_BLOCK = re.compile(r"layer(\d)\.(\d{1,4})\.conv1\.")


def head_of(state: State) -> Tensor | None:
    """Return the bias of the classifier, which has a value for each class."""
    return state.get("fc.bias", state.get("classifier.6.bias"))


def stem_of(state: State) -> Tensor | None:
    """Return the weights of the first convolution, [width, channels, height, width of the kernel]."""
    stem = state.get("conv1.weight", state.get("features.0.weight"))
    return stem if stem is not None and stem.dim() == 4 else None


def shortcut_of(network: str, state: State) -> str | None:
    """Detect the shortcut option from the projections among the weights."""
    if parse_name(network).family != "resnet":
        return None
    given = _projections(state)
    with torch.device("meta"):
        fits = (o for o in SHORTCUTS if _projections(build_model(network, shortcut=o).state_dict()) == given)
        return next(fits, "A")


def _projections(state: State) -> set[str]:
    return {key for key in state if key.endswith("downsample.0.weight")}
