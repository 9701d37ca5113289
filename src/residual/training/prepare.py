"""The first stage of a run: data, batches and network, checked and put on the device; nothing is written."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.cifar import default_root
from ..data.dataset import Dataset, Split, split_validation
from ..data.load import load_dataset
from ..data.loader import TrainBatches
from ..data.preprocessing import Preprocessing
from ..errors import UsageError
from ..evaluation.classification import Evaluation, evaluate_split
from ..models.build import build_model
from ..models.fused import rule_fuses
from ..models.network import Network
from ..recipes.augment import PadCrop
from ..recipes.schema import Recipe
from ..runtime import device as devices
from ..runtime.environment import environment_facts
from ..zoo.own_network import class_path


@dataclass(frozen=True)
class Prepared:
    """A run's parts, on their device, before anything is written."""

    recipe: Recipe
    dataset: Dataset
    batches: TrainBatches
    preprocessing: Preprocessing
    validation: Split | None
    validation_sha256: str | None
    network: nn.Module
    own_network: str | None  # the class of a network that the caller passed
    device: torch.device
    precision: str  # resolved: never "auto"
    denormals_flushed: bool

    def evaluate(
        self,
        split: Split,
        network: nn.Module | None = None,
        progress: Callable[[int], None] = lambda _done: None,
    ) -> Evaluation:
        """Evaluate the network in training, or another of its kind, on a split."""
        return evaluate_split(network or self.network, split, self.preprocessing, self.device, progress)

    def facts(self, data_dir: str | Path | None) -> dict[str, Any]:
        """Return what `environment.json` records."""
        fused = self.own_network is None and rule_fuses(
            self.device, self.precision, self.recipe.channels_last, self.recipe.compile
        )
        return {
            **environment_facts(devices.describe(self.device)),
            "dataset": self.dataset.name,
            "data_dir": str(Path(data_dir or default_root()).resolve()),
            "own_network": self.own_network,
            "precision": self.precision,
            "validation_sha256": self.validation_sha256,
            "denormals_flushed": self.denormals_flushed,
            "bn_relu": "fused" if fused else "plain",
        }


def prepare(
    recipe: Recipe,
    *,
    data_dir: str | Path | None = None,
    device: str | None = None,
    dataset: Dataset | None = None,
    network: nn.Module | None = None,
    precision: str | None = None,
) -> Prepared:
    """Load and build all that a run needs.

    Args:
        recipe, data_dir, device: as `train` takes them.
        dataset: used in place of the recipe's, if given.
        network: used in place of the recipe's, if given.
        precision: the one that a resumed run began with; by default the recipe's, resolved for the device.

    Raises:
        ResidualError: the device, the data or the network do not fit.
    """
    where = devices.resolve_device(device)
    precision = precision or devices.resolve_precision(recipe.precision, where)
    flushed = devices.prepare(where)
    dataset = dataset if dataset is not None else load_dataset(recipe.data, data_dir)
    part, validation, digest = dataset.train, None, None
    if recipe.validation:
        count = recipe.validation_images(len(dataset.train))
        part, validation, digest = split_validation(dataset.train, count)
    preprocessing = Preprocessing.measure(part)
    if recipe.augment.early_size >= min(dataset.image_size):
        raise UsageError(f"augment.early_size must be below the images' {min(dataset.image_size)} pixels")
    assert isinstance(recipe.augment, PadCrop)
    batches = TrainBatches(
        part.to(where), preprocessing.to(where), recipe.batch_size, recipe.augment, recipe.seed
    )
    own = None if network is None else class_path(network)
    if network is None:
        network = _create_network(recipe, len(dataset.class_names))
        network.check_training(recipe.batch_size, *preprocessing.image_size)
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network.to(where, memory_format=layout)  # type: ignore[call-overload]
    if own is not None:
        _check_network(network, batches, len(dataset.class_names))
    return Prepared(
        recipe,
        dataset,
        batches,
        preprocessing,
        validation,
        digest,
        network,
        own,
        where,
        precision,
        flushed,
    )


def _create_network(recipe: Recipe, classes: int) -> Network:
    """Create the recipe's network from its seed; the caller's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return build_model(
            recipe.network,
            num_classes=classes,
            shortcut=recipe.shortcut,
            checkpoint_activations=recipe.checkpoint_activations,
        )


def _check_network(network: nn.Module, batches: TrainBatches, classes: int) -> None:
    """Try a network of the caller's on two images.

    Raises:
        UsageError: it fails, does not give logits [2, classes], or its state is not all tensors.
    """
    index = torch.zeros(2, dtype=torch.int64, device=batches.device)
    images, _ = batches.make(index, torch.zeros_like(index)[:, None].expand(2, 2), index.bool())
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
