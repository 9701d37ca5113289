"""A function of many keys in worker processes, its results in the order of the keys."""

import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from ..errors import ResidualError

Key = TypeVar("Key")
Value = TypeVar("Value")


class _Task(Dataset[Value | ResidualError]):
    """The function as torch's map-style dataset; an error that users may see comes back as a value."""

    def __init__(self, function: Callable[[Any], Value]) -> None:
        self.function = function

    def __getitem__(self, key: Any) -> Value | ResidualError:
        try:
            return self.function(key)
        except ResidualError as error:  # raised in the worker, it would come back inside a traceback
            return error


def map_in_workers(function: Callable[[Key], Value], keys: Sequence[Key], workers: int) -> Iterator[Value]:
    """Yield `function(key)` for each key, in order; with 0 workers in this process.

    Function, keys and values must pickle. Close the iterator to end the workers early.

    Raises:
        ResidualError: the function raised it.
        DataError: a worker died.
    """
    task = _Task(function)
    if not workers:
        values: Iterator[Any] = map(task.__getitem__, keys)
    else:
        values = iter(
            DataLoader(
                task,
                batch_size=None,
                sampler=keys,
                num_workers=workers,
                worker_init_fn=_prepare_worker,
            )
        )
    for value in values:
        if isinstance(value, ResidualError):
            raise value
        yield value


def _prepare_worker(_number: int) -> None:
    """Leave Ctrl-C to the parent, which ends its workers itself, and keep to one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    torch.set_num_threads(1)
