"""The command line: reads arguments, calls the library, prints what it returns."""

import json
import logging
import os
import shutil
import statistics
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from . import experiment, importing
from . import recipe as recipes_module
from . import report as report_module
from ._version import __version__
from .bench import SUITES, run_suites, summary
from .data import DATASETS, load_dataset
from .data import cifar as cifar_data
from .device import describe as describe_device
from .device import resolve_device
from .errors import ResidualError, UsageError
from .evaluation import Evaluation
from .files import write_json
from .jobs import Job, run_jobs
from .model_folder import load_model
from .models import complexity, list_models
from .plot import plot_runs
from .pretrained import find_model, list_pretrained, measured
from .recipe import Recipe
from .recipes import CIFAR_RECIPES, RECIPES, get_recipe
from .reproduce import TARGETS, Budget, plan
from .reproduce import reproduce as reproduce_runs
from .run import Run, environment_facts, without_paths

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The networks of 'Deep Residual Learning for Image Recognition': train, evaluate, compare.",
)
data_app = typer.Typer(help="Fetch, verify or describe a data set.")
app.add_typer(data_app, name="data")

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the data or its archive; else RESIDUAL_DATA, else the user's cache."
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cuda, mps (untested) or cpu; by default cuda where it is there, else cpu.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
DEFAULT_RECIPES = {"cifar10": "paper", "cifar100": "paper", "digits": "demo"}


def _print(line: str = "") -> None:
    typer.echo(line)


