"""The data of a run: training batches, preprocessing, validation set and test set, in memory or in files."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

from ..data.dataset import Dataset, Split, indices_sha256, split_validation
from ..data.decode import BadImageError
from ..data.decoded import keep_decoded
from ..data.loader import Batches, TrainBatches
from ..data.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalization
from ..data.photo_augment import longest_side
from ..data.photo_batches import PhotoBatches
from ..data.photos import OnBadImage, PhotoDataset, Photos, split_photos
from ..data.preprocessing import Preprocessing
from ..data.workers import default_workers, map_in_workers
from ..errors import RunError, UsageError
from ..recipes.augment import PadCrop
from ..recipes.schema import FOLDER, Recipe
from ..runtime import ranks
from ..runtime.progress import Reporter

MEASURED = 10_000  # training images at most, from which the mean of photographs is measured
Images = TypeVar("Images", Split, Photos)
IMAGENET = Normalization.of_channels(IMAGENET_MEAN, IMAGENET_STD)
GROWTH = 256 / 224  # of the shorter side over the crop, as in the paper's tests (section 4.1)


@dataclass(frozen=True)
class Reading:
    """How photographs are read from their files.

    Args:
        workers: processes that decode; None: as many as suit the device.
        cache: bytes that decoded images may take on the disk; 0 keeps none.
        on_bad_image: "stop", or "skip" to train on another in its place.
        group: which images belong together, see `load_folder`.
    """

    workers: int | None = None
    cache: int = 0
    on_bad_image: OnBadImage = "stop"
    group: str | None = None

    def __post_init__(self) -> None:
        whole = type(self.cache) is int and (self.workers is None or type(self.workers) is int)
        if not whole or min(self.cache, self.workers or 0) < 0:
            raise UsageError(f"workers and cache must be whole numbers from 0: {self.workers}, {self.cache}")
        if self.on_bad_image not in get_args(OnBadImage):
            raise UsageError(f"on_bad_image must be stop or skip, not {self.on_bad_image!r:.80}")
        if self.group is not None and not isinstance(self.group, str):
            raise UsageError(f"group must be text, not {self.group!r:.80}")

    @classmethod
    def of_run(cls, recorded: Mapping[str, Any] | None, workers: int | None) -> "Reading":
        """Return how a run that is resumed read them, with another number of workers if one is given.

        Raises:
            RunError: the record is damaged.
        """
        try:
            found = cls(**(recorded or {}))
        except (TypeError, UsageError) as error:
            raise RunError(f"'reading' in environment.json is corrupted: {error}") from error
        return found if workers is None else replace(found, workers=workers)


@dataclass(frozen=True)
class TrainingData:
    """What a run trains on, on its device, and what `environment.json` records of it."""

    dataset: Dataset | PhotoDataset
    batches: Batches
    preprocessing: Preprocessing
    validation: Split | Photos | None
    facts: Mapping[str, Any]
    workers: int = 0


def check_recipe(recipe: Recipe, dataset: Dataset | PhotoDataset) -> tuple[int, int]:
    """Check that a recipe is for such data; return height and width of the training images, in pixels.

    Raises:
        UsageError: the recipe is for the other kind of images, has keys for it, or does not fit their size.
    """
    if recipe.early_stop and not recipe.validation:
        raise UsageError("early_stop needs a validation set: set --validation")
    in_memory, for_memory = isinstance(dataset, Dataset), isinstance(recipe.augment, PadCrop)
    if in_memory and (not for_memory or recipe.data == FOLDER):
        raise UsageError(
            f"the recipe {recipe.name} is for photographs in a folder, not for images in memory: "
            "take another recipe, or give --data FOLDER"
        )
    if in_memory:
        _refuse_keys_of_photographs(recipe)
    if not in_memory and (for_memory or not recipe.image_size):
        raise UsageError(
            f"the recipe {recipe.name} is for small images in memory: for photographs take another, such as "
            "scratch, or set image_size and augment.kind"
        )
    size = dataset.image_size if isinstance(dataset, Dataset) else (recipe.image_size, recipe.image_size)
    test_size = recipe.test_size or recipe.image_size
    if recipe.test_resize and recipe.test_resize < test_size:
        raise UsageError(
            f"test_resize must be at least the test crop's {test_size}, not {recipe.test_resize}"
        )
    if recipe.fit != "crop" and recipe.test_resize:
        raise UsageError(f"test_resize is for fit = crop: with {recipe.fit} set test_resize=0")
    if recipe.fit != "crop" and recipe.augment.kind != "resized-crop":
        raise UsageError(
            f"fit = {recipe.fit} goes with augment.kind = resized-crop, not with {recipe.augment.kind}: take "
            "another recipe, such as imagenet-modern, or --set augment.kind=resized-crop"
        )
    if recipe.augment.early_size >= min(size):
        raise UsageError(f"augment.early_size must be below the images' {min(size)} pixels")
    return size


def _refuse_keys_of_photographs(recipe: Recipe) -> None:
    """Refuse what would do nothing: images in memory keep their size, and their mean is measured."""
    own, usual = recipe.flat(), Recipe().flat()
    sizes = ("image_size", "test_size", "test_resize", "fit")
    for key in (*sizes, "normalization", "balance", "order", "weights"):
        if own[key] != usual[key]:
            raise UsageError(f"{key} is for photographs in a folder, not for images in memory: leave it out")


def in_memory(recipe: Recipe, dataset: Dataset, device: torch.device) -> TrainingData:
    """Put images in memory on the device, and measure their mean and standard deviation."""
    augment = recipe.augment
    assert isinstance(augment, PadCrop)
    part, validation, digest = _set_apart(recipe, dataset.train)
    preprocessing = Preprocessing.measure(part)
    how = (recipe.batch_size, augment, recipe.seed, ranks.own())
    batches = TrainBatches(part.to(device), preprocessing.to(device), *how)
    return TrainingData(dataset, batches, preprocessing, validation, {"validation_sha256": digest})


def photographs(
    recipe: Recipe,
    dataset: PhotoDataset,
    device: torch.device,
    reading: Reading,
    reporter: Reporter,
    given: Normalization | None = None,
) -> TrainingData:
    """Make batches of photographs in files; a normalization that is given takes the place of the recipe's.

    Raises:
        DataError: an image is bad, or the cache has no room.
    """
    augment = recipe.augment
    assert not isinstance(augment, PadCrop)
    workers = default_workers(len(dataset.train), device) if reading.workers is None else reading.workers
    photos = dataset.train
    _note_on_size(recipe, dataset, reporter)
    if reading.cache:
        # the validation set is taken from them, and is resized as the test set is
        side = max(longest_side(augment, recipe.image_size), _tested_side(recipe))
        decoding = reporter.working("decoding once", len(photos))
        with ranks.one_before_the_others(), decoding as progress:
            photos = keep_decoded(photos, side, reading.cache, workers=workers, progress=progress)
    photos, validation, digest = _set_apart(recipe, photos)
    normalization = given or _normalization(recipe, photos, workers, reporter)
    preprocessing = _preprocessing(recipe, normalization)
    batches = PhotoBatches(
        photos,
        normalization,
        recipe.image_size,
        recipe.batch_size,
        augment,
        recipe.seed,
        device,
        workers=workers,
        fit=recipe.fit,
        balance=recipe.balance,
        part=ranks.own(),
        order=recipe.order,
    )
    facts = {
        "validation_sha256": digest,
        "images_sha256": dataset.fingerprint,
        "reading": asdict(reading),
    }
    return TrainingData(dataset, batches, preprocessing, validation, facts, workers)


def _set_apart(recipe: Recipe, images: Images) -> tuple[Images, Images | None, str | None]:
    """Return what remains to train on, the validation set if there is one, and its digest."""
    if not recipe.validation:
        return images, None, None
    count = recipe.validation_images(len(images))
    if isinstance(images, Photos):
        rest, held = split_photos(images, count)
    else:
        rest, held = split_validation(len(images), count)
    return images.take(rest), images.take(held), indices_sha256(held)


def _preprocessing(recipe: Recipe, normalization: Normalization) -> Preprocessing:
    """Return how images are tested: shorter side to `test_resize`, center crop; with a mean that fits.

    Padded or squished, an image is tested whole.
    """
    size = recipe.test_size or recipe.image_size
    resize = _tested_side(recipe) if recipe.fit == "crop" else None
    if size != recipe.image_size:
        normalization = normalization.of_any_size()
    return Preprocessing((size, size), normalization, resize=resize, fit=recipe.fit)


def _tested_side(recipe: Recipe) -> int:
    """Return the shorter side, in pixels, that an image has when its test crop is taken."""
    return recipe.test_resize or round((recipe.test_size or recipe.image_size) * GROWTH)


def _note_on_size(recipe: Recipe, dataset: PhotoDataset, reporter: Reporter) -> None:
    """Say that most images are smaller than the crops, which only makes training slower."""
    side = dataset.findings.shorter_side
    if side is not None and side < recipe.image_size:
        reporter.say(
            f"note: most images are smaller than the crops of {recipe.image_size} pixels, and are enlarged: "
            f"half have a shorter side of at most {side}; a smaller --image-size trains faster"
        )


def _normalization(recipe: Recipe, photos: Photos, workers: int, reporter: Reporter) -> Normalization:
    """Return ImageNet's mean and deviation, or measure them on center crops of the training images."""
    if recipe.normalization == "imagenet":
        return IMAGENET
    plain = _preprocessing(recipe.replace({"test_size": 0, "test_resize": 0}), IMAGENET)
    order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))[:MEASURED].sort().values
    with reporter.working("measuring the mean", len(order)) as progress:
        crops = map_in_workers(_Crop(photos, plain), order.tolist(), workers)
        return Normalization.of_images(_counted(crops, progress))


@dataclass(frozen=True)
class _Crop:
    """The center crop of an image as the test has it; None for a bad one that is to be skipped."""

    photos: Photos
    preprocessing: Preprocessing

    def __call__(self, index: int) -> Tensor | None:
        try:
            return self.preprocessing.load(self.photos, index)
        except BadImageError:
            if self.photos.on_bad_image == "stop":
                raise
            return None


def _counted(crops: Iterator[Tensor | None], progress: Callable[[int], None]) -> Iterator[Tensor]:
    for number, crop in enumerate(crops, start=1):
        progress(number)
        if crop is not None:
            yield crop
