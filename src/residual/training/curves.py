"""Curves of runs in the style of Figure 6: error against iterations, training dashed, test bold."""

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..errors import RunError, UsageError
from ..recipes.catalog import recipe_label
from ..runtime.files import write_atomically
from .run_folder import Run

# Okabe and Ito's palette, which is safe for colour-blind readers
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FEW = 12  # points of a curve up to which each is marked
NAMED = ("name", "network", "shortcut", "seed")  # keys that a label shows already, or that change nothing


def style() -> AbstractContextManager[None]:
    """Return a context in which figures are drawn in this project's style."""
    return matplotlib.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False})


def in_thousands(step: float, _position: float = 0) -> str:
    """Label an axis of steps: 800, 1k, 1.5k, 64k."""
    return f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"


def plot_runs(runs: Sequence[Run], path: Path) -> None:
    """Draw the runs' curves into a PNG.

    Raises:
        UsageError: the file's name does not end in .png.
        RunError: a run has logged nothing yet, or the file cannot be written.
    """
    if path.suffix != ".png":
        raise UsageError(f"curves are written as PNG: give a file name that ends in .png, not {path}")
    with style():
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        named = zip(runs, labels(runs), itertools.cycle(COLOURS), strict=False)
        tops = [_draw(axes, run, label, colour) for run, label, colour in named]
        axes.set(xlabel="iterations", ylabel="error (%)", ylim=(0, min(100, max(1, 1.05 * max(tops)))))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(in_thousands)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
        save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        write_atomically(path, lambda file: figure.savefig(file, dpi=150, format="png"))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}") from error


def _draw(axes: Axes, run: Run, label: str, colour: str) -> float:
    """Draw one run; return the highest error, for the axis limits."""
    trained = run.metrics("train")
    measured = run.metrics("validation") or run.metrics("test")
    if not trained:
        raise RunError(f"{run.path} has no metrics yet")
    errors = _curve(axes, trained, f"{label}, training", color=colour, linestyle="--", linewidth=1)
    if measured:
        kind = measured[0]["kind"]
        errors += _curve(axes, measured, f"{label}, {kind}", color=colour, linewidth=2.2)
    return max(errors)


def _curve(axes: Axes, records: Sequence[dict[str, Any]], label: str, **style: Any) -> list[float]:
    """Draw error against steps, with its end in the legend, and markers where points are few."""
    steps, errors = [record["step"] for record in records], [float(record["error"]) for record in records]
    marker, named = "o" if len(steps) <= FEW else "", f"{label}: {errors[-1]:.1f} %"
    axes.plot(steps, errors, marker=marker, label=named, **style)
    return errors


def labels(runs: Sequence[Run]) -> list[str]:
    """Name each run by its network, its seed, and what differs between the runs.

    That is the recipe by its name and changes, if there are several of them, else the keys that differ.
    """
    recipes = [run.recipe for run in runs]
    several = len({recipe.name for recipe in recipes}) > 1
    flat = [recipe.flat() for recipe in recipes]
    apart = [k for k in flat[0] if k not in NAMED and len({str(values[k]) for values in flat}) > 1]
    names = []
    for run, recipe, values in zip(runs, recipes, flat, strict=True):
        name = run.own_network or recipe.network
        option = f" ({recipe.shortcut})" if name == recipe.network and recipe.shortcut in ("B", "C") else ""
        keys = "".join(f", {key.rpartition('.')[2]} {values[key]}" for key in apart)
        changes = f", {recipe_label(recipe)}" if several else keys
        names.append(f"{name}{option}{changes}, seed {recipe.seed}")
    if len(set(names)) < len(names):  # of one recipe: their folders tell them apart
        return [f"{name}, {run.path.name}" for name, run in zip(names, runs, strict=True)]
    return names
