"""Layouts of folders of photographs: which image belongs to which set and class, from its path alone."""

import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import DataError
from .scan import Listing
from .split import TEST_KEY, set_apart, test_counts

TEST_FOLDERS = ("val", "valid", "validation", "test")
Rows = list[tuple[int, str]]  # an image's number in the listing, and its class

ARRANGEMENTS = (
    "put the images of each class into a folder of its own, DIR/CLASS/IMAGE, or with a test set, "
    "DIR/train/CLASS/IMAGE and DIR/val/CLASS/IMAGE"
)


def has_train_and_test(root: Path) -> str | None:
    """Return the name of the test folder where there is `train/` too, else None."""
    return test_folder(root) if (root / "train").is_dir() else None


def test_folder(root: Path) -> str | None:
    """Return the name of the folder that holds the test set, None if there is none."""
    return next((name for name in TEST_FOLDERS if (root / name).is_dir()), None)


def class_rows(root: Path, listing: Listing, part: str = "") -> Rows:
    """Return the images of one set, below `part` ("train/", or "" for all): the first folder is the class.

    Images directly in the set's folder belong to no class and are left out.

    Raises:
        DataError: there is no image, or no class folder, or one without an image.
    """
    rows, loose = [], 0
    for number, path in enumerate(listing.paths):
        if path.startswith(part):
            name, slash, _ = path[len(part) :].partition("/")
            if slash:
                rows.append((number, name))
            else:
                loose += 1
    where = root / part if part else root
    if not rows and loose:
        raise DataError(f"{where} holds its {loose:,} images directly, without classes: {ARRANGEMENTS}")
    if not rows:
        raise DataError(f"{where} holds no image: {ARRANGEMENTS}")
    folders = {path[len(part) :] for path in listing.folders if path.startswith(part)}
    empty = {path for path in folders if "/" not in path} - {name for _, name in rows}
    if empty:
        raise DataError(f"{where} has a class folder without images: {listed(empty)}; fill or remove it")
    return rows


def check_classes(root: Path, names: Iterable[str], least: int = 2) -> tuple[str, ...]:
    """Return the class names, sorted.

    Raises:
        DataError: there are fewer than `least`, one is not Unicode, or two are the same but for upper and
            lower case or the encoding of accents, so that other file systems would take them for one.
    """
    found = tuple(sorted(set(names)))
    seen: dict[str, str] = {}
    for name in found:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DataError(f"{root} has a class whose name is not UTF-8: {name!r}; rename it") from None
        folded = unicodedata.normalize("NFC", name).casefold()
        if folded in seen:
            raise DataError(
                f"{root} has classes that differ only in upper and lower case or in how accents are encoded: "
                f"{seen[folded]!a} and {name!a}; rename or merge them"
            )
        seen[folded] = name
    if len(found) < least:
        raise DataError(f"{root} has images of one class only, {found[0]}: at least two are needed")
    return found


def check_same_classes(root: Path, train: Rows, test: Rows, parts: tuple[str, str]) -> tuple[str, ...]:
    """Return the class names of both sets.

    Raises:
        DataError: they differ, or as `check_classes`.
    """
    in_train, in_test = ({name for _, name in rows} for rows in (train, test))
    names = check_classes(root, in_train | in_test)
    missing = [
        f"{part} has no images of {listed(set(names) - there)}"
        for part, there in zip(parts, (in_train, in_test), strict=True)
        if there != set(names)
    ]
    if missing:
        raise DataError(f"the classes of {root} differ between its two sets: {', and '.join(missing)}")
    return names


def split_by_class(
    root: Path, paths: Sequence[str], rows: Rows, share: float, groups: Sequence[int] | None = None
) -> tuple[Rows, Rows]:
    """Set a share of each class apart as a test set, by hashes of the paths: the same on every machine.

    A class with at least two images, of two groups, has at least one on each side; a single image is for
    training. `groups`, a number for each path, stay on one side; then the share is met about, and nothing is
    held back where each class is one group.

    Raises:
        DataError: fewer than two classes have two images.
    """
    classes = [name for _, name in rows]
    wanted = test_counts(classes, share)
    single = [name for name, count in wanted.items() if not count]
    if len(wanted) - len(single) < 2:
        raise DataError(
            f"{root} has too few images to set a test set apart: at least two classes need two images or "
            f"more, one to train on and one to test, but of {listed(single)} there is one only"
        )
    of = None if groups is None else [groups[number] for number, _ in rows]
    held = set_apart(TEST_KEY, [paths[number] for number, _ in rows], classes, wanted, of)
    return (
        [row for place, row in enumerate(rows) if place not in held],
        [row for place, row in enumerate(rows) if place in held],
    )


def listed(names: Iterable[str], most: int = 5) -> str:
    """Name a few of many."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most:,} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more
