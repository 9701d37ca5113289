"""Shards on a server, over HTTP and other file systems of fsspec: the folder's batches; faults by name."""

import threading
import time
from collections import Counter
from random import Random

import pytest
import torch

import residual
from conftest import comparable
from faults import record
from residual.data import workers as workers_module
from residual.data.folder import load_folder
from residual.data.photo_batches import epoch_order
from residual.data.photos import SourceError
from residual.data.shards import order, store
from residual.data.shards.verify import verify_shards
from residual.data.shards.write import write_shards
from residual.errors import DataError, InterruptedRunError, UsageError
from test_shards import batches
from test_train_photographs import small

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("aiohttp")
IMAGES = 24


@pytest.fixture(scope="module")
def shards(photographs, tmp_path_factory):
    """Write the shared photographs as shards."""
    out = tmp_path_factory.mktemp("remote") / "out"
    write_shards(photographs, out, size=60_000)
    return out


@pytest.fixture
def url(server, shards, monkeypatch):
    """Serve them; tries follow each other without a wait."""
    server.files = {f"/pets/{path.name}": path.read_bytes() for path in shards.iterdir()}
    monkeypatch.setattr(store, "WAIT", 0.0)
    return f"{server.url}/pets"


def test_several_images_of_a_batch_are_read_at_once(photographs, url, server):
    photos, both = load_folder(url).train, threading.Barrier(2)

    def answer(handler):
        both.wait(10)  # none is answered before another is there
        handler.send_file()

    server.answer = answer
    ahead = photos.ahead([3, 4])
    folder = load_folder(photographs).train
    assert [ahead.content(index) for index in (3, 4)] == [folder.content(index) for index in (3, 4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folder(workers, photographs, url, server):
    photos = load_folder(url).train
    server.seen.clear()
    assert batches(photos, workers) == batches(load_folder(photographs).train)
    lengths = {length for _, _, length in server.seen}
    assert max(lengths) == max(len(photos.content(index)) for index in range(IMAGES)), "images, never shards"


@pytest.mark.slow
@pytest.mark.parametrize("place", ["server", "folder"])
def test_batches_of_processes_that_are_spawned_are_the_same(place, photographs, shards, url, monkeypatch):
    monkeypatch.setattr(workers_module, "START", "spawn")
    photos = load_folder(url if place == "server" else shards).train
    assert batches(photos, 1) == batches(load_folder(photographs).train)


@pytest.mark.slow
def test_a_run_on_a_server_is_that_on_the_folder_and_resumes(photographs, url, tmp_path, stop_at, cli):
    recipe = small("imagenet-modern", iterations=6, checkpoint_every=2)
    residual.train(recipe, data_dir=photographs, output=tmp_path / "whole", workers=0)

    def stop(_):
        raise InterruptedRunError("stopped", 15)

    restore = stop_at(3, stop)
    with pytest.raises(InterruptedRunError):
        residual.train(recipe, data_dir=f"{url}/", output=tmp_path / "cut", workers=0)
    restore()
    residual.resume(tmp_path / "cut", workers=0)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")
    code, printed, err = cli("evaluate", tmp_path / "cut", "--data", url, "--workers", 0)
    assert code == 0, err
    assert f"data        {url}, the test set of the run" in printed


def test_connections_that_are_cut_are_tried_again(url, server):
    photos = load_folder(url).train
    whole, cuts = photos.content(0), [100, 0, None]

    def answer(handler):
        server.cut = cuts.pop(0)
        handler.send_file()

    server.answer = answer
    assert photos.ahead([0]).content(0) == whole
    assert cuts == []


def test_a_server_that_always_cuts_or_stalls_is_named_with_shard_and_offset(url, server, monkeypatch):
    photos = load_folder(url).train
    server.seen.clear()
    server.cut = 100
    place = r"/pets/train-000000\.tar at byte 512, tried 4 times: "
    with pytest.raises(SourceError, match=f"cannot read http.*{place}"):
        photos[0]
    assert len(server.seen) == 4
    server.cut, done = None, threading.Event()
    server.answer = lambda handler: done.wait(20)
    monkeypatch.setattr(store, "TIMEOUT", 0.1)
    monkeypatch.setattr(store, "SLOWEST", 1e9)
    began = time.monotonic()
    try:
        with pytest.raises(SourceError, match=f"{place}no complete answer"):
            photos[0]
    finally:
        done.set()
    assert time.monotonic() - began < 15, "bounded"


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_server_that_answers_with_an_error_is_asked_again_then_named(status, url, server):
    photos = load_folder(url).train
    whole, left = photos.content(0), [status] * 3

    def answer(handler):
        if left:
            handler.send_error(left.pop())
        else:
            handler.send_file()

    server.answer = answer
    assert photos.content(0) == whole
    left += [status] * 4
    with pytest.raises(SourceError, match=rf"train-000000\.tar at byte 512, tried 4 times: {status}"):
        photos.content(0)
    assert not left


def test_a_shard_on_a_server_that_is_shorter_than_in_its_index_is_named(url, server):
    photos, name = load_folder(url).train, "/pets/train-000000.tar"
    whole = server.files[name]
    server.files[name] = whole[:600]
    with pytest.raises(
        SourceError, match=r"train-000000\.tar at byte 512, tried 4 times: 88 of [\d,]+ bytes"
    ):
        photos.content(0)
    server.files[name] = whole[:400]
    with pytest.raises(SourceError, match=r"cannot read .*train-000000\.tar at byte 512"):
        photos.content(0)


@pytest.mark.faults
@pytest.mark.parametrize("which", ["shuffle", "blocks"])
def test_a_server_that_fails_at_random_gives_the_folders_batches(
    which, photographs, url, server, monkeypatch
):
    """A third of all requests is cut, stalls or has another fault, none more than three times."""
    monkeypatch.setattr(store, "TIMEOUT", 1.5)
    monkeypatch.setattr(order, "BLOCK", 2)
    monkeypatch.setattr(order, "MIXED", 2)
    epoch_order.cache_clear()
    photos, random, failed, done = load_folder(url).train, Random(0), Counter(), threading.Event()
    expected = batches(load_folder(photographs).train, 0, which)

    def answer(handler):
        key = handler.path, handler.headers.get("Range")
        fault = random.choice(["cut", "empty", "stall", 500, 503, *[""] * 10])
        if not fault or failed[key] == 3:
            failed[key] = 0
            handler.send_file()
            return
        failed[key] += 1
        tried[fault] += 1
        if fault == "stall":
            done.wait(3)
        elif isinstance(fault, int):
            handler.send_error(fault)
        else:
            handler.send_response(206)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(bytes(100 if fault == "cut" else 0))

    tried, server.answer = Counter(), answer
    try:
        for workers in (0, 2) * 5:
            assert batches(photos, workers, which) == expected
    finally:
        done.set()
        epoch_order.cache_clear()
    assert len(tried) == 5
    assert sum(tried.values()) > 30
    for fault, count in tried.items():
        record(9, f"a server of shards, {which}: {fault}", count, "tried again; the folder's batches")


def test_what_another_try_would_not_mend_is_said_at_once(url, server):
    photos = load_folder(url, on_bad_image="skip").train
    server.seen.clear()
    server.ranges = False
    with pytest.raises(SourceError, match=r"byte 512 came as .* bytes, not .*: the server must heed"):
        photos[0]
    server.ranges = True
    del server.files["/pets/train-000000.tar"]
    with pytest.raises(SourceError, match=r"cannot read .*train-000000\.tar at byte .*: it is not there"):
        batches(photos)
    assert len(server.seen) < 30
    server.files["/pets/shards.json"] = b"<html>not found</html>"
    with pytest.raises(DataError, match="is no index of shards"):
        load_folder(url)
    server.files.clear()
    with pytest.raises(DataError, match=r"cannot read http.*/pets/shards\.json"):
        load_folder(url)


def test_shards_are_verified_from_a_server(url, server):
    assert len(list(verify_shards(url))) == 5
    name = "/pets/val-000001.tar"
    server.files[name] = server.files[name][:-1] + b"x"
    with pytest.raises(DataError, match=r"val-000001\.tar is corrupted"):
        list(verify_shards(url))


def test_another_file_system_of_fsspec(photographs, shards):
    memory = fsspec.filesystem("memory")
    for path in shards.iterdir():
        memory.pipe_file(f"/bucket/pets/{path.name}", path.read_bytes())
    photos = load_folder("memory://bucket/pets").train
    folder = load_folder(photographs).train
    assert all(torch.equal(photos[index][0], folder[index][0]) for index in range(IMAGES))
    with pytest.raises(DataError, match=r"cannot read memory://bucket/none/shards\.json: it is not there"):
        load_folder("memory://bucket/none")


@pytest.mark.parametrize(
    "address", ["https://user:secret@host/pets", "s3://bucket/pets?X-Amz-Signature=1", "https://host/pets#1"]
)
def test_an_address_that_would_be_recorded_with_a_secret_is_refused(address):
    with pytest.raises(UsageError, match="neither a query nor a password"):
        load_folder(address)


def test_an_address_that_fsspec_does_not_know_or_lacks_a_library_for(cli):
    with pytest.raises(UsageError, match="fsspec knows no nonsense://"):
        load_folder("nonsense://bucket/pets")
    code, _, err = cli("train", "resnet18", "--data", "nonsense://bucket/pets")
    assert (code, "fsspec knows no nonsense://" in err) == (2, True)
