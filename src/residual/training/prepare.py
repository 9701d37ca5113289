"""The first stage of a run: data, batches and network, checked and put on the device; nothing is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.cifar import default_root
from ..data.dataset import Dataset, Split
from ..data.folder import load_folder
from ..data.load import load_dataset
from ..data.loader import Batches
from ..data.names import whole_place
from ..data.photos import PhotoDataset, Photos
from ..errors import UsageError
from ..evaluation.classification import Evaluation, evaluate_split
from ..evaluation.photos import evaluate_photos
from ..evaluation.predictions import Recorder
from ..models.build import build_model
from ..models.fused import rule_fuses
from ..models.network import Network
from ..recipes.schema import FOLDER, Recipe
from ..runtime import device as devices
from ..runtime import ranks
from ..runtime.environment import environment_facts
from ..runtime.launch import ALONE
from ..runtime.progress import Reporter
from ..zoo.own_network import class_path
from .continued import Continued, check_classes
from .fit_memory import parts_that_fit
from .starting_weights import Start, load_source, start_from_weights
from .training_data import Reading, TrainingData, check_recipe, in_memory, photographs


@dataclass(frozen=True)
class Prepared:
    """A run's parts, on their device, before anything is written."""

    recipe: Recipe
    data: TrainingData
    network: nn.Module
    own_network: str | None  # the class of a network that the caller passed
    own_dataset: bool  # whether the caller passed data that the recipe does not name
    device: torch.device
    precision: str  # resolved: never "auto"
    denormals_flushed: bool
    start: Start | None  # what was taken over with the weights that the recipe names
    source: Network | None  # the network that had these weights, until it is needed no more
    continued: Continued | None = None  # what a run that goes on from another compares itself with

    def changed(self, changes: Mapping[str, Any]) -> "Prepared":
        """Return it with changed keys of the recipe, none of which its other parts depend on."""
        return replace(self, recipe=self.recipe.replace(changes))

    def evaluate(
        self,
        split: Split | Photos,
        network: nn.Module,
        progress: Callable[[int], None] = lambda _done: None,
        recorder: Recorder | None = None,
        alone: bool = False,
    ) -> Evaluation:
        """Evaluate a network, such as the one in training, on a split; `recorder` is for photographs.

        All ranks do so together, each its share, unless one does it `alone`.
        """
        preprocessing, device = self.data.preprocessing, self.device
        part = ALONE if alone else ranks.own()
        if isinstance(split, Photos):
            workers = self.data.workers
            how = (workers, "one-crop", recorder, part)
            return evaluate_photos(network, split, preprocessing, device, progress, *how)
        return evaluate_split(network, split, preprocessing, device, progress, part)

    def evaluations(self, reporter: Reporter) -> dict[str, Callable[[nn.Module], Evaluation]]:
        """Choose what is evaluated in training: the validation set, and the test set only if asked for."""
        test = self.data.dataset.test if self.recipe.curve == "test" else None
        splits = {"validation": self.data.validation, "test": test}
        chosen = {
            kind: split.to(self.device) if isinstance(split, Split) else split
            for kind, split in splits.items()
            if split is not None
        }

        def evaluate(kind: str, split: Split | Photos, network: nn.Module) -> Evaluation:
            with reporter.working(f"{kind} set", len(split)) as progress:
                return self.evaluate(split, network, progress)

        return {kind: partial(evaluate, kind, split) for kind, split in chosen.items()}

    def facts(self, data_dir: str | Path | None) -> dict[str, Any]:
        """Return what `environment.json` records."""
        fused = self.own_network is None and rule_fuses(
            self.device, self.precision, self.recipe.channels_last, self.recipe.compile
        )
        return {
            **environment_facts(devices.describe(self.device)),
            "dataset": self.data.dataset.name,
            "data_dir": whole_place(data_dir or default_root()),
            "own_dataset": self.own_dataset,
            "own_network": self.own_network,
            "precision": self.precision,
            **self.data.facts,
            **({"processes": ranks.count()} if ranks.count() > 1 else {}),
            **({"start": self.start.as_dict()} if self.start else {}),
            **({"continued": self.continued.as_dict()} if self.continued else {}),
            "denormals_flushed": self.denormals_flushed,
            "bn_relu": "fused" if fused else "plain",
        }


