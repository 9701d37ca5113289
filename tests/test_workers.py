"""Worker processes: order, errors, death of a worker or of its parent, and an end in any case."""

import gc
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from residual.data import workers as in_workers
from residual.data.normalization import Normalization
from residual.data.photo_batches import PhotoBatches
from residual.data.photos import Photos
from residual.data.workers import map_in_workers
from residual.errors import DataError
from residual.recipes.augment import ResizedCrop

EVERYTHING = ResizedCrop(trivial=True, erase=0.5, mixup=0.2, cutmix=1.0, repeats=2)
NOTHING = Normalization(torch.zeros(3), torch.ones(3))
COUNT = 10


@pytest.fixture
def photos(tmp_path):
    random = np.random.default_rng(0)
    for number in range(COUNT):
        pixels = random.integers(0, 256, (40 + number, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    files = [f"{number}.png" for number in range(COUNT)]
    return Photos(tmp_path, files, torch.arange(COUNT), tuple("abcdefghij"))


def batches(photos, augment=EVERYTHING, batch_size=4, workers=0, normalization=NOTHING, seed=3):
    cpu = torch.device("cpu")
    return PhotoBatches(photos, normalization, 32, batch_size, augment, seed, cpu, workers=workers)


def children():
    return set(psutil.Process().children())


def equal(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_workers_start_with_the_first_batch_and_end_with_close(photos):
    before = children()
    made = batches(photos, workers=2)
    assert children() == before
    first = made[0]
    assert len(children() - before) == 2
    made.close()
    assert children() == before
    assert equal(made[0], first)
    del made
    gc.collect()
    assert children() == before


def double(key):
    if key == 7:
        raise ValueError("seven")
    if key == 9:
        os.kill(os.getpid(), signal.SIGKILL)
    if key == 11:
        raise DataError("eleven")
    return 2 * key, torch.full((300_000,), key), torch.empty(0)


def test_values_come_in_order_and_errors_as_themselves():
    values = map_in_workers(double, range(20, 31), 3)
    for key, (twice, tensor, _) in zip(range(20, 31), values, strict=True):
        assert twice == 2 * key
        assert tensor.shape == (300_000,)
        assert (tensor == key).all()
    with pytest.raises(ValueError, match="seven") as caught:
        list(map_in_workers(double, [7], 1))
    assert "in a worker process" in caught.value.__notes__[0]
    with pytest.raises(DataError, match=r"^eleven$"):
        list(map_in_workers(double, [1, 11], 2))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_worker_that_is_killed_is_one_line(photos):
    before = children()
    with pytest.raises(DataError, match=r"^a worker process was killed by SIGKILL"):
        list(map_in_workers(double, [8, 9, 10], 2))
    assert children() == before
    made = batches(photos, workers=1)
    made[0]
    for worker in children() - before:
        worker.kill()
    with pytest.raises(DataError, match="killed by SIGKILL"):
        [made[step] for step in range(1, 6)]
    made[0]  # and they start again
    made.close()
    assert children() == before


PARENT = """
import os, sys, time
from residual.data.workers import map_in_workers

def work(key):
    return os.getpid(), bytes(1_000_000)

values = map_in_workers(work, range(10**9), 2)
print(*(next(values)[0] for _ in range(2)), flush=True)
if sys.argv[1] == "wait":
    time.sleep(60)
"""


@pytest.mark.skipif(in_workers.START != "fork", reason="the script has no module for spawned workers")
@pytest.mark.parametrize("how", ["kill", "exit"])
def test_workers_end_with_their_parent(how):
    command = [sys.executable, "-c", PARENT, "wait" if how == "kill" else "exit"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        workers = [int(pid) for pid in parent.stdout.readline().split()]
        if how == "kill":
            parent.kill()
        parent.wait(30)
    deadline = time.monotonic() + 20
    while any(map(psutil.pid_exists, workers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(psutil.pid_exists, workers))


@pytest.mark.slow
def test_spawned_workers(photos, monkeypatch):
    expected = batches(photos)[1]
    monkeypatch.setattr(in_workers, "START", "spawn")
    made = batches(photos, workers=2)
    made[0]
    assert equal(made[1], expected)
    made.close()
