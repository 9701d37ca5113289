"""Weights of other projects: the same function as the networks that they come from, or refused in one line."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import residual
from residual.data.imagenet_classes import NAMES
from residual.errors import CheckpointError, UsageError
from residual.models.build import IMAGENET_BLOCKS, build_model
from residual.zoo.convert import caffe, timm
from residual.zoo.convert.importing import convert
from residual.zoo.convert.source import Options, WeightsFile
from residual.zoo.model_folder import check_weights

State = dict[str, Tensor]
CHANNELS = {"conv1": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}


def trained(network: torch.nn.Module) -> torch.nn.Module:
    """Give BN scales, shifts and statistics as different from their first values as after training."""
    generator = torch.Generator().manual_seed(1)
    for key, value in network.state_dict().items():
        if value.dim() == 1 and value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
    return network.eval()


def same(ours: torch.nn.Module, theirs, x: Tensor) -> None:
    with torch.no_grad():
        expected = theirs(x.double())
        difference = (ours.double()(x.double()) - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-9


# torchvision: its documented keys and shapes, and its function, written down independently


def torchvision_shapes(layers: int, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    bottleneck = layers >= 50
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name, width):
        shapes.update({f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")})

    norm("bn1", 64)
    incoming = 64
    for stage, depth in enumerate(IMAGENET_BLOCKS[layers], start=1):
        width = 32 * 2**stage
        out = 4 * width if bottleneck else width
        for block in range(depth):
            name = f"layer{stage}.{block}"
            kernels = (1, 3, 1) if bottleneck else (3, 3)
            widths = (incoming, width, width, out) if bottleneck else (incoming, width, out)
            for i, kernel in enumerate(kernels):
                shapes[f"{name}.conv{i + 1}.weight"] = (widths[i + 1], widths[i], kernel, kernel)
                norm(f"{name}.bn{i + 1}", widths[i + 1])
            if incoming != out:
                shapes[f"{name}.downsample.0.weight"] = (out, incoming, 1, 1)
                norm(f"{name}.downsample.1", out)
            incoming = out
    shapes["fc.weight"], shapes["fc.bias"] = (classes, incoming), (classes,)
    return shapes


def torchvision_vgg19_bn_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    index, incoming = 0, 3
    for layer in (64, 64, "M", 128, 128, "M", *4 * [256], "M", *4 * [512], "M", *4 * [512], "M"):
        if layer == "M":
            index += 1
            continue
        shapes[f"features.{index}.weight"], shapes[f"features.{index}.bias"] = (layer, incoming, 3, 3), (layer,)
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"features.{index + 1}.{part}"] = (layer,)
        index, incoming = index + 3, layer
    for number, (out, into) in {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}.items():
        shapes[f"classifier.{number}.weight"], shapes[f"classifier.{number}.bias"] = (out, into), (out,)
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        value = torch.rand(shape, generator=generator)
        state[key] = (value - 0.5) / (0.2 * value[0].numel() ** 0.5) if len(shape) > 1 else value * 0.5 + 0.5
    return state


def forward(state: State, layers: int, x: Tensor, stride_on: int) -> Tensor:
    """The network of Table 1 by functions alone; `stride_on` is the number of a bottleneck's strided conv."""
    s = {key: value.double() for key, value in state.items()}

    def conv_bn(x, conv, bn, stride=1):
        weight = s[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return F.batch_norm(x, *(s[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")))

    x = F.max_pool2d(conv_bn(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
    for stage, depth in enumerate(IMAGENET_BLOCKS[layers], start=1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = x
            count = 3 if layers >= 50 else 2
            for i in range(1, count + 1):
                y = conv_bn(y, f"{name}.conv{i}", f"{name}.bn{i}", stride if i == stride_on else 1)
                y = y if i == count else y.relu()
            if f"{name}.downsample.0.weight" in s:
                x = conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            x = (x + y).relu()
    return F.linear(x.mean((2, 3)), s["fc.weight"], s["fc.bias"])