def prepare(
    recipe: Recipe,
    *,
    data_dir: str | Path | None = None,
    device: str | None = None,
    dataset: Dataset | PhotoDataset | None = None,
    network: nn.Module | None = None,
    precision: str | None = None,
    reading: Reading = Reading(),  # noqa: B008, a frozen value
    start: Start | None = None,
    add_classes: bool | None = None,
    fit_memory: bool = False,
    reporter: Reporter | None = None,
) -> Prepared:
    """Load and build all that a run needs.

    Args:
        recipe, data_dir, device: as `train` takes them.
        dataset: used in place of the recipe's, if given.
        network: used in place of the recipe's, if given.
        precision: the one that a resumed run began with; by default the recipe's, resolved for the device.
        reading: how photographs are read.
        start: of a run that is resumed from a checkpoint, which needs the starting weights no more.
        add_classes: for a run that goes on from another: whether there may be new classes.
        fit_memory: whether the recipe's `bn_groups` is found by trying, see `parts_that_fit`.
        reporter: shows the progress of what takes long.

    Raises:
        ResidualError: the device, the data or the network do not fit.
    """
    reporter = reporter or Reporter(enabled=False)
    where = devices.resolve_device(device)
    precision = precision or devices.resolve_precision(recipe.precision, where)
    flushed = devices.prepare(where)
    own_dataset = dataset is not None and dataset.name != recipe.data
    _check_ranks(recipe)
    if dataset is None:
        with ranks.one_before_the_others():
            dataset = _load(recipe, data_dir, reading, reporter)
    size = check_recipe(recipe, dataset)
    if isinstance(dataset, Dataset) and reading != Reading():
        raise UsageError(
            "workers, cache, group and on_bad_image are for photographs in a folder: leave them out"
        )
    own = None if network is None else class_path(network)
    source = None
    if network is None:  # before the data, which may take long to prepare
        network = _create_network(recipe, len(dataset.class_names))
        network.check_training(recipe.batch_size // max(recipe.bn_groups, ranks.count()), *size)
        if recipe.weights is not None and start is None:
            source, start = _load_weights(recipe, network, dataset.class_names, add_classes)
    else:
        _refuse_keys_of_our_networks(recipe)
    if isinstance(dataset, PhotoDataset):
        given = start.normalization if start else None
        data = photographs(recipe, dataset, where, reading, reporter, given)
    else:
        data = in_memory(recipe, dataset, where)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network.to(where, memory_format=layout)  # type: ignore[call-overload]
    if own is not None:
        _check_network(network, data.batches, len(dataset.class_names))
    if fit_memory:
        recipe = parts_that_fit(recipe, network, data.batches, precision, reporter)
    return Prepared(recipe, data, network, own, own_dataset, where, precision, flushed, start, source)


def _check_ranks(recipe: Recipe) -> None:
    """Check that the groups of a batch can be shared by the ranks."""
    if recipe.bn_groups > 1 and recipe.bn_groups % ranks.count():
        raise UsageError(
            f"bn_groups = {recipe.bn_groups} cannot be shared by {ranks.count()} processes: take a multiple"
        )


def _load_weights(
    recipe: Recipe, network: Network, class_names: tuple[str, ...], add_classes: bool | None
) -> tuple[Network, Start]:
    """Put the recipe's weights into a fresh network; return the network that they are from, and what came."""
    source = load_source(recipe)
    if add_classes is not None:
        check_classes(source.config.class_names, class_names, add_classes)
    return source, start_from_weights(network, source, class_names)


def _load(
    recipe: Recipe, data_dir: str | Path | None, reading: Reading, reporter: Reporter
) -> Dataset | PhotoDataset:
    """Load the recipe's data: a data set by its name, or the photographs in `data_dir`."""
    if recipe.data != FOLDER:
        return load_dataset(recipe.data, data_dir)
    if data_dir is None:
        raise UsageError(f"the recipe {recipe.name} trains on photographs: say in which folder, with --data")
    with (
        reporter.working("reading the folder, files") as progress,
        reporter.working("looking for near-duplicates, images") as compared,
    ):
        dataset = load_folder(
            data_dir,
            on_bad_image=reading.on_bad_image,
            group=reading.group,
            progress=progress,
            compared=compared,
        )
    for note in (dataset.changed, *dataset.findings.notes):
        if note:
            reporter.say(f"note: {note}")
    return dataset


def _create_network(recipe: Recipe, classes: int) -> Network:
    """Create the recipe's network from its seed; the caller's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_model(
            recipe.network,
            num_classes=classes,
            shortcut=recipe.shortcut,
            variant=recipe.variant,
            checkpoint_activations=recipe.checkpoint_activations,
        )


def _refuse_keys_of_our_networks(recipe: Recipe) -> None:
    """Refuse what needs to know a network's last layer, for one of the caller's own."""
    own, usual = recipe.flat(), Recipe().flat()
    for key in ("weights", "optimizer.body_rate", "optimizer.frozen"):
        if own[key] != usual[key]:
            raise UsageError(f"{key} is for networks of this package, not for one of your own: leave it out")


def _check_network(network: nn.Module, batches: Batches, classes: int) -> None:
    """Try a network of the caller's on two images.

    Raises:
        UsageError: it fails, does not give logits [2, classes], or its state is not all tensors.
    """
    images = batches[0][0].repeat(2, 1, 1, 1)[:2]  # a batch may hold a single one
    was_training = network.training
    try:
        with torch.no_grad():
            logits = network.eval()(images)
    except Exception as error:  # it is the caller's code, which may raise anything
        reason = (str(error) or "no reason given").splitlines()[0]
        raise UsageError(
            f"the network fails on images {list(images.shape)}: {type(error).__name__}: {reason}"
        ) from error
    finally:
        network.train(was_training)
    if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != (2, classes):
        shape = list(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise UsageError(f"the network must return logits [2, {classes}] for 2 images, not {shape}")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UsageError("the network has no parameters to train: none of them requires a gradient")
    if not all(isinstance(value, torch.Tensor) for value in network.state_dict().values()):
        raise UsageError("the network's state_dict must hold tensors only, so that it can be saved")
