"""Commands on the paper's results: reproduce, report, plot."""

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
    for command in (reproduce, report, plot):
        program.command()(command)


def reproduce(
    what: Annotated[str, typer.Argument(help=f"{', '.join(TARGETS)}.")],
    models: Annotated[str | None, typer.Option(help="Networks, separated by commas.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N-1; by default the target's.")] = None,
    recipe: Annotated[str, typer.Option(help=f"{', '.join(CIFAR_RECIPES)}.")] = "paper",
    jobs: Annotated[int, typer.Option(min=1, help="So many runs at once.")] = 1,
    budget: Annotated[str | None, typer.Option(help="Stop in time, for example 25m.")] = None,
    data_dir: DataDir = None,
    device: Device = None,
    override: Override = None,
    results: Annotated[Path, typer.Option(help="Where result files go.")] = Path("results/cifar10"),
    runs: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs/reproduce"),
) -> None:
    """Train the runs that a table or figure of the paper still needs; 'residual report' shows them."""
    time = Budget.parse(budget)
    planned = plan(what, recipe, [name for name in (models or "").split(",") if name], seeds)
    planned = [one.replace(parse_overrides(override or [])) for one in planned]
    from ..reproduce import campaign

    campaign.reproduce(
        planned,
        results=results,
        runs=runs,
        jobs=jobs,
        budget=time,
        data_dir=data_dir,
        device=device,
        say=print_line,
    )


def report(
    results: Annotated[Path, typer.Option(help="The folder with the measured figures.")] = Path("results"),
    output: Annotated[Path, typer.Option(help="The folder of the pages.")] = Path("docs"),
) -> None:
    """Make the pages of figures in `docs/` from the files in `results/` alone."""
    from ..reproduce.pages import write_pages

    for path in write_pages(results, output):
        print_line(str(path))


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[
        Path | None, typer.Option(help="The PNG; by default curves.png of a single run.")
    ] = None,
) -> None:
    """Draw error against iterations, as Figure 6 does; several runs go into one picture."""
    from ..training.run_folder import Run

    opened = [Run.open(path) for path in runs]
    if output is None and len(opened) > 1:
        raise UsageError("several runs in one picture: say where with --output FILE.png")
    from ..training.curves import plot_runs

    path = output or opened[0].curves
    plot_runs(opened, path)
    print_line(str(path))
