"""Photographs in the layouts in which people keep them, as a `PhotoDataset`."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from ..errors import DataError, UsageError
from ..runtime.files import found
from . import layouts
from .ilsvrc import flat_rows
from .index import check_index
from .layouts import Rows
from .photo_list import read_list
from .photos import OnBadImage, PhotoDataset, Photos
from .scan import Listing, Paths, Progress, scan


def load_folder(
    root: str | Path,
    *,
    on_bad_image: OnBadImage = "stop",
    test_share: float = 0.2,
    progress: Progress | None = None,
) -> PhotoDataset:
    """Load a training and a test set of photographs.

    The layouts, which are told apart by themselves:

    - `train/` and `val/` (or `valid/`, `validation/`, `test/`), each with a folder for each class;
    - `train/` so, and the validation set of ILSVRC 2012 unpacked in `val/`, with
      `ILSVRC2012_validation_ground_truth.txt` and `meta.mat` of its development kit;
    - a folder for each class: a share of each class becomes the test set, the same one every time;
    - a CSV file with the columns path (or file, image, filename), label (or class) and perhaps split (train,
      val or test).

    Args:
        root: the folder, or the CSV file.
        on_bad_image: what loaders do with an image that cannot be decoded.
        test_share: what share of each class becomes the test set, where none is given.
        progress: is called with the number of images found so far.

    Raises:
        DataError: there are no images, no classes or one only, or the classes of the two sets differ.
        UsageError: `test_share` is not between 0 and 1.
    """
    if not 0 < test_share < 1:
        raise UsageError(f"the share of the test set must be between 0 and 1, not {test_share}")
    source = _open(Path(root), progress)
    train, test = _train_and_test(source, test_share)
    names = layouts.check_classes(source.root, {name for _, name in train + test})
    first, second = (_photos(source, rows, names, on_bad_image) for rows in (train, test))
    return PhotoDataset(source.name, first, second, names, source.changed)


def load_photos(
    root: str | Path, *, on_bad_image: OnBadImage = "stop", progress: Progress | None = None
) -> Photos:
    """Load one set of photographs to evaluate on.

    It is the test set of a layout that has one, see `load_folder`, else all images: a folder for each class,
    the validation set of ILSVRC 2012 in one folder, or a CSV file.

    Raises:
        DataError: as `load_folder`, but one class is enough.
    """
    source = _open(Path(root), progress)
    if source.classes is not None:
        marked = [number for number, part in enumerate(source.parts) if part == "test"]
        rows = [(number, source.classes[number]) for number in marked or range(len(source.classes))]
    else:
        part = layouts.test_folder(source.root)
        rows = _one_set(source, f"{part}/" if part else "")
    names = layouts.check_classes(source.root, {name for _, name in rows}, least=1)
    return _photos(source, rows, names, on_bad_image)


@dataclass(frozen=True)
class _Source:
    """A folder or CSV file that was read; classes and parts are those that a CSV file gives."""

    name: str
    root: Path
    listing: Listing
    changed: str | None
    classes: list[str] | None = None
    parts: tuple[str, ...] = ()


def _open(path: Path, progress: Progress | None) -> _Source:
    if not found(path.exists):
        raise DataError(f"there is no folder {path}")
    if path.is_dir():
        listing = scan(path, progress)
        if not len(listing.paths):
            raise DataError(f"{path} holds no image: {layouts.ARRANGEMENTS}")
        return _Source(path.resolve().name, path, listing, check_index(path, listing))
    if path.suffix.lower() != ".csv":
        raise DataError(f"{path} is neither a folder nor a CSV file (.csv)")
    listed = read_list(path)
    changed = check_index(path, listed.listing)
    return _Source(path.stem, path.parent, listed.listing, changed, listed.classes, tuple(listed.parts))


def _train_and_test(source: _Source, share: float) -> tuple[Rows, Rows]:
    paths = source.listing.paths
    if source.classes is not None:
        rows = list(enumerate(source.classes))
        if not any(source.parts):
            return layouts.split_by_class(paths, rows, share)
        if not all(source.parts):
            file, path = f"{source.root / source.name}.csv", paths[source.parts.index("")]
            raise DataError(f"{file} has no split for {path}")
        train, test = ([row for row in rows if source.parts[row[0]] == part] for part in ("train", "test"))
        if train and test:
            layouts.check_same_classes(source.root, train, test, ("split train", "split val"))
        return train, test
    part = layouts.has_train_and_test(source.root)
    if part is None:
        rows = layouts.class_rows(source.root, source.listing)
        layouts.check_classes(source.root, {name for _, name in rows})
        return layouts.split_by_class(paths, rows, share)
    train, test = layouts.class_rows(source.root, source.listing, "train/"), _one_set(source, f"{part}/")
    layouts.check_same_classes(source.root, train, test, ("train/", f"{part}/"))
    return train, test


def _one_set(source: _Source, part: str) -> Rows:
    flat = flat_rows(source.root, source.listing, part)
    return flat if flat is not None else layouts.class_rows(source.root, source.listing, part)


def _photos(source: _Source, rows: Rows, names: tuple[str, ...], on_bad_image: OnBadImage) -> Photos:
    label_of = {name: label for label, name in enumerate(names)}
    labels = torch.tensor([label_of[name] for _, name in rows], dtype=torch.int64)
    numbers = [number for number, _ in rows]
    files = Paths.of(source.listing.paths[number] for number in numbers)
    digest = hashlib.sha256()
    for part in (files.text, files.ends, source.listing.sizes[numbers], labels.numpy()):
        digest.update(part.tobytes())
    return Photos(source.root, files, labels, names, on_bad_image, digest.hexdigest())
