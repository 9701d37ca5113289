"""A whole run: recipe -> data -> network -> trainer -> run folder with its result, curves and model."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from ..data.cifar import RELEASES, default_root, find
from ..data.dataset import Dataset, Split, split_validation
from ..data.load import load_dataset
from ..data.loader import TrainBatches
from ..data.preprocessing import Preprocessing
from ..errors import CheckpointError, RunError, UsageError
from ..evaluation.classification import Evaluation, evaluate_split
from ..models.build import build_model
from ..models.fused import rule_fuses
from ..models.resnet import ResNet
from ..recipes.catalog import recipe_label
from ..recipes.schema import Recipe, differences
from ..runtime import device as devices
from ..runtime.cpu_time import DISTURBED
from ..runtime.environment import environment_facts
from ..runtime.files import found as is_found
from ..runtime.progress import Reporter
from ..runtime.signals import Interrupted, stop_signals
from ..zoo.model_folder import ModelConfig, model_card, save_model
from .checkpoint import find_checkpoint, load_checkpoint
from .run_folder import Run
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
    preprocessing: Preprocessing
    held: Split | None
    validation_sha256: str | None
    network: ResNet
    device: torch.device
    precision: str  # resolved: never "auto"
    denormals_flushed: bool

    def evaluate(
        self,
        split: Split,
        network: nn.Module | None = None,
        progress: Callable[[int], None] = lambda _done: None,
    ) -> Evaluation:
        """Evaluate the network being trained, or another of its kind, on a split."""
        return evaluate_split(network or self.network, split, self.preprocessing, self.device, progress)


def _facts(recipe: Recipe, prepared: _Prepared, data_dir: str | Path | None) -> dict[str, Any]:
    """Gather what `environment.json` records."""
    fused = rule_fuses(prepared.device, prepared.precision, recipe.channels_last, recipe.compile)
    return {
        **environment_facts(devices.describe(prepared.device)),
        "dataset": prepared.dataset.name,
        "data_dir": str(Path(data_dir or default_root()).resolve()),
        "precision": prepared.precision,
        "validation_sha256": prepared.validation_sha256,
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
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Train a network by a recipe, in a new run folder.

    Args:
        recipe: for example `get_recipe("paper", "resnet20").replace({"seed": 1})`.
        output: the run folder, which must not exist; by default `runs/DATE-NETWORK-seedSEED`.
        data_dir: see `load_dataset`.
        device: "cuda", "mps" (untested) or "cpu"; by default "cuda" where it is there, else "cpu".
        dataset: images in memory, in place of the recipe's data; its name goes into result and model card.
        quiet: show no progress.
        reporter: what shows it, in place of the usual one.

    Raises:
        ResidualError: one of its kinds, each with one clear line; nothing is written before the
            recipe, the device and the data are found to be good.
    """
    if not isinstance(recipe, Recipe):
        raise UsageError(f"train takes a recipe, such as get_recipe('paper', 'resnet20'), not {recipe!r:.80}")
    if output is not None and is_found(Path(output).exists):
        raise RunError(f"{output} exists already: a run is never overwritten")
    prepared = _prepare(recipe, data_dir, device, dataset)
    facts = _facts(recipe, prepared, data_dir)
    run = Run.create(None if output is None else Path(output), recipe, facts)
    with run.locked():
        return _execute(run, recipe, prepared, reporter or Reporter(not quiet))


