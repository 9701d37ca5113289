"""Draws where training stops scaling: images per second, and what a step's time goes to, by the GPUs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from ..bench.cost import Estimate
from ..training.curves import save_figure, style
from .figures import WIDTH

PARTS = {
    "arithmetic": ("arithmetic", "#b9c4cc"),
    "small_batch": ("small batch", "#e69f00"),
    "stragglers": ("waiting for the slowest", "#009e73"),
    "all_reduce": ("all-reduce", "#d55e00"),
    "loading": ("waiting for images", "#0072b2"),
}
CURVES = (("#000000", "o"), ("#8c3a9e", "s"), ("#8a5a2b", "^"), ("#4d7c1f", "D"))  # no colours of parts
TICKS, FEW_TICKS = (1, 4, 16, 64, 256, 1024), (1, 8, 64, 512)


def scaling_figure(found: Mapping[str, Sequence[Estimate]], path: Path) -> None:
    """Draw a curve for each scenario, and below it a panel with the shares of a step for each.

    Raises:
        RunError: the file cannot be written.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 9.6), layout="constrained")
        grid = figure.add_gridspec(3, 2, height_ratios=(1.7, 1, 1))
        _rates(figure.add_subplot(grid[0, :]), found)
        for number, (name, estimates) in enumerate(found.items()):
            row, column = divmod(number, 2)
            panel = figure.add_subplot(grid[1 + row, column])
            _shares(panel, estimates)
            panel.set_title(name, fontsize=10)
            panel.set(ylabel="" if column else "share of a step (%)", xlabel="GPUs" if row else "")
        handles, labels = panel.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9.5)
        save_figure(figure, path)


def _rates(axes: Axes, found: Mapping[str, Sequence[Estimate]]) -> None:
    """Draw images per second against GPUs."""
    ranks = [one.ranks for one in next(iter(found.values()))]
    alone = max(estimates[0].images_per_second for estimates in found.values())
    ideal: dict[str, Any] = {"color": "#777777", "linestyle": "--", "linewidth": 1}
    axes.plot(ranks, [alone * count for count in ranks], label="as many times one GPU", **ideal)
    for (name, estimates), (colour, marker) in zip(found.items(), CURVES, strict=True):
        rates = [one.images_per_second for one in estimates]
        axes.plot(ranks, rates, color=colour, marker=marker, markersize=5, linewidth=1.8, label=name)
    axes.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="images per second")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    _ticks(axes, TICKS)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=9.5)


def _shares(axes: Axes, estimates: Sequence[Estimate]) -> None:
    """Stack the parts of a step, in percent."""
    shares = [[100 * getattr(one.step, part) / one.step.seconds for one in estimates] for part in PARTS]
    names, colours = zip(*PARTS.values(), strict=True)
    axes.stackplot([one.ranks for one in estimates], shares, labels=names, colors=colours, linewidth=0)
    axes.set(xscale="log", xlim=(1, estimates[-1].ranks), ylim=(0, 100))
    _ticks(axes, FEW_TICKS)


def _ticks(axes: Axes, at: Sequence[int]) -> None:
    axes.xaxis.set_major_locator(FixedLocator(at))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,.0f}")
