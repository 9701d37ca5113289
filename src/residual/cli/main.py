"""The program `residual`: registers all commands and turns errors into messages and exit codes."""

import logging
import sys
from typing import Annotated, NoReturn

import typer

from .._version import __version__
from ..errors import OutputError, ResidualError, UsageError
from ..runtime.launch import started_as
from ..runtime.signals import Interrupted, stop_signals
from ..runtime.streams import unfailing_streams
from . import (
    bench,
    compare,
    cost,
    data,
    evaluate,
    explain,
    export,
    models,
    predict,
    push,
    reproduce,
    runs,
    serve,
    train,
)
from .commands import Commands
from .output import print_line

app = Commands(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The networks of 'Deep Residual Learning for Image Recognition': train, evaluate, compare.",
)
for group in (
    train,
    runs,
    evaluate,
    compare,
    predict,
    explain,
    export,
    push,
    serve,
    models,
    data,
    bench,
    cost,
    reproduce,
):
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
    """Run the command line and exit with a code from the table in `docs/commands.md`."""
    logging.captureWarnings(True)  # warnings of other libraries are not for the user
    with unfailing_streams() as output, stop_signals.handled():
        code = _run()
        if code == 0 and output.error is not None and not output.reader_gone:
            code = _complain(f"cannot write to standard output: {output.error}", OutputError.exit_code)
    sys.exit(code)


def _run() -> int:
    """Run the command and return its exit code."""
    try:
        return app(standalone_mode=False) or 0
    except ResidualError as error:
        return _complain(str(error), error.exit_code)
    except Interrupted as error:
        return _complain("interrupted", 128 + error.number)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", 130)
    except Exception as error:  # the parser's usage errors; their class differs between versions
        if not hasattr(error, "format_message"):
            raise
        return _complain(error.format_message(), UsageError.exit_code)


def _complain(message: str, code: int) -> int:
    rank = f"rank {started_as()[0]}: " if started_as()[0] else ""
    typer.echo(f"residual: {rank}{' '.join(message.split())}", err=True)
    return code
