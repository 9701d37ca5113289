"""Images set apart, by class and by groups that stay together; from their paths alone, for everyone alike."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

TEST_KEY = b"residual split 0"  # fixed, so that everyone has the same test set
VALIDATION_KEY = b"residual validation 0"
Name = TypeVar("Name", bound=Hashable)  # of a class


def test_counts(classes: Sequence[Name], share: float) -> dict[Name, int]:
    """Return how many images of each class are wanted for testing; of two or more, some on each side."""
    return {name: min(max(1, round(share * count)), count - 1) for name, count in Counter(classes).items()}


def validation_counts(classes: Sequence[Name], count: int) -> dict[Name, int]:
    """Share `count` validation images out among the classes, in proportion to their images.

    Where there are enough for it, every class of two or more images has one.
    """
    sizes = Counter(classes)
    exact = {name: count * size / len(classes) for name, size in sizes.items()}
    least = {name: int(count >= len(sizes) and size > 1) for name, size in sizes.items()}
    wanted = {name: min(max(int(exact[name]), least[name]), size - 1) for name, size in sizes.items()}
    order = sorted(sizes, key=lambda name: (exact[name] - wanted[name], str(name)))
    missing = count - sum(wanted.values())
    while missing:
        step = 1 if missing > 0 else -1
        before = missing
        for name in order[::-step]:
            if missing and least[name] <= wanted[name] + step <= max(least[name], sizes[name] - 1):
                wanted[name] += step
                missing -= step
        if missing == before:  # every class is at its limit
            break
    return wanted


def set_apart(
    key: bytes,
    paths: Sequence[str],
    classes: Sequence[Name],
    wanted: Mapping[Name, int],
    groups: Sequence[int] | None = None,
) -> set[int]:
    """Choose about as many images of each class as are wanted, whole groups of them, by hashes of the paths.

    Without groups it is exactly as many. A class of two groups or more has images on both sides, if any of it
    are wanted; one whose images all belong together keeps them on the side of training.

    Args:
        key: tells one split from another.
        paths, classes: of each image.
        wanted: how many of each class.
        groups: a number for each image, the same for those that stay together; None: each on its own.

    Returns:
        The places, in `paths`, of those that are set apart; none, if each class has one group only.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for place, group in enumerate(groups if groups is not None else range(len(paths))):
        members[group].append(place)
    hashes = {
        group: hashlib.sha256(key + os.fsencode(paths[places[0]])).digest()
        for group, places in members.items()
    }
    contents = {group: Counter(classes[place] for place in places) for group, places in members.items()}
    order = sorted(members, key=hashes.__getitem__)
    chosen = _choose(order, contents, Counter(classes), wanted)
    return {place for group in chosen for place in members[group]}


def _choose(
    order: list[int],
    contents: Mapping[int, Counter[Name]],
    rest: Counter[Name],
    wanted: Mapping[Name, int],
) -> set[int]:
    """Choose groups in their order, each that brings the classes no further from what is wanted."""
    left, chosen = dict(wanted), set()

    def take(group: int) -> None:
        chosen.add(group)
        rest.subtract(contents[group])
        for name, count in contents[group].items():
            left[name] -= count

    def leaves_some(group: int) -> bool:
        return all(rest[name] > count for name, count in contents[group].items())

    for group in order:
        # squares: the sum of (left - count)^2 is at most that of left^2
        if sum(n * (n - 2 * left[name]) for name, n in contents[group].items()) <= 0 and leaves_some(group):
            take(group)
    for name in sorted(wanted, key=str):  # a class whose groups were all too large
        if wanted[name] and left[name] == wanted[name]:
            fitting = [group for group in order if name in contents[group] and leaves_some(group)]
            if fitting:
                take(min(fitting, key=lambda group: contents[group].total()))
    return chosen
