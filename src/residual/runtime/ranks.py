"""The processes that train one run together, as torchrun starts them: ranks, sums, agreement.

Without torchrun there is one rank, and every function here returns what it is given.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from ..errors import ResidualError, RunError, UsageError
from .launch import ALONE, LAUNCHED, Part, on_this_machine, restarts, started_as
from .signals import stop_signals

Value = TypeVar("Value")

SIGNS = ("gloo", "nccl", "process group", "processgroup", "connection", "rendezvous")  # in torch's messages
TIMEOUT = "RESIDUAL_RANK_TIMEOUT"  # seconds in which each rank must answer


def own() -> Part:
    """Return this process's rank and the number of ranks, once they have joined."""
    return (dist.get_rank(), dist.get_world_size()) if _joined() else ALONE


def count() -> int:
    """Return the number of ranks."""
    return own()[1]


def is_first() -> bool:
    """Tell whether this is the rank that writes and reports."""
    return own()[0] == 0


def _joined() -> bool:
    return dist.is_available() and dist.is_initialized()


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes, if a launcher started several, and leave them at the end.

    Raises:
        RunError: they do not come together.
    """
    if started_as()[1] == 1 or _joined():
        yield
        return
    parent = os.environ.get(LAUNCHED)
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    rank, count = started_as()
    with explained():
        store = _store(*next(rendezvous("env://", timeout=_timeout())))
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_timeout())
    try:
        yield
    finally:
        dist.destroy_process_group()


def _store(store: Store, _rank: int, count: int) -> Store:
    """Return the store in which the ranks find each other, with keys of its own for each restart.

    torchrun keeps one store over its restarts, where a rank may find the address of a process that has died.
    On several machines its counts of restarts may differ; there TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 makes
    it begin a new store each time.
    """
    if on_this_machine()[1] < count:
        return store
    return PrefixStore(f"restart {restarts()}", store)


def _timeout() -> timedelta:
    text = os.environ.get(TIMEOUT, "1800")
    try:
        return timedelta(seconds=float(text))
    except (ValueError, OverflowError) as error:
        raise UsageError(f"RESIDUAL_RANK_TIMEOUT must be seconds, not '{text}'") from error


def _watch(parent: int) -> None:
    """Stop this process as SIGTERM would, once the one that started it has died."""
    while os.getppid() == parent:
        time.sleep(0.5)
    stop_signals.send()


@contextmanager
def explained() -> Iterator[None]:
    """Turn an error of the communication between several ranks into one line.

    Raises:
        RunError: another rank has ended or does not answer.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        named = any(sign in str(error).lower() for sign in SIGNS)
        if started_as()[1] == 1 or not (named or isinstance(error, dist.DistError)):
            raise
        reason = " ".join(str(error).split())[:200]
        raise RunError(
            f"another process of this run has ended, or does not answer ({reason}): see what that one says; "
            "--auto-resume goes on from the last checkpoint"
        ) from error


def watched(function: Callable[[], Value]) -> Value:
    """Call what exchanges data with other ranks; see `explained`."""
    with explained():
        return function()


def sum_over_ranks(sums: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks (an all-reduce); every metric is read through it."""
    if count() == 1:
        return sums
    total = sums.clone()
    watched(lambda: dist.all_reduce(total))
    return total


def any_rank_stops(signal_number: int | None) -> int | None:
    """Return the signal that stops training, if any rank received one, so that all stop at the same step."""
    if count() == 1:
        return signal_number
    number = torch.tensor(signal_number or 0)
    watched(lambda: dist.all_reduce(number, dist.ReduceOp.MAX))
    return int(number) or None


def from_first(function: Callable[[], Value]) -> Value:
    """Return on every rank what a function returns on the first, the only one to call it.

    Raises:
        ResidualError: the function raised it; every rank raises it.
    """
    if count() == 1:
        return function()
    found: list[Value | ResidualError | None] = [None]
    if is_first():
        try:
            found = [function()]
        except ResidualError as error:
            found = [error]
    watched(lambda: dist.broadcast_object_list(found, src=0))
    if isinstance(found[0], ResidualError):
        raise found[0]
    return cast(Value, found[0])


def gathered(value: Value) -> list[Value]:
    """Return the values of all ranks, in their order."""
    if count() == 1:
        return [value]
    found: list[Value | None] = [None] * count()
    watched(lambda: dist.all_gather_object(found, value))
    return cast(list[Value], found)


@contextmanager
def one_before_the_others() -> Iterator[None]:
    """Let the first rank of each machine go first: it downloads, and fills caches, which the others find."""
    waits = count() > 1 and on_this_machine()[0] > 0
    if waits:
        watched(dist.barrier)
    yield
    if count() > 1 and not waits:
        watched(dist.barrier)
