"""Options and printing that several commands share."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..recipes.schema import DATASETS
from ..runtime.launch import started_as
from ..runtime.progress import display
from .completion import one_of, pretrained

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the data or its archive; by default RESIDUAL_DATA, else the user's cache."
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        help="cuda, mps (untested) or cpu; by default cuda if available.",
        autocompletion=one_of(("cuda", "mps", "cpu")),
    ),
]
Model = Annotated[
    str,
    typer.Argument(
        help="A run folder, a model folder, the name of a pretrained model, or hf-hub:USER/NAME.",
        autocompletion=pretrained,
    ),
]
TestData = Annotated[
    str | None,
    typer.Option(
        help=f"Another data set than the model's own: {', '.join(DATASETS)}, or photographs: a folder "
        "with a folder for each class, or with train and val, or a CSV file.",
        autocompletion=one_of(DATASETS),
    ),
]
Engine = Annotated[
    str,
    typer.Option(
        help="What computes: torch, onnx or int8; the last two need the extra onnx.",
        autocompletion=one_of(("torch", "onnx", "int8")),
    ),
]
OnBadImage = Annotated[
    str, typer.Option(help="At an image that cannot be decoded: stop, or skip it and name it.")
]
Decoders = Annotated[
    int | None, typer.Option(help="Processes that decode images; by default what suits the machine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON value and nothing else.")]
Override = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the recipe.")
]


def print_line(line: str = "") -> None:
    """Print a line of text; of several processes that train one run, the first one does."""
    if started_as()[0] == 0:
        typer.echo(line)


def print_note(text: str) -> None:
    """Print a line that is no result, on standard error, unless --quiet was given."""
    if not display.quiet:
        typer.echo(f"note: {text}", err=True)


def print_json(values: Any) -> None:
    """Print values as JSON."""
    print_line(json.dumps(values, indent=2))


def program() -> str:
    """Return the command that starts this program in the user's shell."""
    path = Path(sys.argv[0])
    if path.name not in ("residual", "residual.exe"):
        return "python -m residual"
    found = shutil.which("residual")
    return "residual" if found and Path(found).resolve() == path.resolve() else os.path.relpath(path)


def in_millions(count: int) -> str:
    """Format a large count with three digits: 40.6 M, 2.83 G."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def printable(text: str) -> str:
    """Return a path or name as standard output can show it in one line, the rest of it as escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)
