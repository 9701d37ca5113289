"""Builds a network with fresh weights from its name; the public `create_model` is in `zoo/pretrained.py`."""

from ..errors import UsageError
from .blocks import BasicBlock, Bottleneck
from .names import MAX_CLASSES, parse_name, resolve_shortcut
from .resnet import ResNet

CIFAR_WIDTHS = (16, 32, 64)  # section 4.2


def build_model(
    name: str,
    *,
    num_classes: int = 10,
    shortcut: str | None = None,
    checkpoint_activations: bool = False,
) -> ResNet:
    """Build a network of the paper with fresh weights from torch's global random generator.

    Args:
        name: `resnet{6n+2}`, `plain{6n+2}` or `resnet{9n+2}_bottleneck` (section 4.2), up to 2,000 layers.
        num_classes: length of the output, at most 100,000.
        shortcut: "A" (zero-padded identity, the paper's choice on CIFAR and the default),
            "B" (projection where dimensions change) or "C" (projections everywhere).
            Plain networks have no shortcuts and take no option.
        checkpoint_activations: activation recomputation (checkpointing); see `ResNet`.

    Raises:
        UsageError: the name, the shortcut option or the number of classes is not valid.
    """
    parsed = parse_name(name)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UsageError(f"num_classes must be at least 1 and at most {MAX_CLASSES:,}, not {num_classes:,}")
    block = Bottleneck if parsed.bottleneck else BasicBlock
    option = resolve_shortcut(name, shortcut)
    depths = [parsed.blocks_per_stage] * len(CIFAR_WIDTHS)
    return ResNet(
        block, depths, CIFAR_WIDTHS, option, num_classes, checkpoint_activations=checkpoint_activations
    )
