"""What this package does, in the form in which `bench` measures it: the engine, its batches, inference."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile

from ..data.dataset import Split
from ..data.loader import TrainBatches
from ..data.preprocessing import Preprocessing
from ..exporters.int8 import quantize
from ..exporters.onnx import OnnxNetwork, export_onnx
from ..exporters.openvino import OpenVinoNetwork, convert_to_openvino
from ..models.build import build_model
from ..models.fold import optimize_for_inference
from ..models.names import default_size
from ..recipes.augment import PadCrop
from ..recipes.catalog import get_recipe
from ..recipes.schema import Optimizer, Recipe
from ..runtime import device as devices
from ..training.engine import Engine
from ..training.guard import Guard
from ..training.optim import make_optimizer
from ..training.step import train_step


def batches(batch_size: int) -> Iterator[None]:
    """Make augmented batches as training does, random draws included."""
    source = _batches(batch_size, torch.device("cpu"))
    step = 0
    while True:
        source[step]
        step += 1
        yield


def train(name: str, batch_size: int, device: str, **changes: Any) -> Iterator[None]:
    """Train by the paper's recipe, changed or not, with the engine of `residual train`, step by step.

    A capture that fails ends it, so that eager steps are never measured as captured ones.
    """
    where = devices.resolve_device(device)
    devices.prepare(where)
    recipe = get_recipe("paper", name).replace({"batch_size": batch_size, **changes})
    engine = make_engine(recipe, where)
    with devices.cuda_settings(recipe.deterministic):
        while True:
            engine.take_step()
            yield


def kernels_a_step(name: str, batch_size: int, device: torch.device, **changes: Any) -> int:
    """Count the kernels that one eager training step launches on CUDA."""
    devices.prepare(device)
    recipe = get_recipe("paper", name).replace({"batch_size": batch_size, **changes, "capture": False})
    engine = make_engine(recipe, device)
    with devices.cuda_settings(recipe.deterministic):
        engine.take_step()
        with profile(activities=[ProfilerActivity.CUDA]) as found:
            engine.take_step()
            torch.cuda.synchronize()
    on_device = [event for event in found.events() or () if event.device_type == DeviceType.CUDA]
    return sum(not event.name.startswith(("Memcpy", "Memset")) for event in on_device)


def make_engine(recipe: Recipe, device: torch.device) -> Engine:
    """Make an engine that trains on random images."""
    torch.manual_seed(recipe.seed)
    network = build_model(recipe.network, checkpoint_activations=recipe.checkpoint_activations)
    network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    return Engine(recipe, network, _batches(recipe.batch_size, device))


def fitted(name: str, batch_size: int, *, fit: bool) -> Iterator[None]:
    """Train on one batch repeatedly; with `fit`, the network has fitted it and gradients underflow."""
    devices.prepare(torch.device("cpu"))
    torch.manual_seed(0)
    network = build_model(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(network, Optimizer())
    guard = Guard(optimizer, torch.device("cpu"))
    images = torch.randn(batch_size, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    batch = images, torch.arange(batch_size) % 10
    if fit:
        for step in range(60):
            train_step(network, optimizer, guard, batch, step)
        # further in the direction of training: logits grow until the wrong classes' probability is denormal
        with torch.no_grad():
            margins = network(images).topk(2).values
            network.fc.weight.mul_(95 / float((margins[:, 0] - margins[:, 1]).median().clamp_min(0.1)))
    optimizer.param_groups[0]["lr"] = 0.0  # stay in that state while it is timed
    while True:
        train_step(network, optimizer, guard, batch, 0)
        yield


def steps(name: str, batch_size: int, device: str, precision: str) -> Iterator[None]:
    """Train on one batch of random images of the network's size, eagerly, as on photographs."""
    where = devices.resolve_device(device)
    devices.prepare(where)
    torch.manual_seed(0)
    network = build_model(name).train()
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(network, Optimizer())
    guard = Guard(optimizer, where)
    images = torch.randn(batch_size, 3, *[default_size(name)] * 2, device=where)
    labels = torch.arange(batch_size, device=where) % 10
    batch = images.contiguous(memory_format=torch.channels_last), labels
    with devices.cuda_settings(deterministic=False):
        for step in itertools.count():
            train_step(network, optimizer, guard, batch, step, precision)
            yield


def infer(name: str, batch_size: int, kind: str) -> Iterator[None]:
    """Run the network on random images: `kind` is "folded", "int8", "onnx" or "openvino"."""
    devices.prepare(torch.device("cpu"))
    torch.manual_seed(0)
    network = build_model(name).eval()
    size = default_size(name)
    images = torch.randn(batch_size, 3, size, size).contiguous(memory_format=torch.channels_last)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        if kind == "int8":
            ready: torch.nn.Module = quantize(network, torch.randn(16, 3, size, size), path)
        elif kind in ("onnx", "openvino"):
            export_onnx(network, images, path)
            if kind == "openvino":
                convert_to_openvino(path, Path(folder), {}, half=False)
            ready = OnnxNetwork(path) if kind == "onnx" else OpenVinoNetwork(Path(folder))
        else:
            ready = optimize_for_inference(network)
        while True:
            with torch.no_grad():
                ready(images)
            yield


def _batches(batch_size: int, device: torch.device) -> TrainBatches:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (10_000, 32, 32, 3), generator=generator, dtype=torch.uint8)
    split = Split(pixels, torch.arange(10_000) % 10)
    preprocessing = Preprocessing.measure(split)
    return TrainBatches(split.to(device), preprocessing.to(device), batch_size, PadCrop(), seed=0)
