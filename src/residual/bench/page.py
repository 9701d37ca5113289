"""Bench records as tables: one set of rows for the terminal and for the Markdown page `docs/speed.md`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime.device import short_name
from ..runtime.environment import short_commit
from .contest import Spread
from .cost import Estimate

Record = Mapping[str, Any]

HEAD = """\
# Speed

Made by `residual reproduce pages` from `results/bench/*.json`. Rates are in images per second: the median
of the rounds and, in brackets, min-max; ratios are taken round by round. The rates of a matrix product and of
a copy (roofline) are one measurement each, on a noisy machine and for one size: reference points, which a
step may exceed.
"""


COST_COLUMNS = (
    *("GPUs", "images each", "images/s", "efficiency", "step, ms", "small batch", "loading", "stragglers"),
    *("all-reduce", "days", "dollars", "limit"),
)
# names of the parts of a step, for people
LIMITS = {
    "arithmetic": "arithmetic",
    "small_batch": "small batch",
    "loading": "loading",
    "stragglers": "stragglers",
    "all_reduce": "all-reduce",
}


@dataclass(frozen=True)
class Table:
    """A record for display: a title, columns, and sentences in which the main figure stands between `**`."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    sentences: list[str]

    def as_lines(self) -> list[str]:
        """Render it for the terminal, in aligned columns."""
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        padded = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
        sentences = [sentence.replace("**", "") for sentence in self.sentences]
        return [self.title, *(f"  {line}" for line in (*padded, *sentences))]

    def as_markdown(self) -> list[str]:
        """Render it in Markdown, as a section of level 3."""
        lines = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in (self.columns, *self.rows)]
        lines.insert(1, "|---" * len(self.columns) + "|")
        sentences = [f"- {sentence}" for sentence in self.sentences]
        return [f"### {self.title}", "", *lines, *([""] if sentences else []), *sentences]


def table_of(record: Record) -> Table:
    """Arrange what a record holds."""
    title = " ".join(filter(None, (record["kind"], record["network"])))  # data alone has no network
    if "errors" in record:
        return _errors(title, record)
    if record["kind"] == "steps":
        return _steps(f"{title}, {record['precision']}", record)
    if record["kind"] == "ranks":
        return _ranks(title, record)
    if record["kind"] == "save":
        return Table(title, ("bytes", "seconds"), [(f"{record['bytes']:,}", _digits(record["seconds"]))], [])
    title += f", batch {record['batch_size']}"
    rows: list[tuple[str, ...]] = []
    if "steps_per_second" in record:
        for copies, rate in record["steps_per_second"].items():
            rows.append((copies, str(Spread(**rate))))
        return Table(title, ("runs at once", "steps/s in all"), rows, [])
    for who, outcome in record["images_per_second"].items():
        rate = Spread(**outcome["images_per_second"])
        milliseconds = 1000 * record["batch_size"] / rate.median
        rows.append((who, str(rate), f"{milliseconds:,.2f}", f"{outcome['peak_mib']:,}"))
    columns = ("", "images/s", "ms per step", "peak memory, MiB")
    return Table(title, columns, rows, list(_sentences(record)))


def _sentences(record: Record) -> Iterable[str]:
    for pair, ratio in record["ratios"].items():
        median, brackets = str(Spread(**ratio)).split(" ", 1)
        yield f"{pair}: **{median}** {brackets}"
    if "kernels" in record:
        yield f"{record['kernels']} kernels per step"
    if "matrix_rate" in record:
        yield (
            f"a step's {record['step_operations'] / 1e9:,.1f} GFLOP reach "
            f"**{record['share_of_matrix_rate']:.0%}** of the {record['matrix_rate'] / 1e9:,.0f} GFLOP/s "
            "measured for a matrix product"
        )
        yield (
            f"its {record['step_bytes'] / 1e9:,.2f} GB of minimum memory traffic reach "
            f"**{record['share_of_copy_rate']:.0%}** of the {record['copy_rate'] / 1e9:,.1f} GB/s "
            "measured for a copy"
        )


