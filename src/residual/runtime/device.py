"""Where and how tensors are computed: device, denormals, determinism, precision."""

import ctypes
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from .launch import on_this_machine, started_as

# read once, at a process's first matrix product on CUDA; without it deterministic ones are refused
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# for this thread and those that it starts from now on: see `flush_denormals`
torch.set_flush_denormal(True)

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # glibc's numbers for mallopt


def flush_denormals() -> bool:
    """Treat denormal numbers as zero in this thread and those that it starts; return whether all threads do.

    Once a network has fitted its batch, gradients become denormal and a step takes 10 to 40 times as long.
    A thread inherits the setting from the one that starts it, so it must be set before the first parallel
    operation: this module sets it when it is imported, which starts no thread, since a process that has
    threads cannot fork safely.
    """
    torch.set_flush_denormal(True)
    product = torch.full((1 << 20,), 1e-30) * 1e-10
    return not bool(product.any())


def keep_memory() -> None:
    """Let the C library keep freed memory for the next step instead of returning it to the system.

    By default glibc maps memory anew for every large tensor and the system fills its pages with zeros, which
    takes 10 to 25 % of a training step. Other C libraries are left as they are. The setting holds for the
    whole process, so it is made by training and not by the import.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def release_memory() -> None:
    """Give the memory that `keep_memory` keeps back to the system."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def prepare(device: torch.device) -> bool:
    """Set up this process for training on a device; return whether every thread flushes denormals."""
    if device.type == "cpu":
        keep_memory()
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # streams and graphs are the current device's
    return flush_denormals()


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Return a context that computes with `count` threads and then restores the caller's number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def available_devices() -> list[str]:
    """Return the names that `resolve_device` accepts here, the fastest first."""
    cuda = (
        [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    )
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*(["cuda"] if cuda else []), *cuda, *mps, "cpu"]


def resolve_device(name: str | None = None) -> torch.device:
    """Return the device of that name; by default CUDA where it is available, else the CPU.

    Of several processes on a machine each has a GPU of its own.
    MPS is untested, so it is used only on request.

    Raises:
        UsageError: there is no such device here.
    """
    devices = available_devices()
    if started_as()[1] > 1 and name in (None, "cuda") and "cuda" in devices:
        name = f"cuda:{on_this_machine()[0]}"
    if name is not None and name not in devices:
        raise UsageError(f"no device '{name}' here; there is: {', '.join(devices)}")
    return torch.device(name or ("cuda" if "cuda" in devices else "cpu"))


@contextmanager
def cuda_settings(deterministic: bool) -> Iterator[None]:
    """Return a context with the CUDA settings of a run, which then restores the caller's.

    `deterministic` makes runs bit-exact on CUDA; on a CPU they always are. "float32" is full precision:
    convolutions do not use TF32.
    """
    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), cudnn.benchmark, cudnn.allow_tf32
    torch.use_deterministic_algorithms(deterministic)
    cudnn.benchmark, cudnn.allow_tf32 = not deterministic, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        cudnn.benchmark, cudnn.allow_tf32 = before[1:]


def resolve_precision(name: str, device: torch.device) -> str:
    """Return what "auto" means on a device: bfloat16 where it computes in it, else float32.

    A CPU without such instructions emulates bfloat16 and takes two to three times as long as in float32.
    """
    if name != "auto":
        return name
    return "bfloat16" if _computes_in_bfloat16(device) else "float32"


def _computes_in_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    abilities = cpu_abilities() if device.type == "cpu" else []
    return "avx512_bf16" in abilities or "amx_bf16" in abilities


def cpu_abilities() -> list[str]:
    """Return the instruction sets of this CPU that determine the speed of bfloat16 and INT8."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    deciding = ("avx2", "avx512_f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    return [name for name in deciding if found.get(name)]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """Return a context that computes convolutions and matrix products in the recipe's precision."""
    if precision == "float32":
        return nullcontext()
    # no cache of cast weights: a captured graph must cast them at each replay
    return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def describe(device: torch.device) -> dict[str, str | int | list[str]]:
    """Return the hardware that a figure is measured on."""
    values: dict[str, str | int | list[str]] = {
        "device": str(device),
        "cpu": _cpu_name(),
        "cores": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "cpu_abilities": cpu_abilities(),
    }
    if device.type == "cuda":
        values["gpu"] = torch.cuda.get_device_name(device)
    return values


def short_name(hardware: Mapping[str, Any]) -> str:
    """Return a short name for what `describe` returned, for tables."""
    if "gpu" in hardware:
        return str(hardware["gpu"])
    return f"{hardware['cpu']}, {hardware['threads']} {'thread' if hardware['threads'] == 1 else 'threads'}"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
