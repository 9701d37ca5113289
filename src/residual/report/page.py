"""`report.html`: the outcome of a run as one page without outside resources."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..runtime.files import write_atomically
from .advice import advice, trusts_suspects, verdict
from .charts import calibration_chart, error_chart
from .outcome import Outcome
from .tables import READABLE, class_rows, pairs
from .thumbnails import Thumbnails

MOST_PICTURES = 24  # of mistakes, and of suspicious labels
MOST_GROUPS, MOST_OF_GROUP = 10, 4  # of near-duplicates, and pictures of each
MOST_LINES = 100  # of a list of files


@dataclass(frozen=True)
class Picture:
    """A thumbnail (None where there is none), the file, and what is said of it."""

    url: str | None
    path: str
    kind: str
    label: str
    other: str = ""
    confidence: float | None = None


def write_page(path: Path, outcome: Outcome) -> None:
    """Write the page.

    Raises:
        OSError: the file cannot be written.
    """
    html = render(outcome).encode("utf-8", "replace")  # names of files need not be UTF-8
    write_atomically(path, lambda file: file.write(html))


def render(outcome: Outcome) -> str:
    """Return the page as HTML; names of classes and files are escaped."""
    environment = Environment(
        loader=PackageLoader("residual.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(_content(outcome))


def _content(outcome: Outcome) -> dict[str, Any]:
    thumbnail = Thumbnails((outcome.train, *(each.photos for each in outcome.predictions.values())))
    test = outcome.predictions["test"]
    classes = len(outcome.class_names)
    suspects = outcome.suspects
    return {
        "outcome": outcome,
        "test": outcome.test,
        "temperature": outcome.temperature,
        "verdict": verdict(outcome),
        "advice": advice(outcome),
        "time": _time(outcome.seconds),
        "errors": error_chart(outcome.curves),
        "calibration": calibration_chart(test.logits, test.photos.labels, outcome.temperature.each),
        "confusion": _confusion(outcome) if classes <= READABLE else [],
        "pairs": pairs(outcome),
        "classes": class_rows(outcome),
        "mistakes": _mistakes(outcome, thumbnail),
        "suspects": _suspects(outcome, suspects[:MOST_PICTURES], thumbnail),
        "suspect_count": len(suspects),
        "trusted": trusts_suspects(outcome),
        "judged": outcome.looked_at,
        "conflicts": _groups(outcome.findings.conflicts, thumbnail),
        "leaks": _groups(outcome.findings.leaks, thumbnail),
        "duplicates": _groups(outcome.findings.duplicates, thumbnail),
        "bad": list(outcome.bad.items())[:MOST_LINES],
    }


def _time(seconds: float) -> str:
    """Return a time in words: 41 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _confusion(outcome: Outcome) -> list[tuple[str, list[tuple[int, float]]]]:
    """Return for each class the counts of predictions, each with its share of the class in percent."""
    return [
        (name, [(count, 100 * count / max(1, sum(counts))) for count in counts])
        for name, counts in zip(outcome.class_names, outcome.test.confusion, strict=True)
    ]


def _mistakes(outcome: Outcome, thumbnail: Thumbnails) -> list[Picture]:
    judged, found = outcome.judged["test"], []
    for index in judged.wrong[:MOST_PICTURES].tolist():
        path, (true, predicted) = judged.photos.files[index], judged.names(index)
        sure = 100 * float(judged.confidence[index])
        found.append(Picture(thumbnail(judged.photos, index), path, "test", true, predicted, sure))
    return found


def _suspects(
    outcome: Outcome, suspects: Iterable[tuple[str, int, int]], thumbnail: Thumbnails
) -> list[Picture]:
    names, found = outcome.class_names, []
    for kind, index, likely in suspects:
        photos = outcome.predictions[kind].photos
        path, label = photos.files[index], names[int(photos.labels[index])]
        found.append(Picture(thumbnail(photos, index), path, kind, label, names[likely]))
    return found


def _groups(groups: tuple[tuple[str, ...], ...], thumbnail: Thumbnails) -> list[list[Picture]]:
    return [
        [Picture(thumbnail.of_path(path), path, "", "") for path in group[:MOST_OF_GROUP]]
        for group in groups[:MOST_GROUPS]
    ]
