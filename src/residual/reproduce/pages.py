"""Pages of figures, made from the files in `results/` and from nothing else."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..runtime.device import short_name
from ..runtime.environment import short_commit
from ..runtime.files import write_text
from .figures import figure_6, figure_7
from .page import results_page, trained_alike
from .results import load_results


def write_pages(results: Path, output: Path) -> list[Path]:
    """Write every page for which there are figures; return the files written.

    Raises:
        RunError: there are no figures, one of their files is damaged, or a page cannot be written.
    """
    try:
        benches = {path.name: json.loads(path.read_text()) for path in sorted(results.glob("bench/*.json"))}
        runs = load_results(results / "cifar10")
        if not benches and not runs:
            raise RunError(f"no figures in {results}")
        output.mkdir(parents=True, exist_ok=True)
        written = []
        if benches:
            write_text(output / "speed.md", speed_page(benches))
            written.append(output / "speed.md")
        return written + (_write_results(runs, output) if runs else [])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"cannot make the pages: {type(error).__name__}: {error}") from error


def _write_results(runs: list[dict[str, Any]], output: Path) -> list[Path]:
    """Write the page of results and its pictures."""
    written = [output / "results.md"]
    write_text(written[0], results_page(runs))
    for recipe, alike in trained_alike(runs).items():
        for number, draw in ((6, figure_6), (7, figure_7)):
            written.append(output / f"figure{number}-{recipe}.png")
            draw(alike, written[-1])
    return written


def speed_page(benches: dict[str, Any]) -> str:
    """Write the page of speed: a section for each file of `residual bench --save`."""
    lines = [
        "# Speed",
        "",
        "Made by `residual report` from `results/bench/*.json`. Rates are in pictures a second: the median",
        "of the rounds and, in brackets, the least and the most; ratios are taken round by round. The rates",
        "of a matrix product and of a copy are one measurement each, on a noisy machine and for one size:",
        "marks to read a step by, which it may pass.",
    ]
    for name, bench in benches.items():
        lines += [
            "",
            f"## {bench['date'][:10]}, {short_name(bench['hardware'])}",
            "",
            f"`{name}`: torch {bench['versions']['torch']}, commit {short_commit(bench['commit'])}, "
            f"`{bench['command']}`",
        ]
        for record in bench["records"]:
            lines += ["", *_record(record)]
    return "\n".join(lines) + "\n"


def _record(record: dict[str, Any]) -> Iterable[str]:
    """Write one measurement as a table of rates and a list of ratios."""
    what = " ".join(filter(None, (record["kind"], record["network"])))  # data alone has no network
    yield f"### {what}, batch {record['batch_size']}"
    yield ""
    if "steps_per_second" in record:
        yield "| runs at once | steps a second in all |"
        yield "|---|---|"
        for copies, rate in record["steps_per_second"].items():
            yield f"| {copies} | {_spread(rate)} |"
        return
    yield "| | pictures a second | milliseconds a step | peak memory, MiB |"
    yield "|---|---|---|---|"
    for who, outcome in record["images_per_second"].items():
        rate = outcome["images_per_second"]
        step = 1000 * record["batch_size"] / rate["median"]
        yield f"| {who} | {_spread(rate)} | {step:,.2f} | {outcome['peak_mib']:,} |"
    yield ""
    for pair, ratio in record["ratios"].items():
        yield f"- {pair}: **{ratio['median']:.2f}** ({ratio['low']:.2f} to {ratio['high']:.2f})"
    if "kernels" in record:
        yield f"- {record['kernels']} kernels a step"
    if "matrix_rate" in record:
        yield (
            f"- a step's {record['step_operations'] / 1e9:,.1f} GFLOP reach "
            f"**{record['share_of_matrix_rate']:.0%}** of the {record['matrix_rate'] / 1e9:,.0f} GFLOP/s "
            "measured for a matrix product"
        )
        yield (
            f"- its {record['step_bytes'] / 1e9:,.2f} GB of least traffic reach "
            f"**{record['share_of_copy_rate']:.0%}** of the {record['copy_rate'] / 1e9:,.1f} GB/s "
            "measured for a copy"
        )


def _spread(values: dict[str, float]) -> str:
    digits = 2 if values["median"] < 100 else 0
    return f"{values['median']:,.{digits}f} ({values['low']:,.{digits}f} to {values['high']:,.{digits}f})"
