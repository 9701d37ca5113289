"""The JSON files of a run: which keys they have, of which types, and how they are read."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..recipes.messages import shortened
from ..runtime.files import read_bounded

FORMAT = 2  # of environment.json and result.json; 1 had no number
# what is read of a run's files, and its type
Kinds = Mapping[str, type | tuple[type, ...]]
NUMBER = (int, float)
RECORD: Kinds = {"step": int, "kind": str, "error": NUMBER}
RESULT: Kinds = {
    **dict.fromkeys(("network", "data", "recipe"), str),
    **dict.fromkeys(("seed", "iterations", "images"), int),
    **dict.fromkeys(("error", "training_error", "seconds", "images_per_second"), NUMBER),
    "validation_best": (dict, type(None)),
}
ENVIRONMENT: Kinds = {
    **dict.fromkeys(("date", "command"), str),
    **dict.fromkeys(("hardware", "versions"), dict),
    "commit": (str, type(None)),
    "resumed": list,
}
NESTED: Mapping[str, Kinds] = {"hardware": {"device": str, "threads": int}, "versions": {"torch": str}}
MAX_FILE = 2**24  # bytes


@contextmanager
def as_run_errors(path: Path) -> Iterator[None]:
    """Turn errors of the disk or of a corrupted file into a message of one line."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot read or write {path}: {error}") from error
    except ValueError as error:
        raise RunError(f"{path} is truncated or corrupted: {error}") from error


def read_object(path: Path, kinds: Kinds, hint: str) -> dict[str, Any]:
    """Read a JSON file of this format or an earlier one, without its format's number.

    Raises:
        RunError: it cannot be read, is corrupted or of a newer format; the hint says what to do.
    """
    with as_run_errors(path):
        text = read_bounded(path, MAX_FILE).decode()
    values = _upgrade(parse_object(text, {}, str(path), hint), path)
    check_keys(values, kinds, str(path), hint)
    return values


def parse_object(text: str, kinds: Kinds, source: str, hint: str) -> dict[str, Any]:
    """Parse a JSON object that must have certain keys; the hint says what to do if it has not."""
    try:
        values: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{source} is truncated or corrupted: {error}; {hint}") from error
    check_keys(values, kinds, source, hint)
    return values


def _upgrade(values: dict[str, Any], source: Path) -> dict[str, Any]:
    """Drop the format's number and rename what format 1 called otherwise; refuse a newer format."""
    found = values.pop("format", 1)
    if type(found) is not int or not 1 <= found <= FORMAT:
        raise RunError(f"{source} has format {found!r:.40}; this version reads up to {FORMAT}: upgrade")
    return {key.replace("holdout", "validation") if found == 1 else key: values[key] for key in values}


def check_keys(values: Any, kinds: Kinds, source: str, hint: str) -> None:
    """Refuse what is not an object, lacks a key, or has a value of another type for it."""
    if not isinstance(values, dict):
        raise RunError(f"{source} is truncated or corrupted: it is not an object; {hint}")
    for key, kind in kinds.items():
        if key not in values:
            raise RunError(f"{source} is truncated or corrupted: it lacks '{key}'; {hint}")
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise RunError(f"{source} is truncated or corrupted: {key} is {shortened(values[key])}; {hint}")
