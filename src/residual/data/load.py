"""Datasets by name, wherever their files are."""

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from . import cifar, digits
from .dataset import Dataset

DATASETS: dict[str, Callable[[Path | None], Dataset]] = {
    "cifar10": lambda root: cifar.load(cifar.CIFAR10, root),
    "cifar100": lambda root: cifar.load(cifar.CIFAR100, root),
    "digits": lambda _: digits.load(),
}


def load_dataset(name: str, data_dir: str | Path | None = None) -> Dataset:
    """Load "cifar10", "cifar100" or "digits" into memory.

    Args:
        name: the dataset.
        data_dir: the folder that holds `cifar-10-batches-bin/` or the archive; else the environment
            variable RESIDUAL_DATA, else the user's cache folder, to which the archive is downloaded.

    Raises:
        UsageError: no such dataset, or the folder's name holds a NUL.
        DataError: the files are missing and cannot be downloaded, or they are truncated or corrupted.
    """
    if name not in DATASETS:
        raise UsageError(f"unknown data set '{name}': the data sets are {', '.join(DATASETS)}")
    if "\0" in str(data_dir):
        raise UsageError(f"a data folder's name cannot hold a NUL: {str(data_dir)!r}")
    return DATASETS[name](Path(data_dir) if data_dir is not None else None)
