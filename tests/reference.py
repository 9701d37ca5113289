"""The networks written again, as plain functions of a state dict and images, from the papers alone."""

import torch
from torch import Tensor
from torch.nn import functional as F


def by_the_paper(state: dict[str, Tensor], x: Tensor, option: str | None, stride_on: str = "3x3") -> Tensor:
    """A residual or plain network, on its state dict alone (sections 3 and 4.2, Table 1)."""

    def conv_bn(x, conv, bn, stride=1):
        weight = state[f"{conv}.weight"]
        y = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        mean, var, gain, shift = (
            state[f"{bn}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (y - mean) / (var + 1e-5).sqrt() * gain + shift

    imagenet = state["conv1.weight"].shape[-1] == 7
    x = conv_bn(x, "conv1", "bn1", 2 if imagenet else 1).clamp(min=0)
    if imagenet:
        x = F.max_pool2d(x, 3, stride=2, padding=1)
    blocks = sorted(
        {tuple(key.split(".")[:2]) for key in state if key.startswith("layer")},
        key=lambda b: (b[0], int(b[1])),
    )
    for layer, index in blocks:
        path = f"{layer}.{index}"
        stride = 2 if layer != "layer1" and index == "0" else 1
        bottleneck = f"{path}.conv3.weight" in state
        if bottleneck:
            first, second = (stride, 1) if stride_on == "1x1" else (1, stride)
            y = conv_bn(x, f"{path}.conv1", f"{path}.bn1", first).clamp(min=0)
            y = conv_bn(y, f"{path}.conv2", f"{path}.bn2", second).clamp(min=0)
            y = conv_bn(y, f"{path}.conv3", f"{path}.bn3")
        else:
            y = conv_bn(x, f"{path}.conv1", f"{path}.bn1", stride).clamp(min=0)
            y = conv_bn(y, f"{path}.conv2", f"{path}.bn2")
        if f"{path}.downsample.0.weight" in state:
            assert option == "C" or x.shape != y.shape
            y = y + conv_bn(x, f"{path}.downsample.0", f"{path}.downsample.1", stride)
        elif option is not None:
            y[:, : x.shape[1]] += x[:, :, ::stride, ::stride]
        x = y.clamp(min=0)
    return x.mean((2, 3)) @ state["fc.weight"].T + state["fc.bias"]


def vgg19_by_its_paper(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """VGG-19, with or without BN, in evaluation mode; its 7x7 maps are averages where images are not 224."""
    numbers = sorted({int(key.split(".")[1]) for key in state if key.startswith("features.")})
    convolutions = [n for n in numbers if state[f"features.{n}.weight"].dim() == 4]
    assert len(convolutions) == 16
    for place, number in enumerate(convolutions, start=1):
        x = F.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1)
        bn = f"features.{number + 1}"
        if f"{bn}.running_mean" in state:
            parts = ("running_mean", "running_var", "weight", "bias")
            mean, var, gain, shift = (state[f"{bn}.{part}"][:, None, None] for part in parts)
            x = (x - mean) / (var + 1e-5).sqrt() * gain + shift
        x = x.clamp(min=0)
        if place in (2, 4, 8, 12, 16):
            x = F.max_pool2d(x, 2)
    rows, columns = (_averages(size, 7).to(x) for size in x.shape[2:])
    x = (rows @ x @ columns.T).flatten(1)
    for number in (0, 3, 6):
        x = x @ state[f"classifier.{number}.weight"].T + state[f"classifier.{number}.bias"]
        x = x.clamp(min=0) if number < 6 else x
    return x


def _averages(size: int, bins: int) -> Tensor:
    """The matrix [bins, size] that averages over bins, which overlap where they do not divide the size."""
    matrix = torch.zeros(bins, size)
    for number in range(bins):
        start, end = number * size // bins, -(-(number + 1) * size // bins)
        matrix[number, start:end] = 1 / (end - start)
    return matrix
