"""Draws Figures 4, 6 and 7 from result files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from ..models.names import parse_name
from ..training.curves import FEW, in_thousands, save_figure, style

Result = dict[str, Any]

WIDTH = 6.8  # inches, so that the letters can be read on a phone too
# a hue for each kind, that colour-blind readers tell apart; from shallow to deep
HUES = {"plain": ("#f4a860", "#c25400", "#4f1b00"), "resnet": ("#7cc0f0", "#0068ad", "#062a4d")}
KINDS = {"plain": "plain networks", "resnet": "residual networks"}
GREY = "#555555"
RANGE = 1.7  # the axis ends so far above the highest error at the end of a curve


def figure_6(results: Sequence[Result], path: Path, title: str) -> None:
    """Draw error against iterations, plain networks left, residual right; training thin, test bold.

    Raises:
        RunError: the file cannot be written.
    """
    _error_panels({"": results}, title, path)


def figure_4(groups: Mapping[str, Sequence[Result]], path: Path) -> None:
    """Draw error against iterations on photographs as in Figure 4, a row of panels for each named group.

    Raises:
        RunError: the file cannot be written.
    """
    _error_panels({f", {name}": results for name, results in groups.items()}, "", path)


def figure_7(results: Sequence[Result], path: Path, title: str) -> None:
    """Draw the standard deviation of layer responses, in the layers' order and sorted by size.

    The axis is logarithmic: a deep plain network's first layers may have ten times the responses of others.

    Raises:
        RunError: the file cannot be written.
    """
    colours = _colours(results)
    with style():
        figure = Figure(figsize=(WIDTH, 6.6), layout="constrained")
        figure.suptitle(title)
        panels = figure.subplots(2, 1, sharex=True, sharey=True)
        for axes, order in zip(panels, ("from input to output", "sorted by size"), strict=True):
            for result in results:
                values = result["responses"]
                shown = sorted(values, reverse=True) if order == "sorted by size" else values
                layers = range(1, len(shown) + 1)
                axes.plot(layers, shown, _dashes(result), color=colours[result["network"]], linewidth=2)
            axes.set(yscale="log", xlabel=f"layer, {order}", ylabel="standard deviation")
            axes.yaxis.set_major_locator(FixedLocator([0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100]))
            axes.yaxis.set_minor_locator(NullLocator())
            axes.yaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_tick_params(labelbottom=True)
            axes.grid(axis="y", alpha=0.3)
        _legend_by_kind(figure, results, colours)
        save_figure(figure, path)


def _error_panels(groups: Mapping[str, Sequence[Result]], title: str, path: Path) -> None:
    """Draw a row of panels for each group, whose key ends the titles of its panels."""
    with style():
        figure = Figure(figsize=(WIDTH, 0.6 + 3.4 * len(groups)), layout="constrained")
        figure.suptitle(title)
        rows = figure.subplots(len(groups), 2, sharey="row", squeeze=False)
        for panels, (name, results) in zip(rows, groups.items(), strict=True):
            colours = _colours(results)
            for axes, kind in zip(panels, KINDS, strict=True):
                axes.set_ylim(0, _highest(results))
                axes.set_title(KINDS[kind] + name)
                _draw_curves(axes, _of(results, kind), colours)
            panels[0].set_ylabel("error (%)")
        drawn = [_line("bold: test", linewidth=2.4), _line("thin: training", linewidth=1)]
        figure.legend(handles=drawn, loc="outside lower center", ncols=2, frameon=False)
        save_figure(figure, path)


def _draw_curves(axes: Axes, results: Sequence[Result], colours: Mapping[str, str]) -> None:
    """Draw networks of one kind, each labelled at the end of its curve with its depth and test error."""
    ends = []
    for result in results:
        colour = colours[result["network"]]
        for kind, width in (("train", 1.0), ("test", 2.4)):
            if kind in result["curve"]:
                steps, errors = zip(*result["curve"][kind], strict=True)
                marker = "o" if kind == "test" and len(steps) <= FEW else ""
                axes.plot(steps, errors, marker=marker, markersize=5, color=colour, linewidth=width)
        text = f"{parse_name(result['network']).layers} layers\n{result['error']:.1f} %"
        ends.append((result["iterations"], result["error"], text, colour))
    _label_ends(axes, ends)
    axes.set_xlim(left=0, right=max((1.03 * x for x, *_ in ends), default=None))
    axes.set_xlabel("iterations")
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(in_thousands)
    axes.grid(axis="y", alpha=0.3)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write labels of two lines right of curves' ends, moved apart where they would overlap."""
    ordered = sorted(ends, key=lambda end: end[1])
    places = _apart([y for _, y, *_ in ordered], 0.14 * axes.get_ylim()[1])
    look: dict[str, Any] = {"xytext": (9, 0), "textcoords": "offset points", "annotation_clip": False}
    for (x, _, text, colour), place in zip(ordered, places, strict=True):
        axes.annotate(text, (x, place), color=colour, va="center", fontsize=9.5, linespacing=0.95, **look)


