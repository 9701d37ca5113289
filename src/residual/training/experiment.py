"""A whole run, in stages of which each hands one thing to the next: prepared, trained, evaluated, written."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim.swa_utils import update_bn

from ..data.convert import as_dataset
from ..data.dataset import Dataset
from ..data.photos import OnBadImage, PhotoDataset, Photos
from ..errors import RunError, UsageError
from ..recipes.schema import Recipe, differences
from ..runtime import device as devices
from ..runtime import ranks
from ..runtime.launch import started_as
from ..runtime.progress import Reporter
from ..runtime.signals import Interrupted, stop_signals
from .bad_loss import fit
from .continued import Continued
from .engine import Engine
from .find_rate import plot, range_test
from .finish import evaluate_trained, write
from .followed_run import check_new, run_of_rank
from .loggers.logger import check_loggers
from .loggers.tracker import Tracker
from .memory import memory_explained
from .parallel import average_statistics
from .photo_report import write_first_batch
from .prepare import Prepared, prepare
from .resumed import (
    check_images,
    check_own,
    device_of,
    other_ranks,
    other_versions,
    recorded_data_dir,
    recorded_start,
    threads_of,
)
from .run_folder import Run
from .run_state import go_back
from .starting_weights import with_weights
from .time_fit import Pace, pace_of
from .trained import Trained
from .trainer import Trainer
from .training_data import Reading


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
    workers: int | None = None,
    cache: int = 0,
    on_bad_image: OnBadImage = "stop",
    continued: str | Path | None = None,
    add_classes: bool = False,
    group: str | None = None,
    find_rate: bool = False,
    fit_memory: bool = False,
    logger: str | Sequence[str] = (),
    began: float | None = None,
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Train a network by a recipe, in a new run folder.

    Args:
        recipe: for example `get_recipe("paper", "resnet20").replace({"seed": 1})`.
        output: the run folder, which must not exist; by default `runs/DATE-NETWORK-seedSEED`.
        data_dir: see `load_dataset`; for photographs (a recipe with `data = "folder"`) their folder, as
            `load_folder` takes it.
        device: "cuda", "mps" (untested) or "cpu"; by default "cuda" where it is available, else "cpu".
        dataset: used in place of the recipe's data: a `Dataset`, photographs from `load_folder`, or anything
            with `__len__` and `__getitem__` that `as_dataset` converts. Its name goes into result and card.
        test: the test set that belongs to `dataset`, if that is not a `Dataset`.
        network: trained in place, instead of the recipe's network: any module that maps images [N, 3, H, W]
            to logits [N, classes]. Its random layers, such as dropout, draw from torch's global generator,
            which a resume does not restore.
        workers: processes that decode photographs; by default as many as suit the device. The batches are the
            same whatever the number.
        cache: keep photographs decoded on the disk in at most this many bytes; 0: do not.
        on_bad_image: "stop" at a photograph that cannot be decoded, or "skip" it: another takes its place.
        continued: a finished run on photographs to go on from with its weights, see `continued_recipe`; the
            result says how the error of its classes changed. With `add_classes`, there may be new ones.
        group: which photographs stay on one side of a split, see `load_folder`.
        find_rate: take the learning rate that a range test finds, in place of the recipe's: see `find_rate`.
        fit_memory: compute a batch in as few parts as fit into the memory: the run's recipe has their number.
        logger: "tensorboard", "wandb" or "mlflow", or several of them: where the run is logged besides its
            folder. One that fails is given up with a warning.
        began: `time.perf_counter()` when the recipe's `time` began to count; by default at this call. The
            schedule is fitted to the speed as measured, so two such runs, or one that is resumed, differ;
            only a resume from a checkpoint of the last twentieth is exact.
        quiet, reporter: show no progress; show it in place of the default one.

    Raises:
        ResidualError: one of its kinds, each with a message of one line; nothing is written before the
            recipe, the device, the data and the network are checked.
    """
    if not isinstance(recipe, Recipe):
        raise UsageError(f"train takes a recipe, such as get_recipe('paper', 'resnet20'), not {recipe!r:.80}")
    loggers = check_loggers(logger)
    began = time.perf_counter() if began is None else began
    reporter = reporter or Reporter(not quiet and started_as()[0] == 0)
    own = _as_dataset(dataset, test)
    with ranks.joined(), reporter, memory_explained(recipe):
        ranks.from_first(lambda: check_new(output))
        recipe = with_weights(recipe, continued, reporter)
        what: dict[str, Any] = {"data_dir": data_dir, "device": device, "dataset": own, "network": network}
        what |= {"reading": Reading(workers, cache, on_bad_image, group), "reporter": reporter}
        what |= {"fit_memory": fit_memory, "add_classes": None if continued is None else add_classes}
        prepared = prepare(recipe, **what)
        prepared = prepared if continued is None else _measure_former(prepared, reporter)
        found = range_test(prepared, reporter) if find_rate else None
        if found is not None:
            prepared = prepared.changed({"optimizer.learning_rate": found.rate})
        pace = pace_of(prepared, began)
        place, facts = None if output is None else Path(output), prepared.facts(data_dir)
        run = run_of_rank(ranks.from_first(lambda: Run.create(place, prepared.recipe, facts).path))
        with run.locked():
            if found is not None:
                plot(found, run.find_rate)
            return _run(run, prepared, reporter, pace, loggers)


