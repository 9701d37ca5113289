"""What a logger is; the loggers by name, and the library that each needs."""

import importlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from ...errors import UsageError
from ...runtime.extras import how_to_install

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..run_folder import Run

LOGGERS = ("tensorboard", "wandb", "mlflow")  # libraries and extras have these names too


class Logger(Protocol):
    """A run as a tracking tool has it. Each method may raise anything: `Tracker` then gives the logger up.

    `remote_id` is what the tool calls the run, `place` says where it is to be seen, and `sent` is how many
    records the tool has already, of those that were sent before a resume.
    """

    remote_id: str
    place: str
    sent: int

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log a record: figures after a step, under names such as "train/loss"."""

    def finish(self, step: int, figures: Mapping[str, float], pictures: Mapping[str, "Image"]) -> None:
        """Log the final figures and the pictures."""

    def close(self, ended: bool) -> None:
        """Send what is left; `ended` is False for a run that was stopped or failed."""


def check_loggers(names: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of loggers, each once.

    Raises:
        UsageError: a name is unknown, or its library is not installed.
    """
    wanted = tuple(dict.fromkeys([names] if isinstance(names, str) else names))
    for name in wanted:
        if name not in LOGGERS:
            raise UsageError(f"unknown logger '{name}': the loggers are {', '.join(LOGGERS)}")
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise UsageError(f"the logger {name} needs {name}: {how_to_install(name)}") from error
    return wanted


def open_logger(name: str, run: "Run", remote_id: str | None) -> Logger:
    """Open a run in a logger, which has it already if there is an id."""
    opened: Logger = importlib.import_module(f".{name}", __package__).open_run(run, remote_id)
    return opened
