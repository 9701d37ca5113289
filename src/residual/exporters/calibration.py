"""Photographs that determine the ranges of an INT8 network's activations."""

import torch
from torch import Tensor

from ..data.decode import BadImageError
from ..data.folder import load_folder, load_photos
from ..data.photos import Photos
from ..data.preprocessing import Preprocessing
from ..errors import DataError

CALIBRATION_PHOTOS = 128  # of 224x224 pixels they take 77 MB in float32


def calibration_photos(photos: Photos, preprocessing: Preprocessing) -> tuple[Tensor, str]:
    """Take training images from a folder `train` in the data set or beside it, else evaluated images.

    Images that cannot be decoded are left out.

    Returns:
        Normalised images [N, 3, H, W], and a note that says where they are from.

    Raises:
        DataError: no image can be decoded.
    """
    train = _training_photos(photos)
    source = train or photos
    count = min(CALIBRATION_PHOTOS, len(source))
    found = []
    for index in torch.linspace(0, len(source) - 1, count).long().tolist():  # of all classes
        try:
            found.append(preprocessing.load(source, index))
        except BadImageError:
            continue
    if not found:
        raise DataError(f"no image in {source.where} can be decoded, so INT8 cannot be calibrated")
    images = preprocessing.normalization.apply(torch.stack(found)).permute(0, 3, 1, 2)
    where = "images of train/" if train else "of the evaluated images, since there is no train/ beside them"
    return images, f"INT8 calibrated on {len(found)} {where}"


def _training_photos(photos: Photos) -> Photos | None:
    """Load the folder `train`, if there is one; it may also be the name of a class that is evaluated.

    Shards have a training set.
    """
    if photos.source is not None:
        return load_folder(photos.where, on_bad_image="skip").train
    root = photos.root.resolve()
    inside, beside = root / "train", root.parent / "train"
    if inside.is_dir() and not any(file.startswith("train/") for file in photos.files):
        folder = inside
    elif beside.is_dir() and beside != root:
        folder = beside
    else:
        return None
    try:
        return load_photos(folder, on_bad_image="skip")
    except DataError:
        return None
