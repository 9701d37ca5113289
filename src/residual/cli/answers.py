"""How `predict` shows answers: as text, as one list in JSON, as CSV, or as features in a file."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .output import print_line, print_note, printable

if TYPE_CHECKING:
    from ..inference.classifier import Classifier, Prediction
    from ..inference.many import Answer

Show = Callable[["Answer"], object]


@contextmanager
def as_text(images: int, unsure_below: float | None) -> Iterator[Show]:
    """Give a function that prints a table of the classes of one image, or a line for each of many."""

    def show(answer: "Answer") -> None:
        if answer.error is not None:  # named on standard error
            return
        unsure = answer.is_unsure(unsure_below)
        if images > 1:
            found = ", ".join(f"{printable(p.class_name)} {_percent(p)}" for p in answer.predictions)
            print_line(f"{printable(answer.path)}: {f'unsure ({found})' if unsure else found}")
            return
        print_line(printable(answer.path) + (": unsure" if unsure else ""))
        for prediction in answer.predictions:
            print_line(f"{_percent(prediction):>9}  {printable(prediction.class_name)}")

    yield show


@contextmanager
def as_json(unsure_below: float | None) -> Iterator[Show]:
    """Give a function that prints answers as the objects of one list, an object a line."""
    last = "["  # the line to print next, once it is known whether a comma follows it

    def show(answer: "Answer") -> None:
        nonlocal last
        print_line(last if last == "[" else f"{last},")
        last = "  " + json.dumps(answer.as_dict(unsure_below))

    yield show
    print_line(last)
    print_line("]")


@contextmanager
def as_csv(path: Path, top: int, unsure_below: float | None) -> Iterator[Show]:
    """Give a function that writes a line of a CSV file."""
    from ..inference.answer_csv import answer_csv

    with _writing(path), answer_csv(path, top, unsure_below) as rows:
        yield rows.add
    print_note(f"the answers are in {path}")


@contextmanager
def as_features(path: Path, classifier: "Classifier") -> Iterator[Show]:
    """Give a function that writes features into a file, those of good images only."""
    from ..inference.feature_files import feature_file

    with _writing(path), feature_file(path, classifier.feature_size) as rows:

        def show(answer: "Answer") -> None:
            if answer.features is not None:
                rows.add(answer.path, answer.features)

        yield show
    print_note(f"the features are in {path}: {rows.count:,} x {classifier.feature_size}")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error


def _percent(prediction: "Prediction") -> str:
    return f"{100 * prediction.probability:.2f} %"
