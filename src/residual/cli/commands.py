"""What every command takes besides its own options: --quiet and --verbose, added to each in one place."""

import functools
import inspect
import logging
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.models import CommandFunctionType

from ..errors import UsageError
from ..runtime.launch import started_as
from ..runtime.progress import display

Quiet = Annotated[bool, typer.Option("--quiet", help="Show results and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Show warnings and notes of the libraries as well.")]


class Commands(typer.Typer):
    """A Typer all of whose commands take --quiet and --verbose."""

    def command(
        self, *arguments: Any, **options: Any
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Add a command, as in Typer."""
        add = super().command(*arguments, **options)

        def add_with_options(function: CommandFunctionType) -> CommandFunctionType:
            add(_with_options(function))
            return function

        return add_with_options


def _with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that heeds --quiet and --verbose before it does what the function does."""

    @functools.wraps(function)
    def command(*arguments: Any, quiet: bool, verbose: bool, **options: Any) -> Any:
        if quiet and verbose:
            raise UsageError("--quiet and --verbose exclude each other: give one of them")
        if verbose:
            logging.captureWarnings(False)
            logging.basicConfig(level=logging.INFO)
        display.quiet = quiet or started_as()[0] > 0  # of several processes the first one reports
        try:
            return function(*arguments, **options)
        finally:
            display.quiet = False

    parameters = [
        *inspect.signature(function).parameters.values(),
        inspect.Parameter("quiet", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Quiet),
        inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return command
