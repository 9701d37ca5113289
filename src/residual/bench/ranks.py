"""The model of `cost.py` against two ranks that train: gloo on this machine, one thread each.

Everything is measured in turn within each round, so that prediction and measurement saw the machine in the
same state: the steps of both ranks beside each other without an all-reduce, the loading of their batches,
all-reduces of other sizes than the gradients', and the training itself.
"""

import io
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.decode import decode
from ..data.photo_augment import Place, choose_crop
from ..errors import RunError
from ..exporters.drawn import drawn_images
from ..models.build import build_model
from ..models.complexity import complexity
from ..recipes.augment import ResizedCrop
from ..recipes.schema import Optimizer
from ..runtime.device import flush_denormals, keep_memory
from ..training.checkpoint import save_checkpoint
from ..training.optim import make_optimizer
from .contest import Spread
from .cost import FLOAT32, Link, Machine, Run
from .records import Record
from .scaling import simulate

RANKS = 2
PHOTOGRAPHS, SIDE = 32, 160
SIZES = {1 << 14: 10, 1 << 18: 10, 1 << 22: 4, 1 << 26: 2}  # bytes of an all-reduce, and how many of them
TIMEOUT = 300  # seconds that a rank waits for another
SAVED = "resnet50"  # whose weights and momenta are saved


@dataclass(frozen=True)
class Case:
    """What two ranks train: a network on `images` photographs of `side` pixels each, `steps` in a round."""

    network: str
    side: int
    images: int
    steps: int


# one in which the all-reduce is short, one in which it counts, and one in which it is most of a step
CASES = (Case("resnet20", 32, 64, 5), Case("resnet18", 64, 16, 5), Case("resnet18", 32, 2, 10))

Times = dict[str, list[float]]  # seconds of each step, by what was done


class Trainer:
    """A rank's network and optimizer; its gradients are views of one tensor, which is reduced whole."""

    def __init__(self, case: Case, files: Sequence[str], rank: int) -> None:
        torch.manual_seed(0)
        self.case, self.files, self.rank = case, files, rank
        self.network: nn.Module = build_model(case.network).train()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer(self.network, Optimizer())
        parameters = list(self.network.parameters())
        self.gradients = torch.zeros(sum(p.numel() for p in parameters))
        first = 0
        for parameter in parameters:
            parameter.grad = self.gradients.as_strided(parameter.shape, parameter.stride(), first)
            first += parameter.numel()
        self._positions = count(rank * case.images)
        self._batch = self.load()

    def load(self) -> tuple[Tensor, Tensor]:
        """Decode a batch: images [B, 3, side, side] and labels [B]."""
        crop = ResizedCrop()
        places = [Place(0, 0, next(self._positions)) for _ in range(self.case.images)]
        pixels = torch.stack(
            [
                decode(Path(self.files[p.position % len(self.files)]), choose_crop(crop, self.case.side, p))
                for p in places
            ]
        )
        labels = torch.tensor([place.position % 10 for place in places])
        return pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1), labels

    def step(self, batch: tuple[Tensor, Tensor] | None = None, *, reduce: bool = False) -> None:
        """Take a step, on the batch or one kept for it, with or without the all-reduce."""
        images, labels = batch or self._batch
        self.gradients.zero_()
        F.cross_entropy(self.network(images), labels).backward()  # type: ignore[no-untyped-call]
        if reduce:
            dist.all_reduce(self.gradients)
            self.gradients /= RANKS
        self.optimizer.step()

    def train(self) -> None:
        """Load a batch and take a step on it with the other rank."""
        self.step(self.load(), reduce=True)


def bench_ranks(repeats: int, cases: Sequence[Case] = CASES) -> list[Record]:
    """Measure the inputs of the model and the speed of two ranks, and set its prediction beside it.

    Raises:
        RunError: a rank ended early.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for number, pixels in enumerate(drawn_images(PHOTOGRAPHS, (SIDE, SIDE))):
            files.append(str(Path(folder) / f"{number}.jpg"))
            Image.fromarray(pixels.numpy()).save(files[-1], quality=90)
        rounds = _run_ranks(Path(folder), files, cases, repeats)
        busy = {"load_average": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}  # ours are 2 of it
        records = [_record(case, number, rounds) | busy for number, case in enumerate(cases)]
        return [*records, _save_record(Path(folder), min(repeats, 3))]


def _run_ranks(folder: Path, files: list[str], cases: Sequence[Case], repeats: int) -> list[list[Times]]:
    """Let the ranks do all rounds; return the seconds of each round by rank."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    try:
        for rank in range(RANKS):
            ours, theirs = context.Pipe()
            arguments = (rank, str(folder / "store"), files, cases, repeats, theirs)
            process = context.Process(target=_rank, args=arguments)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        by_rank = []
        for rank, pipe in enumerate(pipes):
            try:
                by_rank.append(pipe.recv())
            except EOFError as error:
                raise RunError(f"rank {rank} of the measurement ended early") from error
        for process in processes:
            process.join(10)
        return [list(of_ranks) for of_ranks in zip(*by_rank, strict=True)]
    finally:
        for process in processes:
            process.kill()


