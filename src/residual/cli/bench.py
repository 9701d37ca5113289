"""The command `bench`: speed beside a baseline, all in one run."""

from pathlib import Path
from typing import Annotated

import typer

from ..bench import SUITE_NAMES
from ..errors import UsageError
from ..runtime.files import write_json
from .completion import one_of
from .output import Device, Json, print_json, print_line


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(bench)


def bench(
    what: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(SUITE_NAMES)} or all.", autocompletion=one_of((*SUITE_NAMES, "all"))
        ),
    ] = "all",
    models: Annotated[list[str] | None, typer.Argument(help="Networks; by default each suite's own.")] = None,
    data: Annotated[Path | None, typer.Option(help="Photographs to decode, or shards, for `decode`.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Number of rounds; the median is reported.")] = 7,
    device: Device = None,
    save: Annotated[Path | None, typer.Option(help="Folder for a JSON file with the figures.")] = None,
    as_json: Json = False,
) -> None:
    """Measure speed beside a baseline and the machine's roofline, all in one run."""
    if what not in (*SUITE_NAMES, "all"):
        raise UsageError(f"there is no bench '{what}': choose {', '.join(SUITE_NAMES)} or all")
    if (what == "decode") != (data is not None):
        raise UsageError(
            "`residual bench decode` needs photographs: --data FOLDER; no other bench takes them"
        )
    from ..bench.page import table_of
    from ..bench.photographs import bench_decode
    from ..bench.suites import run_suites
    from ..runtime.device import describe, resolve_device
    from ..runtime.environment import environment_facts, without_paths

    where = resolve_device("cpu" if what in ("fitted", "data", "infer", "ranks", "decode") else device)
    if data is not None:
        records = bench_decode(data, repeats)
    else:
        records = run_suites(what, models or [], where, repeats)
    report = {**environment_facts(describe(where)), "records": records}
    report["command"] = without_paths(report["command"])
    if save is not None:
        stamp = report["date"].replace(":", "").replace("+0000", "")
        save.mkdir(parents=True, exist_ok=True)
        write_json(save / f"{stamp}-{what}-{where.type}.json", report)
    if as_json:
        print_json(report)
        return
    for record in records:
        for line in table_of(record).as_lines():
            print_line(line)
