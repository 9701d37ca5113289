"""Several runs at once: the same results as one after the other, and no result lost when stopped."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import torch

import residual
from residual.errors import DataError, InterruptedRunError
from residual.training.checkpoint import find_checkpoint, load_checkpoint
from residual.training.jobs import Job, run_jobs
from residual.training.run_folder import Run


def recipe(**changes):
    settings = {"iterations": 8, "batch_size": 32, "curve": "none", "checkpoint_every": 2}
    return residual.get_recipe("demo", "resnet8").replace({**settings, **changes})


@pytest.mark.slow
def test_jobs_at_once_give_what_single_runs_give(tmp_path, monkeypatch):
    def full(_):
        raise RuntimeError("unable to write to /dev/shm: no space left on device")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)  # as where /dev/shm is small
    jobs = [Job(recipe(seed=seed), tmp_path / f"seed{seed}") for seed in range(3)]
    assert run_jobs(jobs, 2) == {job.output: 0 for job in jobs}
    alone = residual.train(recipe(seed=1), output=tmp_path / "alone")
    together = Run.open(tmp_path / "seed1").result
    assert together["error"] == pytest.approx(alone.error, abs=1)  # the number of threads may differ
    before = (tmp_path / "seed0" / "result.json").read_bytes()
    run_jobs(jobs, 2)
    assert (tmp_path / "seed0" / "result.json").read_bytes() == before, "finished runs are left as they are"


def test_a_failed_run_stops_no_other(tmp_path, capfd):
    jobs = [
        Job(recipe(batch_size=5000), tmp_path / "too-large"),
        Job(recipe(), tmp_path / "good"),
    ]
    assert run_jobs(jobs, 1) == {tmp_path / "too-large": 2, tmp_path / "good": 0}
    assert "batch_size" in capfd.readouterr().err


def test_a_signal_saves_the_runs_in_progress_and_another_call_goes_on(tmp_path):
    settings = {"iterations": 60, "log_every": 1, "checkpoint_every": 10**6}  # saved at the signal or never
    jobs = [Job(recipe(**settings, seed=seed), tmp_path / f"seed{seed}") for seed in range(2)]
    first = jobs[0].output

    def stop_when_it_trains():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (first / "metrics.jsonl").is_file():
            time.sleep(0.05)
        signal.raise_signal(signal.SIGTERM)

    thread = threading.Thread(target=stop_when_it_trains)
    thread.start()
    with pytest.raises(InterruptedRunError):
        run_jobs(jobs, 1)
    thread.join()
    logged = Run.open(first).metrics("train")[-1]["step"]
    assert load_checkpoint(find_checkpoint(first / "checkpoints"))["step"] == logged < 60
    assert not jobs[1].output.exists(), "no new run was begun"
    assert set(run_jobs(jobs, 1).values()) == {0}
    whole = residual.train(jobs[0].recipe, output=tmp_path / "whole")
    assert Run.open(first).result["model_sha256"] == whole.figures["model_sha256"]


def test_seeds_on_the_command_line(cli, tmp_path):
    settings = ["--data", "digits", "--iterations", "3", "--set", "curve=none"]
    code, out, _ = cli(
        "train", "resnet8", *settings, "--seeds", "2", "--jobs", "2", "--output", str(tmp_path / "s")
    )
    assert code == 0
    assert "over 2 seeds" in out
    assert {path.name for path in (tmp_path / "s").iterdir()} == {"resnet8-seed0", "resnet8-seed1"}
    assert cli("train", "resnet8", "--data", "digits", "--seeds", "2")[0] == 2


def test_images_that_no_place_has_room_for_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(DataError, match="no room"):
        run_jobs([Job(recipe(), tmp_path / "run")], 1)
    assert not (tmp_path / "run").exists()


LONG = ["--data", "digits", "--iterations", "100000", "--set", "batch_size=16", "--set", "curve=none"]
LONG += ["--set", "log_every=1", "--set", "checkpoint_every=100000"]  # saved when it is stopped or never


@pytest.fixture
def long_jobs(tmp_path):
    """Begin two long runs by one command, in a process group of its own; give the command and the runs."""
    command = [sys.executable, "-m", "residual", "train", "resnet8", *LONG]
    command += ["--seeds", "2", "--jobs", "2", "--output", str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    runs = [tmp_path / f"resnet8-seed{seed}" for seed in range(2)]
    with subprocess.Popen(command, start_new_session=True, **pipes) as process:
        try:
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline and not all((run / "metrics.jsonl").is_file() for run in runs):
                assert process.poll() is None
                time.sleep(0.05)
            yield process, runs
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def assert_saved_at_the_last_step(run):
    step = load_checkpoint(find_checkpoint(run / "checkpoints"))["step"]
    assert Run.open(run).metrics("train")[-1]["step"] == step


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_the_runs_of_a_killed_parent_are_saved_and_stop(long_jobs):
    process, runs = long_jobs
    process.kill()
    _, err = process.communicate(timeout=120)  # ends when nobody holds these pipes any more
    assert "Traceback" not in err
    for run in runs:
        assert_saved_at_the_last_step(run)


@pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
def test_control_c_stops_and_saves_all_runs_and_says_how_to_go_on(long_jobs):
    process, runs = long_jobs
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of them
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert sorted(out.splitlines()) == [f"{run}: stopped" for run in runs]
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith("residual: stopped; ")
    assert "same command resumes" in err.splitlines()[-1]
    for run in runs:
        assert_saved_at_the_last_step(run)