def _print_json(values: Any) -> None:
    _print(json.dumps(values, indent=2))


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        _print(f"residual {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        _print(context.get_help())


@app.command()
def train(
    model: Annotated[str | None, typer.Argument(help="The network, for example resnet20.")] = None,
    data: Annotated[str | None, typer.Option(help=f"{', '.join(DATASETS)}; by default the recipe's.")] = None,
    data_dir: DataDir = None,
    recipe: Annotated[
        str | None, typer.Option(help=f"{', '.join(RECIPES)}, or a file; by default the data set's.")
    ] = None,
    shortcut: Annotated[str | None, typer.Option(help="A, B or C (section 3.3); by default A.")] = None,
    iterations: Annotated[int | None, typer.Option(help="Scale the schedule to this many steps.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides weights, order, crops and flips.")] = None,
    holdout: Annotated[int | None, typer.Option(help="Set this many training pictures apart.")] = None,
    curve: Annotated[
        str | None, typer.Option(help="'test' draws the test error too, as Figure 6 does.")
    ] = None,
    device: Device = None,
    output: Annotated[Path | None, typer.Option(help="The run folder to make.")] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Train with seeds 0 to N-1, each in a folder in --output.")] = 0,
    jobs: Annotated[int, typer.Option(help="With --seeds: so many runs at once.")] = 1,
    resume: Annotated[Path | None, typer.Option(help="Go on with this run, as if never stopped.")] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show the warnings and notes of the libraries too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a network, or go on with a run."""
    if verbose:
        logging.captureWarnings(False)
        logging.basicConfig(level=logging.INFO)
    named = {"data": data, "shortcut": shortcut, "iterations": iterations, "seed": seed}
    named |= {"holdout": holdout, "curve": curve}
    changes: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
    changes |= recipes_module.parse_overrides(override or [])
    if resume is not None:
        result = _resume(resume, model, recipe, changes, output, data_dir=data_dir, device=device)
    elif model is None:
        raise UsageError("which network? For example: residual train resnet20; 'residual models' lists them")
    else:
        chosen = get_recipe(recipe or DEFAULT_RECIPES.get(data or "", "paper"), model).replace(changes)
        if seeds:
            _train_seeds(chosen, seeds, jobs, output, data_dir=data_dir, device=device)
            return
        result = experiment.train(chosen, output=output, data_dir=data_dir, device=device, quiet=False)
    if as_json:
        _print_json(result.figures)
    else:
        _print_result(result, data_dir)


def _train_seeds(recipe: Recipe, seeds: int, jobs: int, output: Path | None, **where: Any) -> None:
    """Train a recipe with several seeds; runs that are there already are finished or left as they are."""
    if output is None or min(seeds, jobs) < 1:
        raise UsageError("--seeds N takes --output FOLDER for its runs, and N and --jobs of at least 1")
    planned = [Job(recipe.replace({"seed": n}), output / f"{recipe.network}-seed{n}") for n in range(seeds)]
    codes = run_jobs(planned, jobs, **where, finished=lambda job, code: _print(f"{job.output}: exit {code}"))
    errors = [Run.open(path).result["error"] for path, code in codes.items() if code == 0]  # type: ignore[index]
    if errors:
        spread = statistics.stdev(errors) if len(errors) > 1 else 0.0
        _print(f"test error {statistics.mean(errors):.2f} +- {spread:.2f} % over {len(errors)} seeds")
    if any(codes.values()):
        raise typer.Exit(max(codes.values()))


def _resume(
    path: Path,
    model: str | None,
    recipe: str | None,
    changes: dict[str, Any],
    output: Path | None,
    **where: Any,
) -> experiment.Result:
    """Go on with a run; what else is given on the command line must agree with its recipe."""
    if output is not None:
        raise UsageError("--resume goes on in the run's own folder: leave --output out")
    own = Run.open(path).recipe
    expected = get_recipe(recipe, model or own.network) if recipe else own
    if model is not None and model != own.network:
        changes = {**changes, "network": model}
    return experiment.resume(path, recipe=expected.replace(changes), quiet=False, **where)


def _print_result(result: experiment.Result, data_dir: Path | None) -> None:
    figures = result.figures
    where = f" --data-dir {data_dir}" if data_dir else ""
    _print(
        f"test error {figures['error']:.2f} % on {figures['images']:,} pictures, after "
        f"{figures['iterations']:,} iterations, {figures['seconds']:.0f} s of training "
        f"({figures['images_per_second']:.0f} images/s)"
    )
    if figures["holdout_best"]:
        best = figures["holdout_best"]
        _print(
            f"best hold-out error {best['error']:.2f} % at step {best['step']:,}, "
            f"where the test error was {best['test_error']:.2f} %"
        )
    _print(f"run     {result.path}")
    _print(f"curves  {result.path / 'curves.png'}")
    _print(f"model   {result.path / 'model'}")
    _print("next:")
    _print(f"  {_program()} evaluate {result.path}{where}")
    _print(f"  {_program()} plot {result.path}")
    if figures["data"] == "digits":
        _print(f"  {_program()} train resnet20 --data-dir FOLDER_WITH_CIFAR10    (the paper's experiment)")


def _program() -> str:
    """Name this program as the user's shell would find it."""
    path = Path(sys.argv[0])
    if path.name != "residual":
        return "python -m residual"
    found = shutil.which("residual")
    return "residual" if found and Path(found).resolve() == path.resolve() else os.path.relpath(path)


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder, or a network that comes trained.")
    ],
    data: Annotated[str | None, typer.Option(help="Another data set than the model's own.")] = None,
    data_dir: DataDir = None,
    device: Device = None,
    int8: Annotated[bool, typer.Option("--int8", help="Quantised to 8 bits; needs the extra int8.")] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model on the test set: error, top-5, loss, per-class error, confusion matrix."""
    network = load_model(find_model(model))
    found = experiment.evaluate(network, data=data, data_dir=data_dir, device=device, int8=int8)
    if as_json:
        _print_json(found.as_dict())
    else:
        _print_evaluation(found, network.config.class_names)


def _print_evaluation(found: Evaluation, names: tuple[str, ...]) -> None:
    _print(f"images      {found.images:,}")
    _print(f"error       {found.error:.2f} %")
    _print(f"top-5 error {found.top5_error:.2f} %")
    _print(f"loss        {found.loss:.4f}")
    width = max(len(name) for name in names)
    _print()
    if len(names) > 20:  # a matrix of a hundred columns fits no terminal
        _print(f"{'class':{width}}  error")
        for name, error in zip(names, found.per_class_error, strict=True):
            _print(f"{name:{width}}  {error:5.2f} %")
        return
    _print(f"{'class':{width}}    error   predicted as, in the same order")
    for name, error, row in zip(names, found.per_class_error, found.confusion, strict=True):
        _print(f"{name:{width}}  {error:5.2f} %  {' '.join(f'{count:5}' for count in row)}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Another project's checkpoint.")],
    model: Annotated[str, typer.Option(help="The network it holds, for example resnet20.")],
    output: Annotated[Path, typer.Option(help="The model folder to make.")],
    mean: Annotated[tuple[float, float, float] | None, typer.Option(help="R G B, 0..1 scale.")] = None,
    std: Annotated[tuple[float, float, float] | None, typer.Option(help="R G B, 0..1 scale.")] = None,
) -> None:
    """Turn another project's checkpoint into a model folder."""
    config = importing.import_checkpoint(file, model=model, output=output, mean=mean, std=std)
    _print(f"{config.network} from {config.recipe}: {output}")
    _print(f"next: residual evaluate {output}")


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="A shell pattern, for example 'plain*'.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Those that come trained.")] = False,
    as_json: Json = False,
) -> None:
    """List the paper's networks; any other depth 6n+2 (9n+2 with bottlenecks) can be named too."""
    if pretrained:
        _print_pretrained(pattern, as_json)
        return
    if as_json:
        _print_json([complexity(name).as_dict() for name in list_models(pattern)])
        return
    _print(f"{'network':20} {'layers':>6} {'parameters':>12} {'multiply-adds':>15}")
    for cost in map(complexity, list_models(pattern)):
        _print(f"{cost.name:20} {cost.layers:6} {cost.parameters:12,} {cost.multiply_adds:15,}")


