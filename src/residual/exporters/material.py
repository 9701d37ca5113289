"""Images that an exported network is compared and calibrated on: the user's, or drawn ones."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data import cifar
from ..data.dataset import Dataset
from ..data.decode import BadImageError
from ..data.folder import load_photos
from ..data.layouts import test_folder
from ..data.load import load_dataset
from ..data.photos import Photos
from ..data.preprocessing import Preprocessing
from ..data.scan import scan
from ..data.shards.source import holds_shards
from ..errors import DataError
from ..zoo.model_folder import ModelConfig
from .calibration import calibration_photos
from .drawn import drawn_images
from .int8 import CALIBRATION_IMAGES

PIXELS = 64 * 224 * 224  # in all images that are compared: bounds the time that it takes
MOST_IMAGES = 512
PHOTOGRAPHS = 16  # of their own size, where the preprocessing is compared too
# height and width as multiples of the model's, for the same
SHAPES = ((1.5, 1.0), (1.03, 2.1), (0.5, 0.6), (3.0, 2.0), (10.0, 1.0), (0.2, 2.0))


@dataclass(frozen=True)
class Material:
    """Images to compare on and to calibrate INT8 with, and where they are from.

    `pixels` is uint8 [N, *image_size, 3], `of_any_size` has batches of images as they are, uint8
    [N, H, W, 3], and `calibration` normalised images [N, 3, *image_size].
    """

    pixels: Tensor
    of_any_size: tuple[Tensor, ...]
    calibration: Tensor
    compared_on: str
    calibrated_on: str
    drawn: bool


def find_material(config: ModelConfig, data_dir: Path | None) -> Material:
    """Take images of a data set or of a folder of photographs; without one, draw them. Nothing is downloaded.

    Raises:
        DataError: the folder has no images.
    """
    preprocessing = config.preprocessing
    height, width = preprocessing.image_size
    count = max(8, min(MOST_IMAGES, PIXELS // (height * width)))
    if data_dir is None:
        return _drawn(preprocessing, count)
    if _is_there(config.data, data_dir):
        return _of_dataset(load_dataset(config.data, data_dir), preprocessing, count)
    return _of_photos(_photographs(data_dir), data_dir.resolve().name, preprocessing, count)


def calibration_images(config: ModelConfig, data_dir: Path) -> Tensor:
    """Return normalised images [N, 3, *image_size] that calibrate INT8, from where `find_material` looks.

    Raises:
        DataError: the folder has no images.
    """
    if _is_there(config.data, data_dir):
        return _normalised_training(load_dataset(config.data, data_dir), config.preprocessing)
    return calibration_photos(_photographs(data_dir), config.preprocessing)[0]


def _photographs(path: Path) -> Photos:
    """Return the photographs of a folder, of its test set where it has one; their classes play no part."""
    if not path.is_dir() or holds_shards(path):
        return load_photos(path, on_bad_image="skip")
    part = test_folder(path)
    root = path / part if part else path
    files = scan(root).paths
    if not len(files):
        raise DataError(f"{root} holds no image")
    return Photos(root, files, torch.zeros(len(files), dtype=torch.int64), ("",), "skip")


def _is_there(name: str, root: Path) -> bool:
    """Tell whether a folder has the release of this name or its archive, so that nothing is downloaded."""
    release = cifar.RELEASES.get(name)
    if release is None:
        return False
    archives = (release.archive, release.python_archive)
    return cifar.find(release, root) is not None or any((root / file).is_file() for file in archives)


def _drawn(preprocessing: Preprocessing, count: int) -> Material:
    height, width = size = preprocessing.image_size
    sizes = [(max(1, round(height * tall)), max(1, round(width * wide))) for tall, wide in SHAPES]
    return Material(
        drawn_images(count, size, seed=1),
        tuple(drawn_images(2, other, seed=2) for other in sizes),
        _normalised(drawn_images(count, size, seed=0), preprocessing),
        f"{count} drawn images",
        f"{count} drawn images, since no data folder is given",
        drawn=True,
    )


def _of_dataset(dataset: Dataset, preprocessing: Preprocessing, count: int) -> Material:
    images = dataset.test.images[:count]
    calibration = _normalised_training(dataset, preprocessing)
    return Material(
        preprocessing.resized(images),
        (images[:PHOTOGRAPHS],),
        calibration,
        f"{len(images)} test images of {dataset.name}",
        f"{len(calibration)} training images of {dataset.name}",
        drawn=False,
    )


def _of_photos(photos: Photos, name: str, preprocessing: Preprocessing, count: int) -> Material:
    """Take photographs of all classes; those that cannot be decoded are left out."""
    found: list[Tensor] = []
    as_they_are: list[Tensor] = []
    for number in torch.linspace(0, len(photos) - 1, min(count, len(photos))).long().tolist():
        try:
            found.append(preprocessing.load(photos, number))
            if len(as_they_are) < PHOTOGRAPHS:
                as_they_are.append(photos[number][0][None])
        except BadImageError:
            continue
    if not found:
        raise DataError(f"no image in {photos.where} can be decoded, so nothing can be compared")
    calibration, note = calibration_photos(photos, preprocessing)
    return Material(
        torch.stack(found),
        tuple(as_they_are),
        calibration,
        f"{len(found)} photographs of {name}",
        note.removeprefix("INT8 calibrated on "),
        drawn=False,
    )


def _normalised_training(dataset: Dataset, preprocessing: Preprocessing) -> Tensor:
    images = dataset.train.images[:CALIBRATION_IMAGES]
    return _normalised(preprocessing.resized(images), preprocessing)


def _normalised(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    return preprocessing.normalization.apply(pixels).permute(0, 3, 1, 2).contiguous()
