"""A recipe: everything that decides what a training run computes, as one typed, frozen value.

A recipe is made by a function in `recipes/`, changed by dotted overrides
(`optimizer.learning_rate=0.05`), saved resolved in the run folder and read back from there.
"""

import dataclasses
import difflib
import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..models.names import parse_name, resolve_shortcut
from ..runtime.files import read_bounded

INFINITY = math.inf
DATASETS = ("cifar10", "cifar100", "digits")
# what other programs, or this one's options, call a key
OTHER_NAMES = {
    "lr": "optimizer.learning_rate",
    "wd": "optimizer.weight_decay",
    "epochs": "iterations",
    "steps": "iterations",
    "batch": "batch_size",
    "bs": "batch_size",
    "validation": "holdout",
    "amp": "precision",
    "model": "network",
}
MAX_FILE = 2**20  # bytes; a recipe takes about one thousand
S = typing.TypeVar("S", bound="_Section")


def _number(default: float, low: float, high: float = INFINITY, *, above: bool = False) -> Any:
    """Declare a number's default and the range that is accepted; `above` excludes `low` itself."""
    return field(default=default, metadata={"low": low, "high": high, "above": above})


def _choice(default: str, *choices: str) -> Any:
    """Declare a word's default and the words that are accepted."""
    return field(default=default, metadata={"choices": choices})


class _Section:
    """Checks every field of a recipe or of a part of one against its declared type and range."""

    _prefix: typing.ClassVar[str] = ""

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            key = self._prefix + item.name
            value = _convert(key, getattr(self, item.name), typing.get_type_hints(type(self))[item.name])
            object.__setattr__(self, item.name, value)
            _check(key, value, item.metadata)


@dataclass(frozen=True)
class Optimizer(_Section):
    """Stochastic gradient descent with momentum; for convolutions, if so chosen, Muon."""

    _prefix = "optimizer."
    learning_rate: float = _number(0.1, 0, above=True)
    momentum: float = _number(0.9, 0, 1)
    weight_decay: float = _number(1e-4, 0)
    nesterov: bool = False
    decay_all: bool = True  # False keeps the decay off BN and biases
    muon: float = _number(0.0, 0, 0.5)  # above 0: Muon turns convolutions by so many radians at learning_rate


@dataclass(frozen=True)
class Schedule(_Section):
    """The learning rate's course: drops at fractions of the run, and a warm-up for deep nets.

    The shapes "triangle" and "cosine" rise linearly until the fraction `peak` of the run, then fall to 0.
    The warm-up lasts until the training error of a window of `warmup_window` steps is under
    `warmup_error` percent (section 4.2, 110 layers); a rate of 0 means none.
    """

    _prefix = "schedule."
    shape: str = _choice("steps", "steps", "triangle", "cosine")
    peak: float = _number(0.2, 0, 1, above=True)
    drops: tuple[float, ...] = field(default=(0.5, 0.75), metadata={"low": 0, "high": 1, "above": True})
    factor: float = _number(0.1, 0, 1, above=True)
    warmup_learning_rate: float = _number(0.0, 0)
    warmup_error: float = _number(80.0, 0, 100)
    warmup_window: int = _number(100, 1)


@dataclass(frozen=True)
class Augment(_Section):
    """What is done to a training picture: zero padding and a random crop, a random horizontal flip."""

    _prefix = "augment."
    padding: int = _number(4, 0, 16)
    flip: bool = True
    alternate_flip: bool = False  # each image mirrored in every other epoch, instead of at random


