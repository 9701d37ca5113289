"""Shards on a server read in blocks: the folder's batches, each block asked for once, faults by name."""

import errno
import gc
import os
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import residual
from conftest import comparable
from residual.data import workers as workers_module
from residual.data.decoded import keep_decoded
from residual.data.folder import load_folder
from residual.data.photo_batches import epoch_order
from residual.data.photos import SourceError
from residual.data.shards import blocks, order, store
from residual.data.shards.write import write_shards
from residual.errors import InterruptedRunError
from test_shards import batches
from test_train_photographs import small

pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
IMAGES, BLOCK = 24, 3


@pytest.fixture(autouse=True)
def little(monkeypatch, tmp_path):
    """Make blocks so small that 24 images are eight; keep them where a test can look; wait for nothing."""
    monkeypatch.setattr(order, "BLOCK", BLOCK)
    monkeypatch.setattr(order, "MIXED", 2)
    monkeypatch.setattr(order, "AHEAD", 2)
    monkeypatch.setattr(store, "WAIT", 0.0)
    (tmp_path / "kept").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "kept"))
    epoch_order.cache_clear()
    yield
    epoch_order.cache_clear()
    for _ in range(100):  # threads that try again may still hold it
        gc.collect()
        kept = [path for path in (tmp_path / "kept").rglob("*") if path.name.isdigit()]
        if not kept:
            return
        time.sleep(0.1)
    pytest.fail("blocks are not removed with the batches")


@pytest.fixture(scope="module")
def shards(photographs, tmp_path_factory):
    """Write the shared photographs as shards, three of training and two of test images."""
    out = tmp_path_factory.mktemp("blocks") / "out"
    write_shards(photographs, out, size=60_000)
    return out


@pytest.fixture
def url(server, shards):
    """Serve them."""
    server.files = {f"/pets/{path.name}": path.read_bytes() for path in shards.iterdir()}
    return f"{server.url}/pets"


@pytest.fixture
def folders(photographs):
    """Give the batches of the folder in this order."""
    return batches(load_folder(photographs).train, 0, "blocks")


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folder_and_a_block_is_one_request(
    workers, folders, url, server, monkeypatch
):
    monkeypatch.setattr(order, "AHEAD", 100)  # so many are kept that none is read twice
    photos = load_folder(url).train
    server.seen.clear()
    assert batches(photos, workers, "blocks") == folders
    asked = Counter((path, wanted) for path, wanted, _ in server.seen)
    crossing = len({name for name, _, _ in map(photos.source._part, range(IMAGES))}) - 1
    assert set(asked.values()) == {1}, "none twice, whichever worker needs it"
    assert IMAGES // BLOCK <= len(asked) <= IMAGES // BLOCK + crossing
    assert folders != batches(photos, 0), "another order than the full shuffle"


def test_shards_on_the_disk_give_the_same_batches_and_keep_nothing(folders, shards):
    assert batches(load_folder(shards).train, 0, "blocks") == folders


def test_a_block_that_was_dropped_is_read_again(folders, url, server, monkeypatch):
    monkeypatch.setattr(order, "images_kept", lambda apart: 1)
    photos = load_folder(url).train
    server.seen.clear()
    assert batches(photos, 0, "blocks") == folders
    assert len(server.seen) > 10


def test_images_far_apart_in_a_shard_are_asked_for_alone(folders, url, server, monkeypatch):
    monkeypatch.setattr(blocks, "GAP", 0)
    photos = load_folder(url).train
    server.seen.clear()
    assert batches(photos, 0, "blocks") == folders
    assert max(length for _, _, length in server.seen) <= max(len(photos.content(n)) for n in range(IMAGES))


def test_a_cut_is_tried_again_and_a_server_that_is_gone_is_named(folders, url, server):
    photos = load_folder(url).train
    cuts = [100, 0, None]

    def answer(handler):
        server.cut = cuts.pop(0) if cuts else None
        handler.send_file()

    server.answer = answer
    assert batches(photos, 0, "blocks") == folders
    server.answer = lambda handler: handler.send_error(503)
    with pytest.raises(SourceError, match=r"/pets/train-00000\d\.tar at byte [\d,]+, tried 4 times: 503"):
        batches(photos, 2, "blocks")


def test_a_server_that_stalls_is_named_within_the_time(url, server, monkeypatch):
    photos, done = load_folder(url).train, threading.Event()
    monkeypatch.setattr(store, "TIMEOUT", 0.1)
    monkeypatch.setattr(store, "SLOWEST", 1e9)
    server.answer = lambda handler: done.wait(20)
    try:
        with pytest.raises(SourceError, match=r"at byte [\d,]+, tried 4 times: no complete answer in 0 s"):
            batches(photos, 0, "blocks")
    finally:
        done.set()


def test_a_full_disk_is_one_line(url, monkeypatch):
    photos = load_folder(url).train

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    message = (
        "cannot keep what was read of http.*/pets: No space left on device; set TMPDIR to a folder with room"
    )
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(SourceError, match=message):
            batches(photos, 0, "blocks")
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(SourceError, match=message):
        batches(photos, 0, "blocks")


@pytest.mark.parametrize("which", ["shuffle", "blocks"])
def test_images_that_are_kept_decoded_are_not_asked_for_again(which, url, server, tmp_path):
    photos = keep_decoded(load_folder(url).train, 32, 1 << 30, tmp_path / "decoded")
    server.seen.clear()
    batches(photos, 0, which)
    assert not server.seen


@pytest.mark.slow
def test_batches_of_processes_that_are_spawned_are_the_same(url, monkeypatch):
    monkeypatch.undo()  # a new process has the usual sizes
    photos = load_folder(url).train
    expected = batches(photos, 0, "blocks")
    monkeypatch.setattr(workers_module, "START", "spawn")
    assert batches(photos, 1, "blocks") == expected


@pytest.mark.slow
def test_a_run_is_that_on_the_folder_and_resumes_in_mid_epoch(photographs, url, tmp_path, stop_at):
    recipe = small("imagenet-modern", iterations=6, checkpoint_every=2, order="blocks")
    residual.train(recipe, data_dir=photographs, output=tmp_path / "whole", workers=0)

    def stop(_):
        raise InterruptedRunError("stopped", 15)

    restore = stop_at(3, stop)
    with pytest.raises(InterruptedRunError):
        residual.train(recipe, data_dir=url, output=tmp_path / "cut", workers=1)
    restore()
    residual.resume(tmp_path / "cut", workers=2)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")
