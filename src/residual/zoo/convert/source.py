"""What is read from other projects, and what their converters make of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...data.imagenet_classes import NAMES
from ...data.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalization
from ...data.preprocessing import Preprocessing

State = dict[str, Tensor]
IMAGENET = "imagenet-1k"  # the data set's name on the Hugging Face Hub


@dataclass(frozen=True)
class WeightsFile:
    """The content of a file, and of the JSON files that came with it (None: there is none)."""

    origin: str  # the file or the hub name, for messages
    state: State
    config: Mapping[str, Any] | None = None
    preprocessor: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Converted:
    """Weights under our keys, and what the source tells about them; None where it does not tell."""

    source: str
    state: State
    network: str | None = None
    variant: str | None = None
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What the caller says of a file, instead of what is recognised or assumed; see `import_checkpoint`."""

    model: str | None = None
    variant: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    zeros: str | None = None


def channels(mean: Sequence[float], std: Sequence[float]) -> Normalization:
    """Read channel means and standard deviations on the 0..1 scale; those of one channel are repeated.

    Raises:
        ValueError: they are not one or three numbers each, not finite, or a deviation is not above 0.
    """
    values = [
        [255 * value for value in (3 * list(given) if len(given) == 1 else given)] for given in (mean, std)
    ]
    return Normalization.from_dict({"mean": values[0], "std": values[1]})


def imagenet_preprocessing(size: int = 224, resize: int = 256) -> Preprocessing:
    """Return the standard evaluation on ImageNet: shorter side to `resize` pixels, bilinear, center crop."""
    return Preprocessing((size, size), Normalization.of_channels(IMAGENET_MEAN, IMAGENET_STD), resize=resize)


def imagenet_names(given: tuple[str, ...] | None, classes: int) -> tuple[str, ...] | None:
    """Return ILSVRC 2012's names if classes are its 1,000: they have no names, or mostly these."""
    if classes != len(NAMES):
        return None
    if given is None or placeholders(given):
        return NAMES
    if len(given) != classes:
        return None
    same = sum(a.split(",")[0].lower() == b.split(",")[0].lower() for a, b in zip(given, NAMES, strict=True))
    return NAMES if same > 0.9 * classes else None


def placeholders(names: tuple[str, ...]) -> bool:
    """Tell whether class names are placeholders, such as transformers' `LABEL_0`."""
    return all(name.removeprefix("LABEL_").isdecimal() for name in names)
