"""Figure 3: VGG-19, the plain and the residual network of 34 layers side by side, as their layers run."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

from ..errors import RunError
from ..models.complexity import PAPER_MULTIPLY_ADDS, complexity
from ..runtime.files import write_atomically
from ..training.curves import style
from .architecture import Architecture, Layer, architecture

COLUMNS = {"vgg19": "VGG-19", "plain34": "34-layer plain", "resnet34": "34-layer residual"}
SPACING, WIDTH, HEIGHT = 2.9, 1.7, 0.52  # of columns and boxes, in rows
GAP = 0.7  # between sections, in rows
FILLS = {64: "#e3d9f0", 128: "#d8ead2", 256: "#f8d3cf", 512: "#d0e6f0"}  # convolutions, by width
OTHERS = "#f4f4f4"  # pooling and fully connected layers


def figure_3(path: Path) -> None:
    """Draw the figure as a PNG: a row for each layer, sections by output size; dashed: dimensions change.

    Raises:
        RunError: the file cannot be written.
    """
    columns = {name: architecture(name) for name in COLUMNS}
    starts, end = _sections([column.layers for column in columns.values()])
    right = SPACING * (len(columns) - 1)
    with style():
        figure = Figure(figsize=(8.5, 0.34 * (end + 4)), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xlim=(-2.6, right + 1.9), ylim=(end, -3.6))
        axes.set_axis_off()
        for size, start in starts.items():
            axes.plot([-2.5, right + 1.8], [start - 0.5 - GAP / 2] * 2, ":", color="#999999", linewidth=0.8)
            axes.text(-2.5, start, f"output\n{size}x{size}", va="center", fontsize=9)
        for number, (name, column) in enumerate(columns.items()):
            _draw(axes, SPACING * number, name, column, list(_rows(column.layers, starts)))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, lambda file: figure.savefig(file, dpi=120, format="png"))
        except OSError as error:
            raise RunError(f"cannot write {path}: {error}") from error


def _sections(columns: Sequence[Sequence[Layer]]) -> tuple[dict[int, float], float]:
    """Return the first row of each section, by output size, and the last row's end."""
    sizes = sorted({layer.size for layers in columns for layer in layers}, reverse=True)
    starts, row = {}, 0.0
    for size in sizes:
        starts[size] = row
        row += max(sum(layer.size == size for layer in layers) for layers in columns) + GAP
    return starts, row - GAP


def _rows(layers: Sequence[Layer], starts: Mapping[int, float]) -> Iterator[float]:
    """Give each layer a row in the section of its output size."""
    free = dict(starts)
    for layer in layers:
        yield free[layer.size]
        free[layer.size] += 1


def _draw(axes: Axes, x: float, name: str, found: Architecture, rows: Sequence[float]) -> None:
    """Draw one network from its title to its classifier."""
    counts = f"{complexity(name).multiply_adds / 1e9:.2f} x 10$^9$ multiply-adds"
    axes.text(x, -2.6, COLUMNS[name], ha="center", fontsize=12, fontweight="bold")
    axes.text(x, -2.0, f"{counts} (paper: {PAPER_MULTIPLY_ADDS[name]})", ha="center", fontsize=8.5)
    before = -1.2
    _box(axes, x, before, "image", "white")
    for layer, row in zip(found.layers, rows, strict=True):
        _arrow(axes, Curve([(x, before + HEIGHT / 2), (x, row - HEIGHT / 2)]))
        _box(axes, x, row, str(layer), FILLS[layer.width] if layer.kind == "conv" else OTHERS)
        before = row
    for block in found.blocks:
        if block.shortcut is not None:
            _shortcut(axes, x, rows[block.first], rows[block.end - 1], block.shortcut == "changed")


def _box(axes: Axes, x: float, row: float, text: str, fill: str) -> None:
    corner = (x - WIDTH / 2, row - HEIGHT / 2)
    shape = FancyBboxPatch(
        corner, WIDTH, HEIGHT, boxstyle="round,pad=0,rounding_size=0.1", fc=fill, ec="#666666"
    )
    shape.set_linewidth(0.7)
    axes.add_patch(shape)
    axes.text(x, row, text, ha="center", va="center_baseline", fontsize=8.5)


def _shortcut(axes: Axes, x: float, first: float, last: float, changes: bool) -> None:
    """Draw the curve from before a block's first layer to behind its last one."""
    top, bottom, side = first - 0.42, last + 0.42, x + WIDTH / 2
    points = [(x, top), (side, top), (side + 0.7, top), (side + 0.7, bottom), (side, bottom), (x, bottom)]
    codes = [Curve.MOVETO, Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4, Curve.LINETO]
    _arrow(axes, Curve(points, codes), dashed=changes)


def _arrow(axes: Axes, path: Curve, dashed: bool = False) -> None:
    arrow = FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=7, fill=False)
    arrow.set(color="#444444", linewidth=0.8, linestyle=(0, (3, 2)) if dashed else "-")
    axes.add_patch(arrow)
