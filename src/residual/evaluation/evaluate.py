"""The public `evaluate`: a model by name, from a folder or in memory, on a test set or photographs."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import torch
from torch import Tensor, nn

from ..data.dataset import Dataset
from ..data.folder import load_photos
from ..data.load import load_dataset
from ..data.names import is_folder
from ..data.photos import OnBadImage, PhotoDataset, Photos
from ..data.workers import default_workers
from ..errors import CheckpointError, DataError, UsageError
from ..exporters.calibration import calibration_photos
from ..exporters.int8 import CALIBRATION_IMAGES, Int8Network, quantize
from ..models.network import Network
from ..recipes.schema import DATASETS
from ..runtime.device import resolve_device
from ..runtime.progress import Reporter
from ..zoo.model_folder import ModelConfig
from ..zoo.pretrained import open_model
from .classification import Evaluation, evaluate_split
from .matching import few, match_classes, same_classes
from .photos import evaluate_photos
from .protocols import PROTOCOLS, ProtocolName, make_protocol


def evaluate(
    model: str | Path | Network,
    *,
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
    dataset: Dataset | Photos | PhotoDataset | None = None,
    protocol: ProtocolName = "one-crop",
    on_bad_image: OnBadImage = "stop",
    workers: int | None = None,
    device: str | None = None,
    int8: bool = False,
    quiet: bool = False,
) -> Evaluation:
    """Evaluate a model on a test set, each image once.

    Args:
        model: a run folder, a model folder, the name of a pretrained model, or a network from `load_model` or
            `create_model(..., pretrained=True)`.
        data: the name of another data set than the one that the model was trained on, or a folder of
            photographs: see `load_photos`.
        data_dir: see `load_dataset`.
        dataset: images in memory or photographs, in place of `data`. Class names must be those of the model;
            photographs may have some of them: see `match_classes`. Images in memory must have its size.
        protocol: for photographs (section 4.1): "one-crop", the model's own preprocessing; "ten-crop";
            "multi-scale". See `protocols`.
        on_bad_image: "stop" at a photograph that cannot be decoded, or "skip" it, which the result tells.
        workers: processes that decode photographs; by default what suits their number and the device.
        device: see `train`.
        int8: quantise the model to 8 bits, calibrated on training images, and evaluate it on the CPU.
        quiet: show no progress.

    Raises:
        ResidualError: the model or the data cannot be loaded, or the model was not trained for such data.
    """
    check_options(protocol, on_bad_image, workers)
    network = open_model(model)
    config: ModelConfig = network.config
    where = resolve_device(device)
    if dataset is None:
        dataset = load_test_data(data, config, data_dir, on_bad_image)
    elif data is not None:
        raise UsageError("data and dataset both say what to evaluate on: give one of them")
    if isinstance(dataset, PhotoDataset):
        dataset = dataset.test
    with Reporter(not quiet) as reporter:
        if isinstance(dataset, Photos):
            return _evaluate_photos(network, dataset, protocol, workers, where, int8, reporter)
        return _evaluate_memory(network, dataset, protocol, where, int8, reporter)


def check_options(protocol: str, on_bad_image: str, workers: int | None) -> None:
    """Check options before anything is loaded.

    Raises:
        UsageError: one of them is not valid.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"unknown protocol '{protocol}': the protocols are {', '.join(PROTOCOLS)}")
    if on_bad_image not in get_args(OnBadImage):
        raise UsageError(f"on_bad_image must be {' or '.join(get_args(OnBadImage))}, not '{on_bad_image}'")
    if workers is not None and workers < 0:
        raise UsageError(f"workers must be 0 or more, not {workers}")


def load_test_data(
    data: str | Path | None, config: ModelConfig, data_dir: str | Path | None, on_bad_image: OnBadImage
) -> Dataset | Photos:
    """Load the test images that `data` names, by default those of the data that a model was trained on.

    Raises:
        ResidualError: they cannot be loaded, or there is no name.
    """
    if data is None and config.data not in DATASETS:
        raise UsageError(
            f"the model was trained on '{config.data}', which is not a known data set: give --data, "
            "a known name or a folder of images"
        )
    data = config.data if data is None else data
    if not is_folder(data):
        return load_dataset(str(data), data_dir)
    return load_photos(data, on_bad_image=on_bad_image)


def _evaluate_photos(
    network: Network,
    photos: Photos,
    protocol: str,
    workers: int | None,
    device: torch.device,
    int8: bool,
    reporter: Reporter,
) -> Evaluation:
    config: ModelConfig = network.config
    preprocessing, notes = config.preprocessing, []
    if not len(photos):
        raise DataError(f"{photos.where} has no images: it needs a folder of images for each class")
    matching = match_classes(photos.where, photos.class_names, photos.labels, config.class_names)
    photos = replace(photos, labels=matching.apply(photos.labels), class_names=config.class_names)
    make_protocol(protocol, preprocessing).check(network)
    if int8 and protocol != "one-crop":
        raise UsageError(f"INT8 is evaluated with one-crop, not {protocol}")
    if matching.note:
        notes.append(matching.note)
    workers = default_workers(len(photos), device) if workers is None else workers
    with reporter.working("photographs", len(photos)) as progress:
        if int8:
            calibration, note = calibration_photos(photos, preprocessing)
            with _quantized(network, calibration) as quantized:
                cpu = torch.device("cpu")
                result = evaluate_photos(quantized, photos, preprocessing, cpu, progress, workers)
            notes.append(note)
        else:
            ready = on_device(network, device)
            result = evaluate_photos(ready, photos, preprocessing, device, progress, workers, protocol)
    return replace(result, notes=(*notes, *result.notes))


def _evaluate_memory(
    network: Network, dataset: Dataset, protocol: str, device: torch.device, int8: bool, reporter: Reporter
) -> Evaluation:
    config: ModelConfig = network.config
    preprocessing, test = config.preprocessing, dataset.test
    check_compatible(dataset, config)
    if protocol != "one-crop":
        raise UsageError(f"{protocol} is for photographs in a folder: {dataset.name} is tested with one-crop")
    with reporter.working("test set", len(test)) as progress:
        if int8:
            calibration = preprocessing.apply(dataset.train.images[:CALIBRATION_IMAGES])
            with _quantized(network, calibration.permute(0, 3, 1, 2)) as quantized:
                return evaluate_split(quantized, test, preprocessing, torch.device("cpu"), progress)
        return evaluate_split(on_device(network, device), test, preprocessing, device, progress)


@contextmanager
def _quantized(network: Network, calibration: Tensor) -> Iterator[Int8Network]:
    with TemporaryDirectory() as folder:
        yield quantize(network, calibration, Path(folder) / "int8.onnx")


def on_device(network: Network, device: torch.device) -> nn.Module:
    """Return a copy on the device, for the caller's stays where it is."""
    return copy.deepcopy(network).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def check_compatible(dataset: Dataset, config: ModelConfig) -> None:
    """Compare a data set's classes and image size with the model's.

    Raises:
        CheckpointError: they differ.
    """
    names, own = dataset.class_names, config.class_names
    if not same_classes(names, own):
        raise CheckpointError(
            f"{dataset.name} has {len(names)} classes ({few(names)}), the model {len(own)} ({few(own)}): "
            "evaluate it on the classes that it was trained for"
        )
    if dataset.image_size != config.preprocessing.image_size:
        sizes = ["x".join(map(str, size)) for size in (dataset.image_size, config.preprocessing.image_size)]
        raise CheckpointError(f"{dataset.name} has images of {sizes[0]} pixels, the model takes {sizes[1]}")
