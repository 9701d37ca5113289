"""Faults of several processes: a rank killed, one that hangs, two jobs at once, an odd number of images."""

import json
import os
import signal

import pytest
import torch

import faults
from launched import finish, ranks_of, start_ranks, start_residual, wait_for
from residual.data.dataset import Split
from residual.evaluation.classification import evaluate_split
from test_processes import TORCHRUN, TRAIN, assert_same, two  # noqa: F401, a fixture

pytestmark = pytest.mark.faults
LONG = ("train", "resnet8", "--data", "digits", "--set", "iterations=100000", "--set", "checkpoint_every=5")


def started(folder, *arguments, **options):
    """Start two ranks and wait for their first checkpoint."""
    process = start_residual(*arguments, "--output", folder, **options)
    wait_for(lambda: any((folder / "checkpoints").glob("last-*.pt")))
    return process


def test_a_rank_is_killed(two, tmp_path):  # noqa: F811
    """The others leave, and the run goes on from its last checkpoint to the same bits."""
    tries = 6
    for number in range(tries):
        folder = tmp_path / f"run{number}"
        process = started(folder, *TRAIN, "--processes", "2")
        killed = ranks_of(process)
        killed[number % 2].send_signal(signal.SIGKILL)
        [(code, _, errors)] = finish([process], timeout=90)
        assert code in (137, 5), errors  # of the one that was killed, or of the one that saw it first
        assert "Traceback" not in errors
        assert not any(rank.is_running() and rank.status() != "zombie" for rank in killed.values())
        [(code, _, errors)] = finish([start_residual("train", "--resume", folder, "--processes", "2")])
        assert code == 0, errors
        assert_same(folder, two[0])
    happened = "the others left with one line; resumed, the run ended with the bits of one never stopped"
    faults.record(11, "one of two ranks killed", tries, happened)


def test_torchrun_starts_a_killed_rank_again(two, tmp_path):  # noqa: F811
    tries = 3
    for number in range(tries):
        folder = tmp_path / f"run{number}"
        launcher = (*TORCHRUN, "--max-restarts", "2")
        process = started(folder, *TRAIN, launcher=launcher)
        ranks_of(process)[number % 2].send_signal(signal.SIGKILL)
        [(code, _, errors)] = finish([process])
        assert code == 0, errors
        assert_same(folder, two[0])
    happened = "torchrun started both again, which went on from the last checkpoint to the same bits"
    faults.record(11, "one of two ranks killed under torchrun --max-restarts 2", tries, happened)


def test_a_rank_hangs(tmp_path):
    tries = 3
    for number in range(tries):
        rank_file = ["-m", "residual", *LONG, "--device", "cpu", "--output", str(tmp_path / f"run{number}")]
        both = start_ranks(rank_file, RESIDUAL_RANK_TIMEOUT="8")
        wait_for(lambda n=number: any((tmp_path / f"run{n}" / "checkpoints").glob("last-*.pt")))
        hanging, waiting = both[number % 2], both[1 - number % 2]
        os.kill(hanging.pid, signal.SIGSTOP)
        _, errors = waiting.communicate(timeout=60)
        assert waiting.returncode == 5
        assert "another process of this run has ended, or does not answer" in errors
        assert "Traceback" not in errors
        hanging.kill()
        hanging.communicate()
    happened = "the other left within RESIDUAL_RANK_TIMEOUT with one line"
    faults.record(11, "one of two ranks stopped without an end (SIGSTOP)", tries, happened)


def test_the_launcher_is_killed(tmp_path):
    """Nobody is left to stop the ranks: they see it themselves, save and end."""
    tries = 3
    for number in range(tries):
        folder = tmp_path / f"run{number}"
        process = started(folder, *LONG, "--processes", "2")
        left = ranks_of(process)
        process.kill()
        process.communicate()
        wait_for(lambda left=left: not any(rank.is_running() for rank in left.values()), 60)
        newest = max((folder / "checkpoints").glob("last-*.pt"))
        assert torch.load(newest, weights_only=True)["step"] == int(newest.stem.rpartition("-")[2])
    faults.record(11, "the launcher of --processes 2 killed", tries, "the ranks saved and ended")


def test_two_jobs_at_once(two, tmp_path):  # noqa: F811
    tries = 3
    for number in range(tries):
        folders = [tmp_path / f"{number}{name}" for name in "ab"]
        jobs = [start_residual(*TRAIN, "--processes", "2", "--output", folder) for folder in folders]
        for code, _, errors in finish(jobs):
            assert code == 0, errors
        for folder in folders:
            assert_same(folder, two[0])
    happened = "both ended with the bits of one alone: each takes a port that is free"
    faults.record(11, "two jobs of two ranks at once on one machine", tries, happened)


def test_an_odd_number_of_images(tmp_path):
    """Each of two ranks evaluates its share; the figures are those of one process."""
    from rank_work import CPU, odd_test_set

    network, split, preprocessing = odd_test_set()
    counts = (10_001, 10_000, 9_999, 501, 500, 251, 250, 249, 2, 1)
    script = (
        "import sys, json, torch; sys.path.insert(0, sys.argv[1]); import rank_work as w\n"
        "from residual.data.dataset import Split; from residual.runtime import ranks\n"
        "with ranks.joined():\n"
        "    network, split, how = w.odd_test_set()\n"
        f"    for count in {counts}:\n"
        "        few = Split(split.images[:count], split.labels[:count])\n"
        "        found = w.evaluate_split(network, few, how, w.CPU, part=ranks.own())\n"
        "        if ranks.is_first(): print(json.dumps(found.as_dict()))\n"
    )
    here = os.path.dirname(__file__)  # noqa: PTH120
    results = finish(start_ranks(["-c", script, here]))
    assert [code for code, _, _ in results] == [0, 0], results
    lines = [json.loads(line) for line in results[0][1].splitlines()]
    for count, found in zip(counts, lines, strict=True):
        few = Split(split.images[:count], split.labels[:count])
        expected = evaluate_split(network, few, preprocessing, CPU).as_dict()
        assert found["images"] == count
        assert found["confusion"] == expected["confusion"]
        assert found["error"] == expected["error"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-12)
    happened = "no hang; the confusion matrix is the single process's, each image counts once"
    faults.record(12, "10,001 images, and nine other numbers, over two ranks", len(counts), happened)
