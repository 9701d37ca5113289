"""A function of many keys in worker processes, its results in the order of the keys.

Each worker takes every n-th key and writes its results to a socket that this process reads in turn. A full
socket holds the worker up, one result in the socket and one ready behind it; there is no queue and no shared
memory that could fill up, and nothing to clean up if a worker is killed. A worker that gives nothing for
`LONGEST` seconds is taken to hang. A worker whose parent has died ends.
"""

import atexit
import io
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, BinaryIO, TypeVar, cast

import torch
from torch import Tensor

from ..errors import DataError, ResidualError
from ..runtime.launch import on_this_machine

Key = TypeVar("Key")
Value = TypeVar("Value")
Item = TypeVar("Item")

# forked workers start at once and share a long list of files; elsewhere a fork is unsafe or unknown
START = "fork" if sys.platform == "linux" else "spawn"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
FEW = 256  # photographs that are decoded sooner than worker processes have started
LONGEST = (
    600  # seconds that a worker may take for one result; a batch from a slow server takes one or two minutes
)


def map_in_workers(function: Callable[[Key], Value], keys: Sequence[Key], workers: int) -> Generator[Value]:
    """Yield `function(key)` for each key, in order; with 0 workers in this process.

    Function, keys and values must pickle; arrays and tensors pass at the speed of memory. The workers start
    with the first value and end with the iterator: when it is exhausted, closed or garbage.

    Raises:
        DataError: a worker died, hangs, or could not be started.
        Exception: the function raised it; the worker's traceback is a note of it, unless users may see it.
    """
    if not workers:
        yield from map(function, keys)
        return
    pool: list[_Worker] = []

    def close() -> None:
        for worker in pool:
            worker.close()

    atexit.register(close)  # before multiprocessing waits for its processes
    try:
        for number in range(min(workers, len(keys))):
            pool.append(_start(function, keys[number::workers], [worker.reader for worker in pool]))
        for number in range(len(keys)):
            value = pool[number % workers].receive()
            if isinstance(value, _Failure):
                raise value.error
            yield value
    finally:
        close()
        atexit.unregister(close)


def in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield items in lists of `size`, the last one perhaps shorter."""
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def default_workers(images: int, device: torch.device) -> int:
    """Return how many processes should decode: none for a few images, few where the network needs the CPU."""
    if images < FEW:
        return 0
    own = cores() // on_this_machine()[1]
    return max(1, min(8, own - 1)) if device.type != "cpu" else max(1, min(2, own // 2))


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Failure:
    """What a worker sends in place of a result."""

    error: Exception


@dataclass(frozen=True, eq=False)
class _Worker:
    """A worker process, and the end of its socket that this process reads."""

    process: BaseProcess
    reader: socket.socket
    stream: io.BufferedReader

    def receive(self) -> Any:
        """Read the next result.

        Raises:
            DataError: the worker died or hangs.
        """
        try:
            return pickle.load(self.stream)
        except TimeoutError:
            raise DataError(
                f"a worker process has given nothing for {LONGEST} s, so it hangs: try again, "
                "with workers 0 if it happens again"
            ) from None
        except (EOFError, OSError, pickle.UnpicklingError):
            self.process.join(5)
        code = self.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        raise DataError(f"a worker process {how}; if memory ran out, use fewer workers")

    def close(self) -> None:
        """End the process; it has nothing to lose."""
        self.stream.close()
        self.reader.close()
        self.process.kill()
        self.process.join()


class _Patient(io.RawIOBase):
    """What comes from a socket, as a stream that gives up after `LONGEST` seconds without anything.

    They are counted one by one, so that time in which this process was stopped too (Ctrl-Z) does not count.
    """

    def __init__(self, reader: socket.socket) -> None:
        self._reader = reader
        reader.settimeout(1.0)

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with what has come.

        Raises:
            TimeoutError: nothing has.
        """
        for _ in range(LONGEST):
            with suppress(TimeoutError):
                return self._reader.recv_into(buffer)
        raise TimeoutError


def _start(function: Callable[[Any], Any], keys: Sequence[Any], earlier: list[socket.socket]) -> _Worker:
    context: Any = multiprocessing.get_context(START)
    reader, writer = socket.socketpair()
    # a forked worker has copies of them, which would keep the sockets open if this process died
    inherited = [*earlier, reader] if START == "fork" else []
    process = context.Process(target=_work, args=(function, keys, writer, inherited), daemon=True)
    try:
        with _signals_blocked():
            process.start()
    except OSError as error:
        reader.close()
        raise DataError(f"cannot start a worker process: {error}; use fewer workers") from error
    finally:
        writer.close()
    return _Worker(process, reader, io.BufferedReader(_Patient(reader), 1 << 16))


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Where there are signal masks, start a process that no signal reaches until it handles them itself."""
    if sys.platform == "win32":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(
    function: Callable[[Any], Any], keys: Sequence[Any], writer: socket.socket, inherited: list[socket.socket]
) -> None:
    """Write the results for all keys, each while the next one is computed."""
    for reader in inherited:
        reader.close()
    for number in SIGNALS:  # they may reach the whole process group; the parent ends its workers itself
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    sending: Future[None] | None = None
    with suppress(ConnectionError), writer.makefile("wb") as stream, ThreadPoolExecutor(1) as sender:
        for key in keys:
            value = _result(function, key)
            if sending is not None:
                sending.result()
            sending = sender.submit(_send, cast(BinaryIO, stream), value)
        if sending is not None:
            sending.result()


def _end_with_parent() -> None:
    """End this process when its parent dies, even if it hangs and so never writes to the socket."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    while parent.is_alive() and os.getppid() == parent.pid:  # others may hold what tells the first
        parent.join(1)
    os._exit(1)


def _result(function: Callable[[Any], Any], key: Any) -> Any:
    try:
        return function(key)
    except ResidualError as error:
        return _Failure(error)
    except Exception as error:
        error.add_note(f"in a worker process:\n{traceback.format_exc()}")
        return _Failure(error)


class _Pickler(pickle.Pickler):
    """Pickles tensors as NumPy arrays, which are written without a copy."""

    def reducer_override(self, value: Any) -> Any:
        return (torch.from_numpy, (value.numpy(),)) if isinstance(value, Tensor) else NotImplemented


def _send(stream: BinaryIO, value: Any) -> None:
    _Pickler(stream, protocol=5).dump(value)
    stream.flush()
