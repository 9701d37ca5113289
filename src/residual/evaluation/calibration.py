"""Photographs that determine the ranges of an INT8 network's activations."""

import torch
from torch import Tensor

from ..data.decode import BadImageError
from ..data.folder import load_photos
from ..data.photos import Photos
from ..data.preprocessing import Preprocessing
from ..errors import DataError

CALIBRATION_PHOTOS = 128  # of 224x224 pixels they take 77 MB in float32


def calibration_photos(photos: Photos, preprocessing: Preprocessing) -> tuple[Tensor, str]:
    """Take training images from the folder `train` beside the evaluated one, else evaluated images.

    Images that cannot be decoded are left out.

    Returns:
        Normalised images [N, 3, H, W], and a note that says where they are from.

    Raises:
        DataError: no image can be decoded.
    """
    train = photos.root.resolve().parent / "train"
    beside = train.is_dir() and train != photos.root.resolve()
    source = load_photos(train, on_bad_image="skip") if beside else photos
    count = min(CALIBRATION_PHOTOS, len(source))
    found = []
    for index in torch.linspace(0, len(source) - 1, count).long().tolist():  # of all classes
        try:
            found.append(preprocessing.load(source, index))
        except BadImageError:
            continue
    if not found:
        raise DataError(f"no image in {source.root} can be decoded, so INT8 cannot be calibrated")
    images = preprocessing.normalization.apply(torch.stack(found)).permute(0, 3, 1, 2)
    where = "images of train/" if beside else "of the evaluated images, since there is no train/ beside them"
    return images, f"INT8 calibrated on {len(found)} {where}"
