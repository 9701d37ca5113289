"""The command `train`: one run, several seeds, or a resume."""

import logging
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError
from ..models.names import for_small_images, parse_name
from ..recipes.catalog import RECIPES, get_recipe
from ..recipes.schema import DATASETS, Recipe, parse_overrides
from ..training.run_folder import Run
from .output import DataDir, Device, Json, Override, print_json, print_line, print_note, program

if TYPE_CHECKING:
    from ..training.experiment import Result

DEFAULT_RECIPES = {"cifar10": "paper", "cifar100": "paper", "digits": "demo"}
Data = Annotated[str | None, typer.Option(help=f"{', '.join(DATASETS)}; by default the recipe's.")]
RecipeName = Annotated[
    str | None, typer.Option(help=f"{', '.join(RECIPES)}, or a file; by default the data set's.")
]
Shortcut = Annotated[str | None, typer.Option(help="A, B or C (section 3.3); by default A.")]
Iterations = Annotated[int | None, typer.Option(help="Scale the schedule to this many steps.")]
Epochs = Annotated[float | None, typer.Option(help="Scale the schedule to this many passes over the images.")]
BatchSize = Annotated[int | None, typer.Option(help="Images per step; the learning rate is left as it is.")]
Rate = Annotated[float | None, typer.Option(help="Peak learning rate, the recipe's optimizer.learning_rate.")]
Precision = Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")]
Seed = Annotated[int | None, typer.Option(help="Determines weights, order, crops and flips.")]
Validation = Annotated[
    int | None,
    typer.Option("--validation", "--holdout", help="Use this many training images for validation."),
]
Curve = Annotated[str | None, typer.Option(help="'test' draws the test error too, as Figure 6 does.")]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="Train with seeds 0 to N-1, each in a folder in --output.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="With --seeds: this many runs at once.")]
Resume = Annotated[Path | None, typer.Option(help="Resume this run, as if it had never stopped.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show warnings and notes of the libraries as well.")]


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(train)


def train(
    model: Annotated[str | None, typer.Argument(help="The network, for example resnet20.")] = None,
    data: Data = None,
    data_dir: DataDir = None,
    recipe: RecipeName = None,
    shortcut: Shortcut = None,
    iterations: Iterations = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    lr: Rate = None,
    precision: Precision = None,
    seed: Seed = None,
    validation: Validation = None,
    curve: Curve = None,
    device: Device = None,
    output: Annotated[Path | None, typer.Option(help="The run folder to make.")] = None,
    override: Override = None,
    seeds: Seeds = None,
    jobs: Jobs = None,
    resume: Resume = None,
    verbose: Verbose = False,
    as_json: Json = False,
) -> None:
    """Train a network, or resume a run."""
    if verbose:
        logging.captureWarnings(False)
        logging.basicConfig(level=logging.INFO)
    named: dict[str, Any] = {"data": data, "shortcut": shortcut, "iterations": iterations, "seed": seed}
    named |= {"validation": validation, "curve": curve, "batch_size": batch_size, "precision": precision}
    named |= {"optimizer.learning_rate": lr}
    changes: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    changes |= parse_overrides(override or [])
    where = {"data_dir": data_dir, "device": device}
    if jobs is not None and seeds is None:
        raise UsageError("--jobs goes with --seeds: it says how many of the seeds' runs train at once")
    if resume is not None:
        results = [_resume(resume, model, recipe, changes, output, epochs, **where)]
    elif model is None:
        raise UsageError("which network? For example: residual train resnet20; 'residual models' lists them")
    else:
        parse_name(model)
        chosen = get_recipe(recipe or DEFAULT_RECIPES.get(data or "", "paper"), model).replace(changes)
        _note_on_size(chosen)
        if epochs is not None:
            chosen = _scale_to_epochs(chosen, epochs, iterations, data_dir)
        if seeds:
            results = _train_seeds(chosen, seeds, jobs or 1, output, as_json, **where)
        else:
            results = [_train(chosen, output, **where)]
    if as_json:
        print_json([result.figures for result in results] if seeds else results[0].figures)
    elif not seeds:
        _print_result(results[0], data_dir)


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
    from ..data.load import load_dataset

    images = len(load_dataset(recipe.data, data_dir).train) - recipe.validation
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
    done = [Run.open(path) for path, code in codes.items() if code == 0]
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
    output: Path | None,
    epochs: float | None,
    **where: Any,
) -> "Result":
    """Resume a run; what else is given on the command line must agree with its recipe."""
    for option, given in (("--output", output), ("--epochs", epochs)):
        if given is not None:
            raise UsageError(f"--resume keeps the run's own folder and length: leave {option} out")
    own = Run.open(path).recipe
    expected = get_recipe(recipe, model or own.network) if recipe else own
    if model is not None and model != own.network:
        changes = {**changes, "network": model}
    expected = expected.replace(changes)
    from ..training import experiment

    return experiment.resume(path, recipe=expected, **where)


def _print_result(result: "Result", data_dir: Path | None) -> None:
    figures = result.figures
    where = f" --data-dir {data_dir}" if data_dir else ""
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
    print_line(f"run     {result.path}")
    print_line(f"curves  {result.path / 'curves.png'}")
    print_line(f"model   {result.path / 'model'}")
    print_line("next:")
    print_line(f"  {program()} evaluate {result.path}{where}")
    print_line(f"  {program()} plot {result.path}")
    if figures["data"] == "digits":
        print_line(f"  {program()} train resnet20 --data-dir FOLDER_WITH_CIFAR10    (the paper's experiment)")
