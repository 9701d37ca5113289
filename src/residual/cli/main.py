"""The program `residual`: all commands together, and how each of its ends becomes an exit code."""

import logging
import sys
from typing import Annotated, NoReturn

import typer

from .._version import __version__
from ..errors import ResidualError, UsageError
from . import bench, data, evaluate, models, reproduce, train
from .output import print_line

app = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The networks of 'Deep Residual Learning for Image Recognition': train, evaluate, compare.",
)
for group in (train, evaluate, models, data, bench, reproduce):
    group.add_to(app)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        print_line(f"residual {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print_line(context.get_help())


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
