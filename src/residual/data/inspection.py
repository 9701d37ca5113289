"""A look at photographs before training: near-duplicates, bad files, sizes of classes; what to say of it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .duplicates import components, find_pairs
from .findings import Findings
from .hashes import Prints, make_prints
from .layouts import Rows, listed
from .scan import Listing, Progress

MOST = 50_000  # images among which near-duplicates are looked for: a minute or two on one core
TOO_ALIKE = 0.25  # of all images: a larger group of near-duplicates is rather what all images look like
IMBALANCE = 3  # of the largest to the smallest class
FEW = 10  # training images of a class


@dataclass(frozen=True)
class Search:
    """What was found among images: pairs of near-duplicates and bad ones, by their numbers in the listing.

    `shorter` is the median of the shorter sides, in pixels; None where nothing was looked for.
    """

    pairs: tuple[tuple[int, int], ...] = ()
    bad: tuple[int, ...] = ()
    shorter: int | None = None
    notes: tuple[str, ...] = ()


def search(
    source: Path, root: Path, listing: Listing, numbers: list[int], progress: Progress | None
) -> Search:
    """Look for near-duplicates, see `make_prints`; not among more than `MOST` images."""
    if len(numbers) > MOST:
        return Search(
            notes=(f"near-duplicates were not looked for: {len(numbers):,} images are more than {MOST:,}",)
        )
    prints = make_prints(source, root, listing, numbers, progress)
    places, whole = find_pairs(prints)
    notes = []
    if not whole:
        notes.append("very many images look alike: near-duplicates were looked for among the likeliest pairs")
    kept = [(first, second) for first, second in places.tolist()]
    sizes = Counter(components(len(numbers), kept).tolist())
    largest, count = sizes.most_common(1)[0] if kept else (0, 0)
    if count > max(FEW, TOO_ALIKE * len(numbers)):
        of = components(len(numbers), kept)
        kept = [pair for pair in kept if of[pair[0]] != largest]
        notes.append(
            f"{count:,} of the images look so alike that near-duplicates among them cannot be told: if they "
            "are of one video, say with --group which images belong together"
        )
    pairs = tuple((numbers[first], numbers[second]) for first, second in kept)
    bad = tuple(numbers[place] for place in np.flatnonzero(~prints.good).tolist())
    return Search(pairs, bad, _median_side(prints), tuple(notes))


def _median_side(prints: Prints) -> int | None:
    sides = prints.sizes[prints.good].min(1)
    return int(np.median(sides)) if len(sides) else None


def groups_of(listing: Listing, found: Search, keys: list[str] | None) -> NDArray[np.int64] | None:
    """Number what must stay together: near-duplicates, and images with one key; None if nothing must."""
    pairs, first = list(found.pairs), dict[str, int]()
    for number, key in enumerate(keys or ()):
        if key:
            pairs.append((first.setdefault(key, number), number))
    return components(len(listing.paths), pairs) if pairs else None


def report(listing: Listing, found: Search, train: Rows, test: Rows, given: bool) -> Findings:
    """Say what was found; `given` tells that the two sets were not split here."""
    paths = listing.paths
    classes, in_test = dict(train + test), {number for number, _ in test}
    members: dict[int, list[int]] = {}
    for number, group in enumerate(components(len(paths), found.pairs).tolist()):
        if number != group:
            members.setdefault(group, [group]).append(number)
    groups = list(members.values())
    conflicts = [group for group in groups if len({classes[number] for number in group}) > 1]
    crossing = [pair for pair in found.pairs if (pair[0] in in_test) != (pair[1] in in_test)]
    leaks = [(a, b) if b in in_test else (b, a) for a, b in crossing]
    notes = [*found.notes, *_on_duplicates(paths, groups, leaks, conflicts, classes, given)]
    if found.bad:
        notes.append(
            f"{len(found.bad):,} images cannot be decoded, for example {paths[found.bad[0]]}: mend or remove "
            "them, or skip them with --on-bad-image skip"
        )
    return Findings(
        tuple(tuple(paths[number] for number in group) for group in groups),
        tuple((paths[a], paths[b]) for a, b in leaks),
        tuple(tuple(paths[number] for number in group) for group in conflicts),
        (*notes, *(_on_classes(train, test) if train and test else ())),
        tuple(paths[number] for number in found.bad),
        found.shorter,
    )


def _on_duplicates(
    paths: Sequence[str],
    groups: list[list[int]],
    leaks: list[tuple[int, int]],
    conflicts: list[list[int]],
    classes: dict[int, str],
    given: bool,
) -> list[str]:
    notes = []
    if groups:
        stay = "" if given else ", each kept on one side of the split"
        notes.append(
            f"{len(groups):,} groups of near-duplicates ({sum(map(len, groups)):,} images){stay}, such as "
            f"{paths[groups[0][0]]} and {paths[groups[0][1]]}"
        )
    if leaks:
        a, b = leaks[0]
        notes.append(
            f"{len({b for _, b in leaks}):,} test images are near-duplicates of training images, so that the "
            f"test error will be too low, for example {paths[b]} of {paths[a]}"
        )
    if conflicts:
        a, b = _of_two_classes(conflicts[0], classes)
        notes.append(
            f"{len(conflicts):,} groups of near-duplicates have different labels, for example "
            f"{paths[a]} ({classes[a]}) and {paths[b]} ({classes[b]})"
        )
    return notes


def _of_two_classes(group: list[int], classes: dict[int, str]) -> tuple[int, int]:
    return group[0], next(number for number in group if classes[number] != classes[group[0]])


def _on_classes(train: Rows, test: Rows) -> list[str]:
    """Say which classes have few images, or far fewer than others."""
    counts = Counter(name for _, name in train)
    (most, high), (least, low) = counts.most_common()[0], counts.most_common()[-1]
    notes = []
    if high > IMBALANCE * low:
        notes.append(
            f"of {most} there are {high:,} training images, of {least} only {low:,}: --balance sampler or "
            "weights makes up for it, and the macro error counts every class the same"
        )
    few = [name for name, count in counts.items() if count < FEW]
    if few:
        notes.append(f"fewer than {FEW} training images are too few to learn from: {listed(few)}")
    untested = counts.keys() - {name for _, name in test}
    if untested:
        notes.append(f"there is no image to test of {listed(untested)}")
    return notes
