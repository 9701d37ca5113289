"""The command `train`: one run, several seeds, or a resume."""

import logging
import statistics
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..data.names import is_folder
from ..errors import UsageError
from ..models.names import for_small_images, parse_name
from ..recipes.catalog import get_recipe
from ..recipes.schema import DATASETS, FOLDER, Recipe, parse_overrides
from ..runtime.duration import parse_duration
from ..training.run_folder import Run
from . import train_options as options
from .models import Variant
from .output import DataDir, Device, Json, Override, print_json, print_line, print_note, program

if TYPE_CHECKING:
    from ..training.experiment import Result

DEFAULT_RECIPES = {"cifar10": "paper", "cifar100": "paper", "digits": "demo", FOLDER: "imagenet-paper"}


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(train)


def train(
    model: Annotated[str | None, typer.Argument(help="The network, for example resnet20.")] = None,
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
    verbose: options.Verbose = False,
    as_json: Json = False,
) -> None:
    """Train a network, or resume a run."""
    began = perf_counter()  # before torch is loaded
    if verbose:
        logging.captureWarnings(False)
        logging.basicConfig(level=logging.INFO)
    name, data_dir = _find_data(data, data_dir)
    named: dict[str, Any] = {"data": name, "shortcut": shortcut, "variant": variant, "seed": seed}
    named |= {"iterations": iterations, "validation": validation, "curve": curve, "batch_size": batch_size}
    named |= {"precision": precision, "optimizer.learning_rate": lr, "weights": weights}
    named |= {"fit": fit, "balance": balance, "early_stop": early_stop}
    named |= {"time": None if time is None else _parse_time(time, epochs, iterations)}
    changes: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    changes |= parse_overrides(override or [])
    room = options.parse_size(cache) if cache else 0
    reading = {"workers": workers, "cache": room, "on_bad_image": on_bad_image}
    where = {"data_dir": data_dir, "device": device}
    if find_lr:
        _refuse_with_find_rate(changes, seeds, resume)
    if jobs is not None and seeds is None:
        raise UsageError("--jobs goes with --seeds: it says how many of the seeds' runs train at once")
    if resume is not None:
        _refuse_with_resume(output, epochs, image_size, cache, on_bad_image)
        results = [_resume(resume, model, recipe, changes, workers=workers, **where)]
    elif model is None:
        raise UsageError("which network? For example: residual train resnet20; 'residual models' lists them")
    else:
        chosen = _choose(model, recipe, name, changes, image_size)
        if epochs is not None:
            chosen = _scale_to_epochs(chosen, epochs, iterations, data_dir)
        if seeds:
            results = _train_seeds(chosen, seeds, jobs or 1, output, as_json, reading=reading, **where)
        else:
            results = [_train(chosen, output, **where, **reading, find_rate=find_lr, began=began)]
    if as_json:
        print_json([result.figures for result in results] if seeds else results[0].figures)
    elif not seeds:
        _print_result(results[0], data, data_dir)


def _find_data(data: str | None, data_dir: Path | None) -> tuple[str | None, Path | None]:
    """Return what `--data` names, a known data set or photographs, and where its files are."""
    if data is None or data in DATASETS:
        return data, data_dir
    if not is_folder(data):
        raise UsageError(
            f"unknown data set '{data}': take {', '.join(DATASETS)}, or a folder or CSV file that exists"
        )
    if data_dir is not None:
        raise UsageError("--data FOLDER says where the photographs are: leave --data-dir out")
    return FOLDER, Path(data)


def _choose(
    model: str, recipe: str | None, data: str | None, changes: dict[str, Any], image_size: int | None
) -> Recipe:
    """Return the recipe that is asked for, else the usual one of the data, with all changes."""
    parse_name(model)
    chosen = get_recipe(recipe or DEFAULT_RECIPES.get(data or "", "paper"), model)
    if image_size is not None:
        chosen = chosen.replace(_in_proportion(chosen, image_size))
    chosen = chosen.replace(changes)
    _note_on_size(chosen)
    return chosen


