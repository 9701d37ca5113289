"""A CSV file that lists photographs: columns for path and label, and where wanted for the set."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..runtime.files import read_bounded
from .scan import Listing, Paths

PATH_COLUMNS = ("path", "file", "image", "filename")
LABEL_COLUMNS = ("label", "class")
TEST_WORDS = ("val", "valid", "validation", "test")
_LARGEST = 1 << 30  # bytes


@dataclass(frozen=True)
class PhotoList:
    """A CSV file's images, relative to its folder; of each the class, and the set: "train", "test" or "".

    `groups` holds the values of the column that tells which images belong together, None without one.
    """

    listing: Listing
    classes: list[str]
    parts: list[str]
    columns: tuple[str, ...]
    groups: list[str] | None = None


def read_list(file: Path, group: str | None = None) -> PhotoList:
    """Read a CSV file with the columns path (or file, image, filename), label (or class) and perhaps split.

    `group` may name another column.

    Raises:
        DataError: it cannot be read, a column or value is missing, an image is listed twice or does not
            exist, or an image has several labels.
    """
    try:
        text = read_bounded(file, _LARGEST).decode("utf-8-sig")
        rows = list(csv.DictReader(text.splitlines(), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    header = [str(name) for name in rows[0]] if rows else text.split("\n")[0].split(",")
    columns = {name.strip().lower(): name for name in header}
    if "labels" in columns:
        raise DataError(f"{file} has a column 'labels': an image must have one label, in a column 'label'")
    path_column, label_column = (
        next((columns[name] for name in names if name in columns), None)
        for names in (PATH_COLUMNS, LABEL_COLUMNS)
    )
    if path_column is None or label_column is None:
        raise DataError(f"{file} needs the columns path and label, separated by commas; it has {header}")
    if not rows:
        raise DataError(f"{file} lists no image")
    group_column = columns.get(group.strip().lower()) if group else None
    found = {}
    for number, row in enumerate(rows, start=2):
        path, label = ((row[name] or "").strip() for name in (path_column, label_column))
        if not path or not label or path in found:
            fault = "lists an image again" if path in found else f"has no {'label' if path else 'path'}"
            raise DataError(f"{file}, line {number}, {fault}")
        if "|" in label or ";" in label:
            raise DataError(f"{file}, line {number}, has several labels, {label}: an image must have one")
        part = _part(file, number, row[columns["split"]] if "split" in columns else "")
        found[path.replace("\\", "/")] = label, part, (row.get(group_column or "") or "").strip()
    ordered = sorted(found)
    classes, parts, groups = ([found[path][place] for path in ordered] for place in range(3))
    return PhotoList(
        _listing(file, ordered), classes, parts, tuple(columns), groups if group_column else None
    )


def _part(file: Path, number: int, word: str | None) -> str:
    word = (word or "").strip().lower()
    if word not in ("", "train", *TEST_WORDS):
        raise DataError(f"{file}, line {number}, has the split {word}: it must be train, val or test")
    return "test" if word in TEST_WORDS else word


def _listing(file: Path, paths: list[str]) -> Listing:
    states, missing = [], []
    for path in paths:
        try:
            state = (file.parent / path).stat()
            states.append((state.st_size, state.st_mtime_ns))
        except (OSError, ValueError):
            missing.append(path)
    if missing:
        raise DataError(
            f"{file} lists {len(missing):,} images that do not exist, for example {missing[0]}: "
            f"paths must be relative to {file.parent}"
        )
    sizes, times = np.array(states, np.int64).T
    return Listing(Paths.of(paths), sizes.copy(), times.copy(), Paths.of(()))
