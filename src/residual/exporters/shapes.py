"""Which dimensions of an exported network's input may vary, and inputs of such shapes."""

from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from ..models.network import Network
from ..models.resnet import ResNet


def takes_any_size(network: Network, size: tuple[int, int]) -> bool:
    """Tell whether an exported network takes images of other sizes: those with global average pooling do.

    An example for the exporter must have maps of 2 pixels or more in the last stage.
    """
    return isinstance(network, ResNet) and min(size) >= 2 * network.stride


def dynamic_shapes(network: Network, size: tuple[int, int], *, bounded: bool) -> dict[int, Any]:
    """Return the dimensions of images [N, 3, H, W] that may vary.

    Args:
        network: the network.
        size: height and width of the images that it was made for.
        bounded: the exporter checks a smallest height and width; else there is none.
    """
    shapes: dict[int, Any] = {0: Dim("batch", min=1)}
    if takes_any_size(network, size):
        least = 2 * network.stride
        shapes |= {
            2: Dim("height", min=least) if bounded else Dim.DYNAMIC,
            3: Dim("width", min=least) if bounded else Dim.DYNAMIC,
        }
    return shapes


def example_images(network: Network, size: tuple[int, int]) -> Tensor:
    """Return a batch for the exporter; height and width differ, so that it does not take them for one."""
    height, width = size
    if takes_any_size(network, size):
        height, width = height + network.stride, width + 2 * network.stride
    return torch.zeros(2, network.in_channels, height, width)


def example_photographs() -> tuple[Tensor, dict[int, Any]]:
    """Return uint8 images [N, H, W, 3] for the exporter, and their dimensions that may vary."""
    shapes = {0: Dim("batch", min=1), 1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    return torch.zeros(2, 50, 70, 3, dtype=torch.uint8), shapes
