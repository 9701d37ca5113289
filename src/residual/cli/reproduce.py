"""Commands on the paper's results: reproduce, plot."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from ..recipes.catalog import CIFAR_RECIPES
from ..recipes.overrides import parse_overrides
from ..reproduce.plan import TARGETS, Budget, plan
from .completion import one_of
from .output import DataDir, Device, Json, Override, print_json, print_line, print_note

# what trains nothing, and the options that it takes
UNTRAINED = {"table1": (), "figure3": ("output",), "pages": ("results", "output")}
PRINTING = ("as_json", "quiet", "verbose")


def add_to(program: typer.Typer) -> None:
    """Add the commands."""
    program.command()(reproduce)
    program.command()(plot)
    program.command(hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(
        report
    )


def reproduce(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join((*TARGETS, *UNTRAINED))}.", autocompletion=one_of((*TARGETS, *UNTRAINED))
        ),
    ],
    models: Annotated[str | None, typer.Option(help="Networks, separated by commas.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds 0 to N-1; by default the target's.")] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help=f"{', '.join(CIFAR_RECIPES)}; by default paper. imagenette has its own."),
    ] = None,
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
            help="Folder of result files; by default results/cifar10 or results/imagenette, "
            "for pages their parent results."
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of run folders.")] = Path("runs/reproduce"),
    output: Annotated[
        Path | None, typer.Option(help="pages, figure3: folder of the pages; by default docs.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train the runs behind a table or figure of the paper, or make the pages from all result files.

    Runs that have a result file are not trained again. 'imagenette' compares plain and residual networks on
    photographs: Imagenette's, in train/ and val/ of --data-dir. These train nothing: 'pages'; 'table1' and
    'figure3', the architectures as measured on the networks.
    """
    if what in UNTRAINED:
        _refuse_other_options(context, what)
        if as_json and what == "table1":
            from ..reproduce.architecture import table_1_values

            print_json(table_1_values())
            return
        lines = list(_make(what, results or Path("results"), output or Path("docs")))
        if as_json:
            print_json({"files": lines})
            return
        for line in lines:
            print_line(line)
        return
    if output is not None:
        raise UsageError("--output is the folder of the pages: use it with 'residual reproduce pages'")
    time = Budget.parse(budget)
    planned = plan(what, recipe, [name for name in (models or "").split(",") if name], seeds)
    planned = [one.replace(parse_overrides(override or [])) for one in planned]
    from ..reproduce import campaign

    written = campaign.reproduce(
        planned,
        results=results or Path("results") / TARGETS[what].data,
        runs=runs,
        jobs=jobs,
        budget=time,
        data_dir=data_dir,
        device=device,
        say=print_note if as_json else print_line,
    )
    if as_json:
        print_json({"files": list(map(str, written))})


def _refuse_other_options(context: typer.Context, what: str) -> None:
    for name in context.params.keys() - {"what", *PRINTING, *UNTRAINED[what]}:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = {"override": "set"}.get(name, name.replace("_", "-"))
            reason = f"does not use --{option}" if name in ("results", "output") else "trains nothing"
            raise UsageError(f"'residual reproduce {what}' {reason}: leave --{option} out")


def _make(what: str, results: Path, output: Path) -> Iterable[str]:
    """Make what needs no training; return the lines to print."""
    if what == "table1":
        from ..reproduce.architecture import table_1

        return table_1()
    if what == "figure3":
        from ..reproduce.figure3 import figure_3

        figure_3(output / "figure3.png")
        return [str(output / "figure3.png")]
    from ..reproduce.pages import write_pages

    return map(str, write_pages(results, output))


def report() -> None:
    """Refuse the command's former name."""
    raise UsageError("'residual report' is now 'residual reproduce pages'")


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Run folders.")],
    output: Annotated[
        Path | None, typer.Option(help="The PNG; by default curves.png of a single run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plot error against iterations, as in Figure 6; several runs are drawn in one figure."""
    from ..training.run_folder import Run

    opened = [Run.open(path) for path in runs]
    if output is None and len(opened) > 1:
        raise UsageError("several runs in one figure need --output FILE.png")
    from ..training.curves import plot_runs

    path = output or opened[0].curves
    plot_runs(opened, path)
    if as_json:
        print_json({"picture": str(path)})
        return
    print_line(str(path))
