"""Weights in the forms that torchvision, timm and transformers load: the inverse of `zoo/convert`."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from ..errors import CheckpointError, UsageError
from ..models.names import parse_name
from ..models.network import Network
from ..models.resnet import ResNet
from ..runtime.files import write_json
from ..zoo.convert.importing import load_foreign
from ..zoo.convert.source import Options
from ..zoo.convert.timm import VGG_LAYERS
from ..zoo.model_folder import COUNTER, ModelConfig, check_weights, portable_state
from .metadata import describe

State = dict[str, Tensor]
WEIGHTS = "model.safetensors"
KERNELS = {"classifier.0.weight": 7, "classifier.3.weight": 1}  # of timm's VGG, whose layers are convolutions
PILLOW = {"bilinear": 2, "bicubic": 3}  # its numbers


def check_known(library: str, config: ModelConfig) -> None:
    """Check that another library has a network.

    Raises:
        UsageError: it has none such; the message says why.
    """
    parsed = parse_name(config.network)
    why = None
    if not parsed.imagenet or parsed.family == "plain":
        why = f"no {config.network}"
    elif parsed.family == "vgg" and library == "transformers":
        why = "no VGG"
    elif parsed.family == "resnet" and config.shortcut != "B":
        why = f"no {config.network} with shortcut option {config.shortcut}"
    elif config.variant == "v1" and library != "transformers":
        why = f"no {config.network} of variant v1, which has the stride on the first 1x1 convolution"
    if why is not None:
        raise UsageError(f"{library} has {why}: export it as onnx, torch-export or safetensors")


def write_safetensors(
    network: Network, config: ModelConfig, path: Path, metadata: Mapping[str, str], half: bool
) -> None:
    """Write a network's weights under this package's keys, and the metadata, as one file."""
    state = portable_state(network, torch.float16 if half else torch.float32)
    _save(state, path, metadata)
    check_weights(network, load(path.read_bytes()), str(path))


def write_torchvision(
    network: Network, config: ModelConfig, path: Path, metadata: Mapping[str, str], half: bool
) -> None:
    """Write a state dict with torchvision's keys, which are this package's."""
    state = _state(network, half)
    if path.suffix == ".safetensors":
        _save(state, path, metadata)
    else:
        torch.save(state, path)
    _check_by_importing(network, config, path, half)


def write_timm(
    network: Network, config: ModelConfig, folder: Path, metadata: Mapping[str, str], half: bool
) -> None:
    """Write a folder as timm has them on the Hub: `timm.create_model("local-dir:FOLDER")`."""
    state = _state(network, half)
    if parse_name(config.network).family == "vgg":
        state = dict(_as_timms_vgg(key, value) for key, value in state.items())
    _save(state, folder / WEIGHTS, metadata)
    values = describe(_of_channels(config).preprocessing)
    preprocessing, head = config.preprocessing, "fc" if isinstance(network, ResNet) else "head.fc"
    sizes = {"input_size": [3, *preprocessing.image_size], "fixed_input_size": False}
    pretrained = {
        **sizes,
        "interpolation": preprocessing.interpolation,
        "crop_pct": _crop_share(max(preprocessing.image_size), preprocessing.resize),
        "crop_mode": {"crop": "center", "pad": "border", "squish": "squash"}[preprocessing.fit],
        "mean": values["mean"],
        "std": values["std"],
        "num_classes": len(config.class_names),
        "pool_size": [max(1, side // 32) for side in preprocessing.image_size],
        "first_conv": network.stem_name,
        "classifier": head,
    }
    write_json(
        folder / "config.json",
        {
            "architecture": config.network,
            "num_classes": len(config.class_names),
            "num_features": network.get_classifier().in_features,
            "label_names": list(config.class_names),
            "pretrained_cfg": pretrained,
        },
    )
    _check_by_importing(network, config, folder, half)


def write_transformers(
    network: Network, config: ModelConfig, folder: Path, metadata: Mapping[str, str], half: bool
) -> None:
    """Write a folder for `ResNetForImageClassification.from_pretrained` and `AutoImageProcessor`."""
    assert isinstance(network, ResNet)
    state = {transformers_key(key): value for key, value in _state(network, half).items()}
    _save(state, folder / WEIGHTS, metadata)
    bottleneck = parse_name(config.network).bottleneck
    stages = [network.get_submodule(name) for name in network.stages]
    names = list(config.class_names)
    write_json(
        folder / "config.json",
        {
            "architectures": ["ResNetForImageClassification"],
            "model_type": "resnet",
            "num_channels": 3,
            "embedding_size": network.conv1.out_channels,
            "hidden_sizes": [(256 if bottleneck else 64) * 2**number for number in range(len(stages))],
            "depths": [len(list(stage.children())) for stage in stages],
            "layer_type": "bottleneck" if bottleneck else "basic",
            "hidden_act": "relu",
            "downsample_in_first_stage": False,
            "downsample_in_bottleneck": config.variant == "v1",
            "id2label": {str(label): name for label, name in enumerate(names)},
            "label2id": {name: label for label, name in enumerate(names)},
            "torch_dtype": "float16" if half else "float32",
        },
    )
    write_json(folder / "preprocessor_config.json", _processor(_of_channels(config)))
    _check_by_importing(network, config, folder, half)


def transformers_key(key: str) -> str:
    """Return what transformers calls a weight: the inverse of its converter in `zoo/convert`."""
    path, _, parameter = key.rpartition(".")
    if path == "fc":
        return f"classifier.1.{parameter}"
    if path in ("conv1", "bn1"):
        return f"resnet.embedder.embedder.{_kind(path)}.{parameter}"
    stage, block, *layer = path.split(".")
    place = "shortcut" if layer[0] == "downsample" else f"layer.{int(layer[0][-1]) - 1}"
    kind = _kind(layer[0]) if len(layer) == 1 else ("convolution", "normalization")[int(layer[1])]
    number = int(stage.removeprefix("layer")) - 1
    return f"resnet.encoder.stages.{number}.layers.{block}.{place}.{kind}.{parameter}"


def _kind(layer: str) -> str:
    return "convolution" if layer.startswith("conv") else "normalization"


def _processor(config: ModelConfig) -> dict[str, Any]:
    """Return what transformers' image processor needs."""
    preprocessing, values = config.preprocessing, describe(config.preprocessing)
    height, width = preprocessing.image_size
    sides = {"height": height, "width": width}
    cropped = preprocessing.fit == "crop"
    size = {"shortest_edge": preprocessing.resize or max(height, width)} if cropped else sides
    return {
        "image_processor_type": "BitImageProcessor" if cropped else "ViTImageProcessor",
        "do_resize": True,
        "size": size,
        **({"do_center_crop": True, "crop_size": sides} if cropped else {}),
        "resample": PILLOW[preprocessing.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": values["mean"],
        "image_std": values["std"],
        "do_convert_rgb": True,
    }


def _of_channels(config: ModelConfig) -> ModelConfig:
    """Return a config whose mean is one of channels, since these libraries know no per-pixel mean."""
    preprocessing = config.preprocessing
    channels = replace(preprocessing, normalization=preprocessing.normalization.of_any_size())
    return replace(config, preprocessing=channels)


def _crop_share(side: int, resize: int | None) -> float:
    """Return `crop_pct`, of which timm takes floor(side / crop_pct) as the size to resize to."""
    if resize is None:
        return 1.0
    share = side / resize
    return share if int(side / share) == resize else side / (resize + 1e-6)


def _as_timms_vgg(key: str, value: Tensor) -> tuple[str, Tensor]:
    for theirs, ours in VGG_LAYERS.items():
        if key.startswith(ours):
            kernel = KERNELS.get(key)
            shape = (*value.shape[:1], -1, kernel, kernel) if kernel else value.shape
            return theirs + key.removeprefix(ours), value.reshape(shape)
    return key, value


def _state(network: Network, half: bool) -> State:
    """Return weights and BN statistics, with the counters that other libraries' own files have."""
    counters = {key: value for key, value in network.state_dict().items() if key.endswith(COUNTER)}
    return {**portable_state(network, torch.float16 if half else torch.float32), **counters}


def _save(state: State, path: Path, metadata: Mapping[str, str]) -> None:
    path.write_bytes(save(state, metadata={"format": "pt", **metadata}))


def _check_by_importing(network: Network, config: ModelConfig, path: Path, half: bool) -> None:
    """Import what was written, as this package imports the other library's own, and compare all weights.

    Raises:
        CheckpointError: a weight is another.
    """
    options = Options(config.network, config.variant)
    found = portable_state(load_foreign(path, options).network)
    for key, value in portable_state(network).items():
        expected = value.half().float() if half else value
        if not torch.equal(found[key], expected):
            raise CheckpointError(f"{key} is another after its export: nothing is written")
