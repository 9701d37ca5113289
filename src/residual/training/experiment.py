"""A whole run, in stages of which each hands one thing to the next: prepared, trained, evaluated, written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.swa_utils import update_bn

from ..data.cifar import RELEASES, find
from ..data.convert import as_dataset
from ..data.dataset import Dataset, Split
from ..data.loader import Batches
from ..errors import RunError, UsageError
from ..evaluation.classification import Evaluation
from ..recipes.schema import Recipe, differences
from ..runtime import device as devices
from ..runtime.files import found as is_found
from ..runtime.progress import Reporter
from ..runtime.signals import Interrupted, stop_signals
from .engine import Engine
from .finish import evaluate_trained, write
from .prepare import Prepared, prepare
from .run_folder import Run
from .trainer import Trained, Trainer


@dataclass(frozen=True)
class Result:
    """The run folder of a finished run, and the figures of its `result.json`."""

    path: Path
    figures: dict[str, Any]

    @property
    def error(self) -> float:
        """The error on the test set at the last step, in percent."""
        return float(self.figures["error"])


def train(
    recipe: Recipe,
    *,
    output: str | Path | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    dataset: Any = None,
    test: Any = None,
    network: nn.Module | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Train a network by a recipe, in a new run folder.

    Args:
        recipe: for example `get_recipe("paper", "resnet20").replace({"seed": 1})`.
        output: the run folder, which must not exist; by default `runs/DATE-NETWORK-seedSEED`.
        data_dir: see `load_dataset`.
        device: "cuda", "mps" (untested) or "cpu"; by default "cuda" where it is available, else "cpu".
        dataset: used in place of the recipe's data: a `Dataset`, or anything with `__len__` and `__getitem__`
            that `as_dataset` converts. Its name goes into result and model card.
        test: the test set that belongs to `dataset`, if that is not a `Dataset`.
        network: trained in place, instead of the recipe's network: any module that maps images [N, 3, H, W]
            to logits [N, classes]. Its random layers, such as dropout, draw from torch's global generator,
            which a resume does not restore.
        quiet: show no progress.
        reporter: shows progress in place of the default one.

    Raises:
        ResidualError: one of its kinds, each with a message of one line; nothing is written before the
            recipe, the device, the data and the network are checked.
    """
    if not isinstance(recipe, Recipe):
        raise UsageError(f"train takes a recipe, such as get_recipe('paper', 'resnet20'), not {recipe!r:.80}")
    if output is not None and is_found(Path(output).exists):
        raise RunError(f"{output} exists already: a run is never overwritten")
    own = _as_dataset(dataset, test)
    prepared = prepare(recipe, data_dir=data_dir, device=device, dataset=own, network=network)
    run = Run.create(None if output is None else Path(output), recipe, prepared.facts(data_dir))
    with run.locked():
        return _run(run, prepared, reporter or Reporter(not quiet))


