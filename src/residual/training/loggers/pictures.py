"""Pictures for loggers: the curves as they are in the run folder, and the confusion matrix."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from ..curves import style

NAMED = 50  # classes up to which rows and columns have names
COUNTED = 20  # classes up to which each cell has its number


def read_picture(path: Path) -> Image.Image:
    """Read a picture as RGB."""
    with Image.open(path) as found:
        return found.convert("RGB")


def draw_confusion(confusion: list[list[int]], names: Sequence[str]) -> Image.Image:
    """Draw `confusion[true][predicted]`, colours by the share of the true class, numbers as counted."""
    counts = np.array(confusion)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    side = min(12.0, 3.5 + 0.25 * len(names))
    with style(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that the font lacks
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set(xlabel="predicted", ylabel="true")
        if len(names) <= NAMED:
            shown = [name[:20].replace("$", r"\$") for name in names]
            axes.set_xticks(range(len(names)), shown, rotation=90)
            axes.set_yticks(range(len(names)), shown)
        if len(names) <= COUNTED:
            for (row, column), count in np.ndenumerate(counts):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=100, format="png")
    with Image.open(buffer) as found:
        return found.convert("RGB")
