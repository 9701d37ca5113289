"""Bench records as tables: one set of rows for the terminal and for the Markdown page `docs/speed.md`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..runtime.device import short_name
from ..runtime.environment import short_commit
from .contest import Spread

Record = Mapping[str, Any]

HEAD = """\
# Speed

Made by `residual reproduce pages` from `results/bench/*.json`. Rates are in images per second: the median
of the rounds and, in brackets, min-max; ratios are taken round by round. The rates of a matrix product and of
a copy (roofline) are one measurement each, on a noisy machine and for one size: reference points, which a
step may exceed.
"""


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
