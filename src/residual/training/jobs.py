"""Several runs at once: each in a process and a run folder of its own, sharing the images in memory.

One of these small networks does not fill a GPU. Each run has a process of its own, so that code, signals and
checkpoints work as in a single run.
"""

import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import torch
import torch.multiprocessing

from ..data.dataset import Dataset, Split
from ..data.load import load_dataset
from ..errors import DataError, InterruptedRunError, ResidualError
from ..recipes.schema import FOLDER, Recipe
from ..runtime.files import found
from ..runtime.progress import Reporter
from ..runtime.signals import Interrupted, stop_signals
from .experiment import resume, train

SAVED = "stopped; the runs in progress are saved, and the same command resumes them"
NOT_SAVED = "stopped at once; the same command resumes from the last checkpoints"
STOPPED = 128 + signal.SIGTERM  # the exit code of a run that was asked to stop


@dataclass(frozen=True)
class Job:
    """A run to be trained, or resumed if its folder exists."""

    recipe: Recipe
    output: Path


def outcome(code: int) -> str:
    """Return a few words for a run's exit code."""
    if code == STOPPED:
        return "stopped"
    return f"failed with exit code {code}" if code else "done"


def run_jobs(
    jobs: Sequence[Job],
    at_once: int,
    *,
    data_dir: str | Path | None = None,
    device: str | None = None,
    reading: Mapping[str, Any] | None = None,
    quiet: bool = True,
    finished: Callable[[Job, int], None] = lambda _job, _code: None,
    stop: Callable[[], bool] = lambda: False,
) -> dict[Path, int]:
    """Train runs, `at_once` of them in parallel; a failed one does not stop the others.

    A run is saved and stops when this call ends or its process dies, for whatever reason.

    Args:
        jobs: what to train, in this order.
        at_once: processes at a time; on a CPU they share its cores.
        data_dir, device: see `train`; reading: its `workers`, `cache`, `on_bad_image` and `logger`.
        quiet: show no progress; otherwise each line begins with the name of its run.
        finished: called with each run that ends and its exit code.
        stop: polled; once it returns True, the runs in progress are saved and no other is started.

    Returns:
        Each run folder's exit code; 0 is success, and `STOPPED` a run that another call resumes.

    Raises:
        DataError: the data cannot be loaded or shared.
        InterruptedRunError: SIGTERM or SIGINT came; every run in progress was saved.
    """
    context = torch.multiprocessing.get_context("spawn")
    names = {job.recipe.data for job in jobs if job.recipe.data != FOLDER}  # files need no sharing
    shared = {name: _SharedDataset.of(load_dataset(name, data_dir), context) for name in sorted(names)}
    where = (data_dir, device, reading or {}, max(1, torch.get_num_threads() // at_once), quiet)
    waiting, working, codes = list(jobs), dict[int, _Worker](), dict[Path, int]()
    with stop_signals.handled(), stop_signals.deferred():
        try:
            stopping = False
            while working or (waiting and not stopping):
                stopping = stopping or stop_signals.number is not None or stop()
                while waiting and len(working) < at_once and not stopping:
                    job = waiting.pop(0)
                    worker = _start(context, job, shared.get(job.recipe.data), *where)
                    working[worker.process.sentinel] = worker
                if stopping:
                    for worker in working.values():
                        worker.lifeline.close()
                for worker in _ended(working):
                    codes[worker.job.output] = worker.end()
                    finished(worker.job, codes[worker.job.output])
            if stop_signals.number is not None:
                raise InterruptedRunError(SAVED, stop_signals.number)
        except Interrupted as error:  # a second signal
            for worker in working.values():
                worker.process.kill()
            raise InterruptedRunError(NOT_SAVED, error.number) from None
        finally:
            for worker in working.values():
                worker.lifeline.close()
    return codes


@dataclass(frozen=True)
class _Worker:
    """A run in progress: it continues as long as this process holds the lifeline, one end of a pipe."""

    job: Job
    process: BaseProcess
    lifeline: Any  # a Connection; on Windows that is another class

    def end(self) -> int:
        """Wait for its end and return its exit code, for signals as in a shell."""
        self.process.join()
        self.lifeline.close()
        code = self.process.exitcode or 0
        return code if code >= 0 else 128 - code


def _ended(working: dict[int, _Worker]) -> list[_Worker]:
    """Wait a moment for runs to end, and take those that did out of the ones in progress."""
    return [working.pop(cast(int, sentinel)) for sentinel in wait(list(working), timeout=0.5)]


def _start(context: SpawnContext, job: Job, *arguments: Any) -> _Worker:
    theirs, ours = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, job, *arguments))
    with _ignoring_sigint():
        process.start()
    theirs.close()
    return _Worker(job, process, ours)


