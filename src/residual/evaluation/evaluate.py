"""The public `evaluate`: a model by name, from a folder or in memory, on the test set of a data set."""

import copy
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from ..data.dataset import Dataset
from ..data.load import load_dataset
from ..errors import CheckpointError, UsageError
from ..exporters.int8 import CALIBRATION_IMAGES, quantize
from ..models.network import Network
from ..recipes.schema import DATASETS
from ..runtime.device import resolve_device
from ..runtime.progress import Reporter
from ..zoo.model_folder import ModelConfig, load_model
from ..zoo.pretrained import find_model
from .classification import Evaluation, evaluate_split


def evaluate(
    model: str | Path | Network,
    *,
    data: str | None = None,
    data_dir: str | Path | None = None,
    dataset: Dataset | None = None,
    device: str | None = None,
    int8: bool = False,
    quiet: bool = False,
) -> Evaluation:
    """Evaluate a model on a test set, each image once.

    Args:
        model: a run folder, a model folder, the name of a pretrained model, or a network from `load_model` or
            `create_model(..., pretrained=True)`.
        data: the name of another data set than the one that the model was trained on.
        data_dir: see `load_dataset`.
        dataset: images in memory, in place of `data`. Class names and image size must be those of the model.
        device: see `train`.
        int8: quantise the model to 8 bits, calibrated on training images, and evaluate it on the CPU.
        quiet: show no progress.

    Raises:
        ResidualError: the model or the data cannot be loaded, or the model was not trained for such data.
    """
    network = model if isinstance(model, Network) else load_model(find_model(model))
    config: ModelConfig | None = network.config
    if config is None:
        raise CheckpointError(
            "this network was not loaded from a model folder, so its normalisation is not known"
        )
    where = resolve_device(device)
    if dataset is None:
        dataset = _load(data, config, data_dir)
    elif data is not None:
        raise UsageError("data and dataset both say what to evaluate on: give one of them")
    _check_compatible(dataset, config)
    if int8:
        calibration = config.preprocessing.apply(dataset.train.images[:CALIBRATION_IMAGES])
        with TemporaryDirectory() as folder:
            quantized = quantize(network, calibration.permute(0, 3, 1, 2), Path(folder) / "int8.onnx")
            return _evaluate(quantized, dataset, config, torch.device("cpu"), quiet)
    network = copy.deepcopy(network)  # the caller's stays where it is
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return _evaluate(network, dataset, config, where, quiet)


def _load(data: str | None, config: ModelConfig, data_dir: str | Path | None) -> Dataset:
    if data is None and config.data not in DATASETS:
        raise UsageError(
            f"the model was trained on '{config.data}', which is not a known data set: give --data"
        )
    return load_dataset(data or config.data, data_dir)


def _evaluate(
    network: nn.Module, dataset: Dataset, config: ModelConfig, device: torch.device, quiet: bool
) -> Evaluation:
    with Reporter(not quiet) as reporter, reporter.working("test set", len(dataset.test)) as progress:
        return evaluate_split(network, dataset.test, config.preprocessing, device, progress)


def _check_compatible(dataset: Dataset, config: ModelConfig) -> None:
    """Compare a data set's classes and image size with the model's.

    Raises:
        CheckpointError: they differ.
    """
    names, own = dataset.class_names, config.class_names
    unnamed = own == tuple(f"class {label}" for label in range(len(own)))  # as an import leaves them
    if len(names) != len(own) or (names != own and not unnamed):
        raise CheckpointError(
            f"{dataset.name} has {len(names)} classes ({_few(names)}), the model {len(own)} ({_few(own)}): "
            "evaluate it on the classes that it was trained for"
        )
    if dataset.image_size != config.preprocessing.image_size:
        sizes = ["x".join(map(str, size)) for size in (dataset.image_size, config.preprocessing.image_size)]
        raise CheckpointError(f"{dataset.name} has images of {sizes[0]} pixels, the model takes {sizes[1]}")


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
