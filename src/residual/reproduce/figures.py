"""Draws Figures 4, 6 and 7 from result files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..runtime.files import write_atomically
from ..training.curves import COLOURS, FEW, in_thousands, style

Result = dict[str, Any]


def figure_6(results: Sequence[Result], path: Path) -> None:
    """Draw error against iterations, plain networks left, residual right; training dashed, test bold."""
    with style():
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        _families(panels, results)
        panels[0].set(ylabel="error (%)", ylim=(0, 90))
        write_atomically(path, lambda file: figure.savefig(file, dpi=150, format="png"))


def figure_4(groups: Mapping[str, Sequence[Result]], path: Path) -> None:
    """Draw error against iterations on photographs as in Figure 4, a row of panels for each named group."""
    with style():
        figure = Figure(figsize=(10, 4.5 * len(groups)), layout="constrained")
        rows = figure.subplots(len(groups), 2, sharey="row", squeeze=False)
        for panels, (name, results) in zip(rows, groups.items(), strict=True):
            _families(panels, results, f", {name}")
            panels[0].set(ylabel="error (%)", ylim=(0, min(100, 1.05 * max(map(_highest, results)))))
        write_atomically(path, lambda file: figure.savefig(file, dpi=150, format="png"))


def figure_7(results: Sequence[Result], path: Path) -> None:
    """Draw the standard deviation of layer responses, in the layers' order and sorted by size."""
    with style():
        figure = Figure(figsize=(9, 7), layout="constrained")
        by_layer, by_size = figure.subplots(2, 1)
        for index, result in enumerate(_of(results, "plain") + _of(results, "resnet")):
            values = result["responses"]
            line = "--" if result["network"].startswith("plain") else "-"
            for axes, shown in ((by_layer, values), (by_size, sorted(values, reverse=True))):
                layers = range(1, len(shown) + 1)
                colour = COLOURS[index % len(COLOURS)]
                axes.plot(layers, shown, line, color=colour, linewidth=1.8, label=result["network"])
        by_layer.set(xlabel="layer, from input to output", ylabel="standard deviation")
        by_size.set(xlabel="layer, sorted by size", ylabel="standard deviation")
        for axes in (by_layer, by_size):
            axes.set_ylim(bottom=0)
            axes.grid(axis="y", alpha=0.3)
        by_layer.legend(frameon=False, ncols=2)
        write_atomically(path, lambda file: figure.savefig(file, dpi=150, format="png"))


def _families(panels: Sequence[Axes], results: Sequence[Result], name: str = "") -> None:
    """Draw plain networks into the first panel, residual ones into the second."""
    for axes, family in zip(panels, ("plain", "resnet"), strict=True):
        for index, result in enumerate(_of(results, family)):
            _curves(axes, result, COLOURS[index])
        axes.set(title=f"{'plain' if family == 'plain' else 'residual'} nets{name}", xlabel="iterations")
        axes.xaxis.set_major_formatter(in_thousands)
        axes.set_xlim(left=0)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False, title="dashed: training, bold: test", alignment="left")


def _highest(result: Result) -> float:
    return max(float(error) for points in result["curve"].values() for _, error in points)


def _of(results: Sequence[Result], family: str) -> list[Result]:
    return [result for result in results if result["network"].startswith(family)]


def _curves(axes: Axes, result: Result, colour: str) -> None:
    for kind, line, width in (("train", "--", 1.0), ("test", "-", 2.4)):
        if kind in result["curve"]:
            steps, errors = zip(*result["curve"][kind], strict=True)
            label = result["network"] if kind == "test" else None
            marker = "o" if kind == "test" and len(steps) <= FEW else ""
            axes.plot(steps, errors, line, marker=marker, color=colour, linewidth=width, label=label)
