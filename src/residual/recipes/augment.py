"""Augmentation of training images, one kind for small images in memory and two for photographs."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from ..errors import UsageError
from .messages import shortened
from .section import Flag, Number, Section, Whole


class Augmentation(Section):
    """What every kind of augmentation has."""

    _prefix = "augment."
    flip: Flag = Field(True, description="flip half of the images, at random")
    early_size: Whole = Field(0, ge=0, description="pixels that early batches are resized to; 0: none are")
    early_share: Number = Field(0.6, ge=0, le=1, description="the part of the run that is early")


class PadCrop(Augmentation):
    """For images in memory: zero padding and a random crop of the images' own size (section 4.2)."""

    kind: Literal["pad-crop"] = "pad-crop"
    padding: Whole = Field(4, ge=0, le=16, description="pixels")
    alternate_flip: Flag = Field(False, description="flip each image in every other epoch, not at random")


class ScaleCrop(Augmentation):
    """For photographs: shorter side drawn from a range, a random crop, and PCA colour (section 3.4).

    The range is for crops of 224 pixels; for others it is scaled with the crop.
    """

    kind: Literal["scale-crop"] = "scale-crop"
    shortest: Whole = Field(256, ge=224, description="of the shorter side, in pixels")
    longest: Whole = Field(480, ge=224, le=4096, description="of the shorter side, in pixels")
    colour: Number = Field(0.1, ge=0, description="standard deviation of the PCA colour shift; 0: none")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.shortest > self.longest:
            raise UsageError(
                f"augment.shortest must be at most augment.longest, {self.longest}, not {self.shortest}"
            )
        return self


class ResizedCrop(Augmentation):
    """For photographs: a crop of random area and aspect ratio, resized; what torchvision's recipes do."""

    kind: Literal["resized-crop"] = "resized-crop"
    smallest: Number = Field(0.08, gt=0, le=1, description="area of a crop, as a share of the image")
    trivial: Flag = Field(False, description="TrivialAugment (wide): one random operation on each image")
    erase: Number = Field(0.0, ge=0, le=1, description="how often a random rectangle is erased")
    mixup: Number = Field(0.0, ge=0, description="alpha of mixup's Beta distribution; 0: none")
    cutmix: Number = Field(0.0, ge=0, description="alpha of cutmix's Beta distribution; 0: none")
    repeats: Whole = Field(1, ge=1, le=16, description="views of an image in a row (repeated augmentation)")


KINDS: dict[str, type[Augmentation]] = {
    "pad-crop": PadCrop,
    "scale-crop": ScaleCrop,
    "resized-crop": ResizedCrop,
}


def refuse_other_kinds(kind: str, keys: Iterable[str]) -> None:
    """Refuse keys that only other kinds of augmentation have, and say which.

    Raises:
        UsageError: one of the keys is of another kind.
    """
    for key in keys:
        owners = [name for name, section in KINDS.items() if key in section.model_fields]
        if owners and kind not in owners:
            raise UsageError(f"augment.{key} goes with augment.kind = {' or '.join(owners)}, not with {kind}")


def _of_its_kind(value: Any) -> Any:
    """Read a section by its `kind`; recipes from before there were several have none."""
    if isinstance(value, tuple(KINDS.values())):
        return value
    if not isinstance(value, Mapping):
        raise UsageError(f"augment must hold keys of its own, not {shortened(value)}")
    kind = value.get("kind", "pad-crop")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UsageError(f"augment.kind must be one of {', '.join(KINDS)}, not {shortened(kind)}")
    refuse_other_kinds(kind, value)
    return KINDS[kind](**value)


Augment = Annotated[PadCrop | ScaleCrop | ResizedCrop, BeforeValidator(_of_its_kind)]
