"""Draws test error against training compute: this project, the paper and others."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, NullLocator

from ..models.names import parse_name
from ..training.curves import save_figure, style
from .compute import UNIT, Point, Series
from .figures import WIDTH
from .published import PAPER

# a colour for each recipe of `paper_facts.WHOLE`
OURS = ("#56b4e9", "#0072b2", "#04233d", "#7a4fa3", "#2aa198", "#8c6d1f")
# others: thin and hollow, each with a marker of its own
OTHERS = (("#d55e00", "s"), ("#009e73", "^"), ("#a6611a", "P"), ("#b0528a", "D"), ("#8a8a00", "v"))
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)


def error_against_compute(series: Sequence[Series], path: Path) -> None:
    """Draw a curve for each source, a point for each network; ours and the paper's with their layers.

    Raises:
        RunError: the file cannot be written.
    """
    ours, others = iter(OURS), iter(OTHERS)
    with style():
        figure = Figure(figsize=(WIDTH, 5.8), layout="constrained")
        axes = figure.add_subplot()
        for one in series:
            if one.ours:
                colour = next(ours)
                _draw(axes, one, color=colour, marker="*", markersize=13, linewidth=2.2, zorder=4)
                for point in one.points:
                    below = parse_name(point.network).bottleneck
                    _label(axes, point, colour, (-8, -12) if below else (9, 7), " layers")
            elif one.source == PAPER.source:
                _draw(axes, one, color="black", marker="o", linewidth=1.8, zorder=3)
                for point in one.points:
                    _label(axes, point, "black", (8, -1) if point is one.points[-1] else (-10, -13))
            else:
                colour, marker = next(others)
                look = {"marker": marker, "markerfacecolor": "white", "linewidth": 1, "zorder": 2}
                _draw(axes, one, color=colour, **look)
        axes.set(xscale="log", ylabel="test error (%)", title="Numbers at points: layers (b: bottleneck)")
        axes.set_xlabel("training compute (10$^{15}$ multiply-adds)")
        axes.xaxis.set_major_locator(FixedLocator(TICKS))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter("{x:g}")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9.5)
        save_figure(figure, path)


def _draw(axes: Axes, one: Series, **look: Any) -> None:
    """Draw a source's points and their spread, joined but for bottleneck networks, which stand apart."""
    joined = [point for point in one.points if not parse_name(point.network).bottleneck]
    for points, line, label in ((joined, "-", one.source), (one.points, "", None)):
        x, y = [point.compute / UNIT for point in points], [point.error for point in points]
        axes.plot(x, y, label=label, **{"markersize": 6, **look, "linestyle": line})
    for point in one.points:
        if point.spread is not None:
            bar = {"color": look["color"], "capsize": 3, "zorder": look["zorder"]}
            axes.errorbar(point.compute / UNIT, point.error, point.spread, **bar)


def _label(axes: Axes, point: Point, colour: str, offset: tuple[int, int], unit: str = "") -> None:
    """Write a network's layers beside its point, at an offset in typographic points."""
    name = parse_name(point.network)
    axes.annotate(
        f"{name.layers} b" if name.bottleneck else f"{name.layers}{unit}",
        (point.compute / UNIT, point.error),
        offset,
        textcoords="offset points",
        color=colour,
        fontsize=9.5,
        ha={-1: "right", 0: "center", 1: "left"}[(offset[0] > 0) - (offset[0] < 0)],
        va="center",
        path_effects=[withStroke(linewidth=3, foreground="white")],
        zorder=5,
    )
