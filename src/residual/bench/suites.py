"""What `residual bench` measures: training, data, inference."""

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch

from ..models.names import CIFAR_NETWORKS, IMAGENET_NETWORKS, parse_name
from . import baseline, ours, roofline
from .contest import Outcome, Work, compare, together
from .ranks import bench_ranks
from .records import Record, make_record

TRAIN_BATCH, INFER_BATCH, IMAGENET_BATCH = 128, 256, 32
STEP_BATCHES, STEP_BATCHES_CPU = (1, 4, 8, 16, 32, 64, 128, 256), (1, 2, 4, 8)
# the ways to train that are compared; the first is set against the others and the roofline
CPU_WAYS: dict[str, dict[str, Any]] = {"ours": {}, "ours, bfloat16": {"precision": "bfloat16"}}
CUDA_WAYS: dict[str, dict[str, Any]] = {
    "captured, bfloat16": {"precision": "bfloat16"},
    "captured, compiled, bfloat16": {"precision": "bfloat16", "compile": True},
    "eager, bfloat16": {"precision": "bfloat16", "capture": False},
    "captured, float32": {},
}
Contestants = dict[str, tuple[Work, Mapping[str, Any]]]


def bench_train(name: str, device: torch.device, repeats: int) -> Record:
    """Measure training steps, and the share of the roofline that they reach."""
    if device.type == "cpu" and parse_name(name).layers > 200:
        return _deep_step(name)
    arguments = {"name": name, "batch_size": TRAIN_BATCH, "device": str(device)}
    ways = _cuda_ways(name) if device.type == "cuda" else CPU_WAYS
    contestants: Contestants = {way: (ours.train, {**arguments, **changes}) for way, changes in ways.items()}
    baselines: Contestants = {
        f"baseline, {workers} workers": (baseline.train, {**arguments, "workers": workers})
        for workers in (0, 2)
    }
    steps = dict.fromkeys(contestants | baselines, _steps(name, 40))
    if device.type == "cuda":  # rounds long enough to include what happens once in a hundred steps
        steps |= dict.fromkeys(contestants, _steps(name, 1000))
    found = compare(contestants | baselines, steps, repeats, TRAIN_BATCH)
    fast, changes = next(iter(ways.items()))
    half = changes.get("precision") == "bfloat16"
    matrix = roofline.matrix_rate(device, torch.bfloat16 if half else torch.float32)
    memory = roofline.copy_rate(device)
    operations = roofline.step_operations(name, TRAIN_BATCH)
    traffic = roofline.step_bytes(name, TRAIN_BATCH, 2 if half else 4)
    seconds = TRAIN_BATCH / found[fast].images_per_second.median
    others = [other for other in found if other != fast]
    return {
        **make_record("train", name, TRAIN_BATCH, found, fast, others),
        "matrix_rate": matrix,
        "copy_rate": memory,
        "step_operations": operations,
        "step_bytes": traffic,
        "share_of_matrix_rate": operations / seconds / matrix,
        "share_of_copy_rate": traffic / seconds / memory,
        **(
            {"kernels": ours.kernels_a_step(name, TRAIN_BATCH, device, **changes)}
            if device.type == "cuda"
            else {}
        ),
    }


def _cuda_ways(name: str) -> dict[str, dict[str, Any]]:
    """Leave out what would take a deep network minutes to compile or more than the memory of a GPU."""
    ways, layers = dict(CUDA_WAYS), parse_name(name).layers
    if layers > 56:
        del ways["captured, compiled, bfloat16"]
    if layers > 200:
        del ways["captured, float32"]
        ways["captured, bfloat16, checkpointed"] = {"precision": "bfloat16", "checkpoint_activations": True}
    return ways


def bench_jobs(name: str, device: torch.device, repeats: int) -> Record:
    """Measure the steps per second of 1, 2, 4 and 8 runs on one device at the same time."""
    changes = next(iter((CUDA_WAYS if device.type == "cuda" else CPU_WAYS).values()))
    arguments = {"name": name, "batch_size": TRAIN_BATCH, "device": str(device), **changes}
    steps = _steps(name, 2000 if device.type == "cuda" else 40)
    rates = {copies: together(ours.train, arguments, copies, steps, repeats) for copies in (1, 2, 4, 8)}
    return {
        **make_record("jobs", name, TRAIN_BATCH, {}, "", ()),
        "steps_per_second": {str(copies): vars(rate) for copies, rate in rates.items()},
    }


def bench_fitted(name: str, device: torch.device, repeats: int) -> Record:
    """Compare a step of a network that has fitted its batch with a fresh one: denormals must not slow it."""
    arguments = {"name": name, "batch_size": TRAIN_BATCH}
    contestants: Contestants = {
        "fresh": (ours.fitted, {**arguments, "fit": False}),
        "fitted": (ours.fitted, {**arguments, "fit": True}),
    }
    found = compare(contestants, dict.fromkeys(contestants, _steps(name, 10)), repeats, TRAIN_BATCH)
    return make_record("fitted", name, TRAIN_BATCH, found, "fresh", ("fitted",))


def bench_data(_name: str, _device: torch.device, repeats: int) -> Record:
    """Measure how fast augmented batches are made."""
    arguments = {"batch_size": TRAIN_BATCH}
    contestants: Contestants = {
        "ours": (ours.batches, arguments),
        "baseline, 0 workers": (baseline.batches, {**arguments, "workers": 0}),
        "baseline, 2 workers": (baseline.batches, {**arguments, "workers": 2}),
    }
    found = compare(contestants, dict.fromkeys(contestants, 70), repeats, TRAIN_BATCH)
    return make_record("data", "", TRAIN_BATCH, found, "ours", ("baseline, 0 workers", "baseline, 2 workers"))