def _print_pretrained(pattern: str, as_json: bool) -> None:
    facts = {name: measured(name) for name in list_pretrained(pattern)}
    if as_json:
        _print_json([{"name": name, **found} for name, found in facts.items()])
        return
    _print(f"{'network':20} {'parameters':>12} {'test error':>10}  recipe")
    for name, found in facts.items():
        _print(f"{name:20} {found['parameters']:12,} {found['error']:8.2f} %  {found['recipe']}")


@app.command()
def info(
    model: Annotated[str, typer.Argument(help="The network, for example resnet20.")],
    shortcut: Annotated[str | None, typer.Option(help="A, B or C; by default A.")] = None,
    as_json: Json = False,
) -> None:
    """Print a network's layers, parameters, multiply-adds and output sizes."""
    cost = complexity(model, shortcut=shortcut)
    if as_json:
        _print_json(cost.as_dict())
        return
    _print(f"name           {cost.name}")
    _print(f"layers         {cost.layers}")
    _print(f"parameters     {cost.parameters:,}")
    _print(f"multiply-adds  {cost.multiply_adds:,}")
    for stage, size in cost.stages.items():
        _print(f"{stage:13}  {' x '.join(map(str, size))}")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="A recipe's name or file.")] = None,
    model: Annotated[str, typer.Option(help="The network it is for.")] = "resnet20",
) -> None:
    """List the recipes, or print one in full, as JSON that --recipe reads."""
    if name is not None:
        _print_json(get_recipe(name, model).as_dict())
        return
    for known, make in RECIPES.items():
        _print(f"{known:8} {(make.__doc__ or '').splitlines()[0]}")


@data_app.command()
def fetch(name: Annotated[str, typer.Argument(help="cifar10 or cifar100")], data_dir: DataDir = None) -> None:
    """Find or download a data set and print its folder."""
    _print(str(cifar_data.fetch(_release(name), data_dir)))


@data_app.command()
def verify(
    name: Annotated[str, typer.Argument(help="cifar10 or cifar100")], data_dir: DataDir = None
) -> None:
    """Check every file of a data set that is there."""
    for path, verdict in cifar_data.verify(_release(name), data_dir):
        _print(f"{path}: {verdict}")


