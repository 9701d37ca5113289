"""Builds a network with fresh weights from its name; the public `create_model` is in `zoo/pretrained.py`."""

from ..errors import UsageError
from .blocks import BasicBlock, Bottleneck
from .names import (
    MAX_CLASSES,
    NetworkName,
    default_classes,
    parse_name,
    resolve_shortcut,
    resolve_variant,
)
from .network import Network
from .resnet import ResNet
from .vgg import VGG

CIFAR_WIDTHS = (16, 32, 64)  # section 4.2
IMAGENET_WIDTHS = (64, 128, 256, 512)  # Table 1
IMAGENET_BLOCKS = {
    **{18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    **{50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}
MAX_CHANNELS = 1000  # a limit because a corrupted file may ask for anything


def build_model(
    name: str,
    *,
    num_classes: int | None = None,
    shortcut: str | None = None,
    variant: str | None = None,
    in_channels: int = 3,
    checkpoint_activations: bool = False,
) -> Network:
    """Build a network of the paper with fresh weights from torch's global random generator.

    Args:
        name: `resnet{6n+2}`, `plain{6n+2}` or `resnet{9n+2}_bottleneck` (section 4.2, CIFAR), up to 2,000
            layers; `resnet18`, `34`, `50`, `101`, `152`, `plain18`, `plain34` (Table 1, ImageNet), `vgg19` or
            `vgg19_bn` (Figure 3).
        num_classes: length of the output, at most 100,000; by default 10 on CIFAR and 1,000 on ImageNet.
        shortcut: "A" (zero-padded identity, the paper's choice on CIFAR and the default there),
            "B" (projection where dimensions change, the default on ImageNet) or "C" (projections everywhere).
            Plain networks and VGG have no shortcuts and take no option.
        variant: for `resnet50`, `101` and `152`, the convolution of a block that has the stride: "v1" (the
            first 1x1, as the authors released their models) or "v1.5" (the 3x3, the default).
        in_channels: number of channels of the images.
        checkpoint_activations: activation recomputation (checkpointing); see `ResNet`.

    Raises:
        UsageError: the name, an option, or the number of classes or channels is not valid.
    """
    parsed = parse_name(name)
    classes = default_classes(name) if num_classes is None else num_classes
    if not 1 <= classes <= MAX_CLASSES:
        raise UsageError(f"num_classes must be at least 1 and at most {MAX_CLASSES:,}, not {classes:,}")
    if not 1 <= in_channels <= MAX_CHANNELS:
        raise UsageError(f"in_channels must be at least 1 and at most {MAX_CHANNELS:,}, not {in_channels:,}")
    option, where = resolve_shortcut(name, shortcut), resolve_variant(name, variant)
    if parsed.family == "vgg":
        return VGG(parsed.bn, classes, in_channels=in_channels, checkpoint_activations=checkpoint_activations)
    depths, widths = _stages(parsed)
    return ResNet(
        Bottleneck if parsed.bottleneck else BasicBlock,
        depths,
        widths,
        option,
        classes,
        stem="imagenet" if parsed.imagenet else "cifar",
        stride_on="1x1" if where == "v1" else "3x3",
        in_channels=in_channels,
        checkpoint_activations=checkpoint_activations,
    )


def _stages(name: NetworkName) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the number of blocks and the width of each stage."""
    if name.imagenet:
        return IMAGENET_BLOCKS[name.layers], IMAGENET_WIDTHS
    return (name.blocks_per_stage,) * len(CIFAR_WIDTHS), CIFAR_WIDTHS