def bench_infer(name: str, _device: torch.device, repeats: int) -> list[Record]:
    """Measure inference on the CPU; ImageNet networks on one photograph of 224x224 pixels and on 32."""
    imagenet = parse_name(name).imagenet
    return [_infer(name, size, repeats) for size in ((1, IMAGENET_BATCH) if imagenet else (INFER_BATCH,))]


def _infer(name: str, batch_size: int, repeats: int) -> Record:
    """Compare eager in both layouts, folded, and in the engines that are installed, float32 and INT8."""
    arguments = {"name": name, "batch_size": batch_size}
    contestants: Contestants = {
        "eager, NCHW": (baseline.infer, {**arguments, "channels_last": False}),
        "eager, channels_last": (baseline.infer, {**arguments, "channels_last": True}),
        "folded": (ours.infer, {**arguments, "kind": "folded"}),
    }
    if all(map(importlib.util.find_spec, ("onnxruntime", "onnxscript", "onnx"))):
        contestants["int8"] = (ours.infer, {**arguments, "kind": "int8"})
        contestants["ONNX Runtime"] = (ours.infer, {**arguments, "kind": "onnx"})
        if importlib.util.find_spec("openvino"):
            contestants["OpenVINO"] = (ours.infer, {**arguments, "kind": "openvino"})
    steps = 64 // batch_size if parse_name(name).imagenet else _steps(name, 8)
    found = compare(contestants, dict.fromkeys(contestants, steps), repeats, batch_size)
    others = ("eager, NCHW", "eager, channels_last", "ONNX Runtime")
    record = make_record("infer", name, batch_size, found, "folded", others)
    if "int8" in found:
        record["ratios"] |= make_record("infer", name, batch_size, found, "int8", others)["ratios"]
    return record


def bench_models(_name: str, _device: torch.device, repeats: int) -> list[Record]:
    """Measure inference of every network on the CPU, folded; one at a time, for the sake of memory."""
    records = []
    for networks, batch_size, what in (
        (CIFAR_NETWORKS, INFER_BATCH, "for CIFAR"),
        (IMAGENET_NETWORKS, IMAGENET_BATCH, "for ImageNet"),
    ):
        found: dict[str, Outcome] = {}
        for name in networks:
            work = (ours.infer, {"name": name, "batch_size": batch_size, "kind": "folded"})
            steps = 2 if parse_name(name).imagenet else _steps(name, 8)
            found |= compare({name: work}, {name: steps}, repeats, batch_size)
        records.append(make_record("models", what, batch_size, found, "", ()))
    return records


def bench_steps(name: str, device: torch.device, repeats: int) -> list[Record]:
    """Measure training steps of small and large batches: what `residual cost --step-times` takes."""
    cuda = device.type == "cuda"
    records = []
    for precision in ("float32", "bfloat16") if cuda else ("float32",):
        seconds = {}
        for images in STEP_BATCHES if cuda else STEP_BATCHES_CPU:
            arguments = {"name": name, "batch_size": images, "device": str(device), "precision": precision}
            found = compare({"": (ours.steps, arguments)}, {"": 50 if cuda else 2}, repeats, images)
            if found:  # large ones may exceed the memory
                seconds[str(images)] = images / found[""].images_per_second.median
        record = make_record("steps", name, 0, {}, "", ())
        records.append({**record, "precision": precision, "step_seconds": seconds})
    return records


Measure = Callable[[str, torch.device, int], Record | list[Record]]
SUITES: dict[str, tuple[Measure, tuple[str, ...]]] = {
    "train": (bench_train, ("resnet20",)),
    "fitted": (bench_fitted, ("resnet20",)),
    "data": (bench_data, ("",)),
    "infer": (bench_infer, ("resnet20", "resnet56")),
    "jobs": (bench_jobs, ("resnet20",)),
    "models": (bench_models, ("",)),
    "steps": (bench_steps, ("resnet50",)),
    "ranks": (lambda _name, _device, repeats: bench_ranks(repeats), ("",)),
}


def run_suites(what: str, models: list[str], device: torch.device, repeats: int) -> list[Record]:
    """Run one suite, or all, on the given networks or on each suite's own."""
    of_device = ("train", "jobs") if device.type == "cuda" else ("train", "fitted", "data", "infer")
    chosen = {suite: SUITES[suite] for suite in (of_device if what == "all" else (what,))}
    records: list[Record] = []
    for measure, usual in chosen.values():
        for name in usual if usual == ("",) or not models else models:
            found = measure(name, device, repeats)
            records += found if isinstance(found, list) else [found]
    return records


def _deep_step(name: str) -> Record:
    """Take one training step, with activation recomputation, of a network too deep to repeat it."""
    arguments = {"name": name, "batch_size": TRAIN_BATCH, "device": "cpu", "checkpoint_activations": True}
    work: Contestants = {"ours, checkpointed": (ours.train, arguments)}
    found = compare(work, dict.fromkeys(work, 1), 1, TRAIN_BATCH)
    return make_record("train", name, TRAIN_BATCH, found, "ours, checkpointed", ())


def _steps(name: str, of_resnet20: int) -> int:
    """Return fewer steps for deeper networks, so that a round takes about as long."""
    return max(2, round(of_resnet20 * 20 / parse_name(name).layers))
