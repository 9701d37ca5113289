"""What tests of faults saw: a result file for each case, of which docs/reliability.md is made."""

import json
import os
import re
from pathlib import Path

import residual
from residual.runtime.device import describe, resolve_device, short_name


def record(fault: int, case: str, tries: int, happened: str, lost: str = "nothing") -> None:
    """Keep what was seen of a case, if RESIDUAL_FAULTS names a folder; called at the end of a test.

    Args:
        fault: its number, as in docs/reliability.md.
        case: what was injected, in a few words; one result file each.
        tries: how many times.
        happened: what the program did, in all of them.
        lost: what was lost by it.
    """
    folder = os.environ.get("RESIDUAL_FAULTS")
    if not folder:
        return
    values = {"fault": fault, "case": case, "tries": tries, "happened": happened, "lost": lost}
    values |= {"version": residual.__version__, "hardware": short_name(describe(resolve_device("cpu")))}
    name = re.sub(r"[^a-z0-9]+", "-", case.lower()).strip("-")[:60]
    path = Path(folder) / f"{fault:02}-{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")
