"""A whole run: recipe -> data -> network -> trainer -> run folder with its result, curves and model."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from . import device as devices
from .checkpoint import find_checkpoint, load_checkpoint
from .data import DATASETS, Dataset, Normalization, Split, TrainBatches, hold_out, load_dataset
from .errors import CheckpointError, RunError, UsageError
from .evaluation import Evaluation, evaluate_split
from .model_folder import ModelConfig, load_model, model_card, save_model
from .models import ResNet, create_model, rule_fuses
from .plot import plot_runs
from .pretrained import find_model
from .progress import Reporter
from .quantization import CALIBRATION_IMAGES, quantize
from .recipe import Recipe, differences
from .recipes import recipe_label
from .run import Run, environment_facts
from .trainer import Trainer


@dataclass(frozen=True)
class Result:
    """Where a finished run lies, and the figures of its `result.json`."""

    path: Path
    figures: dict[str, Any]

    @property
    def error(self) -> float:
        """The error on the test set at the last step, in percent."""
        return float(self.figures["error"])


@dataclass(frozen=True)
class _Prepared:
    """A run's parts before anything is written, on their device."""

    dataset: Dataset
    batches: TrainBatches
    normalization: Normalization
    held: Split | None
    holdout_sha256: str | None
    network: ResNet
    device: torch.device
    denormals_flushed: bool

    def evaluate(self, split: Split, network: nn.Module | None = None) -> Evaluation:
        """Evaluate the network being trained, or another of its kind, on a split."""
        return evaluate_split(network or self.network, split, self.normalization, self.device)


def _facts(recipe: Recipe, prepared: _Prepared, data_dir: str | Path | None) -> dict[str, Any]:
    """Gather what `environment.json` records."""
    fused = rule_fuses(prepared.device, recipe.precision, recipe.channels_last, recipe.compile)
    return {
        **environment_facts(devices.describe(prepared.device)),
        "data_dir": str(Path(data_dir).resolve()) if data_dir is not None else None,
        "holdout_sha256": prepared.holdout_sha256,
        "denormals_flushed": prepared.denormals_flushed,
        "bn_relu": "fused" if fused else "plain",
    }


def train(
    recipe: Recipe,
    *,
    output: str | Path | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    dataset: Dataset | None = None,
    quiet: bool = True,
) -> Result:
    """Train a network by a recipe, in a new run folder.

    Args:
        recipe: for example `get_recipe("paper", "resnet20").replace({"seed": 1})`.
        output: the run folder, which must not exist; by default `runs/DATE-NETWORK-seedSEED`.
        data_dir: see `load_dataset`.
        device: "cuda", "mps" or "cpu"; by default the fastest there is.
        dataset: the recipe's data, where it is in memory already.
        quiet: show no progress.

    Raises:
        ResidualError: one of its kinds, each with one clear line; nothing is written before the
            recipe, the device and the data are found to be good.
    """
    if output is not None and Path(output).exists():
        raise RunError(f"{output} exists already: a run is never overwritten")
    prepared = _prepare(recipe, data_dir, device, dataset)
    facts = _facts(recipe, prepared, data_dir)
    run = Run.create(None if output is None else Path(output), recipe, facts)
    with run.locked():
        return _execute(run, recipe, prepared, Reporter(not quiet))


def resume(
    path: str | Path,
    *,
    recipe: Recipe | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    dataset: Dataset | None = None,
    quiet: bool = True,
) -> Result:
    """Go on with a run as if it had never stopped; a finished run is left as it is.

    On a CPU with as many threads as before (on CUDA with `deterministic = true`), the weights come out
    the same to the last bit. `recipe`, where given, must be the run's own; data folder and device are those
    that the run began with, unless others are given.

    Raises:
        ResidualError: as `train`; also if the recipe was changed or the checkpoint does not fit.
    """
    run = Run.open(Path(path))
    changed = differences(run.recipe, recipe) if recipe is not None else []
    if changed:
        raise RunError(f"{path} cannot go on with another recipe: {'; '.join(changed)}")
    if run.result is not None:
        return Result(run.path, run.result)
    began = run.environment
    data_dir = data_dir or began.get("data_dir")
    prepared = _prepare(run.recipe, data_dir, device or began["hardware"]["device"], dataset)
    facts = _facts(run.recipe, prepared, data_dir)
    with run.locked():
        return _execute(run, run.recipe, prepared, Reporter(not quiet), facts)


def evaluate(
    model: str | Path | ResNet,
    *,
    data: str | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    int8: bool = False,
) -> Evaluation:
    """Evaluate a network from a model folder on its data set's test part, each picture once.

    Args:
        model: a run folder, a model folder, the name of a network that comes trained, or a network from
            `load_model` or `create_model(..., pretrained=True)`.
        data: another data set than the one it was trained on.
        data_dir: see `load_dataset`.
        device: see `train`.
        int8: evaluate the network quantised to 8 bits, on the CPU, calibrated on training pictures.

    Raises:
        ResidualError: the model or the data cannot be loaded, or they do not fit each other.
    """
    network = model if isinstance(model, ResNet) else load_model(find_model(model))
    config: ModelConfig | None = network.config
    if config is None:
        raise CheckpointError("this network comes from no model folder, so its normalisation is not known")
    where = devices.resolve_device(device)
    if data is None and config.data not in DATASETS:
        raise UsageError(
            f"the model was trained on data that is not known here ('{config.data}'): give --data"
        )
    dataset = load_dataset(data or config.data, data_dir)
    if len(dataset.class_names) != len(config.class_names):
        raise CheckpointError(
            f"{dataset.name} has {len(dataset.class_names)} classes, not {len(config.class_names)}"
        )
    if int8:
        pictures = config.normalization.apply(dataset.train.images[:CALIBRATION_IMAGES])
        with TemporaryDirectory() as folder:
            quantised = quantize(network, pictures.permute(0, 3, 1, 2), Path(folder) / "int8.onnx")
            return evaluate_split(quantised, dataset.test, config.normalization, torch.device("cpu"))
    network = copy.deepcopy(network)  # the caller's stays where it is
    network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return evaluate_split(network, dataset.test, config.normalization, where)


