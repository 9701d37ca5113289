"""The command `push`: a model put on the Hugging Face Hub."""

from typing import Annotated

import typer

from ..runtime.progress import display
from .output import Json, Model, print_json, print_line, program


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(push)


def push(
    model: Model,
    name: Annotated[str, typer.Argument(metavar="USER/NAME", help="What to call it on the hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make a repository that only you see.")] = False,
    as_json: Json = False,
) -> None:
    """Put a model on the Hugging Face Hub, with its card; it then loads by name as hf-hub:USER/NAME."""
    from ..zoo.push import push as run

    address = run(model, name, private=private)
    if as_json:
        print_json({"address": address, "model": f"hf-hub:{name}"})
        return
    print_line(f"pushed  {address}")
    if not display.quiet:
        print_line(f"next: {program()} predict hf-hub:{name} IMAGE")
