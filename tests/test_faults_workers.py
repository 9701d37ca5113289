"""Worker processes that are killed or hang, and parents that are killed: an error in time, and no orphan."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
import torch

import residual
from faults import record
from residual.data import workers as in_workers
from residual.data.workers import map_in_workers
from residual.errors import DataError
from residual.training.checkpoint import find_checkpoint, load_checkpoint
from test_jobs import LONG
from test_train_photographs import small
from test_workers import batches, children, photos  # noqa: F401

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def gone(pids):
    """Wait for processes to end; a zombie whose parent has not looked yet has ended."""

    def ended(pid):
        try:
            return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return wait_until(lambda: all(map(ended, pids)))


def slowly(key):
    time.sleep(0.002)
    return torch.full((1000,), key)


@pytest.mark.faults
def test_a_worker_killed_at_any_moment_is_one_line_and_leaves_nobody():
    before, draw, tries, seen = children(), random.Random(0), 100, 0
    for _ in range(tries):
        values, count, fault = map_in_workers(slowly, range(200), 3), 0, None
        next(values)
        victim = draw.choice(sorted(child.pid for child in children() - before))
        killer = threading.Timer(draw.uniform(0, 0.1), os.kill, (victim, signal.SIGKILL))
        killer.start()
        try:
            count = sum(1 for _ in values)
        except DataError as error:
            fault = str(error)
        assert count == 199 or fault.startswith("a worker process was killed by SIGKILL")
        seen += fault is not None
        with contextlib.suppress(ProcessLookupError):
            killer.join()
        values.close()
        assert children() == before
    assert seen > tries // 2
    record(10, "a worker killed at random moments", tries, "one line at once, no process left")


def stopping(key):
    if key == 5:
        os.kill(os.getpid(), signal.SIGSTOP)
    return key


def looping(key):
    while key == 5:
        pass
    return key


def sleeping(key):
    if key == 5:
        time.sleep(10_000)
    return key


def locked(key):
    if key == 5:
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()
    return key


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(in_workers, "LONGEST", 1)


def test_a_worker_that_hangs_is_an_error_in_time(impatient):
    before = children()
    with pytest.raises(DataError, match="a worker process has given nothing for 1 s, so it hangs"):
        list(map_in_workers(sleeping, range(10), 2))
    assert children() == before


@pytest.mark.faults
def test_workers_that_hang_in_every_way_are_an_error_in_time(impatient, photos):  # noqa: F811
    before, tries = children(), 0
    for function in (stopping, looping, sleeping, locked) * 5:
        got = []
        with pytest.raises(DataError, match="so it hangs"):
            got.extend(map_in_workers(function, range(20), 1 + tries % 3))
        assert got == list(range(len(got)))
        assert children() == before
        tries += 1
    for _ in range(5):  # those of a run
        made = batches(photos, workers=2)
        made[0]
        for worker in children() - before:
            worker.suspend()
        with pytest.raises(DataError, match="so it hangs"):
            [made[step] for step in range(1, 8)]
        made[0]  # they start again
        made.close()
        assert children() == before
        tries += 1
    record(
        10,
        "a worker that stops, loops, sleeps or waits for itself",
        tries,
        "one line within the limit, no process left",
    )


PARENT = """
import os, sys, time
from residual.data.workers import map_in_workers

def work(key):
    if key >= 2 and sys.argv[1] == "sleep":
        time.sleep(10_000)
    while key >= 2 and sys.argv[1] == "loop":
        pass
    return os.getpid(), bytes(1_000_000)

values = map_in_workers(work, range(10**9), 2)
print(*(next(values)[0] for _ in range(2)), flush=True)
time.sleep(600)
"""


def kill_parent(how, seconds):
    with subprocess.Popen([sys.executable, "-c", PARENT, how], stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(workers) == 2
        time.sleep(seconds)
        parent.kill()
        parent.wait(60)
    try:
        return gone(workers)
    finally:
        for pid in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


needs_fork = pytest.mark.skipif(
    in_workers.START != "fork", reason="the script has no module for spawned workers"
)


@needs_fork
@pytest.mark.slow
def test_a_worker_that_hangs_ends_with_its_parent():
    assert kill_parent("sleep", 0.2)


@needs_fork
@pytest.mark.faults
def test_workers_that_hang_or_work_end_with_their_parent():
    draw, tries = random.Random(1), 12
    for number in range(tries):
        assert kill_parent(("work", "sleep", "loop")[number % 3], draw.uniform(0, 0.5))
    record(10, "the parent of workers killed, some of them hanging", tries, "they end within seconds")


# runs


@pytest.mark.faults
def test_a_run_whose_workers_are_killed_or_hang_stops_and_resumes(
    photographs, tmp_path, monkeypatch, stop_at
):
    recipe, draw, tries = small("imagenet-modern", iterations=60, checkpoint_every=2), random.Random(2), 4
    before = children()
    whole = residual.train(recipe, data_dir=photographs, output=tmp_path / "whole", workers=2)
    monkeypatch.setattr(in_workers, "LONGEST", 2)
    for number in range(tries):

        def fault(_, number=number):
            workers = [child for child in children() - before if child.status() != psutil.STATUS_ZOMBIE]
            victim = draw.choice(sorted(workers, key=lambda child: child.pid))
            victim.kill() if number % 2 else victim.suspend()

        step, out = draw.randrange(1, 4), tmp_path / str(number)
        restore = stop_at(step, fault)
        with pytest.raises(
            DataError, match=r"a worker process (was killed by SIGKILL|has given nothing for)"
        ):
            residual.train(recipe, data_dir=photographs, output=out, workers=2)
        restore()
        assert children() == before
        assert load_checkpoint(find_checkpoint(out / "checkpoints"))["step"] >= step - 2
        done = residual.resume(out, workers=2)
        assert done.figures["model_sha256"] == whole.figures["model_sha256"]
    record(10, "a run whose worker is killed or hangs", tries, "one line; resumed, it gives the same weights")


@pytest.mark.faults
def test_the_runs_of_a_killed_parent_of_jobs_stop_whenever_it_is_killed(tmp_path):
    draw, tries, saved = random.Random(3), 8, 0
    for number in range(tries):
        out = tmp_path / str(number)
        command = [sys.executable, "-m", "residual", "train", "resnet8", *LONG]
        command += ["--seeds", "2", "--jobs", "2", "--output", str(out)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, start_new_session=True, **pipes) as process:
            parent = psutil.Process(process.pid)
            assert wait_until(lambda: len(parent.children(recursive=True)) >= 2)  # noqa: B023
            if number % 2:  # once they train; the others while they start
                assert wait_until(lambda: any(out.glob("*/metrics.jsonl")), 300)  # noqa: B023
            time.sleep(draw.uniform(0, 2))
            family = [child.pid for child in parent.children(recursive=True)]
            process.kill()
            _, err = process.communicate(timeout=300)  # ends when nobody holds these pipes any more
        try:
            assert gone(family)
        finally:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert "Traceback" not in err, err
        for run in out.glob("*/metrics.jsonl"):
            steps = [line for line in run.read_text().splitlines() if line]
            newest = find_checkpoint(run.parent / "checkpoints")
            assert load_checkpoint(newest)["step"] == len(steps)
            saved += 1
    assert saved
    record(
        10,
        "the parent of --jobs killed",
        tries,
        "the runs are saved at their last step and stop; no process left",
    )