def resume(
    path: str | Path,
    *,
    recipe: Recipe | None = None,
    data_dir: str | Path | None = None,
    device: str | None = None,
    dataset: Any = None,
    test: Any = None,
    network: nn.Module | None = None,
    workers: int | None = None,
    logger: str | Sequence[str] = (),
    quiet: bool = False,
    reporter: Reporter | None = None,
) -> Result:
    """Resume a run as if it had never stopped; a finished run is left as it is.

    On a CPU (on CUDA with `deterministic = true`) the resume is bit-exact: the run keeps the number of
    threads that it began with, and the caller's number is restored afterwards. `recipe`, where given, must be
    the run's own; data folder and device are those that the run began with, unless others are given. A
    dataset or network that was passed to `train` is passed again. Photographs must be the same, and are read
    as at the start, but for the number of `workers`. A corrupted checkpoint, or another version of torch, is
    reported in one line and noted in `environment.json`. A run with a time goes on for what is left of it.
    Its loggers go on in what they call the run; `logger` names others.

    Raises:
        ResidualError: as `train`; also if the recipe was changed or the checkpoint does not fit.
    """
    run, loggers = run_of_rank(Run.open(Path(path)).path), check_loggers(logger)
    changed = differences(run.recipe, recipe) if recipe is not None else []
    if changed:
        raise RunError(f"{path} cannot be resumed with another recipe: {'; '.join(changed)}")
    if run.result is not None:
        return Result(run.path, run.result)
    began = run.environment
    check_own(run, began, dataset, network)
    started = time.perf_counter()
    data_dir = data_dir or recorded_data_dir(run.recipe, began)
    reporter = reporter or Reporter(not quiet and started_as()[0] == 0)
    explained = memory_explained(run.recipe)
    with ranks.joined(), devices.cpu_threads(threads_of(began)), reporter, explained:
        prepared = prepare(
            run.recipe,
            data_dir=data_dir,
            device=device or device_of(began),
            dataset=_as_dataset(dataset, test),
            network=network,
            precision=began.get("precision"),
            reading=Reading.of_run(began.get("reading"), workers),
            start=recorded_start(run, began),
            reporter=reporter,
        )
        if "continued" in began:
            prepared = replace(prepared, continued=Continued.of_run(began["continued"]))
        check_images(run, began, prepared)
        facts = prepared.facts(data_dir)
        facts["notes"] = other_versions(began, facts) + other_ranks(began)
        with run.locked():
            return _run(run, prepared, reporter, pace_of(prepared, started), loggers, facts)


def _measure_former(prepared: Prepared, reporter: Reporter) -> Prepared:
    """Evaluate the model of the run to go on from, on the test images of its classes."""
    test = prepared.data.dataset.test
    if not isinstance(test, Photos) or prepared.source is None:
        raise UsageError("to go on from a run needs photographs in a folder, and a network of this package")
    with reporter.working("the former model, images", len(test)) as progress:
        how = (prepared.device, prepared.data.workers, progress)
        return replace(prepared, source=None, continued=Continued.measure(prepared.source, test, *how))


def _as_dataset(dataset: Any, test: Any) -> Dataset | PhotoDataset | None:
    """Return a dataset of this package as it is, and convert any other kind."""
    if dataset is None or isinstance(dataset, Dataset | PhotoDataset):
        if test is not None:
            raise UsageError("test= goes with a dataset= that is not one of residual's, which have their own")
        return dataset
    return as_dataset(dataset, test)


def _run(
    run: Run,
    prepared: Prepared,
    reporter: Reporter,
    pace: Pace,
    loggers: Sequence[str],
    resumed: dict[str, Any] | None = None,
) -> Result:
    """Go through the stages, from the start or, with the facts of a resume, from the last checkpoint."""
    engine = Engine(
        prepared.recipe.replace({"precision": prepared.precision}), prepared.network, prepared.data.batches
    )
    trainer = Trainer(engine, run, reporter, prepared.evaluations(reporter), pace)
    with reporter, devices.cuda_settings(prepared.recipe.deterministic), stop_signals.handled():
        try:
            with Tracker(run, loggers if ranks.is_first() else (), reporter) as tracker:
                _begin(trainer, prepared, resumed)
                tracker.begin()
                trained = _train(trainer, prepared)
                evaluated = evaluate_trained(prepared, trained, reporter)
                figures = write(run, prepared, evaluated)
                tracker.end(figures, evaluated.test.confusion, prepared.data.dataset.class_names)
            return Result(run.path, figures)
        except Interrupted as error:
            raise trainer.stopped(error.number) from None
        finally:
            prepared.data.batches.close()


def _begin(trainer: Trainer, prepared: Prepared, resumed: dict[str, Any] | None) -> None:
    """Go back to the last checkpoint, if this is a resume, and say what the user should know."""
    run, reporter = trainer.run, trainer.reporter
    if resumed is not None:
        resumed["notes"] += go_back(trainer)
        run.note_resume(trainer.step, resumed)
        for note in resumed["notes"]:
            reporter.say(note)
    else:
        if ranks.is_first():
            write_first_batch(run, prepared, reporter)
        if prepared.own_network is not None or prepared.start is not None:
            trainer.save()  # the initial weights follow from no seed
        if prepared.start is not None:
            reporter.say(f"weights of {run.recipe.weights}: {prepared.start.note}")
    reporter.say(f"run folder {run.path}")
    if not prepared.denormals_flushed:
        reporter.say("warning: threads started before residual was imported keep denormals, which are slow")


def _train(trainer: Trainer, prepared: Prepared) -> Trained:
    """Train; then, if wanted, take BN's true averages over an epoch of batches, as the authors did."""
    trained, batches = fit(trainer), prepared.data.batches
    if prepared.recipe.recompute_batchnorm:
        update_bn((batches[step] for step in range(-(-batches.size // batches.batch_size))), trained.network)
        average_statistics(trained.network)
    return trained
