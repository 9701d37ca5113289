"""An exported network beside the original: the largest difference and the top-1 agreement."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.preprocessing import Preprocessing
from ..errors import CheckpointError
from .material import Material

BATCHES = (1, 7, 64)
PIXELS_AT_ONCE = 32 * 224 * 224  # of a batch: bounds the memory for feature maps
FEW = 3  # batches of a size, for those but the largest

Map = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Bounds:
    """What an exported network must keep to.

    `difference` is that of outputs, as a share of the largest; None: any. `agreement` is the least share of
    images with the same top-1.
    """

    difference: float | None
    agreement: float


FLOAT32 = Bounds(1e-3, 1.0)
HALF = Bounds(2e-2, 0.98)
INT8 = Bounds(None, 0.98)
# of probabilities, where the preprocessing is inside: one pixel in a thousand rounds the other way
PREPARED = 0.02


@dataclass(frozen=True)
class Check:
    """A comparison: on which batches, of how many images, and what it showed.

    `largest_difference` is that of logits, or of probabilities where the file gives these; `agreement` is the
    share of images with the same top-1.
    """

    batches: str
    images: int
    largest_difference: float
    agreement: float


def compare(
    original: nn.Module,
    exported: Map,
    material: Material,
    preprocessing: Preprocessing,
    *,
    bounds: Bounds,
    temperature: float,
    with_preprocessing: bool,
    largest_batch: int = BATCHES[-1],
) -> tuple[Check, ...]:
    """Run both on the same images, in batches of several sizes, and refuse a file that gives another answer.

    Raises:
        CheckpointError: it does; the message has the figures.
    """
    reference = _Reference(original, preprocessing, temperature, with_preprocessing)
    checks, outputs = [], 1e-9
    for label, batches in _batches(material, largest_batch, with_preprocessing):
        expected = torch.cat([reference(batch) for batch in batches])
        found = torch.cat(
            [exported(batch if with_preprocessing else reference.normalised(batch)) for batch in batches]
        )
        outputs = max(outputs, float(expected.abs().max()))
        checks.append(_check(label, expected, found))
    hint = "; drawn images are no measure of it: give images of the data by --data-dir"
    hint = hint if material.drawn and bounds is INT8 else ""
    if with_preprocessing:
        bounds = Bounds(None if bounds.difference is None else PREPARED, bounds.agreement)
    _refuse(checks, bounds, 1.0 if with_preprocessing else outputs, hint)
    return tuple(checks)


class _Reference:
    """The original network, as this package uses it."""

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, temperature: float, probabilities: bool
    ) -> None:
        self.network, self.preprocessing = network, preprocessing
        self.temperature, self.probabilities = temperature, probabilities

    def normalised(self, pixels: Tensor) -> Tensor:
        return self.preprocessing.apply(pixels).permute(0, 3, 1, 2).contiguous()

    @torch.no_grad()
    def __call__(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(self.normalised(pixels))
        return (logits.double() / self.temperature).softmax(1).float() if self.probabilities else logits


def _batches(
    material: Material, largest: int, with_preprocessing: bool
) -> Iterator[tuple[str, list[Tensor]]]:
    """Yield batches of several sizes; the largest has each image, the others the first few."""
    height, width = material.pixels.shape[1:3]
    size = max(8, min(largest, PIXELS_AT_ONCE // (height * width)))
    enough = max(size, len(material.pixels))
    pixels = material.pixels[torch.arange(enough) % len(material.pixels)]
    for batch in sorted({*BATCHES[:-1], size}):
        parts = torch.split(pixels, batch)
        yield f"of {batch}", list(parts if batch == size else parts[:FEW])
    if with_preprocessing:
        yield "of other sizes", list(material.of_any_size)


def _check(label: str, expected: Tensor, found: Tensor) -> Check:
    if found.shape != expected.shape or not found.isfinite().all():
        raise CheckpointError(
            f"the exported network gives {list(found.shape)} values, not all finite or not the original's "
            f"{list(expected.shape)}: nothing is written"
        )
    same = (found.argmax(1) == expected.argmax(1)).double()
    difference = float((found - expected).abs().max())
    return Check(label, len(same), difference, float(same.mean()))


def _refuse(checks: list[Check], bounds: Bounds, outputs: float, hint: str) -> None:
    """Judge all comparisons; agreement by the one on most images.

    Raises:
        CheckpointError: a bound is broken.
    """
    difference = max(check.largest_difference for check in checks)
    most = max(check.images for check in checks)
    judged = [check for check in checks if bounds.agreement == 1 or check.images == most]
    agreement = min(check.agreement for check in judged)
    allowed = float("inf") if bounds.difference is None else bounds.difference * outputs
    if difference > allowed or agreement < bounds.agreement:
        limit = f", at most {allowed:.2g}" if bounds.difference is not None else ""
        raise CheckpointError(
            f"the exported network gives other answers than the original: largest difference {difference:.2g}"
            f"{limit}, the same top-1 on {100 * agreement:.1f} %, at least {100 * bounds.agreement:.0f} % "
            f"(nothing is written){hint}"
        )
