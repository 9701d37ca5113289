"""A run's records, passed on to its loggers."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from ...errors import ResidualError, in_short
from ...runtime.files import read_bounded, write_json
from ...runtime.progress import Reporter
from ..run_files import MAX_FILE, as_run_errors
from ..run_folder import Run
from .logger import LOGGERS, Logger, open_logger


class Tracker:
    """Passes on what is written to `metrics.jsonl`, record by record, and at the end figures and pictures.

    A logger that fails is given up with a warning, and training goes on. `loggers.json` in the run folder
    keeps what each logger calls the run, so that a resume goes on there: it needs no names.
    """

    def __init__(self, run: Run, names: Sequence[str], reporter: Reporter) -> None:
        self.run, self.names, self.reporter = run, names, reporter
        self._file = run.path / "loggers.json"
        self._open: dict[str, Logger] = {}
        self._passed: set[tuple[int, str]] = set()  # steps and kinds of records; a run may go back
        self._records = 0  # of metrics.jsonl that were passed on, or had been before a resume

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, logger in list(self._open.items()):
            with self._guarded(name):
                logger.close(kind is None)

    def begin(self) -> None:
        """Open the loggers, and send them the records that a resume starts with, if they lack them."""
        ids = self._ids()
        for name in dict.fromkeys((*ids, *self.names)):
            with self._guarded(name):
                self._open[name] = logger = open_logger(name, self.run, ids.get(name))
                ids[name] = logger.remote_id
                self.reporter.say(f"logged to {logger.place}")
        if self._open:
            with as_run_errors(self._file):
                write_json(self._file, ids)
            for record in self.run.metrics():
                self._pass_on(record)
            self.run.listeners.append(self._pass_on)

    def end(self, figures: Mapping[str, Any], confusion: list[list[int]], names: Sequence[str]) -> None:
        """Send what `result.json` holds, the curves and the confusion matrix."""
        if not self._open:
            return
        from .pictures import draw_confusion, read_picture  # loads matplotlib

        pictures = {"confusion": draw_confusion(confusion, names)}
        if self.run.curves.is_file():
            pictures["curves"] = read_picture(self.run.curves)
        numbers = _numbers(figures)
        for name, logger in list(self._open.items()):
            with self._guarded(name):
                logger.finish(figures["iterations"], numbers, pictures)

    def _pass_on(self, record: Mapping[str, Any]) -> None:
        """Send a record to the loggers that lack it; of the steps that a resume repeats, the first stay."""
        if (record["step"], record["kind"]) in self._passed:
            return
        self._passed.add((record["step"], record["kind"]))
        number, self._records = self._records, self._records + 1
        values = {
            f"{record['kind']}/{key}": value for key, value in _numbers(record).items() if key != "step"
        }
        for name, logger in list(self._open.items()):
            if number >= logger.sent:
                with self._guarded(name):
                    logger.scalars(record["step"], values)

    def _ids(self) -> dict[str, str]:
        """Read what the loggers call the run; nothing from a damaged file, which leaves the run whole."""
        try:
            found = json.loads(read_bounded(self._file, MAX_FILE))
            return {name: found[name] for name in LOGGERS if isinstance(found.get(name), str)}
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        """Give a logger up if it fails, with a warning."""
        try:
            yield
        except Exception as error:  # of any library
            self._open.pop(name, None)
            why = str(error) if isinstance(error, ResidualError) else in_short(error)
            self.reporter.say(f"warning: nothing more is logged to {name}: {why}")


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among values, and those in objects among them as "OBJECT.KEY"."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": number for inner, number in _numbers(value).items()}
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[key] = value
    return found
