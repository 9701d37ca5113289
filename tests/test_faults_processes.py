"""Faults from outside: kills while saving, signals at any time, two runs on one folder."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import comparable
from faults import record
from residual.training.checkpoint import find_checkpoint

KILLS = 50
pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="forks processes and kills them"),
]


def outcomes(what, folder, tries):
    """Run a part of `forked_runs.py`; give what it tells of each try."""
    script = Path(__file__).with_name("forked_runs.py")
    command = [sys.executable, str(script), what, str(folder), str(tries)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_1_kills_while_saving(tmp_path):
    *kills, last, whole = outcomes("kill_while_saving", tmp_path, KILLS)
    assert [kill["code"] for kill in kills] == [-9] * KILLS
    assert (last["code"], whole["code"]) == (0, 0)
    assert [kill["broken"] for kill in kills] == [[]] * KILLS
    newest = [max(kill["steps"], default=0) for kill in kills]
    assert newest == sorted(newest), "a checkpoint was lost"
    partial = sum(bool(kill["partial"]) for kill in kills)
    assert partial, "no kill came in the middle of a save"
    assert last["partial"] == [], "what a killed process left is swept"
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")
    record(
        1,
        "SIGKILL at random moments of saving, each resumed by the next",
        KILLS,
        f"the newest checkpoint loaded each time, no file under its final name was partial ({partial} kills "
        "left a temporary file, which the next process deleted); at the end the same run to the bit",
        "at most the steps since the checkpoint before, which are taken again",
    )
    record(
        8,
        "the lock left by a killed process",
        KILLS,
        "taken over by the next",
    )


def test_3_a_signal_at_any_time(tmp_path):
    whole, *tries = outcomes("signal_at_any_time", tmp_path, 16)
    assert whole["code"] == 0
    for found in tries:
        assert found["code"] == found["expected"] or (found["code"] == 0 and found["ended"]), found
        assert "Traceback" not in found["said"]
        assert (found["broken"], found["partial"], found["resumed"]) == ([], [], 0), found
        assert comparable(tmp_path / found["run"]) == comparable(tmp_path / "whole")
    stopped = sum(found["code"] != 0 for found in tries)
    assert stopped > len(tries) // 2
    record(
        3,
        "SIGTERM or SIGINT to the process at a random moment between its start and its end",
        stopped,
        "exit 143 or 130; the same command, or --resume, gave the same run to the bit",
    )


def test_8_two_processes_on_one_folder(tmp_path):
    found = outcomes("two_at_once", tmp_path, 4)
    pairs, single = (
        [each for each in found if len(each["codes"]) == 2],
        [e for e in found if len(e["codes"]) == 1],
    )
    for pair in pairs:
        refused = [number for number in (0, 1) if pair["codes"][number] == 5]
        assert len(refused) == 1, pair
        assert pair["codes"][1 - refused[0]] in (0, 143), pair
        said = pair["said"][refused[0]].splitlines()
        assert len(said) == 1
        assert re.search(r"exists already|is being (made|trained) by another process", said[0])
    assert [each["codes"] for each in single] == [[0]] * len(single)
    results = [comparable(tmp_path / f"run{number}") for number in range(4)]
    assert results == [results[0]] * 4
    assert find_checkpoint(tmp_path / "run0" / "checkpoints") is not None
    record(
        8,
        "two processes at the same moment on one folder, to begin it and to resume it",
        len(pairs),
        "one trained, the other ended with exit 5 and one line; each run ended, all the same to the bit",
    )
