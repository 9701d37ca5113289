"""A recipe: everything that decides what a training run computes, as one frozen, validated value.

A recipe is made by a function in this folder, changed by dotted overrides (`optimizer.learning_rate=0.05`),
saved resolved in the run folder and read back from there.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..errors import UsageError
from ..models.names import parse_name, resolve_shortcut, resolve_variant
from ..runtime.files import read_bounded
from .augment import Augment, PadCrop, refuse_other_kinds
from .messages import unknown_key
from .section import CountOrShare, Flag, Fraction, Number, Numbers, OptionalText, Section, Text, Whole

FORMAT = 2  # of recipe files; 1 had no number, and called the validation set a hold-out
MAX_FILE = 2**20  # bytes; a recipe takes about one thousand
DATASETS = ("cifar10", "cifar100", "digits")
Fit = Literal["crop", "pad", "squish"]
Balance = Literal["none", "weights", "sampler"]
Order = Literal["shuffle", "blocks"]
FOLDER = "folder"  # the data of a run on photographs in a folder, or in a CSV file


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
    body_rate: Number = Field(
        1.0, gt=0, le=1, description="learning rate of all but the last layer, relative"
    )
    frozen: Whole = Field(0, ge=0, description="steps at the start that train the last layer alone")


class Schedule(Section):
    """The learning-rate schedule: drops at fractions of the run, and a warm-up for deep nets.

    The shapes "triangle" (one-cycle) and "cosine" rise linearly until the fraction `peak` of the run, then
    fall to 0. "plateau" multiplies the rate by `factor`, at most `max_drops` times, when the validation error
    has had no new minimum for `patience` evaluations (section 3.4). The warm-up lasts until the training
    error over `warmup_window` steps is below `warmup_error` percent (section 4.2, 110 layers); a warm-up rate
    of 0 means none.
    """

    _prefix = "schedule."
    shape: Literal["steps", "triangle", "cosine", "plateau"] = "steps"
    peak: Number = Field(0.2, gt=0, le=1)
    drops: Annotated[tuple[Fraction, ...], Numbers] = (0.5, 0.75)
    factor: Number = Field(0.1, gt=0, le=1)
    patience: Whole = Field(5, ge=1, description="evaluations without a new minimum before a drop")
    max_drops: Whole = Field(3, ge=0, description="of a plateau schedule")
    warmup_learning_rate: Number = Field(0.0, ge=0)
    warmup_error: Number = Field(80.0, ge=0, le=100)
    warmup_window: Whole = Field(100, ge=1)


class Ema(Section):
    """A moving average of the weights, which is evaluated and kept in place of the last step's.

    `span` is its time constant as a share of the run (0: no average), so that it means the same in a short
    run: in t of its iterations, the part of the former weights falls to exp(-t / span).
    """

    _prefix = "ema."
    span: Number = Field(0.0, ge=0, le=100)
    every: Whole = Field(32, ge=1, description="steps between two updates")


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
    shortcut: OptionalText = None
    variant: OptionalText = Field(None, description="v1 or v1.5, of ImageNet's bottleneck networks")
    weights: OptionalText = Field(None, description="a file, a run, a model folder or hf-hub:USER/NAME")
    data: Literal["cifar10", "cifar100", "digits", "folder"] = "cifar10"
    image_size: Whole = Field(0, ge=0, le=4096, description="pixels of a crop; 0: images in memory have one")
    test_size: Whole = Field(0, ge=0, le=4096, description="pixels of a test crop; 0: image_size")
    test_resize: Whole = Field(0, ge=0, le=4096, description="shorter side before it; 0: 256/224 of it")
    fit: Fit = Field("crop", description="how a photograph that is not square becomes one")
    normalization: Literal["measured", "imagenet"] = "measured"
    seed: Whole = Field(0, ge=0, lt=2**31)
    iterations: Whole = Field(64_000, ge=1)
    stop_after: Whole = Field(0, ge=0)
    batch_size: Whole = Field(128, ge=1)
    bn_groups: Whole = Field(1, ge=1, description="parts of a batch that BN sees apart")
    sync_bn: Flag = Field(False, description="of several processes: BN sees the whole batch")
    validation: CountOrShare = Field(0, description="training images set apart; below 1: their share")
    early_stop: Whole = Field(0, ge=0, description="evaluations without a lower validation error; 0: never")
    time: Number = Field(0.0, ge=0, description="seconds that the schedule is fitted to; 0: iterations count")
    balance: Balance = "none"
    order: Order = Field("shuffle", description="of photographs; blocks: for shards on a slow server")
    curve: Literal["none", "test"] = "none"
    log_every: Whole = Field(100, ge=1)
    evaluate_every: Whole = Field(400, ge=1)
    checkpoint_every: Whole = Field(400, ge=1)
    keep_checkpoints: Whole = Field(2, ge=1)
    retries: Whole = Field(0, ge=0, le=3, description="times to go back after a loss that is not finite")
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
    ema: Ema = Ema()
    augment: Augment = PadCrop()

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.compile and self.checkpoint_activations:
            raise UsageError("compile and checkpoint_activations cannot be combined: choose one")
        if self.bn_groups > self.batch_size:
            raise UsageError(f"bn_groups must be at most the batch_size of {self.batch_size}")
        if self.bn_groups > 1 and self.compile:
            raise UsageError("compile and bn_groups cannot be combined: leave one out")
        if self.bn_groups > 1 and self.sync_bn:
            raise UsageError("bn_groups has BN see parts of a batch, sync_bn the whole: leave one out")
        if self.order == "blocks" and self.balance == "sampler":
            raise UsageError("order = blocks and balance = sampler cannot be combined: choose one")
        if self.schedule.shape == "plateau" and not self.validation:
            raise UsageError("schedule.shape = plateau needs a validation set: set --validation")
        if self.optimizer.nesterov and not self.optimizer.momentum:
            raise UsageError("optimizer.nesterov needs momentum: optimizer.momentum must not be 0")
        object.__setattr__(self, "shortcut", resolve_shortcut(self.network, self.shortcut))
        object.__setattr__(self, "variant", resolve_variant(self.network, self.variant))
        return self

    @property
    def last_step(self) -> int:
        """The number of steps that the run takes."""
        return min(self.stop_after or self.iterations, self.iterations)

    @property
    def early_steps(self) -> int:
        """The number of steps whose batches are resized to `augment.early_size`."""
        return round(self.augment.early_share * self.iterations) if self.augment.early_size else 0

    def validation_images(self, images: int) -> int:
        """Return how many of so many training images are set apart for validation: of a share, at least 1."""
        if 0 < self.validation < 1:
            return max(1, round(self.validation * images))
        return int(self.validation)

    @property
    def log_period(self) -> int:
        """Steps between two records of training: `log_every`, or fewer so that a short run has five."""
        return min(self.log_every, max(1, self.last_step // 5))

    @property
    def evaluation_period(self) -> int:
        """Steps between two evaluations: `evaluate_every`, or fewer so that there are 30.

        They are at least 50 steps apart, 20 for a curve on the test set. Where they decide on the learning
        rate, `stop_after` does not change them. For a curve of photographs, which take long to evaluate, five
        are enough. With a time, which they take a part of, there are at most ten.
        """
        if self.data == FOLDER and not self.validation:
            return min(self.evaluate_every, max(50, self.last_step // 5))
        steps = self.iterations if self.schedule.shape == "plateau" else self.last_step
        least = 20 if self.curve == "test" and not self.validation else 50
        period = min(self.evaluate_every, max(least, steps // 30))
        return max(period, -(-steps // 10)) if self.time else period

    def as_dict(self) -> dict[str, Any]:
        """Return plain nested values that `from_dict` reads back to an equal recipe."""
        return self.model_dump(mode="json")

    def replace(self, changes: Mapping[str, Any]) -> "Recipe":
        """Return a copy with dotted keys changed; text is read as the field's type.

        Raises:
            UsageError: a key is unknown or a value does not fit.
        """
        changes = {_renamed(key): value for key, value in changes.items()}
        base = self._of_kind(changes.get("augment.kind", self.augment.kind))
        values, known = base.as_dict(), base.flat()
        for key, value in changes.items():
            if key not in known:
                refuse_other_kinds(base.augment.kind, [key.removeprefix("augment.")])
                raise UsageError(unknown_key(key, known))
            section, _, name = key.rpartition(".")
            (values[section] if section else values)[name] = value
        if "network" in changes:
            _drop_options(values, keep=changes)
        return from_dict(values)

    def _of_kind(self, kind: str) -> "Recipe":
        """Return the recipe with another kind of augmentation, whose keys have their defaults."""
        if kind == self.augment.kind:
            return self
        return from_dict({**self.as_dict(), "augment": {"kind": kind}})

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

    A network given here takes the place of the file's, and drops options that it does not have.

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
        _drop_options(values)
    try:
        return from_dict(values)
    except UsageError as error:
        raise UsageError(f"the recipe {path} does not fit: {error}") from None


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Return one line for each key in which two recipes differ."""
    before, after = old.flat(), new.flat()
    keys = [*before, *(key for key in after if key not in before)]  # kinds of augmentation differ in keys
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)
    ]


def _renamed(key: str) -> str:
    return "validation" if key == "holdout" else key  # its name in format 1


def _drop_options(values: dict[str, Any], keep: Iterable[str] = ()) -> None:
    """Drop the options, except those to be kept, that another network had and this one has not."""
    name = parse_name(str(values["network"]))
    if name.family != "resnet" and "shortcut" not in keep:
        values["shortcut"] = None
    if not (name.imagenet and name.bottleneck) and "variant" not in keep:
        values["variant"] = None


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
