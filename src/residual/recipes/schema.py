"""A recipe: everything that decides what a training run computes, as one frozen, validated value.

A recipe is made by a function in this folder, changed by dotted overrides (`optimizer.learning_rate=0.05`),
saved resolved in the run folder and read back from there.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ..errors import UsageError
from ..models.names import parse_name, resolve_shortcut
from ..runtime.files import read_bounded
from .messages import explain, unknown_key

FORMAT = 2  # of recipe files; 1 had no number, and called the validation set a hold-out
MAX_FILE = 2**20  # bytes; a recipe takes about one thousand
DATASETS = ("cifar10", "cifar100", "digits")


def _refuse(expected: str) -> PydanticCustomError:
    return PydanticCustomError("expected", "{expected}", {"expected": expected})


def _whole(value: Any) -> int:
    try:
        if not isinstance(value, bool) and float(value) == int(float(value)):
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    raise _refuse("a whole number")


def _number(value: Any) -> float:
    try:
        if not isinstance(value, bool):
            return float(value)
    except (TypeError, ValueError, OverflowError):
        pass
    raise _refuse("a number")


def _flag(value: Any) -> bool:
    if str(value).lower() not in ("true", "false"):
        raise _refuse("true or false")
    return str(value).lower() == "true"


def _text(value: Any) -> str:
    try:
        if isinstance(value, str) and value.encode() is not None:  # what UTF-8 cannot hold cannot be written
            return value
    except UnicodeEncodeError:
        pass
    raise _refuse("text in UTF-8")


def _numbers(value: Any) -> tuple[float, ...]:
    items = value.strip("[]() ").split(",") if isinstance(value, str) else value
    try:
        return tuple(float(item) for item in items if item != "")
    except (TypeError, ValueError):
        raise _refuse("a list of numbers") from None


def _optional(value: Any) -> Any:
    return None if value in ("none", "null", "") else value


Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Text = Annotated[str, BeforeValidator(_text)]
Fraction = Annotated[float, Field(gt=0, le=1)]


class Section(BaseModel):
    """A recipe or a part of one; whatever does not fit is refused in one line.

    Raises:
        UsageError: a key is unknown, or a value has the wrong type or is out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    _prefix: ClassVar[str] = ""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise UsageError(explain(error, type(self), self._prefix)) from None


class Optimizer(Section):
    """Stochastic gradient descent with momentum; optionally Muon for convolutions."""

    _prefix = "optimizer."
    learning_rate: Number = Field(0.1, gt=0)
    momentum: Number = Field(0.9, ge=0, le=1)
    weight_decay: Number = Field(1e-4, ge=0)
    nesterov: Flag = False
    decay_all: Flag = Field(True, description="weight decay acts on BN and biases too, as in the paper")
    muon: Number = Field(
        0.0, ge=0, le=0.5, description="Muon's step size for convolutions, a rotation in radians; 0: SGD"
    )


class Schedule(Section):
    """The learning-rate schedule: drops at fractions of the run, and a warm-up for deep nets.

    The shapes "triangle" (one-cycle) and "cosine" rise linearly until the fraction `peak` of the run, then
    fall to 0. The warm-up lasts until the training error over `warmup_window` steps is below `warmup_error`
    percent (section 4.2, 110 layers); a warm-up rate of 0 means none.
    """

    _prefix = "schedule."
    shape: Literal["steps", "triangle", "cosine"] = "steps"
    peak: Number = Field(0.2, gt=0, le=1)
    drops: Annotated[tuple[Fraction, ...], BeforeValidator(_numbers)] = (0.5, 0.75)
    factor: Number = Field(0.1, gt=0, le=1)
    warmup_learning_rate: Number = Field(0.0, ge=0)
    warmup_error: Number = Field(80.0, ge=0, le=100)
    warmup_window: Whole = Field(100, ge=1)


class Augment(Section):
    """Augmentation of training images: zero padding and a random crop, a random horizontal flip."""

    _prefix = "augment."
    padding: Whole = Field(4, ge=0, le=16, description="pixels")
    flip: Flag = True
    alternate_flip: Flag = Field(False, description="flip each image in every other epoch, not at random")
    early_size: Whole = Field(0, ge=0, description="pixels that early batches are resized to; 0: none are")
    early_share: Number = Field(0.6, ge=0, le=1, description="the part of the run that is early")