def _errors(title: str, record: Record) -> Table:
    """Arrange errors in percent: a row for each way to compute, a column for each network."""
    networks = tuple(next(iter(record["errors"].values())))
    rows = [(way, *(f"{found[name]:.2f}" for name in networks)) for way, found in record["errors"].items()]
    columns = (f"error in %, {record['images']:,} images", *networks)
    return Table(title, columns, rows, list(record["notes"]))


def _steps(title: str, record: Record) -> Table:
    """Arrange the seconds of steps by the images of a batch."""
    seconds = record["step_seconds"]
    rows = [(images, f"{1e3 * s:,.1f}", f"{int(images) / s:,.1f}") for images, s in seconds.items()]
    option = ",".join(f"{images}={s:.3g}" for images, s in seconds.items())
    columns = ("batch", "ms per step", "images/s")
    return Table(title, columns, [*rows], [f"residual cost {record['network']} --step-times {option}"])


def _ranks(title: str, record: Record) -> Table:
    """Arrange what was measured of two ranks, and their images per second, predicted and measured."""
    ms, gradients = 1e3, f"{record['gradient_bytes'] / 1e6:.1f} MB"
    rows: list[tuple[str, ...]] = [
        ("a step of one beside the other, ms", _digits(record["step_seconds"], ms)),
        ("deviation of its logarithm", _digits(record["jitter"])),
        ("loading its images, ms", _digits(record["load_seconds"], ms)),
        ("bandwidth between them, GB/s", _digits(record["bandwidth"], 1e-9)),
        ("latency of a message, ms", _digits(record["latency"], ms)),
        (f"so an all-reduce of {gradients} takes, ms", _digits(record["reduce_seconds"], ms)),
        ("images/s of two ranks, predicted", _digits(record["predicted"])),
        ("images/s of two ranks, measured", _digits(record["measured"])),
    ]
    median, brackets = _digits(record["ratio"]).split(" ", 1)
    title += f" at {record['side']} pixels, batch {record['batch_size']} over two ranks"
    return Table(
        title, ("", "median of the rounds"), rows, [f"predicted / measured: **{median}** {brackets}"]
    )


def _digits(spread: Mapping[str, float], unit: float = 1.0) -> str:
    """Show a spread with three digits."""
    median, low, high = (f"{float(f'{spread[n] * unit:.3g}'):,g}" for n in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def cost_table(title: str, estimates: Iterable[Estimate]) -> Table:
    """Arrange estimates: a row for each number of GPUs, the parts of a step in milliseconds."""
    return Table(title, COST_COLUMNS, [_cost_row(one) for one in estimates], [])


def _cost_row(one: Estimate) -> tuple[str, ...]:
    step = one.step
    parts = (step.seconds, step.small_batch, step.loading, step.stragglers, step.all_reduce)
    return (
        f"{one.ranks:,}",
        f"{one.local}",
        f"{one.images_per_second:,.0f}",
        f"{one.efficiency:.0%}",
        *(f"{1e3 * part:.1f}" for part in parts),
        f"{one.days:.2f}",
        f"{one.price:,.0f}",
        LIMITS[step.limit],
    )


def speed_page(benches: Mapping[str, Any]) -> str:
    """Return the page: a section for each result file, given as name and content."""
    lines = [HEAD.rstrip()]
    for name, bench in benches.items():
        lines += [
            "",
            f"## {bench['date'][:10]}, {short_name(bench['hardware'])}",
            "",
            f"`{name}`: torch {bench['versions']['torch']}, commit {short_commit(bench['commit'])}, "
            f"`{bench['command']}`",
        ]
        for record in bench["records"]:
            lines += ["", *table_of(record).as_markdown()]
    return "\n".join(lines) + "\n"
