"""The command `train`: one run, several seeds, or a resume."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..recipes.catalog import get_recipe
from ..recipes.overrides import parse_overrides
from ..recipes.schema import DATASETS, Recipe
from ..runtime.duration import parse_duration
from ..runtime.progress import display
from ..training.loggers.logger import check_loggers
from ..training.run_folder import Run
from . import train_options as options
from .completion import networks
from .models import Variant
from .output import DataDir, Device, Json, Override, print_json, print_line, program
from .train_choice import Wanted, choose, find_data
from .train_ranks import goes_on, launch_ranks, refuse_with_ranks

if TYPE_CHECKING:
    from ..training.experiment import Result


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(train)


def train(
    model: Annotated[
        str | None, typer.Argument(help="The network, for example resnet20.", autocompletion=networks)
    ] = None,
    data: options.Data = None,
    data_dir: DataDir = None,
    recipe: options.RecipeName = None,
    shortcut: options.Shortcut = None,
    variant: Variant = None,
    weights: options.Weights = None,
    continued: options.From = None,
    add_classes: options.AddClasses = False,
    fit: options.Fit = None,
    group: options.Group = None,
    balance: options.Balance = None,
    iterations: options.Iterations = None,
    epochs: options.Epochs = None,
    time: options.Time = None,
    find_lr: options.FindRate = False,
    early_stop: options.EarlyStop = None,
    batch_size: options.BatchSize = None,
    image_size: options.ImageSize = None,
    lr: options.Rate = None,
    precision: options.Precision = None,
    seed: options.Seed = None,
    validation: options.Validation = None,
    curve: options.Curve = None,
    device: Device = None,
    workers: options.Workers = None,
    cache: options.Cache = None,
    on_bad_image: options.BadImage = "stop",
    output: Annotated[Path | None, typer.Option(help="The run folder to make.")] = None,
    override: Override = None,
    seeds: options.Seeds = None,
    jobs: options.Jobs = None,
    resume: options.Resume = None,
    auto_resume: options.AutoResume = False,
    processes: options.Processes = None,
    gpus: options.Gpus = None,
    logger: options.LoggerName = None,
    as_json: Json = False,
) -> None:
    """Train a network, or resume a run."""
    began = perf_counter()  # before torch is loaded
    if processes is not None or gpus is not None:
        raise typer.Exit(launch_ranks(processes, gpus, device))
    if auto_resume and output is None:
        raise UsageError("--auto-resume needs --output RUN, the run to begin or to resume")
    name, place = find_data(data, data_dir)
    named: dict[str, Any] = {"data": name, "shortcut": shortcut, "variant": variant, "seed": seed}
    named |= {"iterations": iterations, "validation": validation, "curve": curve}
    fit_memory = batch_size == options.AUTO
    named |= {"batch_size": None if fit_memory else batch_size}
    named |= {"precision": precision, "optimizer.learning_rate": lr, "weights": weights}
    named |= {"fit": fit, "balance": balance, "early_stop": early_stop}
    named |= {"time": None if time is None else _parse_time(time, epochs, iterations)}
    changes: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    changes |= parse_overrides(override or [])
    room = options.parse_size(cache) if cache else 0
    reading: dict[str, Any] = {"workers": workers, "cache": room, "on_bad_image": on_bad_image}
    reading |= {"group": group, "logger": check_loggers(logger or ())}
    where = {"data_dir": place, "device": device}
    _refuse_combinations(seeds, jobs, continued, add_classes)
    refuse_with_ranks(find_lr, seeds)
    if fit_memory:
        _refuse_with_auto_batch(seeds, resume)
    if find_lr:
        _refuse_with_find_rate(changes, seeds, resume)
    if output is not None and goes_on(output, auto_resume):
        changes.pop("weights", None)  # may be "auto", which the run has resolved
        results = [_resume(output, model, None, changes, workers=workers, logger=reading["logger"], **where)]
    elif resume is not None:
        _refuse_with_resume(output, epochs, image_size, cache, on_bad_image, group, continued)
        results = [
            _resume(resume, model, recipe, changes, workers=workers, logger=reading["logger"], **where)
        ]
    else:
        chosen = choose(Wanted(model, recipe, name, place, changes, image_size, epochs, continued, group))
        if seeds:
            results = _train_seeds(chosen, seeds, jobs or 1, output, as_json, reading=reading, **where)
        else:
            more = {"continued": continued, "add_classes": add_classes, "find_rate": find_lr}
            more |= {"fit_memory": fit_memory}
            results = [_train(chosen, output, **more, **where, **reading, began=began)]
    if as_json:
        print_json([result.figures for result in results] if seeds else results[0].figures)
    elif not seeds:
        _print_result(results[0], data, data_dir)


def _refuse_combinations(
    seeds: int | None, jobs: int | None, continued: Path | None, add_classes: bool
) -> None:
    """Refuse options that need another one, or exclude each other."""
    if jobs is not None and seeds is None:
        raise UsageError("--jobs goes with --seeds: it says how many of the seeds' runs train at once")
    if continued is not None and seeds:
        raise UsageError("--from goes on from one run: leave --seeds out")
    if add_classes and continued is None:
        raise UsageError("--add-classes goes with --from RUN, whose classes the new ones are added to")


def _refuse_with_resume(
    output: Path | None,
    epochs: float | None,
    image_size: int | None,
    cache: str | None,
    bad_image: str,
    group: str | None,
    continued: Path | None,
) -> None:
    """Refuse what a resumed run keeps."""
    given = {"--output": output, "--epochs": epochs, "--image-size": image_size, "--cache": cache}
    given |= {"--from": continued, "--group": group}
    given["--on-bad-image"] = None if bad_image == "stop" else bad_image
    for option, value in given.items():
        if value is not None:
            raise UsageError(f"--resume keeps the run's folder, length and images: leave {option} out")


def _parse_time(text: str, epochs: float | None, iterations: int | None) -> float:
    """Return the seconds of `--time`, which sets the length of the schedule alone."""
    if epochs is not None or iterations is not None:
        raise UsageError("--time sets the length of the schedule: leave --epochs and --iterations out")
    seconds = parse_duration(text, "--time")
    if not seconds:
        raise UsageError("--time must be above 0")
    return seconds


def _refuse_with_auto_batch(seeds: int | None, resume: Path | None) -> None:
    """Refuse what --batch-size auto does not go with."""
    if seeds is not None:
        raise UsageError(
            "--batch-size auto is for one run: give --seeds the number of parts that it finds, as --set "
            "bn_groups=N"
        )
    if resume is not None:
        raise UsageError("--resume keeps the run's batch and its parts: leave --batch-size auto out")


def _refuse_with_find_rate(changes: dict[str, Any], seeds: int | None, resume: Path | None) -> None:
    """Refuse what --find-lr does not go with."""
    if "optimizer.learning_rate" in changes:
        raise UsageError("--find-lr finds the learning rate: leave --lr out")
    if seeds is not None:
        raise UsageError("--find-lr is for one run: find a rate with it, and give --seeds that --lr")
    if resume is not None:
        raise UsageError("--resume keeps the run's learning rate: leave --find-lr out")


def _train(recipe: Recipe, output: Path | None, **where: Any) -> "Result":
    from ..training import experiment

    return experiment.train(recipe, output=output, **where)


def _train_seeds(
    recipe: Recipe, seeds: int, jobs: int, output: Path | None, as_json: bool, **where: Any
) -> "list[Result]":
    """Train a recipe with several seeds; runs that are there already are finished or left as they are."""
    if output is None:
        raise UsageError("--seeds N needs --output FOLDER, which gets a run folder for each seed")
    from ..training.experiment import Result
    from ..training.jobs import Job, outcome, run_jobs

    planned = [Job(recipe.replace({"seed": n}), output / f"{recipe.network}-seed{n}") for n in range(seeds)]

    def finished(job: Job, code: int) -> None:
        if not as_json:
            print_line(f"{job.output}: {outcome(code)}")

    codes = run_jobs(planned, jobs, **where, quiet=display.quiet, finished=finished)
    done = [Run.open(job.output) for job in planned if codes.get(job.output) == 0]
    results = [Result(run.path, run.result) for run in done if run.result is not None]
    errors = [result.error for result in results]
    if errors and not as_json:
        spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
        print_line(f"test error {statistics.mean(errors):.2f} +- {spread:.2f} % over {len(errors)} seeds")
    if any(codes.values()):
        raise typer.Exit(max(codes.values()))
    return results


def _resume(
    path: Path,
    model: str | None,
    recipe: str | None,
    changes: dict[str, Any],
    **where: Any,
) -> "Result":
    """Resume a run; what else is given on the command line must agree with its recipe."""
    own = Run.open(path).recipe
    expected = get_recipe(recipe, model or own.network) if recipe else own
    if model is not None and model != own.network:
        changes = {**changes, "network": model}
    expected = expected.replace(changes)
    from ..training import experiment

    return experiment.resume(path, recipe=expected, **where)


def _print_result(result: "Result", data: str | None, data_dir: Path | None) -> None:
    figures = result.figures
    photographs = data is not None and data not in DATASETS
    where = f" --data {data}" if photographs else f" --data-dir {data_dir}" if data_dir else ""
    print_line(
        f"test error {figures['error']:.2f} % on {figures['images']:,} images, after "
        f"{figures['iterations']:,} iterations, {figures['seconds']:.0f} s of training "
        f"({figures['images_per_second']:.0f} images/s)"
    )
    macro = figures.get("macro_error", figures["error"])  # early runs have none
    if f"{macro:.2f}" != f"{figures['error']:.2f}":  # the classes differ in size
        print_line(f"macro error {macro:.2f} %, the mean over the classes")
    if figures["validation_best"]:
        best = figures["validation_best"]
        print_line(
            f"best validation error {best['error']:.2f} % at step {best['step']:,}, "
            f"where the test error was {best['test_error']:.2f} %"
        )
    if figures.get("continued"):
        _print_change(figures["continued"])
    if figures.get("skipped"):
        print_line(f"skipped {len(figures['skipped'])} images that cannot be decoded: see result.json")
    print_line(f"run     {result.path}")
    print_line(f"curves  {result.path / 'curves.png'}")
    print_line(f"model   {result.path / 'model'}")
    if "advice" in figures:
        print_line(f"report  {result.path / 'report.html'}")
    for sentence in figures.get("advice", [])[:3]:
        print_line(sentence)
    if display.quiet:
        return
    print_line("next:")
    print_line(f"  {program()} evaluate {result.path}{where}")
    print_line(f"  {program()} plot {result.path}")
    if figures["data"] == "digits":
        print_line(f"  {program()} train resnet20 --data-dir FOLDER_WITH_CIFAR10    (the paper's experiment)")


def _print_change(figures: Mapping[str, Any]) -> None:
    """Print how the error on the classes of the run that this one goes on from has changed."""
    before, after = (
        f"{found['error']:.2f} % [{found['error_interval'][0]:.2f}, {found['error_interval'][1]:.2f}]"
        for found in (figures["before"], figures["after"])
    )
    print_line(
        f"the {figures['classes']} former classes: test error {before} -> {after} on "
        f"{figures['after']['images']:,} images"
    )
