"""Commands on the paper's results: reproduce, plot."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..recipes.catalog import CIFAR_RECIPES
from ..recipes.schema import parse_overrides
from ..reproduce.plan import TARGETS, Budget, plan
from .output import DataDir, Device, Override, print_line


def add_to(program: typer.Typer) -> None:
    """Add the commands."""
    program.command()(reproduce)
    program.command()(plot)
    program.command(hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(
        report
    )


def reproduce(
    context: typer.Context,
    what: Annotated[str, typer.Argument(help=f"{', '.join(TARGETS)}, or pages.")],
    models: Annotated[str | None, typer.Option(help="Networks, separated by commas.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N-1; by default the target's.")] = None,
    recipe: Annotated[str, typer.Option(help=f"{', '.join(CIFAR_RECIPES)}.")] = "paper",
    jobs: Annotated[int, typer.Option(min=1, help="Number of runs at the same time.")] = 1,
    budget: Annotated[
        str | None,
        typer.Option(
            help="For machines with a time limit: save the runs in progress after this time, such as 25m, "
            "and end; the same command resumes them."
        ),
    ] = None,
    data_dir: DataDir = None,
    device: Device = None,
    override: Override = None,
    results: Annotated[
        Path | None,
        typer.Option(
            help="Folder of result files; by default results/cifar10, for pages its parent results."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of run folders.")] = Path("runs/reproduce"),
    output: Annotated[Path | None, typer.Option(help="pages: folder of the pages; by default docs.")] = None,
) -> None:
    """Train the runs behind a table or figure of the paper, or make the pages from all result files.

    Runs that have a result file are not trained again. 'pages' trains nothing.
    """
    if what == "pages":
        _refuse_options_of_training(context)
        _make_pages(results or Path("results"), output or Path("docs"))
        return
    if output is not None:
        raise UsageError("--output is the folder of the pages: use it with 'residual reproduce pages'")
    time = Budget.parse(budget)
    planned = plan(what, recipe, [name for name in (models or "").split(",") if name], seeds)
    planned = [one.replace(parse_overrides(override or [])) for one in planned]
    from ..reproduce import campaign

    campaign.reproduce(
        planned,
        results=results or Path("results/cifar10"),
        runs=runs,
        jobs=jobs,
        budget=time,
        data_dir=data_dir,
        device=device,
        say=print_line,
    )


def _refuse_options_of_training(context: typer.Context) -> None:
    for name in context.params.keys() - {"what", "results", "output"}:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = {"override": "set"}.get(name, name.replace("_", "-"))
            raise UsageError(f"'residual reproduce pages' trains nothing: leave --{option} out")


def _make_pages(results: Path, output: Path) -> None:
    from ..reproduce.pages import write_pages

    for path in write_pages(results, output):
        print_line(str(path))


def report() -> None:
    """Refuse the command's former name."""
    raise UsageError("'residual report' is now 'residual reproduce pages'")


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[
        Path | None, typer.Option(help="The PNG; by default curves.png of a single run.")
    ] = None,
) -> None:
    """Plot error against iterations, as in Figure 6; several runs are drawn in one figure."""
    from ..training.run_folder import Run

    opened = [Run.open(path) for path in runs]
    if output is None and len(opened) > 1:
        raise UsageError("several runs in one figure need --output FILE.png")
    from ..training.curves import plot_runs

    path = output or opened[0].curves
    plot_runs(opened, path)
    print_line(str(path))