@dataclass(frozen=True)
class Recipe(_Section):
    """One training run, from data to the last step.

    `iterations` is the length of the schedule; `stop_after` ends a run sooner without changing the
    schedule (0: never). `evaluate_every` counts only with a hold-out or with `curve = "test"`.
    `precision = "auto"` is bfloat16 where the device computes in it, else float32. `capture` replays the
    step as one CUDA graph where there is CUDA; `compile` has torch.compile make the network's kernels.
    `keep_checkpoints` is how many of the last checkpoints stay on the disk.
    """

    name: str = "custom"
    network: str = "resnet20"
    shortcut: str | None = None
    data: str = _choice("cifar10", *DATASETS)
    seed: int = _number(0, 0, 2**31 - 1)
    iterations: int = _number(64_000, 1)
    stop_after: int = _number(0, 0)
    batch_size: int = _number(128, 1)
    holdout: int = _number(0, 0)
    curve: str = _choice("none", "none", "test")
    log_every: int = _number(100, 1)
    evaluate_every: int = _number(400, 1)
    checkpoint_every: int = _number(400, 1)
    keep_checkpoints: int = _number(2, 1)
    label_smoothing: float = _number(0.0, 0, 1)
    precision: str = _choice("float32", "auto", "float32", "bfloat16")
    channels_last: bool = True
    capture: bool = True
    compile: bool = False
    deterministic: bool = False
    checkpoint_activations: bool = False
    recompute_batchnorm: bool = False
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.compile and self.checkpoint_activations:
            raise UsageError("compile and checkpoint_activations do not go together: choose one")
        if self.optimizer.nesterov and not self.optimizer.momentum:
            raise UsageError(
                "optimizer.nesterov looks ahead along the momentum: optimizer.momentum must not be 0"
            )
        object.__setattr__(self, "shortcut", resolve_shortcut(self.network, self.shortcut))

    @property
    def last_step(self) -> int:
        """The number of steps that the run takes."""
        return min(self.stop_after or self.iterations, self.iterations)

    @property
    def log_period(self) -> int:
        """Steps between two records of training: `log_every`, or fewer so that a short run has five."""
        return min(self.log_every, max(1, self.last_step // 5))

    @property
    def evaluation_period(self) -> int:
        """Steps between two evaluations: `evaluate_every`, or fewer (at least 50) so that there are 30."""
        return min(self.evaluate_every, max(50, self.last_step // 30))

    def as_dict(self) -> dict[str, Any]:
        """Return plain nested values that `from_dict` reads back to an equal recipe."""
        plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        return plain

    def replace(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return a copy with dotted keys changed; text is read as the field's type.

        Raises:
            UsageError: a key is unknown or a value does not fit.
        """
        values = self.as_dict()
        for key, value in changes.items():
            section, _, name = key.rpartition(".")
            if key not in self.flat():
                raise UsageError(f"unknown recipe key '{key}'{_nearest(key, self.flat())}")
            (values[section] if section else values)[name] = value
        if "network" in changes and "shortcut" not in changes and _is_plain(values["network"]):
            values["shortcut"] = None
        return from_dict(values)

    def flat(self) -> dict[str, Any]:
        """Return every value under its dotted key."""
        return _flatten(self.as_dict())


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from nested values.

    Raises:
        UsageError: a key is unknown, or a value has the wrong type or lies out of its range.
    """
    return _build(Recipe, "", values)


def load_recipe(path: Path, network: str | None = None) -> Recipe:
    """Read a recipe from a `.json` or `.toml` file; keys left out keep their defaults.

    A network given here takes the place of the file's; a plain one also drops its shortcut option.

    Raises:
        UsageError: the file is missing, is not JSON or TOML, or holds what no recipe has.
    """
    try:
        text = read_bounded(path, MAX_FILE).decode()
        values = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read the recipe {path}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"cannot read the recipe {path}: it must hold one object")
    if network is not None:
        values["network"] = network
        if _is_plain(network):
            values.pop("shortcut", None)
    return from_dict(values)


def parse_overrides(arguments: Iterable[str]) -> dict[str, str]:
    """Split the `KEY=VALUE` texts of the command line.

    Raises:
        UsageError: a text has no "=".
    """
    changes = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise UsageError(f"'{argument}' is not KEY=VALUE")
        changes[key.strip()] = value.strip()
    return changes


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Return one line for each key in which two recipes differ."""
    before, after = old.flat(), new.flat()
    return [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]


def _is_plain(network: Any) -> bool:
    return parse_name(str(network)).family == "plain"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _build(section: type[S], prefix: str, values: Mapping[str, Any]) -> S:
    hints = typing.get_type_hints(section)
    names = [item.name for item in dataclasses.fields(section)]  # type: ignore[arg-type]
    arguments = {}
    for name, value in values.items():
        if name not in names:
            raise UsageError(f"unknown recipe key '{prefix}{name}'{_nearest(name, names)}")
        kind = hints[name]
        if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
            value = _build(typing.cast(type[_Section], kind), f"{name}.", value)
        arguments[name] = value
    return section(**arguments)


def _nearest(key: str, valid: Iterable[str]) -> str:
    valid = list(valid)
    close = [k for k in valid if OTHER_NAMES.get(key) == k or k.endswith(f".{key}")]
    close = close or difflib.get_close_matches(key, valid, n=1, cutoff=0.6)
    return (f"; did you mean '{close[0]}'?" if close else ";") + f" The keys are: {', '.join(valid)}"


def _convert(key: str, value: Any, kind: Any) -> Any:
    """Return `value` as the declared type of its key; text is read as that type."""
    if isinstance(kind, types.UnionType):
        kind = next(option for option in typing.get_args(kind) if option is not type(None))
        if value is None or value in ("none", "null", ""):
            return None
    try:
        if dataclasses.is_dataclass(kind):
            if isinstance(value, typing.cast(type, kind)):
                return value
        elif kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        elif kind is int and not isinstance(value, bool) and float(value) == int(float(value)):
            return int(float(value))
        elif kind is float and not isinstance(value, bool):
            return float(value)
        elif kind is str and isinstance(value, str):
            value.encode()  # what UTF-8 cannot hold could never be written
            return value
        elif typing.get_origin(kind) is tuple:
            items = value.strip("[]() ").split(",") if isinstance(value, str) else value
            return tuple(float(item) for item in items if item != "")
    except (TypeError, ValueError, KeyError, OverflowError):
        pass
    if dataclasses.is_dataclass(kind):
        raise UsageError(f"{key} must hold keys of its own, not {value!r}")
    expected = {bool: "true or false", int: "a whole number", float: "a number", str: "text in UTF-8"}
    raise UsageError(f"{key} must be {expected.get(kind, 'a list of numbers')}, not {_short(value)}")


def _short(value: Any) -> str:
    """Show a value that a file holds, which may be of any size and depth."""
    try:
        text = repr(value)
    except RecursionError:
        return "what is nested too deeply"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check(key: str, value: Any, metadata: Mapping[str, Any]) -> None:
    """Refuse a word that is not among the choices, or a number out of its range."""
    if "choices" in metadata and value not in metadata["choices"]:
        raise UsageError(f"{key} must be one of {', '.join(metadata['choices'])}, not '{value}'")
    if "low" not in metadata:
        return
    low, high, above = metadata["low"], metadata["high"], metadata["above"]
    for number in value if isinstance(value, tuple) else (value,):
        fits = math.isfinite(number) and number <= high and (number > low if above else number >= low)
        if not fits:
            limit = f"above {low}" if above else f"at least {low}"
            limit += "" if high == INFINITY else f" and at most {high}"
            raise UsageError(f"{key} must be a finite number {limit}, not {number}")