class Recipe(Section):
    """One training run, from data to the last step.

    `iterations` is the length of the schedule; `stop_after` ends a run sooner without changing the schedule
    (0: never). `evaluate_every` counts only with a validation set or with `curve = "test"`. `precision =
    "auto"` is bfloat16 where the device computes in it, else float32. `capture` replays the step as one CUDA
    graph where there is CUDA; `compile` has torch.compile make the network's kernels. `keep_checkpoints` is
    how many of the latest checkpoints are kept.
    """

    name: Text = "custom"
    network: Text = "resnet20"
    shortcut: Annotated[Text | None, BeforeValidator(_optional)] = None
    data: Literal["cifar10", "cifar100", "digits"] = "cifar10"
    seed: Whole = Field(0, ge=0, lt=2**31)
    iterations: Whole = Field(64_000, ge=1)
    stop_after: Whole = Field(0, ge=0)
    batch_size: Whole = Field(128, ge=1)
    validation: Whole = Field(0, ge=0, description="training images used for validation")
    curve: Literal["none", "test"] = "none"
    log_every: Whole = Field(100, ge=1)
    evaluate_every: Whole = Field(400, ge=1)
    checkpoint_every: Whole = Field(400, ge=1)
    keep_checkpoints: Whole = Field(2, ge=1)
    label_smoothing: Number = Field(0.0, ge=0, le=1)
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    channels_last: Flag = True
    capture: Flag = True
    compile: Flag = False
    deterministic: Flag = False
    checkpoint_activations: Flag = Field(False, description="activation recomputation, to save memory")
    recompute_batchnorm: Flag = Field(False, description="true BN averages at the end of training")
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    augment: Augment = Augment()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.compile and self.checkpoint_activations:
            raise UsageError("compile and checkpoint_activations cannot be combined: choose one")
        if self.optimizer.nesterov and not self.optimizer.momentum:
            raise UsageError("optimizer.nesterov needs momentum: optimizer.momentum must not be 0")
        object.__setattr__(self, "shortcut", resolve_shortcut(self.network, self.shortcut))
        return self

    @property
    def last_step(self) -> int:
        """The number of steps that the run takes."""
        return min(self.stop_after or self.iterations, self.iterations)

    @property
    def early_steps(self) -> int:
        """The number of steps whose batches are resized to `augment.early_size`."""
        return round(self.augment.early_share * self.iterations) if self.augment.early_size else 0

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
        return self.model_dump(mode="json")

    def replace(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return a copy with dotted keys changed; text is read as the field's type.

        Raises:
            UsageError: a key is unknown or a value does not fit.
        """
        values, known = self.as_dict(), self.flat()
        for key, value in changes.items():
            key = _renamed(key)
            if key not in known:
                raise UsageError(unknown_key(key, known))
            section, _, name = key.rpartition(".")
            (values[section] if section else values)[name] = value
        if "network" in changes and "shortcut" not in changes and _has_no_shortcuts(values["network"]):
            values["shortcut"] = None
        return from_dict(values)

    def flat(self) -> dict[str, Any]:
        """Return every value under its dotted key."""
        return _flatten(self.as_dict())


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """Build a recipe from nested values, of this format or an earlier one.

    Raises:
        UsageError: a key is unknown, a value has the wrong type or is out of range, or the format is newer.
    """
    values = {_renamed(key): value for key, value in values.items()}
    found = values.pop("format", 1)
    if found not in range(1, FORMAT + 1):
        raise UsageError(f"the recipe has format {found!r}; this version reads up to {FORMAT}: upgrade")
    return Recipe(**values)


def load_recipe(path: Path, network: str | None = None) -> Recipe:
    """Read a recipe from a `.json` or `.toml` file; keys left out keep their defaults.

    A network given here takes the place of the file's; a plain one also drops its shortcut option.

    Raises:
        UsageError: the file is missing, is not JSON or TOML, or is not a valid recipe.
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
        if _has_no_shortcuts(network):
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


def _renamed(key: str) -> str:
    return "validation" if key == "holdout" else key  # its name in format 1


def _has_no_shortcuts(network: Any) -> bool:
    return parse_name(str(network)).family != "resnet"


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
