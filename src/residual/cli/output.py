"""What the commands share: their options, and how they print."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the data or its archive; else RESIDUAL_DATA, else the user's cache."
    ),
]
Device = Annotated[
    str | None, typer.Option(help="cuda, mps (untested) or cpu; by default cuda where there is one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Override = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe.")
]


def print_line(line: str = "") -> None:
    """Print a line of text."""
    typer.echo(line)


def print_json(values: Any) -> None:
    """Print values for a program to read."""
    print_line(json.dumps(values, indent=2))


def program() -> str:
    """Name this program as the user's shell would find it."""
    path = Path(sys.argv[0])
    if path.name not in ("residual", "residual.exe"):
        return "python -m residual"
    found = shutil.which("residual")
    return "residual" if found and Path(found).resolve() == path.resolve() else os.path.relpath(path)


def in_millions(count: int) -> str:
    """Write a large count in a few digits: 40.6 M, 2.83 G."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
