"""Photographs in the layouts in which people keep them, as a `PhotoDataset`."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import DataError, UsageError
from ..runtime.files import found
from . import layouts
from .grouping import keys_of_paths
from .ilsvrc import flat_rows
from .index import check_index
from .inspection import groups_of, report, search
from .layouts import Rows
from .photo_list import read_list
from .photos import OnBadImage, PhotoDataset, Photos, fingerprint_of
from .scan import Listing, Paths, Progress, scan
from .shards.source import holds_shards, load_shards


def load_folder(
    root: str | Path,
    *,
    on_bad_image: OnBadImage = "stop",
    test_share: float = 0.2,
    group: str | None = None,
    progress: Progress | None = None,
    compared: Progress | None = None,
) -> PhotoDataset:
    """Load a training and a test set of photographs.

    The layouts, which are told apart by themselves:

    - `train/` and `val/` (or `valid/`, `validation/`, `test/`), each with a folder for each class;
    - `train/` so, and the validation set of ILSVRC 2012 unpacked in `val/`, with
      `ILSVRC2012_validation_ground_truth.txt` and `meta.mat` of its development kit;
    - a folder for each class: a share of each class becomes the test set, the same one every time;
    - a CSV file with the columns path (or file, image, filename), label (or class) and perhaps split (train,
      val or test);
    - shards with their index, see `write_shards`, in a folder or at an address such as https://HOST/FOLDER;
      they keep the split that they were written with.

    Near-duplicates, such as copies of an image in another size, stay on one side of a split that is made
    here, and are reported in `findings` with what else is wrong with the data.

    Args:
        root: the folder, the CSV file, or the address of shards.
        on_bad_image: what loaders do with an image that cannot be decoded.
        test_share: what share of each class becomes the test set, where none is given.
        group: keeps images of one person, plant or video on one side of the split: a column of the CSV file,
            or a regular expression that is searched for in each path relative to the folder; what its first
            group matches, or else all of it, tells them apart.
        progress: is called with the number of images found so far.
        compared: is called with the number of images so far in which near-duplicates are looked for.

    Raises:
        DataError: there are no images, no classes or one only, the classes of the two sets differ, or
            `group` puts all images of a class on one side.
        UsageError: `test_share` is not between 0 and 1, or `group` is neither a column nor a regular
            expression that matches a path.
    """
    if not 0 < test_share < 1:
        raise UsageError(f"the share of the test set must be between 0 and 1, not {test_share}")
    if holds_shards(root):
        return load_shards(root, on_bad_image=on_bad_image, group=group)
    source = _open(Path(root), progress, group)
    train, test = _rows(source)
    rows = train if test is None else train + test
    names = layouts.check_classes(source.root, {name for _, name in rows})
    found = search(source.path, source.root, source.listing, [number for number, _ in rows], compared)
    groups = groups_of(source.listing, found, source.keys)
    given = test is not None
    if test is None:
        train, test = _split(source, rows, test_share, groups)
    findings = report(source.listing, found, train, test, given)
    if source.keys is not None:
        findings = replace(findings, notes=(*findings.notes, *_on_keys(source.keys, train, test)))
    first, second = (_photos(source, part, names, on_bad_image, groups) for part in (train, test))
    return PhotoDataset(source.name, first, second, names, source.changed, findings)


def load_photos(
    root: str | Path, *, on_bad_image: OnBadImage = "stop", progress: Progress | None = None
) -> Photos:
    """Load one set of photographs to evaluate on.

    It is the test set of a layout that has one, see `load_folder`, else all images: a folder for each class,
    the validation set of ILSVRC 2012 in one folder, or a CSV file.

    Raises:
        DataError: as `load_folder`, but one class is enough.
    """
    if holds_shards(root):
        return load_shards(root, on_bad_image=on_bad_image).test
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
    """A folder or CSV file that was read; classes and parts are those that a CSV file gives.

    `keys` names the group of each image, "" for none; None where no groups are asked for.
    """

    name: str
    path: Path
    root: Path
    listing: Listing
    changed: str | None
    classes: list[str] | None = None
    parts: tuple[str, ...] = ()
    group: str | None = None
    keys: list[str] | None = None


def _open(path: Path, progress: Progress | None, group: str | None = None) -> _Source:
    if not found(path.exists):
        raise DataError(f"there is no folder {path}")
    if path.is_dir():
        listing = scan(path, progress)
        if not len(listing.paths):
            tars = " (index its tar files: residual data index)" if any(path.glob("*.tar")) else ""
            raise DataError(f"{path} holds no image{tars}: {layouts.ARRANGEMENTS}")
        keys = _keys(group, path, listing, ())
        changed = check_index(path, listing)
        return _Source(path.resolve().name, path, path, listing, changed, group=group, keys=keys)
    if path.suffix.lower() != ".csv":
        raise DataError(f"{path} is neither a folder nor a CSV file (.csv)")
    read = read_list(path, group)
    keys = read.groups if read.groups is not None else _keys(group, path, read.listing, read.columns)
    changed, parts = check_index(path, read.listing), tuple(read.parts)
    return _Source(path.stem, path, path.parent, read.listing, changed, read.classes, parts, group, keys)


def _keys(group: str | None, path: Path, listing: Listing, columns: tuple[str, ...]) -> list[str] | None:
    if group is None:
        return None
    keys = keys_of_paths(listing.paths, group)
    if not any(keys):
        column = f"is none of its columns, {', '.join(columns)}, and " if columns else ""
        raise UsageError(f"group {group!r} {column}matches no path in {path}, such as {listing.paths[0]}")
    return keys


def _rows(source: _Source) -> tuple[Rows, Rows | None]:
    """Return the images of the training and the test set, None for the latter where it is to be split off."""
    if source.classes is not None:
        rows = list(enumerate(source.classes))
        if not any(source.parts):
            return rows, None
        if not all(source.parts):
            path = source.listing.paths[source.parts.index("")]
            raise DataError(f"{source.path} has no split for {path}")
        train, test = ([row for row in rows if source.parts[row[0]] == part] for part in ("train", "test"))
        if train and test:
            layouts.check_same_classes(source.root, train, test, ("split train", "split val"))
        return train, test
    part = layouts.has_train_and_test(source.root)
    if part is None:
        return layouts.class_rows(source.root, source.listing), None
    train, test = layouts.class_rows(source.root, source.listing, "train/"), _one_set(source, f"{part}/")
    layouts.check_same_classes(source.root, train, test, ("train/", f"{part}/"))
    return train, test


def _split(source: _Source, rows: Rows, share: float, groups: NDArray[np.int64] | None) -> tuple[Rows, Rows]:
    """Split a test set off.

    Raises:
        DataError: there are too few images, or the groups that are asked for leave a class untested.
    """
    together = None if groups is None else groups.tolist()
    train, test = layouts.split_by_class(source.root, source.listing.paths, rows, share, together)
    several = {name for name, count in Counter(name for _, name in rows).items() if count > 1}
    untested = several - {name for _, name in test}
    if untested and source.keys is not None:
        raise DataError(
            f"group {source.group!r} puts all images of {layouts.listed(untested)} on one side of the split: "
            "every class needs images of at least two groups"
        )
    if not test:
        raise DataError(
            f"the images of each class in {source.root} are near-duplicates of each other, so that none can "
            "be set apart to test on: add other images"
        )
    return train, test


def _on_keys(keys: list[str], train: Rows, test: Rows) -> list[str]:
    """Say which groups are in both of two sets that were given, and how many images are in none."""
    ours, theirs = ({keys[number] for number, _ in rows} - {""} for rows in (train, test))
    notes = []
    if ours & theirs:
        notes.append(f"groups in both sets: {len(ours & theirs):,}, for example {min(ours & theirs)}")
    alone = sum(not keys[number] for number, _ in train + test)
    if alone:
        notes.append(f"images that belong to no group: {alone:,} of {len(train) + len(test):,}")
    return notes


def _one_set(source: _Source, part: str) -> Rows:
    flat = flat_rows(source.root, source.listing, part)
    return flat if flat is not None else layouts.class_rows(source.root, source.listing, part)


def _photos(
    source: _Source,
    rows: Rows,
    names: tuple[str, ...],
    on_bad_image: OnBadImage,
    groups: NDArray[np.int64] | None = None,
) -> Photos:
    label_of = {name: label for label, name in enumerate(names)}
    labels = torch.tensor([label_of[name] for _, name in rows], dtype=torch.int64)
    numbers = [number for number, _ in rows]
    files = Paths.of(source.listing.paths[number] for number in numbers)
    fingerprint = fingerprint_of(files, source.listing.sizes[numbers], labels)
    own = None if groups is None else torch.from_numpy(groups[numbers])
    return Photos(source.root, files, labels, names, on_bad_image, fingerprint, own)
