"""Hugging Face transformers' ResNet: `resnet.encoder.stages.0.layers.0.layer.0.convolution.weight`.

`config.json` tells the variant and the class names, `preprocessor_config.json` what is done to images.
"""

import re
from collections.abc import Mapping
from typing import Any

from ...data.normalization import IMAGENET_MEAN, IMAGENET_STD
from ...data.preprocessing import Preprocessing
from ...errors import CheckpointError
from ...recipes.schema import Fit
from .source import Converted, WeightsFile, channels, imagenet_preprocessing

NAME = "Hugging Face transformers"
# else another network
FIXED = {"embedding_size": 64, "hidden_act": "relu", "downsample_in_first_stage": False}
SQUASHED = 384  # pixels: from here on transformers' ConvNextImageProcessor does not crop
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
_KEY = re.compile(r"encoder\.stages\.(\d)\.layers\.(\d+)\.(?:layer\.(\d)|shortcut)\.(\w+)\.(\w+)")


def convert(file: WeightsFile) -> Converted | None:
    """Rename the keys, and read what the two JSON files tell."""
    state = {key.removeprefix("resnet."): value for key, value in file.state.items()}
    if "embedder.embedder.convolution.weight" not in state:
        return None
    config = file.config or {}
    for key, value in FIXED.items():
        if config.get(key, value) != value:
            raise CheckpointError(
                f"{file.origin} holds another network: config.json has {key}={config[key]!r:.80}, "
                f"not {value!r}"
            )
    variant = "v1" if config.get("downsample_in_bottleneck", False) else "v1.5"
    labels = config.get("id2label")
    return Converted(
        NAME,
        {_renamed(key): value for key, value in state.items()},
        variant=variant if file.config else None,
        preprocessing=_preprocessing(file.preprocessor) if file.preprocessor else imagenet_preprocessing(),
        class_names=tuple(labels[key] for key in sorted(labels, key=int)) if labels else None,
        notes=()
        if file.preprocessor
        else ("no preprocessor_config.json: preprocessing as usual for ImageNet",),
    )


def _renamed(key: str) -> str:
    match = _KEY.fullmatch(key)
    if match is None:
        key = key.replace("embedder.embedder.convolution.", "conv1.")
        return key.replace("embedder.embedder.normalization.", "bn1.").replace("classifier.1.", "fc.")
    stage, block, number, kind, parameter = match.groups()
    norm = kind == "normalization"
    layer = f"{'bn' if norm else 'conv'}{int(number) + 1}" if number else f"downsample.{int(norm)}"
    return f"layer{int(stage) + 1}.{block}.{layer}.{parameter}"


def _preprocessing(values: Mapping[str, Any]) -> Preprocessing:
    """Read a preprocessor's settings; `size` and `crop_size` are numbers or dictionaries."""
    given = values.get("size", 224)
    edge = given.get("shortest_edge") if isinstance(given, Mapping) else given
    fit: Fit = "crop"
    if values.get("do_center_crop") and edge is not None:
        size, resize = _sides(values.get("crop_size", edge)), edge
    elif edge is None or edge >= SQUASHED or "crop_pct" not in values:
        size, resize, fit = _sides(given if edge is None else edge), None, "squish"
    else:
        size, resize = (edge, edge), int(edge / values["crop_pct"])
    return Preprocessing(
        size,
        channels(values.get("image_mean", IMAGENET_MEAN), values.get("image_std", IMAGENET_STD)),
        resize=resize,
        fit=fit,
        interpolation="bilinear" if RESAMPLING.get(values.get("resample", 3)) == "bilinear" else "bicubic",
    )


def _sides(size: Any) -> tuple[int, int]:
    return (size["height"], size["width"]) if isinstance(size, Mapping) else (size, size)
