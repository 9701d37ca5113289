"""What is wrong with a recipe, in one line: pydantic's findings in the words of this project."""

import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

# what other programs, or options of the command line, call a key
OTHER_NAMES = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "epochs": "iterations",
    "steps": "iterations",
    "batch": "batch_size",
    "bs": "batch_size",
    "amp": "precision",
    "model": "network",
}


def explain(error: ValidationError, section: type[BaseModel], prefix: str = "") -> str:
    """Say what the first fault is and what would fit."""
    fault = error.errors(include_url=False)[0]
    path = [part for part in fault["loc"] if isinstance(part, str)]
    key = prefix + ".".join(path)
    schema = _schema(section)
    if fault["type"] == "extra_forbidden":
        above = key.removesuffix(path[-1])
        return unknown_key(key, [above + name for name in _properties(schema, path[:-1])])
    value = shortened(fault["input"])
    if fault["type"] == "expected":
        return f"{key} must be {fault['msg']}, not {value}"
    if fault["type"] in ("model_type", "model_attributes_type"):
        return f"{key} must hold keys of its own, not {value}"
    return f"{key} must be {_fitting(fault, _properties(schema, path[:-1])[path[-1]])}, not {value}"


def unknown_key(key: str, valid: Iterable[str]) -> str:
    """Name the nearest key that exists, and all others."""
    valid = list(valid)
    close = [name for name in valid if OTHER_NAMES.get(key) == name or name.endswith(f".{key}")]
    close = close or difflib.get_close_matches(key, valid, n=1, cutoff=0.6)
    nearest = f"; did you mean '{close[0]}'?" if close else ";"
    return f"unknown recipe key '{key}'{nearest} The keys are: {', '.join(valid)}"


@cache
def _schema(section: type[BaseModel]) -> dict[str, Any]:
    return section.model_json_schema()


def _properties(schema: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    """Return the JSON schema of the keys of a section, or of the recipe itself."""
    found = schema
    for name in path:
        reference = found["properties"][name]["$ref"].rpartition("/")[2]
        found = schema["$defs"][reference]
    properties: dict[str, Any] = found["properties"]
    return properties


def _fitting(fault: ErrorDetails, schema: Mapping[str, Any]) -> str:
    """Say what a key takes, by its JSON schema."""
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    schema = schema.get("items", schema)
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    limits = [
        f"{word} {limit}"
        for word, limit in (("above", above), ("at least", low), ("at most", high), ("below", below))
        if limit is not None
    ]
    return f"a finite number {' and '.join(limits)}" if limits else str(fault["msg"])


def shortened(value: Any) -> str:
    """Show a value that a file holds, which may be of any size and depth."""
    try:
        text = " ".join(repr(value).split())  # a tensor takes several lines
    except RecursionError:
        return "what is nested too deeply"
    return text if len(text) <= 80 else f"{text[:77]}..."