@data_app.command()
def describe(
    name: Annotated[str, typer.Argument(help=", ".join(DATASETS))],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print a data set's sizes and classes."""
    dataset = load_dataset(name, data_dir)
    values = {
        "name": dataset.name,
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "size": list(dataset.train.images.shape[1:]),
        "class_names": list(dataset.class_names),
    }
    if as_json:
        _print_json(values)
        return
    for key, value in values.items():
        _print(f"{key:13} {', '.join(map(str, value)) if isinstance(value, list) else value}")


def _release(name: str) -> cifar_data.Release:
    if name not in cifar_data.RELEASES:
        raise UsageError(
            f"'{name}' has no files: the data sets with files are {', '.join(cifar_data.RELEASES)}"
        )
    return cifar_data.RELEASES[name]


@app.command()
def bench(
    what: Annotated[str, typer.Argument(help=f"{', '.join(SUITES)} or all.")] = "all",
    models: Annotated[list[str] | None, typer.Argument(help="Networks; by default the usual ones.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds of which the median is taken.")] = 7,
    device: Device = None,
    save: Annotated[
        Path | None, typer.Option(help="A folder that gets a JSON file with the figures.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure speed beside a baseline and the machine's ceilings, all in one run."""
    if what not in (*SUITES, "all"):
        raise UsageError(f"nothing to measure called '{what}': take {', '.join(SUITES)} or all")
    where = resolve_device("cpu" if what in ("fitted", "data", "infer") else device)
    records = run_suites(what, models or [], where, repeats)
    report = {**environment_facts(describe_device(where)), "records": records}
    report["command"] = without_paths(report["command"])
    if save is not None:
        stamp = report["date"].replace(":", "").replace("+0000", "")
        save.mkdir(parents=True, exist_ok=True)
        write_json(save / f"{stamp}-{what}-{where.type}.json", report)
    if as_json:
        _print_json(report)
        return
    for record in records:
        for line in summary(record):
            _print(line)


@app.command()
def reproduce(
    what: Annotated[str, typer.Argument(help=f"{', '.join(TARGETS)}.")],
    models: Annotated[str | None, typer.Option(help="Networks, separated by commas.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N-1; by default the target's.")] = None,
    recipe: Annotated[str, typer.Option(help=f"{', '.join(CIFAR_RECIPES)}.")] = "paper",
    jobs: Annotated[int, typer.Option(min=1, help="So many runs at once.")] = 1,
    budget: Annotated[str | None, typer.Option(help="Stop in time, for example 25m.")] = None,
    data_dir: DataDir = None,
    device: Device = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of every recipe.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Where result files go.")] = Path("results/cifar10"),
    runs: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs/reproduce"),
) -> None:
    """Train the runs that a table or figure of the paper still needs; 'residual report' shows them."""
    time = Budget.parse(budget)
    planned = plan(what, recipe, [name for name in (models or "").split(",") if name], seeds)
    planned = [one.replace(recipes_module.parse_overrides(override or [])) for one in planned]
    reproduce_runs(
        planned,
        results=results,
        runs=runs,
        jobs=jobs,
        budget=time,
        data_dir=data_dir,
        device=device,
        say=_print,
    )


@app.command()
def report(
    results: Annotated[Path, typer.Option(help="The folder with the measured figures.")] = Path("results"),
    output: Annotated[Path, typer.Option(help="The folder of the pages.")] = Path("docs"),
) -> None:
    """Make the pages of figures in `docs/` from the files in `results/` alone."""
    for path in report_module.write_pages(results, output):
        _print(str(path))


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[
        Path | None, typer.Option(help="The PNG; by default curves.png of a single run.")
    ] = None,
) -> None:
    """Draw error against iterations, as Figure 6 does; several runs go into one picture."""
    opened = [Run.open(path) for path in runs]
    if output is None and len(opened) > 1:
        raise UsageError("several runs in one picture: say where with --output FILE.png")
    path = output or opened[0].curves
    plot_runs(opened, path)
    _print(str(path))


def main() -> NoReturn:
    """Run the command line and leave with the exit code that `docs/commands.md` lists."""
    logging.captureWarnings(True)  # other libraries' warnings are no messages to the user
    try:
        code = app(standalone_mode=False)
    except ResidualError as error:
        _fail(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:  # what the parser says of the arguments; its class differs between versions
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), UsageError.exit_code)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> NoReturn:
    typer.echo(f"residual: {' '.join(message.split())}", err=True)
    sys.exit(code)
