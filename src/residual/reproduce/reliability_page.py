"""`docs/reliability.md`: which faults were injected, how many times, and what was lost, from result files."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Record = Mapping[str, Any]

# numbered as the tests number them
FAULTS = {
    1: "Killed (SIGKILL) at random moments of saving",
    2: "Stopped at a step, in mid-epoch, at an epoch's end, and twice over",
    3: "SIGTERM and SIGINT in every phase: start, load, train, evaluate, save, plot, finish; a second signal",
    4: "Disk full while saving, logging, plotting, writing the model",
    5: "The last checkpoint truncated, or one bit of it flipped",
    6: "A checkpoint, model folder, recipe or archive that carries code, `../` or a link",
    7: "A loss that is not finite",
    8: "Two runs on one folder; a lock left by a dead process; a folder moved or copied in between",
    9: "A download cut, slow, stalled, altered, redirected in a loop, or answered with a page",
    10: "A worker killed or hanging; the parent of `--jobs` killed",
    11: "One rank killed, one rank slow, two jobs on one machine at once",
    12: "Images that the ranks do not divide evenly, with an odd last batch",
    13: "Clock set back, folder read-only or metrics deleted, no /dev/shm or TMPDIR, streams closed",
    14: "Random bytes in place of each file that is read; hostile configs",
}
HEAD = """\
# Reliability

Made by `residual reproduce pages` from `results/faults/*.json`, which `make test-faults` writes: each row is
a test that injects the fault and checks what follows. "The same to the bit" is said of weights and logged
metrics, compared with a run without the fault. How to stop, resume and go on after a bad loss:
[train](tasks/train.md#stop-and-resume).
"""
TESTED_ON = "Tested on: {}."


def load_faults(folder: Path) -> list[dict[str, Any]]:
    """Read the result files of all cases, in the order of the faults' numbers.

    Raises:
        OSError, ValueError: a file cannot be read.
    """
    return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]


def reliability_page(records: Iterable[Record]) -> str:
    """Arrange the cases by fault; one without a case is named as not tested.

    Raises:
        KeyError, TypeError: a record lacks a value.
    """
    records = list(records)
    machines = sorted({record["hardware"] for record in records})
    versions = sorted({record["version"] for record in records})
    lines = [HEAD, TESTED_ON.format(f"{'; '.join(machines)}; residual {', '.join(versions)}"), ""]
    for number, fault in FAULTS.items():
        cases = [record for record in records if record["fault"] == number]
        lines += [f"## {number}. {fault}", ""]
        lines += [*_table(cases), ""] if cases else ["Not tested.", ""]
    return "\n".join(lines)


def _table(cases: Iterable[Record]) -> list[str]:
    rows = ["| case | tries | what happened | what was lost |", "|---|---|---|---|"]
    for case in cases:
        values = (case["case"], f"{case['tries']:,}", case["happened"], case["lost"])
        rows.append(f"| {' | '.join(_cell(value) for value in values)} |")
    return rows


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
