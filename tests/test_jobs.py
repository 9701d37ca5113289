"""Several runs at once: the same results as one after the other, and no result lost when stopped."""

import os
import signal
import threading
import time

import pytest

import residual
from residual.checkpoint import find_checkpoint, load_checkpoint
from residual.errors import InterruptedRunError
from residual.jobs import Job, run_jobs
from residual.run import Run


def recipe(**changes):
    settings = {"iterations": 8, "batch_size": 32, "curve": "none", "checkpoint_every": 2}
    return residual.get_recipe("demo", "resnet8").replace({**settings, **changes})


def test_jobs_at_once_give_what_single_runs_give(tmp_path):
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
        os.kill(os.getpid(), signal.SIGTERM)

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
