"""Where and how tensors are computed: device, denormals, determinism, precision."""

import os
import platform
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from .errors import UsageError


def flush_denormals() -> bool:
    """Treat denormal numbers as zero in this thread and in those that it starts; say whether all obey.

    Once a net has fitted its batch, gradients turn denormal and a step takes 10 to 40 times as long.
    A thread inherits the setting from the one that starts it, so this must come before the first
    parallel operation: importing the package does it.
    """
    torch.set_flush_denormal(True)
    product = torch.full((1 << 20,), 1e-30) * 1e-10
    return not bool(product.any())


def available_devices() -> list[str]:
    """Return the names that `resolve_device` accepts here, the fastest first."""
    cuda = (
        [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*(["cuda"] if cuda else []), *cuda, *mps, "cpu"]


def resolve_device(name: str | None = None) -> torch.device:
    """Return the device of that name, or the fastest there is.

    Raises:
        UsageError: there is no such device here.
    """
    devices = available_devices()
    if name is not None and name not in devices:
        raise UsageError(f"no device '{name}' here; there is: {', '.join(devices)}")
    return torch.device(name or devices[0])


def set_deterministic(wanted: bool) -> None:
    """Make CUDA operations give the same bits at every run; CPU training does so anyway."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(wanted)
    torch.backends.cudnn.benchmark = not wanted


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Compute convolutions and matrix products in bfloat16 where the recipe asks for it."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was asked of it; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def describe(device: torch.device) -> dict[str, str | int]:
    """Return the hardware that a figure was measured on."""
    values: dict[str, str | int] = {
        "device": str(device),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
    }
    if device.type == "cuda":
        values["gpu"] = torch.cuda.get_device_name(device)
    return values


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