def _rank(
    rank: int, store: str, files: list[str], cases: Sequence[Case], repeats: int, connection: Connection
) -> None:
    """Be one rank: what is measured, in the same order on both, after a round that only warms up."""
    if sys.platform == "linux":
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"  # the name of the machine need not have an address
    torch.set_num_threads(1)
    flush_denormals()
    keep_memory()
    dist.init_process_group(
        "gloo", f"file://{store}", timedelta(seconds=TIMEOUT), rank=rank, world_size=RANKS
    )
    trainers = [Trainer(case, files, rank) for case in cases]
    rounds = [_round(trainers) for _ in range(repeats + 1)]
    connection.send(rounds[1:])
    dist.barrier()
    dist.destroy_process_group()


def _round(trainers: Sequence[Trainer]) -> Times:
    """Do each thing some times, in turn, and return the seconds of each time."""
    times: Times = {}
    for number, trainer in enumerate(trainers):
        for size, repeats in SIZES.items():
            tensor = torch.zeros(size // FLOAT32)
            for _ in range(repeats):
                _time(times, f"reduce {size}", partial(dist.all_reduce, tensor))
        for _ in range(
            trainer.case.steps
        ):  # one by one, as what else the machine does may change at any time
            _time(times, f"step {number}", trainer.step)
            _time(times, f"load {number}", trainer.load)
            _time(times, f"train {number}", trainer.train)
    return times


def _time(times: Times, name: str, work: Callable[[], object]) -> None:
    """Add the seconds that a work takes, which both ranks begin at the same time."""
    dist.barrier()
    started = time.perf_counter()
    work()
    times.setdefault(name, []).append(time.perf_counter() - started)


def fit_link(seconds: Mapping[int, float]) -> Link:
    """Fit latency and bandwidth to the times of all-reduces of two ranks, by size, by relative error.

    A ring of two sends two messages of half the size: t = 2 latency + size / bandwidth.
    """
    sizes, times = np.array(list(seconds)), np.array(list(seconds.values()))
    scaled = np.stack([1 / times, sizes / times], axis=1)
    (constant, slope), *_ = np.linalg.lstsq(scaled, np.ones(len(times)), rcond=None)
    return Link(1 / slope, max(0.0, constant) / 2)


def predict(run: Run, images: int, times: Mapping[str, Sequence[float]], link: Link) -> float:
    """Return the images per second that the model gives for two ranks, from the seconds measured apart.

    Args:
        run: with the images of both ranks in a batch.
        images: of one rank.
        times: seconds of each "step" and of each "load".
        link: between the ranks.
    """
    machine = Machine(
        step_seconds=((images, float(np.mean(times["step"]))),),
        decode_rate=images / float(np.mean(times["load"])),
        cores=0,
        ranks=RANKS,
        near=link,
        far=link,
        overlap=False,
    )
    return run.batch_size / simulate(run, machine, RANKS, jitter(times["step"])).seconds


def jitter(seconds: Sequence[float]) -> float:
    """Return the standard deviation of the logarithm of the seconds of steps."""
    return float(np.std(np.log(seconds)))


def _record(case: Case, number: int, rounds: Sequence[Sequence[Times]]) -> Record:
    """Put together what was measured of a case and what the model says of it, round by round."""
    parameters = complexity(case.network).parameters
    run = Run(parameters, iterations=1, batch_size=RANKS * case.images)
    found: dict[str, list[float]] = {}
    for ranks in rounds:
        merged = {name: [s for times in ranks for s in times[name]] for name in ranks[0]}
        link = fit_link({size: float(np.mean(merged[f"reduce {size}"])) for size in SIZES})
        times = {name: merged[f"{name} {number}"] for name in ("step", "load")}
        predicted = predict(run, case.images, times, link)
        slowest = np.max([times[f"train {number}"] for times in ranks], axis=0)
        measured = run.batch_size / float(np.mean(slowest))
        values = {
            "step_seconds": float(np.mean(times["step"])),
            "jitter": float(np.median([jitter(rank[f"step {number}"]) for rank in ranks])),
            "load_seconds": float(np.mean(times["load"])),
            "latency": link.latency,
            "bandwidth": link.bandwidth,
            "reduce_seconds": link.reduce(run.gradients, RANKS),
            "predicted": predicted,
            "measured": measured,
            "ratio": predicted / measured,
        }
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    spreads = {name: vars(Spread.of(values)) for name, values in found.items()}
    return {
        "kind": "ranks",
        "network": case.network,
        "batch_size": run.batch_size,
        "side": case.side,
        "gradient_bytes": run.gradients,
        "rounds": found["ratio"],
        **spreads,
    }


def _save_record(folder: Path, repeats: int) -> Record:
    """Measure how long a checkpoint takes: the weights and momenta of a network."""
    weights = build_model(SAVED).state_dict()
    state = {"network": weights, "momenta": {name: value.clone() for name, value in weights.items()}}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    seconds = []
    for step in range(repeats):
        started = time.perf_counter()
        save_checkpoint(folder, "last", step, state)
        seconds.append(time.perf_counter() - started)
    return {
        "kind": "save",
        "network": SAVED,
        "batch_size": 0,
        "bytes": len(buffer.getvalue()),
        "seconds": vars(Spread.of(seconds)),
    }