def _apart(values: Iterable[float], gap: float) -> list[float]:
    """Move rising values apart to a gap, around the mean of those that are too near, and up from 0."""
    groups: list[list[float]] = []
    for value in values:
        groups.append([value])
        while len(groups) > 1:
            lower, upper = groups[-2:]
            if mean(upper) - mean(lower) >= gap * len(lower + upper) / 2:
                break
            groups[-2:] = [lower + upper]
    return [
        max(mean(group), gap * len(group) / 2) + gap * (place - (len(group) - 1) / 2)
        for group in groups
        for place in range(len(group))
    ]


def _highest(results: Sequence[Result]) -> float:
    """Return where the axis of error ends: the first steps may be off it, the ends of curves are not."""
    errors = [float(error) for run in results for points in run["curve"].values() for _, error in points]
    ends = [float(points[-1][1]) for run in results for points in run["curve"].values()]
    return min(100.0, 1.05 * max(errors), RANGE * max(ends))


def _of(results: Sequence[Result], family: str) -> list[Result]:
    return [result for result in results if result["network"].startswith(family)]


def _colours(results: Sequence[Result]) -> dict[str, str]:
    """Give each network the hue of its kind, darker with depth; depths are alike in both kinds."""
    names = {result["network"]: parse_name(result["network"]) for result in results}
    depths = sorted({name.layers for name in names.values()})
    # the ends of a hue are for many depths only: light letters are hard to read, dark ones of no hue
    first, last = (0.0, 1.0) if len(depths) > 3 else (0.3, 0.85)
    places = {
        depth: first + (last - first) * index / max(1, len(depths) - 1) for index, depth in enumerate(depths)
    }
    hues = {family: LinearSegmentedColormap.from_list(family, HUES[family]) for family in HUES}
    return {network: to_hex(hues[name.family](places[name.layers])) for network, name in names.items()}


def _dashes(result: Result) -> str:
    return "--" if result["network"].startswith("plain") else "-"


def _line(label: str, **look: Any) -> Line2D:
    return Line2D([], [], label=label, **{"color": GREY, **look})


def _legend_by_kind(figure: Figure, results: Sequence[Result], colours: Mapping[str, str]) -> None:
    """Add a legend below with a row for each kind and a column for each depth."""
    runs = {run["network"]: run for run in results}
    depths = sorted({parse_name(network).layers for network in runs})
    handles = [_line(f"{KINDS[kind]}, layers:", linestyle="") for kind in KINDS]
    for layers in depths:
        for kind in KINDS:
            run = runs.get(f"{kind}{layers}")
            if run is None:
                handles.append(_line("", linestyle=""))
            else:
                look = {"color": colours[run["network"]], "linestyle": _dashes(run), "linewidth": 2}
                handles.append(_line(f"{layers}", **look))
    look = {"frameon": False, "columnspacing": 1.2, "handlelength": 1.6}
    figure.legend(handles=handles, loc="outside lower center", ncols=1 + len(depths), **look)