@contextmanager
def _ignoring_sigint() -> Iterator[None]:
    """On POSIX, let a process that is started here ignore SIGINT from the start."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _work(
    lifeline: Connection,
    job: Job,
    dataset: "_SharedDataset | None",
    data_dir: str | Path | None,
    device: str | None,
    reading: Mapping[str, Any],
    threads: int,
    quiet: bool,
) -> None:
    """Train one run in this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which passes it on
    torch.set_num_threads(threads)
    where: dict[str, Any] = {"data_dir": data_dir, "device": device}
    if dataset is not None:
        where["dataset"] = dataset.open()
    where["reporter"] = Reporter(not quiet, prefix=f"{job.output.name}: ")
    try:
        with stop_signals.handled((signal.SIGTERM,)):
            threading.Thread(target=_watch, args=(lifeline,), daemon=True).start()
            if found((job.output / "recipe.json").is_file):
                kept = {key: reading[key] for key in ("workers", "logger") if key in reading}
                resume(job.output, recipe=job.recipe, **kept, **where)
            else:
                train(job.recipe, output=job.output, **where, **reading)
    except Interrupted as error:
        sys.exit(128 + error.number)
    except ResidualError as error:
        with suppress(OSError, AttributeError, ValueError):  # standard error may be closed or full
            os.write(sys.stderr.fileno(), f"residual: {job.output}: {error}\n".encode())
        sys.exit(error.exit_code)


def _watch(lifeline: Connection) -> None:
    """Stop this process as SIGTERM would, on Windows too, once its parent closes the lifeline or dies."""
    with suppress(EOFError, OSError):
        lifeline.recv()
    stop_signals.send()  # unless a signal to the whole process group came first


@dataclass(frozen=True)
class _SharedDataset:
    """A dataset to be passed to a new process; its images are not copied.

    They are in the standard library's shared memory: an unnamed mapped file, in /dev/shm if it has room for
    them, else in the folder for temporary files; on Windows a mapping of the system's. It is freed when the
    last process that uses it has ended, for whatever reason.
    """

    name: str
    class_names: tuple[str, ...]
    parts: tuple[tuple[Any, tuple[int, ...], Any], ...]  # images, their shape, labels; training, then test

    @classmethod
    def of(cls, dataset: Dataset, context: SpawnContext) -> "_SharedDataset":
        """Copy a dataset's images to shared memory."""
        parts = []
        for split in (dataset.train, dataset.test):
            _check_room(split.images.nbytes)
            try:
                memory = context.RawArray(ctypes.c_uint8, split.images.nbytes)
            except OSError as error:
                raise DataError(f"cannot share {dataset.name} between processes: {error}") from error
            torch.frombuffer(memory, dtype=torch.uint8).copy_(split.images.reshape(-1))
            parts.append((memory, tuple(split.images.shape), split.labels.numpy()))
        return cls(dataset.name, dataset.class_names, tuple(parts))

    def open(self) -> Dataset:
        """Return the dataset, in the process that it was passed to."""
        train, test = (
            Split(torch.frombuffer(memory, dtype=torch.uint8).view(shape), torch.from_numpy(labels))
            for memory, shape, labels in self.parts
        )
        return Dataset(self.name, train, test, self.class_names)


def _check_room(size: int) -> None:
    """Refuse more than the disk has room for: a later write to the mapping would end the process."""
    places = [place for place in ("/dev/shm", tempfile.gettempdir()) if Path(place).is_dir()]
    if os.name == "posix" and size > max(shutil.disk_usage(place).free for place in places):
        raise DataError(
            f"no room for {size / 1e6:.0f} MB of shared images in {' or '.join(places)}: free some"
        )
