"""timm: `config.json` tells network and preprocessing; ResNets have torchvision's keys, VGG others."""

import math
from collections.abc import Mapping
from typing import Any

from ...data.normalization import IMAGENET_MEAN, IMAGENET_STD
from ...data.preprocessing import Preprocessing
from ...errors import CheckpointError
from .source import Converted, State, WeightsFile, channels, imagenet_preprocessing

NAME = "timm"
NETWORKS = (*(f"resnet{depth}" for depth in (18, 34, 50, 101, 152)), "vgg19", "vgg19_bn")
HARMLESS = ("num_classes", "in_chans", "drop_rate", "drop_path_rate")  # model_args that leave the function
VGG_LAYERS = {
    "pre_logits.fc1.": "classifier.0.",
    "pre_logits.fc2.": "classifier.3.",
    "head.fc.": "classifier.6.",
}


def convert(file: WeightsFile) -> Converted | None:
    """Rename VGG's layers, and read `config.json` where there is one."""
    state = {key.removeprefix("timm_model."): value for key, value in file.state.items()}
    config = file.config if file.config and "architecture" in file.config else None
    if config is None and "pre_logits.fc1.weight" not in state:
        return None
    if config is None:
        return Converted(NAME, _flat(state), preprocessing=imagenet_preprocessing())
    network = str(config["architecture"])
    if network not in NETWORKS:
        raise CheckpointError(
            f"{file.origin} holds another network: config.json says {network!r:.80}, none of the paper's"
        )
    changed = sorted(set(config.get("model_args") or ()) - set(HARMLESS))
    if changed:
        raise CheckpointError(
            f"{file.origin} holds another network: config.json changes {network} by {changed!r:.200}"
        )
    names = config.get("label_names")
    return Converted(
        NAME,
        _flat(state),
        network,
        variant="v1.5",
        preprocessing=_preprocessing(config.get("pretrained_cfg", config)),
        class_names=tuple(names) if names else None,
    )


def _flat(state: State) -> State:
    """Turn VGG's fully connected layers, which timm stores as convolutions, into torchvision's."""
    flat = {}
    for key, value in state.items():
        prefix = next((prefix for prefix in VGG_LAYERS if key.startswith(prefix)), None)
        if prefix is not None:
            key = VGG_LAYERS[prefix] + key.removeprefix(prefix)
            value = value.flatten(1) if value.dim() > 1 else value
        flat[key] = value
    return flat


def _preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    """Read `pretrained_cfg`; `crop_pct` is the crop's share of the resized image's shorter side."""
    _, height, width = values.get("input_size", (3, 224, 224))
    return Preprocessing(
        (height, width),
        channels(values.get("mean", IMAGENET_MEAN), values.get("std", IMAGENET_STD)),
        resize=math.floor(max(height, width) / values.get("crop_pct", 0.875)),
        interpolation="bilinear" if values.get("interpolation") == "bilinear" else "bicubic",
    )
