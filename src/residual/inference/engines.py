"""What computes a network's logits: torch, or ONNX Runtime in float32 or INT8."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import torch
from torch import nn

from ..errors import UsageError
from ..exporters.int8 import quantize
from ..exporters.material import calibration_images
from ..exporters.onnx import OnnxNetwork, export_onnx
from ..models.fold import optimize_for_inference
from ..models.network import Network

EngineName = Literal["torch", "onnx", "int8"]


def open_engine(name: str, network: Network, calibration: str | Path | None = None) -> nn.Module:
    """Return a module that maps normalised images [N, 3, H, W] to the network's logits [N, classes].

    Args:
        name: "torch", "onnx" or "int8".
        network: it is not changed.
        calibration: for "int8", a folder of images, best those that it was trained on: photographs, or the
            CIFAR release.

    Raises:
        UsageError: there is no such engine, it is not installed, or "int8" has no calibration.
    """
    if name not in get_args(EngineName):
        raise UsageError(f"unknown engine '{name}': the engines are {', '.join(get_args(EngineName))}")
    if name == "torch":
        return optimize_for_inference(network)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        if name == "onnx":
            export_onnx(network, torch.zeros(2, *network.config.input_size), path)
            return OnnxNetwork(path)
        if calibration is None:
            raise UsageError("engine 'int8' needs a folder of images that calibrate it")
        return quantize(network, calibration_images(network.config, Path(calibration)), path)
