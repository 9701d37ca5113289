"""Test error against training compute: ours, the paper's and others' points, and their part of the page."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..models.complexity import Complexity, complexity
from ..models.names import parse_name
from .published import OTHERS, PAPER, PAPER_DEVIATIONS

Result = dict[str, Any]
PICTURE = "error-against-compute.png"
UNIT = 1e15  # of multiply-adds, in the table and the picture
PASSES = 3  # a forward pass, and a backward pass that multiplies each weight twice


@dataclass(frozen=True)
class Point:
    """A network's error in percent, the multiply-adds of its training, and the spread of seeds if known."""

    network: str
    compute: float
    error: float
    spread: float | None = None


@dataclass(frozen=True)
class Series:
    """The points of one source, the smallest network first; `ours` tells this project's."""

    source: str
    images: int
    shortcut: str
    chosen: str
    points: tuple[Point, ...]
    ours: bool = False


def training_compute(
    network: str, shortcut: str | None, images: int, early_size: int = 0, early_share: float = 0.0
) -> float:
    """Return the multiply-adds of a training that sees so many images, of 32x32 pixels.

    The share of them that is early has `early_size` pixels, if that is not 0.
    """
    whole = counts(network, shortcut).multiply_adds
    early = counts(network, shortcut, early_size).multiply_adds if early_size else whole
    return PASSES * images * (early_share * early + (1 - early_share) * whole)


@cache
def counts(network: str, shortcut: str | None = None, input_size: int | None = None) -> Complexity:
    """Count a network's layers, parameters and multiply-adds, once: the deepest takes a second."""
    return complexity(network, shortcut=shortcut, input_size=input_size)


def all_series(finished: Sequence[Result]) -> list[Series]:
    """Return ours, one for each recipe, then the paper's, then others'; `finished` are full runs."""
    groups: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for run in finished:
        if run["network"].startswith("resnet"):
            groups[run["recipe"]][run["network"]].append(run)
    found = [_ours(recipe, networks) for recipe, networks in sorted(groups.items())]
    for published in (PAPER, *OTHERS):
        points = tuple(
            Point(
                network,
                training_compute(network, published.shortcut, published.images),
                error,
                PAPER_DEVIATIONS.get(network) if published is PAPER else None,
            )
            for network, error in published.errors.items()
        )
        found.append(Series(published.source, published.images, published.shortcut, published.chosen, points))
    return found


def _ours(recipe: str, networks: dict[str, list[Result]]) -> Series:
    points = []
    for network, runs in networks.items():
        errors = [run["error"] for run in runs]
        compute = training_compute(network, runs[0]["shortcut"], _images(runs[0]), *_early(runs[0]))
        spread = statistics.stdev(errors) if len(errors) > 1 else None
        points.append(Point(network, compute, statistics.mean(errors), spread))
    run = next(iter(networks.values()))[0]
    chosen = "last step, mean of the seeds"
    ordered = tuple(sorted(points, key=lambda point: point.compute))
    return Series(f"this project, {recipe}", _images(run), run["shortcut"], chosen, ordered, ours=True)


def _images(run: Result) -> int:
    return int(run["iterations"] * run["batch_size"])


def _early(run: Result) -> tuple[int, float]:
    """Return the size of a run's early images, 0 if it has none, and their share."""
    augment = run.get("recipe_in_full", {}).get("augment", {})
    return augment.get("early_size", 0), augment.get("early_share", 0.0)


def compute_section(series: Sequence[Series]) -> Iterable[str]:
    """Return the part of the page, in Markdown: how to read the picture, and the table behind it."""
    lines = [
        f"![Test error against the multiply-adds of training]({PICTURE})",
        "",
        "How to read it: down is better, left is cheaper; each curve is one source, from 20 layers to",
        "deeper networks. Training compute is 3 x the multiply-adds of a forward pass x the images seen,",
        "since the backward pass needs about two forward passes; images that a recipe makes smaller at first",
        "count at that size. Convolutions and fully connected layers",
        "are counted; BN, ReLU and additions, the optimizer's step (Muon's too), augmentation and",
        "evaluation are left out. In FLOPs, of which a multiply-add is two, it is twice as much. It is not",
        "time, which depends on the hardware. Sources differ in more than compute: schedule, optimizer,",
        "weight decay, shortcuts, and the epoch whose error they give. On 10,000 images, an error of 8 %",
        "has a 95 % interval of +- 0.5 points. Bars are standard deviations over seeds, where they are",
        "known.",
        "",
        *_beside_the_paper(series),
        "",
        "Test error in percent, and at what training compute in 10^15 multiply-adds:",
        "",
        *_table(series),
        "",
        "Others' errors are as published, not measured here. Sources that do not say how long they trained",
        "are left out.",
    ]
    return lines


def _beside_the_paper(series: Sequence[Series]) -> Iterable[str]:
    """Set our points beside the paper's."""
    paper = {point.network: point for one in series if one.source == PAPER.source for point in one.points}
    ours = [(one.source, point) for one in series if one.ours for point in one.points]
    for source, point in ours:
        if point.network in paper:
            share = 100 * point.compute / paper[point.network].compute
            yield f"- {point.network}, {source}: {point.error:.2f} %, with {share:.3g} % of the training"
            yield f"  compute of the paper's {paper[point.network].error:.2f} %."


def _table(series: Sequence[Series]) -> Iterable[str]:
    found = {point.network for one in series for point in one.points}
    networks = sorted(found, key=lambda network: parse_name(network).layers)
    yield f"| source | images seen | shortcuts | which error | {' | '.join(networks)} |"
    yield "|" + "---|" * (4 + len(networks))
    for one in series:
        cells = {p.network: f"{p.error:.2f} at {p.compute / UNIT:.2f}" for p in one.points}
        shown = " | ".join(cells.get(network, "") for network in networks)
        yield f"| {one.source} | {one.images / 1e6:.2f} M | {one.shortcut} | {one.chosen} | {shown} |"
