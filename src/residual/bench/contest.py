"""Contestants that take turns, each in its own process, so that figures of one run can be compared.

A contestant is a generator in `baseline.py` or `ours.py`; each `next` does one step of its work.
Settings that one makes for its own speed do not affect another, and each has its own peak memory.
"""

import ctypes
import multiprocessing
import multiprocessing.util
import os
import statistics
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

Work = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Spread:
    """A figure's median over the repeats, and the smallest and largest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Summarise the repeats."""
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self) -> str:
        digits = 2 if self.median < 100 else 0
        return f"{self.median:,.{digits}f} ({self.low:,.{digits}f} to {self.high:,.{digits}f})"


@dataclass(frozen=True)
class Outcome:
    """A contestant's result: images per second, peak memory of its process, and the rate of each repeat."""

    images_per_second: Spread
    peak_mib: int
    repeats: list[float]

    def ratio_to(self, other: "Outcome") -> Spread:
        """Compare repeat by repeat, since repeats close in time saw the machine in the same state."""
        return Spread.of([a / b for a, b in zip(self.repeats, other.repeats, strict=True)])

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


class Contestant:
    """A process that takes steps on request.

    Args:
        work: a function that creates the generator.
        arguments: its arguments.
    """

    def __init__(self, work: Work, arguments: Mapping[str, Any]) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, work, dict(arguments)))
        self._process.start()
        theirs.close()

    def begin(self, steps: int) -> None:
        """Start to take steps, without waiting."""
        self._connection.send(steps)

    def end(self) -> float:
        """Wait for the steps that were started; return the seconds that they took."""
        taken: float = self._connection.recv()
        return taken

    def seconds(self, steps: int) -> float:
        """Take steps and return the seconds that they took."""
        self.begin(steps)
        return self.end()

    def peak_mib(self) -> int:
        """Return the peak memory of the process, in MiB."""
        self._connection.send(0)
        peak: int = self._connection.recv()
        return peak

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._process.join(5)
        self._process.kill()


def _serve(connection: Connection, work: Work, arguments: dict[str, Any]) -> None:
    steps = work(**arguments)
    while True:
        try:
            count = connection.recv()
        except EOFError:
            if isinstance(steps, Generator):
                steps.close()  # removes its files from the disk
            # deletes locks, such as tqdm's, which would be called a leak
            multiprocessing.util._run_finalizers()  # type: ignore[attr-defined]
            os._exit(0)  # loader workers notice by themselves; waiting for them can hang or complain
        if not count:
            connection.send(_peak_mib())
            continue
        started = time.perf_counter()
        for _ in range(count):
            next(steps)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
        connection.send(time.perf_counter() - started)


def _peak_mib() -> int:
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return torch.cuda.max_memory_allocated() >> 20
    if sys.platform == "win32":
        return _peak_on_windows()
    status = Path("/proc/self/status")
    if status.is_file():  # on Linux getrusage would give a process its parent's peak too
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) >> 10
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20  # bytes on macOS


class _MemoryCounters(ctypes.Structure):
    """Windows' PROCESS_MEMORY_COUNTERS."""

    _fields_ = (
        *((name, ctypes.c_uint32) for name in ("cb", "page_faults")),
        *((name, ctypes.c_size_t) for name in ("peak_working_set", "working_set")),
        ("others", ctypes.c_size_t * 6),
    )


def _peak_on_windows() -> int:
    kernel = ctypes.WinDLL("kernel32")  # type: ignore[attr-defined,unused-ignore]
    counters = _MemoryCounters(cb=ctypes.sizeof(_MemoryCounters))
    kernel.GetCurrentProcess.restype = ctypes.c_void_p
    process = ctypes.c_void_p(kernel.GetCurrentProcess())
    kernel.K32GetProcessMemoryInfo(process, ctypes.byref(counters), counters.cb)
    return int(counters.peak_working_set) >> 20


def compare(
    contestants: Mapping[str, tuple[Work, Mapping[str, Any]]],
    steps: Mapping[str, int],
    repeats: int,
    batch_size: int,
) -> dict[str, Outcome]:
    """Let contestants take turns: a warm-up for each, then `repeats` rounds of each one's `steps`.

    One that fails on the way, for example for lack of memory or of a compiler, is left out of the result.
    """
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    with ExitStack() as stack:
        processes = {
            name: stack.enter_context(Contestant(work, arguments))
            for name, (work, arguments) in contestants.items()
        }
        for number in range(repeats + 1):
            for name, process in list(processes.items()):
                count = steps[name] if number else max(1, steps[name] // 2)
                try:
                    rate = count * batch_size / process.seconds(count)
                except (EOFError, ConnectionError):
                    del processes[name]
                    continue
                if number:  # the first only warms up
                    rates[name].append(rate)
        return {
            name: Outcome(Spread.of(rates[name]), process.peak_mib(), rates[name])
            for name, process in processes.items()
        }


def together(work: Work, arguments: Mapping[str, Any], copies: int, steps: int, repeats: int) -> Spread:
    """Run copies of a contestant at the same time; return the steps per second of all of them."""
    rates = []
    with ExitStack() as stack:
        processes = [stack.enter_context(Contestant(work, arguments)) for _ in range(copies)]
        for process in processes:
            process.seconds(max(1, steps // 2))
        for _ in range(repeats):
            for process in processes:
                process.begin(steps)
            rates.append(copies * steps / max([process.end() for process in processes]))
    return Spread.of(rates)
