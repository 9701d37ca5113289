"""akamaster/pytorch_resnet_cifar10: its classifier is `linear`, and option A pads zeros on both sides."""

import torch

from ...data.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalization
from ...data.preprocessing import Preprocessing
from ...models.blocks import BasicBlock, Bottleneck
from ...models.build import CIFAR_WIDTHS
from .source import Converted, State, WeightsFile

NAME = "akamaster/pytorch_resnet_cifar10"


def convert(file: WeightsFile) -> Converted | None:
    """Rename `linear` and `shortcut`; normalisation is ImageNet's, though the data is CIFAR-10."""
    weight = file.state.get("linear.weight")
    if weight is None or weight.shape[1:] != CIFAR_WIDTHS[-1:]:
        return None
    normalization = Normalization.of_channels(IMAGENET_MEAN, IMAGENET_STD)
    return Converted(NAME, renamed(file.state), preprocessing=Preprocessing((32, 32), normalization))


def renamed(state: State) -> State:
    """Rename the classifier `linear` and the projections `shortcut`, as several projects call them."""
    return {
        key.replace("linear.", "fc.").replace(".shortcut.", ".downsample."): v for key, v in state.items()
    }


def zeros_last(state: State, bottleneck: bool) -> State:
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
