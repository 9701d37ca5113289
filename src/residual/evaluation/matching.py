"""Which of a model's classes the classes of a data set are: by name or by WordNet id."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..data.imagenet_classes import NAMES, SYNSETS
from ..errors import CheckpointError


@dataclass(frozen=True)
class Matching:
    """The model's class for each label of a data set, and how they were matched, None if they agree.

    A label whose class has no images may have no class of the model: it is -1.
    """

    classes: tuple[int, ...]
    note: str | None = None

    def apply(self, labels: Tensor) -> Tensor:
        """Return the model's classes of labels [N]."""
        return torch.tensor(self.classes, dtype=torch.int64)[labels]


def match_classes(data: str, names: tuple[str, ...], labels: Tensor, own: tuple[str, ...]) -> Matching:
    """Match the classes of a data set with a model's.

    The data set may have some of the model's classes, in another order: predictions still compete over all of
    the model's. Names that two classes have match none.

    Args:
        data: the data set's name, for messages.
        names: its class names.
        labels: its labels [N]; classes without images need no match.
        own: the model's class names.

    Raises:
        CheckpointError: they are not classes of the model; a few are named.
    """
    if same_classes(names, own):
        return Matching(tuple(range(len(names))))
    used = [names[label] for label in sorted(set(labels.tolist()))]
    best: dict[str, int] = {}
    for how, found in _ways(own):
        numbers = {name: found(name) for name in used}
        known = {name: number for name, number in numbers.items() if number is not None}
        if len(known) == len(used) == len(set(known.values())):
            note = f"{len(used):,} of the model's {len(own):,} classes, matched by {how}"
            return Matching(tuple(known.get(name, -1) for name in names), note)
        best = max(best, known, key=len)
    unknown = tuple(name for name in used if name not in best) or tuple(used)
    raise CheckpointError(
        f"{data} has {len(names):,} classes ({few(names)}), the model {len(own):,} ({few(own)}), and "
        f"{len(unknown):,} cannot be matched ({few(unknown)}): evaluate it on the classes that it was "
        "trained for"
    )


def same_classes(names: tuple[str, ...], own: tuple[str, ...]) -> bool:
    """Tell whether classes are a model's, which has the same names or, after an import, none."""
    unnamed = own == tuple(f"class {label}" for label in range(len(own)))
    return names == own or (unnamed and len(names) == len(own))


def few(names: tuple[str, ...]) -> str:
    """Show the first names of a list."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _ways(own: tuple[str, ...]) -> Iterable[tuple[str, Callable[[str], int | None]]]:
    """Yield ways to find the model's class of a name, the strictest first."""
    yield "name", unique_names(own).get
    if own == NAMES:
        yield "WordNet id", unique_names(SYNSETS).get
    elif own == SYNSETS:
        yield "name", unique_names(NAMES).get
    whole, first = unique_names(map(_plain, own)), unique_names(_plain(name.split(",")[0]) for name in own)
    yield "name without case", lambda name: whole.get(_plain(name))
    yield "the first of their names", lambda name: first.get(_plain(name.split(",")[0]))


def _plain(name: str) -> str:
    """Return a name as folders often have it: without case, and with spaces for underscores."""
    return name.replace("_", " ").strip().casefold()


def unique_names(names: Iterable[str]) -> dict[str, int]:
    """Number names, without those that occur twice."""
    listed = list(names)
    counts = Counter(listed)
    return {name: number for number, name in enumerate(listed) if counts[name] == 1}
