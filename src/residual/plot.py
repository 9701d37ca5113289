"""Curves of runs in the manner of Figure 6: error against iterations, training dashed, test bold."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .errors import RunError, UsageError
from .files import write_atomically
from .run import Run

# Okabe and Ito's palette: told apart by the colour-blind too
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def style() -> AbstractContextManager[None]:
    """Draw in this project's manner meanwhile."""
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
        raise UsageError(f"the picture is a PNG: give it a name that ends in .png, not {path}")
    with style():
        figure = Figure(figsize=(7, 4.5), layout="constrained")
        axes = figure.add_subplot()
        tops = [_draw(axes, run, COLOURS[index % len(COLOURS)]) for index, run in enumerate(runs)]
        axes.set(xlabel="iterations", ylabel="error (%)", ylim=(0, min(100, max(1, 1.05 * max(tops)))))
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(in_thousands)
        axes.grid(axis="y", alpha=0.3)
        axes.legend(frameon=False)
        try:
            write_atomically(path, lambda file: figure.savefig(file, dpi=150, format="png"))
        except OSError as error:
            raise RunError(f"cannot write {path}: {error}") from error


def _draw(axes: Axes, run: Run, colour: str) -> float:
    """Draw one run; return the highest error that should stay in sight."""
    trained = run.metrics("train")
    measured = run.metrics("holdout") or run.metrics("test")
    if not trained:
        raise RunError(f"{run.path} has no metrics yet")
    recipe = run.recipe
    option = f" ({recipe.shortcut})" if recipe.shortcut in ("B", "C") else ""
    label = f"{recipe.network}{option}, seed {recipe.seed}"
    steps, errors = [r["step"] for r in trained], [r["error"] for r in trained]
    axes.plot(steps, errors, "--", color=colour, linewidth=1, label=f"{label}, training")
    if measured:
        kind = measured[0]["kind"].replace("holdout", "hold-out")
        points = [r["step"] for r in measured], [r["error"] for r in measured]
        axes.plot(*points, "-", color=colour, linewidth=2.2, label=f"{label}, {kind}")
        errors += points[1]
    return float(max(errors))
