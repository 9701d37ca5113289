"""Roofline: the machine's rates for arithmetic and memory, and what a training step needs of both."""

import time
from collections.abc import Callable

import torch
from torch import nn

from ..models.build import build_model
from ..models.complexity import complexity

REPEATS = 7


def matrix_rate(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Measure the rate of a large matrix product, in operations per second, two for each multiply-add."""
    size = 8192 if device.type == "cuda" else 2048
    a = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _best_seconds(lambda: a @ a, device)


def copy_rate(device: torch.device) -> float:
    """Measure the rate of a copy larger than the caches, in bytes read plus written per second."""
    source = torch.zeros(1 << 27, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device)


def step_operations(name: str, batch_size: int) -> int:
    """Count the operations of a training step in convolutions and the fully connected layer.

    The forward pass, the gradient of the activations and that of the weights have two operations for each
    multiply-add; the gradient of the images is not needed.
    """
    first = 32 * 32 * 3 * 9 * 16
    return 2 * batch_size * (3 * complexity(name).multiply_adds - first)


def step_bytes(name: str, batch_size: int, element_size: int = 4) -> int:
    """Count the minimum memory traffic of a training step, in bytes.

    The activations are taken to exceed the caches, and operations not to be fused across convolutions.
    A convolution's output of E elements is written once and read by BN (statistics and scaling count as
    one pass); BN + ReLU write one feature map; the backward pass reads that map, its gradient and the
    convolution's output and writes a gradient; both gradients of the next convolution read theirs
    and the map: ten passes over E elements for each convolution.
    """
    elements = []

    def count(_module: nn.Module, _input: object, output: torch.Tensor) -> None:
        elements.append(output.numel())

    with torch.device("meta"):
        network = build_model(name).eval()
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
        network(torch.zeros(1, 3, 32, 32))
    return 10 * sum(elements) * batch_size * element_size


def _best_seconds(work: Callable[[], object], device: torch.device) -> float:
    seconds = []
    for _ in range(REPEATS + 1):  # the first only warms up
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])
