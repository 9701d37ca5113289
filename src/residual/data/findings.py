"""What was found in a folder of photographs before training: sizes of classes, duplicates, leaks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Findings:
    """What a look at the photographs showed.

    Args:
        duplicates: groups of near-duplicates, each the paths of at least two images.
        leaks: pairs of a training and a test image that are near-duplicates, where a folder or CSV file gave
            the two sets; a split made here has none.
        conflicts: those of the groups whose images have different labels.
        notes: each a line to be shown: what is wrong with the data, or what was not looked for.
        bad: images that cannot be decoded.
        shorter_side: the median of the images' shorter sides in pixels; None where it was not looked for.
    """

    duplicates: tuple[tuple[str, ...], ...] = ()
    leaks: tuple[tuple[str, str], ...] = ()
    conflicts: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    bad: tuple[str, ...] = ()
    shorter_side: int | None = None