def resume(
    path: str | Path,
    *,
    recipe: Recipe | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    dataset: Dataset | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Go on with a run as if it had never stopped; a finished run is left as it is.

    On a CPU (on CUDA with `deterministic = true`) the weights come out the same to the last bit: the run goes
    on with as many threads as it began with, and the caller's number is put back. `recipe`, where given, must
    be the run's own; data folder and device are those that the run began with, unless others are given.
    A damaged checkpoint, or another version of torch, is said in one line and noted in `environment.json`.

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
    data_dir = data_dir or _recorded_data_dir(run.recipe, began)
    name = began.get("dataset", run.recipe.data)
    if dataset is None and name != run.recipe.data:
        raise RunError(f"{path} was trained on a data set of your own, '{name}': resume(..., dataset=...)")
    with devices.cpu_threads(began["hardware"]["threads"]):
        prepared = _prepare(
            run.recipe, data_dir, device or began["hardware"]["device"], dataset, began.get("precision")
        )
        facts = _facts(run.recipe, prepared, data_dir)
        facts["notes"] = _other_versions(began, facts)
        with run.locked():
            return _execute(run, run.recipe, prepared, reporter or Reporter(not quiet), facts)


def _recorded_data_dir(recipe: Recipe, began: dict[str, Any]) -> Path | None:
    """Return where the run found its data, if it is still there."""
    release, root = RELEASES.get(recipe.data), began.get("data_dir")
    if release is None or root is None:
        return None
    there = find(release, Path(root)) is not None or (Path(root) / release.archive).is_file()
    return Path(root) if there else None


def _other_versions(began: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    """Say whether torch is not the one that the run began with, for then other bits may come out."""
    before, now = (where["versions"]["torch"] for where in (began, facts))
    if before == now:
        return []
    return [f"warning: the run began with torch {before}, this is {now}: the last bits may differ"]


def _prepare(
    recipe: Recipe,
    data_dir: str | Path | None,
    device: str | None,
    dataset: Dataset | None,
    precision: str | None = None,
) -> _Prepared:
    """Load and build all that a run needs; write nothing."""
    where = devices.resolve_device(device)
    precision = precision or devices.resolve_precision(recipe.precision, where)
    flushed = devices.prepare(where)
    dataset = dataset or load_dataset(recipe.data, data_dir)
    part, held, digest = dataset.train, None, None
    if recipe.validation:
        part, held, digest = split_validation(dataset.train, recipe.validation)
    preprocessing = Preprocessing.measure(part)
    batches = TrainBatches(
        part.to(where), preprocessing.to(where), recipe.batch_size, recipe.augment, recipe.seed
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        network = build_model(
            recipe.network,
            num_classes=len(dataset.class_names),
            shortcut=recipe.shortcut,
            checkpoint_activations=recipe.checkpoint_activations,
        )
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    network.to(where, memory_format=layout)  # type: ignore[call-overload]
    return _Prepared(dataset, batches, preprocessing, held, digest, network, where, precision, flushed)


def _execute(
    run: Run, recipe: Recipe, prepared: _Prepared, reporter: Reporter, resumed: dict[str, Any] | None = None
) -> Result:
    """Train, from the start or from where a run stopped, and write what comes out."""
    evaluations = _evaluations(recipe, prepared, reporter)
    resolved = recipe.replace({"precision": prepared.precision})
    trainer = Trainer(resolved, prepared.network, prepared.batches, run, reporter, evaluations)
    with reporter, devices.cuda_settings(recipe.deterministic), stop_signals.handled():
        try:
            if resumed is not None:
                resumed["notes"] += trainer.resume()
                run.note_resume(trainer.step, resumed)
                for note in resumed["notes"]:
                    reporter.say(note)
            reporter.say(f"run folder {run.path}")
            if not prepared.denormals_flushed:
                reporter.say(
                    "warning: threads started before residual was imported keep denormals, which are slow"
                )
            trainer.fit()
            if recipe.recompute_batchnorm:
                _recompute_batchnorm(prepared.network, prepared.batches)
            return _finish(run, recipe, prepared, trainer)
        except Interrupted as error:
            raise trainer.stopped(error.number) from None


def _evaluations(
    recipe: Recipe, prepared: _Prepared, reporter: Reporter
) -> dict[str, Callable[[], Evaluation]]:
    """Choose what is evaluated on the way: the hold-out if there is one, the test set only if asked for."""
    splits = {"validation": prepared.held, "test": prepared.dataset.test if recipe.curve == "test" else None}
    chosen = {kind: split.to(prepared.device) for kind, split in splits.items() if split is not None}

    def evaluate(kind: str, split: Split) -> Evaluation:
        name = "validation set" if kind == "validation" else "test set"
        with reporter.evaluating(name, len(split)) as progress:
            return prepared.evaluate(split, progress=progress)

    return {kind: partial(evaluate, kind, split) for kind, split in chosen.items()}


def _recompute_batchnorm(network: nn.Module, batches: TrainBatches) -> None:
    """Replace BN's moving averages by true averages over an epoch of training batches, as the authors did."""
    count = -(-len(batches.split) // batches.batch_size)
    update_bn((batches[step] for step in range(count)), network)


def _validation_best(prepared: _Prepared, trainer: Trainer) -> dict[str, float] | None:
    """Give the best hold-out step and its test error, which is reported and chooses nothing.

    Step, figure and weights come from one file, so they belong together.
    """
    path = find_checkpoint(trainer.run.checkpoints, "best")
    if trainer.best is None or path is None:
        return None
    try:
        state = load_checkpoint(path)
    except CheckpointError as error:  # the run itself is good
        trainer.reporter.say(f"warning: {error}; the result names no best step")
        return None
    network = copy.deepcopy(prepared.network)
    network.load_state_dict(state["network"])
    return {**state["best"], "test_error": prepared.evaluate(prepared.dataset.test, network).error}


def _finish(run: Run, recipe: Recipe, prepared: _Prepared, trainer: Trainer) -> Result:
    """Evaluate, then write model, curves and, last of all, the result."""
    test = prepared.dataset.test
    with trainer.reporter.evaluating("test set", len(test)) as progress:
        found = prepared.evaluate(test, progress=progress)
    images, cpu = trainer.step * recipe.batch_size, trainer.meter.read()
    figures: dict[str, Any] = {
        "network": recipe.network,
        "shortcut": recipe.shortcut,
        "data": prepared.dataset.name,
        "recipe": recipe_label(recipe),
        "seed": recipe.seed,
        "iterations": trainer.step,
        "error": found.error,
        "top5_error": found.top5_error,
        "loss": found.loss,
        "images": found.images,
        "training_error": trainer.training_error,
        "validation_best": _validation_best(prepared, trainer),
        "seconds": round(trainer.seconds, 3),
        "images_per_second": round(images / trainer.seconds, 1),
        "cpu_seconds": round(cpu.own, 1),
        "others_share": round(cpu.others_share, 4),
        "disturbed": cpu.others_share > DISTURBED,
        "warmup_end": trainer.warmup_end,
    }
    config = ModelConfig(
        network=recipe.network,
        shortcut=recipe.shortcut,
        class_names=prepared.dataset.class_names,
        preprocessing=prepared.preprocessing,
        data=prepared.dataset.name,
        recipe=recipe_label(recipe),
    )
    facts = {
        f"error on the {found.images:,} test images": f"{found.error:.2f} %",
        "training error, last window": f"{trainer.training_error:.2f} %",
        "iterations": f"{trainer.step:,} of batch {recipe.batch_size}",
        "seed": recipe.seed,
        "seconds of training": f"{trainer.seconds:.0f}",
    }
    from .curves import plot_runs  # loads matplotlib, which nothing before needs

    try:
        digest = save_model(run.model, prepared.network, config, model_card(config, facts))
    except OSError as error:
        hint = f"once there is room for it, 'residual train --resume {run.path}' writes it"
        raise RunError(f"cannot write the model folder {run.model}: {error}; {hint}") from error
    plot_runs([run], run.curves)
    figures["model_sha256"] = digest
    run.write_result(figures)
    return Result(run.path, figures)
