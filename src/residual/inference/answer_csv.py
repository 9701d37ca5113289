"""Answers as a CSV file, written as they come: path, classes with probabilities, what is wrong."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runtime.files import written_atomically
from .many import Answer


class AnswerCsv:
    """Writes a line for each answer.

    The columns are path, class, probability, class_2, probability_2, ..., then `unsure` ("yes" or nothing)
    where a limit is given, and error.
    """

    def __init__(self, file: io.TextIOBase, top: int, unsure_below: float | None) -> None:
        self._writer: Any = csv.writer(file, lineterminator="\n")
        self._top, self._unsure_below = top, unsure_below
        suffixes = ["", *(f"_{number}" for number in range(2, top + 1))]
        self._write(
            "path", [f"{name}{end}" for end in suffixes for name in ("class", "probability")], "unsure"
        )

    def add(self, answer: Answer) -> None:
        """Write a line."""
        named = [(found.class_name, f"{found.probability:.6f}") for found in answer.predictions]
        values = [value for pair in named for value in pair]
        unsure = "yes" if answer.is_unsure(self._unsure_below) else ""
        self._write(answer.path, values + [""] * (2 * self._top - len(values)), unsure, answer.error or "")

    def _write(self, path: str, values: Sequence[str], unsure: str, error: str = "error") -> None:
        self._writer.writerow([path, *values, *([] if self._unsure_below is None else [unsure]), error])


@contextmanager
def answer_csv(path: Path, top: int, unsure_below: float | None = None) -> Iterator[AnswerCsv]:
    """Open a CSV file for answers with `top` classes; it gets its name at the end, unless the block raises.

    Raises:
        OSError: the file cannot be written.
    """
    # names that are not UTF-8 keep their bytes
    errors = sys.getfilesystemencodeerrors()
    with written_atomically(path) as file:
        text = io.TextIOWrapper(file, "utf-8", errors, newline="")
        yield AnswerCsv(text, top, unsure_below)
        text.flush()
        text.detach()  # the file is synced and closed by its owner
