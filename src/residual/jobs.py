"""Several runs at once: each in a process and a run folder of its own, sharing the pictures in memory.

These nets do not fill a GPU, and processes keep every run's code, signals and checkpoints as they are alone.
"""

import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import cast

import torch
import torch.multiprocessing

from .data import Dataset, load_dataset
from .errors import InterruptedRunError, ResidualError
from .experiment import resume, train
from .files import found
from .recipe import Recipe


@dataclass(frozen=True)
class Job:
    """A run to be trained, or to go on with if its folder is there."""

    recipe: Recipe
    output: Path


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    *,
    data_dir: str | Path | None = None,
    device: str | None = None,
    finished: Callable[[Job, int], None] = lambda _job, _code: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[Path, int]:
    """Train runs, so many at once; a failed one does not stop the others.

    Args:
        jobs: what to train, in this order.
        at_once: processes at a time; on a CPU they share its cores.
        data_dir, device: see `train`.
        finished: told of each run that ends, with its exit code.
        stop: asked again and again; once it says so, the runs in progress are saved and none is begun.

    Returns:
        Each run folder's exit code; 0 is good.

    Raises:
        DataError: the data cannot be loaded.
        InterruptedRunError: SIGTERM or SIGINT came; every run in progress was saved.
    """
    datasets = {job.recipe.data: load_dataset(job.recipe.data, data_dir) for job in jobs}
    for dataset in datasets.values():
        for split in (dataset.train, dataset.test):
            split.images.share_memory_()  # type: ignore[no-untyped-call]
            split.labels.share_memory_()  # type: ignore[no-untyped-call]
    threads = max(1, torch.get_num_threads() // at_once)
    context = torch.multiprocessing.get_context("spawn")
    waiting, working, codes = list(jobs), dict[int, tuple[BaseProcess, Job]](), dict[Path, int]()
    with _StopSignals() as signals:
        stopping = told = False
        while working or (waiting and not stopping):
            stopping = stopping or signals.number is not None or stop()
            while waiting and len(working) < at_once and not stopping:
                job = waiting.pop(0)
                arguments = (job, datasets[job.recipe.data], data_dir, device, threads)
                process: BaseProcess = context.Process(target=_work, args=arguments)
                process.start()
                working[process.sentinel] = (process, job)
            if stopping and not told:  # once: a second signal would end a run before it is saved
                for running, _ in working.values():
                    running.terminate()
                told = True
            for sentinel in wait(list(working), timeout=0.5):
                ended, job = working.pop(cast(int, sentinel))
                ended.join()
                code = ended.exitcode or 0
                codes[job.output] = code if code >= 0 else 128 - code  # as a shell counts signals
                finished(job, codes[job.output])
    if signals.number is not None:
        raise InterruptedRunError("stopped: every run in progress was saved", signals.number)
    return codes


def _work(job: Job, dataset: Dataset, data_dir: str | None, device: str | None, threads: int) -> None:
    """Train one run in this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # control-C reaches the parent too, which passes it on
    torch.set_num_threads(threads)
    try:
        if found((job.output / "recipe.json").is_file):
            resume(job.output, recipe=job.recipe, data_dir=data_dir, device=device, dataset=dataset)
        else:
            train(job.recipe, output=job.output, data_dir=data_dir, device=device, dataset=dataset)
    except ResidualError as error:
        with suppress(OSError):
            os.write(sys.stderr.fileno(), f"residual: {job.output}: {error}\n".encode())
        sys.exit(error.exit_code)


class _StopSignals:
    """Remembers the first SIGTERM or SIGINT instead of dying of it."""

    def __init__(self) -> None:
        self.number: int | None = None

    def __enter__(self) -> "_StopSignals":
        self._before = {n: signal.signal(n, self._remember) for n in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        self.number = self.number or number
