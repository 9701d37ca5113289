"""What weights look like that belong to none of the paper's networks, for one clear line."""

import torch

from ...errors import CheckpointError
from .source import State, WeightsFile

QUANTISED = (".zero_point", "_packed_params", ".SCB", ".qweight", ".absmax")
PARTS = {  # parts of keys that no network of the paper has, and what has them
    "an object detector": ("rpn.", "roi_heads.", "rpn_head.", "bbox_", "class_embed.", ".regression_head."),
    "a segmentation network": ("aux_classifier.", "decode_head.", "segmentation_head.", "auxiliary_head."),
    "a vision transformer": ("cls_token", "pos_embed", ".attn.", ".attention."),
    "a ResNet with squeeze-and-excitation": (".se.", ".se_module."),
    "a pre-activation ResNet (V2)": ("stem.conv.", "stages.0.blocks.0.norm1."),
    "a ResNet with a deep stem (C, D, S or T)": ("conv1.0.weight", "conv1.3.weight", "downsample.2.weight"),
    "a DenseNet": ("denseblock",),
    "a MobileNet, EfficientNet or ConvNeXt": ("features.0.0.weight", "blocks.0.0.conv_dw."),
}
STEM_WIDTH = 64


def refuse_others(file: WeightsFile) -> None:
    """Refuse weights that are recognised as those of another kind of network.

    Raises:
        CheckpointError: they are; the message says of which.
    """
    kind = _looks_like(file.state)
    if kind is not None:
        raise CheckpointError(
            f"{file.origin} looks like {kind}: none of the paper's networks, so it is not imported"
        )


def _looks_like(state: State) -> str | None:
    """Return what other network weights look like, or None."""
    integers = (torch.int8, torch.uint8)
    weights = [value for key, value in state.items() if key.endswith("weight")]
    if any(part in key for key in state for part in QUANTISED) or any(v.dtype in integers for v in weights):
        return "a quantised network (import its float weights instead)"
    for kind, parts in PARTS.items():
        if any(key.startswith(part) or f".{part.lstrip('.')}" in key for key in state for part in parts):
            return kind
    return _other_resnet(state) or _other_vgg(state)


def _other_resnet(state: State) -> str | None:
    """Tell ResNeXt, wide networks and ones for small images from the paper's by the shapes of a block."""
    stem, first = state.get("conv1.weight"), state.get("layer1.0.conv2.weight")
    if stem is None or first is None or stem.dim() != 4 or first.dim() != 4:
        return None
    if stem.shape[0] != STEM_WIDTH:
        return None
    if stem.shape[2:] == (3, 3):
        return "a ResNet with a 3x3 stem of 64 filters, a later design for small images"
    if first.shape[1] < first.shape[0]:
        return f"a ResNeXt (grouped convolutions, {first.shape[0]} filters of {first.shape[1]} channels)"
    if first.shape[0] > STEM_WIDTH:
        return f"a wide ResNet (3x3 convolutions of {first.shape[0]} filters in its first stage)"
    return None


def _other_vgg(state: State) -> str | None:
    """Tell VGG-11, 13 and 16 from VGG-19 by the number of convolutions."""
    convolutions = sum(key.startswith("features.") and v.dim() == 4 for key, v in state.items())
    layers = {8: 11, 10: 13, 13: 16}.get(convolutions)
    return f"VGG-{layers}" if layers else None
