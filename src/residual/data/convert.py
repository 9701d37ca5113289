"""Any dataset with `__len__` and `__getitem__`, of torch, torchvision or Hugging Face, read into memory."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DataError
from ..models.names import MAX_CLASSES
from .dataset import Dataset, Split

IMAGE_KEYS = ("img", "image")
LABEL_KEYS = ("label", "labels", "fine_label")


def as_dataset(
    train: Any, test: Any = None, *, name: str | None = None, class_names: Sequence[str] | None = None
) -> Dataset:
    """Read a training and a test set into memory, each item once; a random transform is applied once, too.

    An item is a pair (image, label) or a dictionary with an image under "img" or "image" and a label under
    "label", "labels" or "fine_label". An image is a PIL image, a uint8 array [H, W, 3] or a uint8 tensor
    [3, H, W]; a grayscale one is repeated in three channels. A label is a whole number from 0.

    Args:
        train: the training set; or a mapping that holds it as "train", and the test set as "test"; or a
            `Dataset`, which is returned as it is.
        test: the test set.
        name: goes into result and model card; by default "custom".
        class_names: what each label means; by default the dataset's `classes` or `features`, else numbers.

    Raises:
        DataError: a part is missing or empty, an item is something else, or images differ in size.
    """
    if isinstance(train, Dataset):
        if not (test is None and name is None and class_names is None):
            raise DataError("a residual.Dataset has test set, name and class names already: give it alone")
        return train
    if isinstance(train, Mapping):
        train, test = train.get("train"), train.get("test") if test is None else test
    if train is None or test is None:
        raise DataError(
            f"no {'test' if test is None else 'training'} set was given: pass test=..., or split the "
            "training set, for example with torch.utils.data.random_split"
        )
    parts = as_split(train, "the training set"), as_split(test, "the test set")
    own = [part.class_names for part in parts if part.class_names]
    if class_names is None and len({*own}) > 1:
        raise DataError(
            "training and test set name their classes differently, so their labels do not mean the same: "
            "pass class_names=... if they do"
        )
    highest = max(int(part.labels.max()) for part in parts)
    numbers = map(str, range(min(highest, MAX_CLASSES) + 1))
    names = tuple(class_names or (own[0] if own else numbers))
    named_train, named_test = (replace(part, class_names=names) for part in parts)
    return Dataset(name or "custom", named_train, named_test, names)


def as_split(source: Any, part: str) -> Split:
    """Read a training or test set into memory, with its class names where it knows them; see `as_dataset`.

    `part` names it in messages.
    """
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise DataError(
            f"{part} ({type(source).__name__}) needs __len__ and __getitem__: a stream cannot be trained on, "
            "so load it whole"
        )
    count = len(source)
    if not count:
        raise DataError(f"{part} is empty: it must hold at least one image")
    if isinstance(source, Split):
        return source
    key = None
    images = labels = torch.empty(0)
    for index in range(count):
        where = f"image {index} of {part}"
        raw_image, raw_label, key = _parts(source[index], where)
        image = _image(raw_image, where)
        if not index:
            images, labels = _room(count, image, part), torch.empty(count, dtype=torch.int64)
        if image.shape != images.shape[1:]:
            sizes = ["x".join(map(str, shape[:2])) for shape in (image.shape, images.shape[1:])]
            raise DataError(
                f"{where} has {sizes[0]} pixels, image 0 has {sizes[1]}: resize all images to one size"
            )
        images[index], labels[index] = image, _label(raw_label, where)
    return Split(images, labels, _class_names(source, key))


def _room(count: int, image: Tensor, part: str) -> Tensor:
    try:
        return torch.empty((count, *image.shape), dtype=torch.uint8)
    except RuntimeError as error:
        size = f"{count * image.numel() / 2**30:,.1f} GiB"
        raise DataError(f"{part} does not fit in memory ({size}): use fewer or smaller images") from error


def _parts(item: Any, where: str) -> tuple[Any, Any, str | None]:
    """Return an item's image, its label, and the label's key if it has one."""
    if isinstance(item, Mapping):
        keys = [next((key for key in keys if key in item), None) for keys in (IMAGE_KEYS, LABEL_KEYS)]
        if None in keys:
            raise DataError(
                f"{where} has the keys {', '.join(map(str, item))}: rename the image's to "
                f"{' or '.join(IMAGE_KEYS)} and the label's to {' or '.join(LABEL_KEYS)}"
            )
        return item[keys[0]], item[keys[1]], keys[1]
    if not isinstance(item, tuple | list) or len(item) != 2:
        raise DataError(f"{where} comes as {type(item).__name__}, not as a pair (image, label)")
    return *item, None


def _image(image: Any, where: str) -> Tensor:
    """Return an image as uint8 [H, W, 3]."""
    if isinstance(image, Image.Image):
        if image.mode.startswith(("I", "F")):  # as RGB, its values above 255 would be cut off
            raise DataError(f"{where} has PIL mode {image.mode}: scale it to 0..255 and convert it to 'RGB'")
        return torch.from_numpy(np.array(image.convert("RGB")))
    if not isinstance(image, np.ndarray | Tensor):
        raise DataError(
            f"{where} is a {type(image).__name__}: give a PIL image, a uint8 array [H, W, 3] or a uint8 "
            "tensor [3, H, W]"
        )
    found = torch.as_tensor(image)
    if found.dtype.is_floating_point:
        raise DataError(
            f"{where} is {found.dtype}, but images are normalized here: leave ToTensor and Normalize out of "
            "the transform (PILToTensor keeps uint8), or turn 0..1 into uint8: (image * 255).round().byte()"
        )
    if found.dtype != torch.uint8:
        raise DataError(f"{where} is {found.dtype}: convert its values of 0..255 to uint8")
    if found.dim() == 2:
        found = found[..., None]
    if found.dim() == 3:
        first, last = found.shape[0] in (1, 3), found.shape[2] in (1, 3)
        if first and (isinstance(image, Tensor) or not last):
            found, last = found.permute(1, 2, 0), True
        if last and found.numel():
            return found.expand(-1, -1, 3)
    raise DataError(f"{where} has the shape {list(image.shape)}, neither [H, W, 3] nor [3, H, W] nor [H, W]")


def _label(label: Any, where: str) -> int:
    try:
        found = operator.index(label)
    except TypeError:
        found = -1
    if not 0 <= found < MAX_CLASSES:
        shown = " ".join(repr(label).split())[:80]
        raise DataError(
            f"{where} has the label {shown}: labels must be whole numbers from 0, each the index of its "
            "class's name in class_names"
        )
    return found


def _class_names(source: Any, key: str | None) -> tuple[str, ...]:
    """Return the names that a dataset, or the one that it is a subset of, gives its classes; else none."""
    while source is not None:
        features = getattr(source, "features", None)
        feature = features.get(key) if isinstance(features, Mapping) else None
        for holder, attribute in ((source, "classes"), (source, "class_names"), (feature, "names")):
            names = getattr(holder, attribute, None)
            if names and isinstance(names, list | tuple):  # ImageNet's are tuples of synonyms
                return tuple(name if isinstance(name, str) else ", ".join(map(str, name)) for name in names)
        source = getattr(source, "dataset", None)
    return ()
