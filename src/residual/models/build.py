"""A fresh network from its name."""

from ..errors import UsageError
from .blocks import BasicBlock, Bottleneck
from .names import MAX_CLASSES, parse_name, resolve_shortcut
from .resnet import ResNet


def create_model(
    name: str,
    *,
    num_classes: int = 10,
    shortcut: str | None = None,
    checkpoint_activations: bool = False,
) -> ResNet:
    """Create a network of the paper with fresh weights from torch's global random generator.

    Args:
        name: `resnet{6n+2}`, `plain{6n+2}` or `resnet{9n+2}_bottleneck` (section 4.2), up to 2,000 layers.
        num_classes: length of the output, at most 100,000.
        shortcut: "A" (zero-padded identity, the paper's choice on CIFAR and the default),
            "B" (projection where dimensions change) or "C" (projections everywhere).
            Plain nets have none and take none.
        checkpoint_activations: train with less memory and one more forward pass; see `ResNet`.

    Raises:
        UsageError: the name, the shortcut option or the number of classes does not fit.
    """
    parsed = parse_name(name)
    if not 1 <= num_classes <= MAX_CLASSES:
        raise UsageError(f"num_classes must be at least 1 and at most {MAX_CLASSES:,}, not {num_classes:,}")
    block = Bottleneck if parsed.bottleneck else BasicBlock
    option = resolve_shortcut(name, shortcut)
    return ResNet(block, parsed.blocks_per_stage, option, num_classes, checkpoint_activations)
