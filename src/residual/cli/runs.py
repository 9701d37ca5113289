"""The command `runs`: the runs below a folder, with error and state."""

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .output import Json, print_json, print_line, print_note, printable

if TYPE_CHECKING:
    from ..training.run_list import RunSummary


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(runs)


def runs(
    folder: Annotated[Path, typer.Argument(help="Where to look, also in the folders below.")] = Path("runs"),
    as_json: Json = False,
) -> None:
    """List runs: date, state, error, network, data, folder, recipe."""
    from ..training.run_list import list_runs

    listed = list_runs(folder)
    if as_json:
        print_json([run.as_dict() for run in listed])
        return
    rows = [_row(run) for run in listed if run.problem is None]
    if rows:
        table = [("date", "state", "error", "network", "data", "run", "recipe"), *rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
        for row in table:
            cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
            print_line("  ".join(cells).rstrip())
    else:
        print_note(f"there are no runs in {folder}")
    for run in listed:
        if run.problem is not None:
            print_note(f"{printable(str(run.path))} cannot be read: {printable(run.problem)}")


def _row(run: "RunSummary") -> tuple[str, ...]:
    names = (run.network, run.data, str(run.path), run.recipe)
    return (_date(run.date), _state(run), _error(run), *(printable(name or "") for name in names))


def _date(date: str | None) -> str:
    """Return a date in local time."""
    try:
        return f"{datetime.fromisoformat(date or '').astimezone():%Y-%m-%d %H:%M}"
    except ValueError:
        return printable(date or "")


def _state(run: "RunSummary") -> str:
    if run.state == "finished":
        return run.state
    how = f"{run.state} at step {run.step:,}"
    return how if run.steps is None else f"{how} of {run.steps:,}"


def _error(run: "RunSummary") -> str:
    if run.error is None:
        return ""
    return f"{run.error:.2f} %" + (" (validation)" if run.measured_on == "validation" else "")