def resume(
    path: str | Path,
    *,
    recipe: Recipe | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    dataset: Any = None,
    test: Any = None,
    network: nn.Module | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Resume a run as if it had never stopped; a finished run is left as it is.

    On a CPU (on CUDA with `deterministic = true`) the resume is bit-exact: the run keeps the number of
    threads that it began with, and the caller's number is restored afterwards. `recipe`, where given, must be
    the run's own; data folder and device are those that the run began with, unless others are given. A
    dataset or network that was passed to `train` is passed again. A corrupted checkpoint, or another version
    of torch, is reported in one line and noted in `environment.json`.

    Raises:
        ResidualError: as `train`; also if the recipe was changed or the checkpoint does not fit.
    """
    run = Run.open(Path(path))
    changed = differences(run.recipe, recipe) if recipe is not None else []
    if changed:
        raise RunError(f"{path} cannot be resumed with another recipe: {'; '.join(changed)}")
    if run.result is not None:
        return Result(run.path, run.result)
    began = run.environment
    _check_own(run, began, dataset, network)
    data_dir = data_dir or _recorded_data_dir(run.recipe, began)
    with devices.cpu_threads(began["hardware"]["threads"]):
        prepared = prepare(
            run.recipe,
            data_dir=data_dir,
            device=device or began["hardware"]["device"],
            dataset=_as_dataset(dataset, test),
            network=network,
            precision=began.get("precision"),
        )
        facts = prepared.facts(data_dir)
        facts["notes"] = _other_versions(began, facts)
        with run.locked():
            return _run(run, prepared, reporter or Reporter(not quiet), facts)


def _as_dataset(dataset: Any, test: Any) -> Dataset | None:
    """Return a `Dataset` as it is, and convert any other kind."""
    if dataset is None or isinstance(dataset, Dataset):
        if test is not None:
            raise UsageError("test= goes with a dataset= that is not a residual.Dataset, which has its own")
        return dataset
    return as_dataset(dataset, test)


def _check_own(run: Run, began: Mapping[str, Any], dataset: Any, network: nn.Module | None) -> None:
    """Refuse to resume without the dataset or the network that the caller passed to `train`."""
    name, own = began.get("dataset", run.recipe.data), began.get("own_network")
    if dataset is None and name != run.recipe.data:
        raise RunError(f"{run.path} was trained on a dataset of your own, '{name}': resume(..., dataset=...)")
    if network is None and own is not None:
        raise RunError(f"{run.path} trains a network of your own, '{own}': resume(..., network=...)")
    if network is not None and own is None:
        raise RunError(f"{run.path} trains {run.recipe.network}: leave network= out to resume it")


def _recorded_data_dir(recipe: Recipe, began: Mapping[str, Any]) -> Path | None:
    """Return where the run found its data, if it is still there."""
    release, root = RELEASES.get(recipe.data), began.get("data_dir")
    if release is None or root is None:
        return None
    there = find(release, Path(root)) is not None or (Path(root) / release.archive).is_file()
    return Path(root) if there else None


def _other_versions(began: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Say whether torch is not the version that the run began with, for then other bits may come out."""
    before, now = (where["versions"]["torch"] for where in (began, facts))
    if before == now:
        return []
    return [f"warning: the run began with torch {before}, this is {now}: the last bits may differ"]


def _run(run: Run, prepared: Prepared, reporter: Reporter, resumed: dict[str, Any] | None = None) -> Result:
    """Go through the stages, from the start or, with the facts of a resume, from the last checkpoint."""
    engine = Engine(
        prepared.recipe.replace({"precision": prepared.precision}), prepared.network, prepared.batches
    )
    trainer = Trainer(engine, run, reporter, _evaluations(prepared, reporter))
    with reporter, devices.cuda_settings(prepared.recipe.deterministic), stop_signals.handled():
        try:
            _begin(trainer, prepared, resumed)
            trained = _train(trainer, prepared)
            evaluated = evaluate_trained(prepared, trained, reporter)
            return Result(run.path, write(run, prepared, evaluated))
        except Interrupted as error:
            raise trainer.stopped(error.number) from None


def _begin(trainer: Trainer, prepared: Prepared, resumed: dict[str, Any] | None) -> None:
    """Go back to the last checkpoint, if this is a resume, and say what the user should know."""
    run, reporter = trainer.run, trainer.reporter
    if resumed is not None:
        resumed["notes"] += trainer.resume()
        run.note_resume(trainer.step, resumed)
        for note in resumed["notes"]:
            reporter.say(note)
    elif prepared.own_network is not None:
        trainer.save()  # its initial weights follow from no seed
    reporter.say(f"run folder {run.path}")
    if not prepared.denormals_flushed:
        reporter.say("warning: threads started before residual was imported keep denormals, which are slow")


def _train(trainer: Trainer, prepared: Prepared) -> Trained:
    trained = trainer.fit()
    if prepared.recipe.recompute_batchnorm:
        _recompute_batchnorm(trained.network, prepared.batches)
    return trained


def _evaluations(prepared: Prepared, reporter: Reporter) -> dict[str, Callable[[nn.Module], Evaluation]]:
    """Choose what is evaluated during training: the validation set, and the test set only if asked for."""
    recipe, dataset = prepared.recipe, prepared.dataset
    splits = {"validation": prepared.validation, "test": dataset.test if recipe.curve == "test" else None}
    chosen = {kind: split.to(prepared.device) for kind, split in splits.items() if split is not None}

    def evaluate(kind: str, split: Split, network: nn.Module) -> Evaluation:
        with reporter.evaluating(f"{kind} set", len(split)) as progress:
            return prepared.evaluate(split, network, progress)

    return {kind: partial(evaluate, kind, split) for kind, split in chosen.items()}


def _recompute_batchnorm(network: nn.Module, batches: Batches) -> None:
    """Replace BN's moving averages by true averages over an epoch of training batches, as the authors did."""
    count = -(-batches.size // batches.batch_size)
    update_bn((batches[step] for step in range(count)), network)