def _prepare(
    recipe: Recipe, data_dir: str | Path | None, device: str | None, dataset: Dataset | None
) -> _Prepared:
    """Load and build all that a run needs; write nothing."""
    where = devices.resolve_device(device)
    flushed = devices.prepare(where)
    dataset = dataset or load_dataset(recipe.data, data_dir)
    part, held, digest = dataset.train, None, None
    if recipe.holdout:
        part, held, digest = hold_out(dataset.train, recipe.holdout)
    normalization = Normalization.of(part)
    batches = TrainBatches(
        part.to(where), normalization.to(where), recipe.batch_size, recipe.augment, recipe.seed
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = create_model(
            recipe.network,
            num_classes=len(dataset.class_names),
            shortcut=recipe.shortcut,
            checkpoint_activations=recipe.checkpoint_activations,
        )
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network.to(where, memory_format=layout)  # type: ignore[call-overload]
    return _Prepared(dataset, batches, normalization, held, digest, network, where, flushed)


def _execute(
    run: Run, recipe: Recipe, prepared: _Prepared, reporter: Reporter, resumed: dict[str, Any] | None = None
) -> Result:
    """Train, from the start or from where a run stopped, and write what comes out."""
    evaluations = _evaluations(recipe, prepared)
    with reporter, devices.cuda_settings(recipe.deterministic):
        trainer = Trainer(recipe, prepared.network, prepared.batches, run, reporter, evaluations)
        if resumed is not None:
            trainer.resume()
            run.note_resume(trainer.step, resumed)
        reporter.say(f"run folder {run.path}")
        if not prepared.denormals_flushed:
            reporter.say(
                "warning: threads started before residual was imported keep denormals, which are slow"
            )
        trainer.fit()
        if recipe.recompute_batchnorm:
            _recompute_batchnorm(prepared.network, prepared.batches)
        return _finish(run, recipe, prepared, trainer)


def _evaluations(recipe: Recipe, prepared: _Prepared) -> dict[str, Callable[[], Evaluation]]:
    """Choose what is evaluated on the way: the hold-out if there is one, the test set only if asked for."""
    splits = {"holdout": prepared.held, "test": prepared.dataset.test if recipe.curve == "test" else None}
    chosen = {kind: split.to(prepared.device) for kind, split in splits.items() if split is not None}
    return {kind: partial(prepared.evaluate, split) for kind, split in chosen.items()}


def _recompute_batchnorm(network: nn.Module, batches: TrainBatches) -> None:
    """Replace BN's moving averages by true averages over an epoch of training batches, as the authors did."""
    count = -(-len(batches.split) // batches.batch_size)
    update_bn((batches[step] for step in range(count)), network)


def _holdout_best(prepared: _Prepared, trainer: Trainer) -> dict[str, float] | None:
    """Give the best hold-out step and its test error, which is reported and chooses nothing."""
    path = find_checkpoint(trainer.run.checkpoints, "best")
    if trainer.best is None or path is None:
        return None
    network = copy.deepcopy(prepared.network)
    network.load_state_dict(load_checkpoint(path)["network"])
    return {**trainer.best, "test_error": prepared.evaluate(prepared.dataset.test, network).error}


def _finish(run: Run, recipe: Recipe, prepared: _Prepared, trainer: Trainer) -> Result:
    """Evaluate, then write model, curves and, last of all, the result."""
    found = prepared.evaluate(prepared.dataset.test)
    images = trainer.step * recipe.batch_size
    figures: dict[str, Any] = {
        "network": recipe.network,
        "shortcut": recipe.shortcut,
        "data": recipe.data,
        "recipe": recipe_label(recipe),
        "seed": recipe.seed,
        "iterations": trainer.step,
        "error": found.error,
        "top5_error": found.top5_error,
        "loss": found.loss,
        "images": found.images,
        "training_error": trainer.training_error,
        "holdout_best": _holdout_best(prepared, trainer),
        "seconds": round(trainer.seconds, 3),
        "images_per_second": round(images / trainer.seconds, 1),
        "warmup_end": trainer.warmup_end,
    }
    config = ModelConfig(
        network=recipe.network,
        shortcut=recipe.shortcut,
        class_names=prepared.dataset.class_names,
        normalization=prepared.normalization,
        input_size=(3, *prepared.dataset.train.images.shape[1:3]),
        data=recipe.data,
        recipe=recipe_label(recipe),
    )
    facts = {
        f"error on the {found.images:,} test pictures": f"{found.error:.2f} %",
        "training error, last window": f"{trainer.training_error:.2f} %",
        "iterations": f"{trainer.step:,} of batch {recipe.batch_size}",
        "seed": recipe.seed,
        "seconds of training": f"{trainer.seconds:.0f}",
    }
    digest = save_model(run.model, prepared.network, config, model_card(config, facts))
    plot_runs([run], run.curves)
    figures["model_sha256"] = digest
    run.write_result(figures)
    return Result(run.path, figures)
