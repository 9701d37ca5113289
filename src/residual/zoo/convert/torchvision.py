"""torchvision's ImageNet ResNets and VGG-19: its keys are ours, those of timm's ResNets and others."""

from pathlib import Path

from .source import Converted, WeightsFile, imagenet_preprocessing

NAME = "torchvision or timm (the same keys)"
# torchvision's second weights (IMAGENET1K_V2) go with another resize; the hash in a name tells them
SECOND_WEIGHTS = ("resnet50-11ad3fa6", "resnet101-cd907fc2", "resnet152-f82ba261")


def convert(file: WeightsFile) -> Converted | None:
    """Take what has the 7x7 stem or VGG's first layer; the standard evaluation goes with it."""
    stem, vgg = file.state.get("conv1.weight"), file.state.get("features.0.weight")
    if vgg is None and (stem is None or stem.shape[-2:] != (7, 7)):
        return None
    second = Path(file.origin).stem in SECOND_WEIGHTS
    return Converted(
        NAME,
        file.state,
        preprocessing=imagenet_preprocessing(resize=232 if second else 256),
    )
