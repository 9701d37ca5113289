"""The validation set of ILSVRC 2012 as published: images in one folder, labels in the development kit."""

import io
import re
from pathlib import Path

from ..errors import DataError
from ..runtime.files import read_bounded
from .imagenet_classes import SYNSETS
from .layouts import Rows
from .scan import Listing
from .workers import map_in_workers

GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
NAME_FILES = ("synset_words.txt", "LOC_synset_mapping.txt")
KIT = "ILSVRC2012_devkit_t12"
_IMAGE = re.compile(r"ILSVRC2012_val_(\d{8})\.[A-Za-z]+")
_LARGEST = 1 << 26  # bytes of a file of the kit


def flat_rows(root: Path, listing: Listing, part: str) -> Rows | None:
    """Return the images below `part` ("val/" or "") with their WordNet ids; None for another layout.

    The numbers of the ground truth are ILSVRC2012_IDs. Only the kit's `meta.mat`, or a text in that order,
    says which WordNet ids they stand for: they are not in the order of the ids.

    Raises:
        DataError: a file of the kit is missing or corrupted, or has not one label for each image.
    """
    numbers = {}
    for index, path in enumerate(listing.paths):
        match = _IMAGE.fullmatch(path[len(part) :]) if path.startswith(part) else None
        if match:
            numbers[index] = int(match[1])
    if not numbers:
        return None
    folders = _kit_folders(root, part)
    file = _find(folders, (GROUND_TRUTH,), f"the labels of {root / part}")
    labels = _lines(file)
    if len(labels) != len(numbers):
        raise DataError(f"{file} has {len(labels):,} labels, but {root / part} has {len(numbers):,} images")
    order = _order(folders, file)
    rows = []
    for index, number in numbers.items():
        label = labels[number - 1] if 1 <= number <= len(labels) else ""
        if not (re.fullmatch(r"\d{1,9}", label) and 1 <= int(label) <= len(order)):
            raise DataError(f"{file} has no label from 1 to {len(order)} for {listing.paths[index]}")
        rows.append((index, order[int(label) - 1]))
    return rows


def _kit_folders(root: Path, part: str) -> list[Path]:
    bases = [root] if part else [root, root.resolve().parent]
    return [
        base / folder
        for base in bases
        for folder in ("", "data", "devkit", "devkit/data", KIT, f"{KIT}/data", "val" if part else "")
    ]


def _find(folders: list[Path], names: tuple[str, ...], what: str) -> Path:
    for folder in folders:
        for name in names:
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"{what} need {' or '.join(names)} from the development kit of ILSVRC 2012: put it into {folders[0]}"
    )


def _lines(file: Path) -> list[str]:
    try:
        text = read_bounded(file, _LARGEST).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {file}: {error}") from error
    return text.split() if file.name == GROUND_TRUTH else text.splitlines()


def _order(folders: list[Path], labels: Path) -> tuple[str, ...]:
    """Return the WordNet ids in the order of ILSVRC2012_ID."""
    file = _find(folders, ("meta.mat", *NAME_FILES), f"the numbers in {labels}")
    order = _of_meta(file) if file.suffix == ".mat" else tuple(line.split(" ")[0] for line in _lines(file))
    if not order or len(set(order)) < len(order) or not all(re.fullmatch(r"n\d{8}", name) for name in order):
        raise DataError(f"{file} is corrupted: it should name each class by its WordNet id, once")
    if order == SYNSETS:
        raise DataError(
            f"{file} is in the order of the WordNet ids, but the numbers in {labels} are not: "
            f"put meta.mat from the development kit of ILSVRC 2012 into {folders[0]}"
        )
    return order


def _of_meta(file: Path) -> tuple[str, ...]:
    import scipy.io  # noqa: F401, before the worker process is forked: it takes a while

    try:  # in a process of its own, since scipy's reader may crash on a corrupted file
        (pairs,) = map_in_workers(_pairs, [file], 1)
    except Exception as error:  # or fail with any class of error
        raise DataError(f"{file} is corrupted: {' '.join(str(error).split())}") from error
    inner = 1000  # higher numbers are the inner nodes of the hierarchy
    return tuple(pairs[number] for number in sorted(pairs) if number <= inner)


def _pairs(file: Path) -> dict[int, str]:
    """Read the WordNet id of each ILSVRC2012_ID."""
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(read_bounded(file, _LARGEST)), squeeze_me=True)["synsets"]
    return {int(each["ILSVRC2012_ID"]): str(each["WNID"]) for each in synsets}