def _in_proportion(recipe: Recipe, image_size: int) -> dict[str, int]:
    """Return a crop's size with the sizes of test crops, which keep their ratio to it."""
    sizes = {"test_size": recipe.test_size, "test_resize": recipe.test_resize}
    scale = image_size / (recipe.image_size or image_size)
    return {"image_size": image_size, **{key: round(size * scale) for key, size in sizes.items()}}


def _refuse_with_resume(
    output: Path | None, epochs: float | None, image_size: int | None, cache: str | None, bad_image: str
) -> None:
    """Refuse what a resumed run keeps."""
    given = {"--output": output, "--epochs": epochs, "--image-size": image_size, "--cache": cache}
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


def _note_on_size(recipe: Recipe) -> None:
    """Say that an ImageNet network, perhaps named for its depth, is made for larger images."""
    if parse_name(recipe.network).imagenet and recipe.data in DATASETS:
        others = " and ".join(for_small_images(recipe.network))
        print_note(
            f"{recipe.network} is the network for ImageNet, and leaves 1x1 of the 32x32 pixels of "
            f"{recipe.data}; networks for such images are {others}"
        )


def _scale_to_epochs(recipe: Recipe, epochs: float, iterations: int | None, data_dir: Path | None) -> Recipe:
    """Give the schedule the steps that so many passes over the training images take."""
    if iterations is not None:
        raise UsageError("--epochs and --iterations both set the length of the schedule: give one of them")
    if not 0 < epochs < float("inf"):
        raise UsageError(f"--epochs must be above 0, not {epochs}")
    if recipe.data == FOLDER:
        from ..data.folder import load_folder

        if data_dir is None:
            raise UsageError("--epochs needs the number of images: say where they are with --data FOLDER")
        dataset = load_folder(data_dir)
        if dataset.changed:  # said here, for the next reading finds no change
            print_note(dataset.changed)
        images = len(dataset.train)
    else:
        from ..data.load import load_dataset

        images = len(load_dataset(recipe.data, data_dir).train)
    images -= recipe.validation_images(images)
    return recipe.replace({"iterations": max(1, round(epochs * images / recipe.batch_size))})


def _train_seeds(
    recipe: Recipe, seeds: int, jobs: int, output: Path | None, quiet: bool, **where: Any
) -> "list[Result]":
    """Train a recipe with several seeds; runs that are there already are finished or left as they are."""
    if output is None:
        raise UsageError("--seeds N needs --output FOLDER, which gets a run folder for each seed")
    from ..training.experiment import Result
    from ..training.jobs import Job, outcome, run_jobs

    planned = [Job(recipe.replace({"seed": n}), output / f"{recipe.network}-seed{n}") for n in range(seeds)]

    def finished(job: Job, code: int) -> None:
        if not quiet:
            print_line(f"{job.output}: {outcome(code)}")

    codes = run_jobs(planned, jobs, **where, quiet=quiet, finished=finished)
    done = [Run.open(job.output) for job in planned if codes.get(job.output) == 0]
    results = [Result(run.path, run.result) for run in done if run.result is not None]
    errors = [result.error for result in results]
    if errors and not quiet:
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
    if figures["validation_best"]:
        best = figures["validation_best"]
        print_line(
            f"best validation error {best['error']:.2f} % at step {best['step']:,}, "
            f"where the test error was {best['test_error']:.2f} %"
        )
    if figures.get("skipped"):
        print_line(f"skipped {len(figures['skipped'])} images that cannot be decoded: see result.json")
    print_line(f"run     {result.path}")
    print_line(f"curves  {result.path / 'curves.png'}")
    print_line(f"model   {result.path / 'model'}")
    print_line("next:")
    print_line(f"  {program()} evaluate {result.path}{where}")
    print_line(f"  {program()} plot {result.path}")
    if figures["data"] == "digits":
        print_line(f"  {program()} train resnet20 --data-dir FOLDER_WITH_CIFAR10    (the paper's experiment)")
