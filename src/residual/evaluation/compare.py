"""The public `compare`: two models on the same images, and whether they differ."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.dataset import Dataset
from ..data.photos import OnBadImage, PhotoDataset, Photos
from ..data.workers import default_workers
from ..errors import CheckpointError, DataError, UsageError
from ..models.fold import optimize_for_inference
from ..models.network import Network
from ..runtime.device import resolve_device
from ..runtime.progress import Reporter
from ..zoo.pretrained import open_model
from .classification import BATCH_SIZE
from .evaluate import check_compatible, check_options, load_test_data, on_device
from .matching import match_classes
from .metrics import wilson_interval
from .paired import difference_interval, mcnemar
from .photos import evaluate_photos
from .predictions import Recorder

LEVEL = 0.05  # p-values below it are called a difference


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images; errors in percent, differences in percentage points.

    Args:
        models: what the two are called.
        images: how many images both were evaluated on.
        errors: of the first and the second.
        error_intervals: their 95 % confidence intervals (Wilson's), each by itself.
        difference: the first error minus the second.
        difference_interval: its 95 % confidence interval (Tango's), from the images that tell the two apart.
        only_first_wrong, only_second_wrong, both_wrong: numbers of images.
        p_value: of McNemar's exact test that the two err equally often.
        skipped: files that could not be decoded.
        notes: what else should be known.
    """

    models: tuple[str, str]
    images: int
    errors: tuple[float, float]
    error_intervals: tuple[tuple[float, float], tuple[float, float]]
    difference: float
    difference_interval: tuple[float, float]
    only_first_wrong: int
    only_second_wrong: int
    both_wrong: int
    p_value: float
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def differ(self) -> bool:
        """Whether the difference is more than chance explains, at a level of 5 %."""
        return self.p_value < LEVEL

    @property
    def conclusion(self) -> str:
        """What the figures say, in a sentence."""
        first, second = self.models
        low, high = self.difference_interval
        p = "p < 0.0001" if self.p_value < 1e-4 else f"p = {self.p_value:.2g}"
        if self.differ:
            better, worse = (first, second) if self.difference < 0 else (second, first)
            low, high = (-high, -low) if self.difference < 0 else (low, high)
            return (
                f"{better} is better than {worse}: its error is {abs(self.difference):.2f} percentage points "
                f"lower (95 % interval {low:.2f} to {high:.2f}; {p})"
            )
        return (
            f"these {self.images:,} images cannot tell {first} and {second} apart: a difference of "
            f"{self.difference:+.2f} percentage points (95 % interval {low:+.2f} to {high:+.2f}; {p})"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {**asdict(self), "differ": self.differ, "conclusion": self.conclusion}


def compare(
    first: str | Path | Network,
    second: str | Path | Network,
    *,
    data: str | Path | None = None,
    data_dir: str | Path | None = None,
    dataset: Dataset | Photos | PhotoDataset | None = None,
    on_bad_image: OnBadImage = "stop",
    workers: int | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Comparison:
    """Evaluate two models on the same images, each with its own preprocessing, and tell whether they differ.

    Args:
        first, second: models as `evaluate` takes them. Each must have the classes of the images.
        data: a data set or a folder of photographs; by default what both models were trained on.
        data_dir, dataset, on_bad_image, workers, device, quiet: see `evaluate`.

    Raises:
        ResidualError: a model or the data cannot be loaded, or a model was not trained for such data.
    """
    check_options("one-crop", on_bad_image, workers)
    networks = [open_model(model) for model in (first, second)]
    where = resolve_device(device)
    test = _test_images(networks, data, data_dir, dataset, on_bad_image)
    with Reporter(not quiet) as reporter:
        if isinstance(test, Photos):
            answers = [_on_photos(network, test, workers, where, reporter) for network in networks]
        else:
            answers = [_in_memory(network, test, where, reporter) for network in networks]
    return _compared(_names(first, second), answers)


@dataclass(frozen=True, eq=False)
class _Answers:
    """Whether a model is right, by the numbers of the images, and what else is to be told."""

    right: dict[int, bool]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def _test_images(
    networks: list[Network],
    data: str | Path | None,
    data_dir: str | Path | None,
    dataset: Dataset | Photos | PhotoDataset | None,
    on_bad_image: OnBadImage,
) -> Dataset | Photos:
    if dataset is not None:
        if data is not None:
            raise UsageError("data and dataset both say what to evaluate on: give one of them")
        return dataset.test if isinstance(dataset, PhotoDataset) else dataset
    own = [network.config.data for network in networks]
    if data is None and own[0] != own[1]:
        raise UsageError(
            f"the models were trained on {own[0]} and {own[1]}: say with --data what to compare on"
        )
    return load_test_data(data, networks[0].config, data_dir, on_bad_image)


def _on_photos(
    network: Network, photos: Photos, workers: int | None, device: torch.device, reporter: Reporter
) -> _Answers:
    config = network.config
    if not len(photos):
        raise DataError(f"{photos.where} has no images: it needs a folder of images for each class")
    matching = match_classes(photos.where, photos.class_names, photos.labels, config.class_names)
    matched = replace(photos, labels=matching.apply(photos.labels), class_names=config.class_names)
    recorder = _Best(matched)
    workers = default_workers(len(photos), device) if workers is None else workers
    with reporter.working("photographs", len(photos)) as progress:
        found = evaluate_photos(
            on_device(network, device),
            matched,
            config.preprocessing,
            device,
            progress,
            workers,
            recorder=recorder,
        )
    notes = (matching.note,) if matching.note else ()
    return _Answers(recorder.right, found.skipped, notes)


class _Best(Recorder):
    """Keeps whether the best class is the label, and neither logits nor features."""

    def __init__(self, photos: Photos) -> None:
        super().__init__(photos)
        self.right: dict[int, bool] = {}
        self._labels = photos.labels

    @contextmanager
    def watching(self, network: nn.Module) -> Iterator[None]:
        """Keep no features."""
        yield

    def add(self, indices: list[int], logits: Tensor) -> None:
        """Add a batch."""
        self.right.update(zip(indices, _hits(logits, self._labels[indices]), strict=True))


@torch.no_grad()
def _in_memory(network: Network, dataset: Dataset, device: torch.device, reporter: Reporter) -> _Answers:
    config, test = network.config, dataset.test
    check_compatible(dataset, config)
    ready = optimize_for_inference(on_device(network, device).eval())  # type: ignore[arg-type]
    preprocessing, hits = config.preprocessing.to(device), list[bool]()
    with reporter.working("test set", len(test)) as progress:
        for start in range(0, len(test), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            images = preprocessing.apply(test.images[part].to(device)).permute(0, 3, 1, 2)
            hits += _hits(ready(images), test.labels[part])
            progress(start + len(images))
    return _Answers(dict(enumerate(hits)))


def _hits(logits: Tensor, labels: Tensor) -> list[bool]:
    """Tell of each image whether its best class is the label, as `Accumulator` chooses among equals."""
    if not bool(logits.isfinite().all()):
        raise CheckpointError(
            "the logits of an image are not finite: the weights or BN statistics are corrupted"
        )
    best = logits.cpu().float().topk(min(5, logits.shape[1]), dim=1).indices[:, 0]
    hits: list[bool] = (best == labels.cpu()).tolist()
    return hits


def _names(first: str | Path | Network, second: str | Path | Network) -> tuple[str, str]:
    """Return what to call the two models."""
    names = [model.config.network if isinstance(model, Network) else str(model) for model in (first, second)]
    if names[0] == names[1]:
        return f"the first {names[0]}", f"the second {names[1]}"
    return names[0], names[1]


def _compared(names: tuple[str, str], answers: list[_Answers]) -> Comparison:
    """Count the images that both models have an answer for."""
    first, second = (answer.right for answer in answers)
    pairs = [(hit, second[index]) for index, hit in first.items() if index in second]
    if not pairs:
        raise DataError("there are no images to compare on")
    count = len(pairs)
    only_first = sum(b and not a for a, b in pairs)
    only_second = sum(a and not b for a, b in pairs)
    both = sum(not a and not b for a, b in pairs)
    wrong = only_first + both, only_second + both
    low, high = difference_interval(only_first, only_second, count)
    return Comparison(
        models=names,
        images=count,
        errors=(100 * wrong[0] / count, 100 * wrong[1] / count),
        error_intervals=(wilson_interval(wrong[0], count), wilson_interval(wrong[1], count)),
        difference=100 * (only_first - only_second) / count,
        difference_interval=(100 * low, 100 * high),
        only_first_wrong=only_first,
        only_second_wrong=only_second,
        both_wrong=both,
        p_value=mcnemar(only_first, only_second),
        skipped=tuple(sorted({*answers[0].skipped, *answers[1].skipped})),
        notes=tuple(
            f"{name}: {note}" for name, answer in zip(names, answers, strict=True) for note in answer.notes
        ),
    )
