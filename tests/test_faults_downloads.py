"""Downloads that are cut, slow, stalled, altered, sent in circles or a page of HTML: resumed or refused."""

import gc
import itertools
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

import residual
from conftest import use_hub
from faults import record
from hub import NAME
from residual.data import archive
from residual.data.archive import download
from residual.data.decode import BadImageError
from residual.data.folder import load_folder
from residual.data.photos import SourceError
from residual.data.shards import store
from residual.data.shards.verify import verify_shards
from residual.errors import CheckpointError, DataError
from test_archive import CONTENT, MD5, SIZE, everything, in_step, part_of, reply
from test_hub import stand_in, state  # noqa: F401
from test_remote_shards import shards, url  # noqa: F401

PAGE = b"<html><title>Please log in</title></html>"
SECRET = b"not to be read"


def redirected(*places: str):
    """Send the client from each place to the next, and from the last to the first."""
    turns = itertools.cycle(places)

    def answer(handler):
        handler.send_response(random.choice((301, 302, 303, 307, 308)))
        handler.send_header("Location", next(turns))
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def dripping(done: threading.Event, head: bytes, drop: bytes):
    """Send something, and then a little from time to time, or nothing, until the client has gone."""

    def answer(handler):
        handler.wfile.write(head)
        while not done.wait(0.02):
            handler.wfile.write(drop)

    return answer


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "file.bin"


def finish(server, address, target):
    """The server answers as it should: the download is completed."""
    server.answer, server.cut = None, None
    download(address, target, MD5)
    assert target.read_bytes() == CONTENT
    assert everything(target.parent) == {"file.bin"}
    target.unlink()


@pytest.fixture
def address(server):
    server.files["/file.bin"] = CONTENT
    return f"{server.url}/file.bin"


@pytest.mark.faults
def test_a_download_that_is_cut_anywhere_is_resumed(server, address, target):
    draw, tries = random.Random(0), 100
    for _ in range(tries):
        server.seen.clear()
        server.chunked = draw.random() < 0.3
        cuts = sorted(draw.sample(range(SIZE), draw.choice((1, 1, 2, 3))))
        had = 0
        for cut in cuts:  # each try gets on from where the last one was cut
            server.cut = cut - had
            with pytest.raises(DataError, match=r"file\.bin"):
                download(address, target, MD5)
            assert not target.exists()
            had = part_of(target).stat().st_size if part_of(target).exists() else 0
            assert part_of(target).read_bytes() == CONTENT[:had] if had else True
        server.chunked = False
        finish(server, address, target)
        assert server.seen[-1][2] == SIZE - had, "nothing is sent twice"
    record(9, "a download cut at random bytes", tries, "refused by name, kept in .part, then resumed there")


@pytest.mark.faults
def test_a_download_that_stalls_or_drips_is_given_up_and_resumed(server, address, target, monkeypatch):
    monkeypatch.setattr(archive, "TIMEOUT_SECONDS", 0.3)
    draw, tries, head = random.Random(1), 30, b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE
    for number in range(tries):
        done, sent = threading.Event(), draw.randrange(SIZE)
        start = (b"", head[:20], head, head + CONTENT[:sent])[number % 4]
        server.answer = dripping(done, start, b"" if number % 3 else start[:1] and b"x")
        if number % 4 == 3 and not number % 3:  # the drops would be content
            server.answer = dripping(done, start, b"")
        began = time.monotonic()
        try:
            with pytest.raises(DataError, match=r"file\.bin"):
                download(address, target, MD5)
        finally:
            done.set()
        assert time.monotonic() - began < 60, "bounded"
        assert not target.exists()
        part_of(target).unlink(missing_ok=True) if number % 4 == 2 else None
        finish(server, address, target)
    record(
        9,
        "a download that stalls before or in its answer",
        tries,
        "given up within the time limit, then resumed",
    )


@pytest.mark.faults
def test_a_slow_download_is_given_up_and_resumed(server, address, target, monkeypatch):
    draw, tries = random.Random(2), 20
    for _ in range(tries):
        size = draw.randrange(1, archive.SLOWEST)
        monkeypatch.setattr(archive, "monotonic", itertools.count().__next__)  # each look at the clock: 1 s
        server.answer = in_step(part_of(target), [size] * 40)
        with pytest.raises(DataError, match=r"only .* bytes in 30 s; try again"):
            download(address, target, MD5)
        assert part_of(target).read_bytes() == CONTENT[: 30 * size]
        monkeypatch.setattr(archive, "monotonic", time.monotonic)
        finish(server, address, target)
    record(9, "a download of less than 1 KiB a second", tries, "given up after 30 s, then resumed")


@pytest.mark.faults
def test_an_altered_download_is_refused(server, address, target):
    draw, tries = random.Random(3), 100
    for _ in range(tries):
        content = bytearray(CONTENT)
        content[draw.randrange(SIZE)] ^= 1 << draw.randrange(8)
        server.files["/file.bin"] = bytes(content)
        with pytest.raises(DataError, match=f"{address} is corrupted.*{MD5}"):
            download(address, target, MD5)
        assert everything(target.parent) == set()
        server.files["/file.bin"] = CONTENT
        if draw.random() < 0.1:
            finish(server, address, target)
    record(9, "a download with one bit altered", tries, "refused by its MD5, by name; nothing kept")


@pytest.mark.faults
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # urllib forgets to close some
def test_redirects_without_end_and_to_elsewhere_are_refused(server, address, target, tmp_path):
    (tmp_path / "secret").write_bytes(SECRET)
    kinds = {
        "to itself": [address],
        "in a circle": [f"{server.url}/a", f"{server.url}/b", address],
        "ever longer": [f"{server.url}/{'a/' * number}" for number in range(50)],
        "to a file": [(tmp_path / "secret").as_uri()],
        "nowhere": ["http://"],
        "to no address": ["\x00://[", "http://[", "//"],
    }
    tries = 0
    for kind, places in kinds.items():
        for left in (b"", CONTENT[:1000]):
            for _ in range(5):
                target.parent.mkdir(exist_ok=True)
                part_of(target).write_bytes(left)
                server.answer = redirected(*places)
                with pytest.raises(DataError, match=r"file\.bin"):
                    download(address, target, MD5)
                assert not target.exists(), kind
                assert part_of(target).read_bytes() == left
                tries += 1
    finish(server, address, target)
    gc.collect()
    record(
        9,
        "a download redirected in a loop, to a file or nowhere",
        tries,
        "refused by name; what was there is kept",
    )


@pytest.mark.faults
def test_a_page_in_place_of_a_file_is_refused(server, address, target):
    draw, tries = random.Random(4), 60
    for number in range(tries):
        had, size = draw.randrange(1, SIZE) if number % 2 else 0, draw.choice((len(PAGE), 5000, 0))
        target.parent.mkdir(exist_ok=True)
        part_of(target).write_bytes(CONTENT[:had]) if had else part_of(target).unlink(missing_ok=True)
        server.answer = reply(draw.choice((200, 200, 403, 404, 500, 503)), PAGE, Content_Length=str(size))
        with pytest.raises(DataError, match=r"file\.bin"):
            download(address, target, MD5)
        assert not target.exists()
        assert not had or part_of(target).read_bytes() == CONTENT[:had]
        if not had:
            part_of(target).unlink(missing_ok=True)
        if number % 10 == 1:
            finish(server, address, target)
    record(9, "a page of HTML in place of a download", tries, "refused by name; what was there is kept")


def test_a_download_without_end_is_given_up(server, address, target, monkeypatch):
    monkeypatch.setattr(archive, "MOST", 100_000)

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(50_000))

    server.answer = endless
    with pytest.raises(DataError, match=r"cannot download .*file\.bin.* more than 100,000 bytes came"):
        download(address, target, MD5)
    assert not target.exists()
    assert part_of(target).stat().st_size == 0


def test_an_answer_whose_headers_drip_is_given_up(server, address, target, monkeypatch):
    monkeypatch.setattr(archive, "TIMEOUT_SECONDS", 0.2)
    done = threading.Event()
    server.answer = dripping(done, b"HTTP/1.0 200 OK\r\nX-Long: ", b"a")
    try:
        with pytest.raises(DataError, match=r"cannot download .*file\.bin.*no answer in 0\.2 s"):
            download(address, target, MD5)
    finally:
        done.set()


@pytest.mark.faults
def test_nothing_is_half_unpacked_whatever_the_mirror_does(tmp_path, fake_cifar10, server, cli, monkeypatch):
    monkeypatch.setenv("RESIDUAL_MIRROR", server.url)
    path, whole, draw = f"/{fake_cifar10.release.archive}", fake_cifar10.archive, random.Random(5)
    altered = bytearray(whole)
    altered[len(whole) // 2] ^= 4
    tries = 0
    for number in range(8):
        faults = {
            "cut": lambda: setattr(server, "cut", draw.randrange(len(whole))),
            "altered": lambda: server.files.update({path: bytes(altered)}),
            "page": lambda: setattr(server, "answer", reply(200, PAGE)),
            "circle": lambda: setattr(server, "answer", redirected(f"{server.url}{path}")),
        }
        for fault in faults:
            root = tmp_path / f"{number}-{fault}"
            server.files[path] = whole
            faults[fault]()
            code, _, err = cli("data", "fetch", "cifar10", "--data-dir", root)
            server.cut, server.answer = None, None
            assert (code, "Traceback" in err) == (3, False), err
            assert err.splitlines()[-1].startswith("residual: no cifar10 in ")
            left = everything(root) if root.exists() else set()
            assert left <= {f"{fake_cifar10.release.archive}.part"}, "nothing is unpacked"
            tries += 1
            server.files[path] = whole
            assert cli("data", "fetch", "cifar10", "--data-dir", root)[0] == 0
    record(
        9,
        "residual data fetch from a broken mirror",
        tries,
        "exit code 3 and one line; then fetched and verified",
    )


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from residual.data.archive import extract
from residual.errors import DataError

archive, out, tries = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
began = time.monotonic()
extract(archive, "pictures", out)
seconds, whole = time.monotonic() - began, sorted(path.name for path in (out / "pictures").iterdir())
killed, draw = 0, random.Random(0)
for _ in range(tries):
    (out / "pictures").rename(out / "old") if (out / "pictures").exists() else None
    child = os.fork()
    if not child:
        extract(archive, "pictures", out)
        os._exit(0)
    time.sleep(draw.uniform(0, 1.2 * seconds))
    os.kill(child, signal.SIGKILL)
    killed += os.waitpid(child, 0)[1] == signal.SIGKILL
    if (out / "pictures").exists():
        assert sorted(path.name for path in (out / "pictures").iterdir()) == whole
    else:
        assert (out / "old").exists() or True
    for left in (out / "old", out / "pictures"):
        os.system(f"rm -rf '{left}'")
print(killed)
"""


@pytest.mark.faults
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_kill_while_unpacking_leaves_no_half_folder(tmp_path):
    from test_archive import member, pack

    path = pack(tmp_path / "a.tar.gz", [member(f"pictures/{number}.bin") for number in range(200)])
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", KILLED, str(path), str(tmp_path / "out"), "50"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5, "it was killed while it unpacked"
    record(9, "killed while unpacking an archive", 50, "the folder is whole or not there")


# shards on a server


@pytest.mark.faults
def test_shards_whose_connections_are_cut_or_stall(server, url, monkeypatch):  # noqa: F811
    photos, draw, tries = load_folder(url).train, random.Random(6), 60
    whole = [photos.content(index) for index in range(len(photos))]
    monkeypatch.setattr(store, "TIMEOUT", 0.3)
    monkeypatch.setattr(store, "SLOWEST", 1e9)
    for number in range(tries):
        index, faults = draw.randrange(len(photos)), draw.randrange(1, 5)
        left = [faults]

        def answer(handler, left=left, number=number):
            left[0] -= 1
            server.cut = None
            if left[0] >= 0 and number % 6 == 5:
                time.sleep(0.5)  # later than is waited for
            elif left[0] >= 0:
                server.cut = draw.randrange(300)
            handler.send_file()

        server.answer = answer
        if faults < store.TRIES:
            assert photos.ahead([index]).content(index) == whole[index]
        else:
            with pytest.raises(SourceError, match=r"cannot read http.*\.tar at byte .*, tried 4 times"):
                photos.ahead([index]).content(index)
    record(
        9,
        "shards on a server that cuts or stalls",
        tries,
        "tried again; after four times named with shard and byte",
    )


@pytest.mark.faults
def test_shards_that_are_altered_replaced_by_a_page_or_sent_in_circles(server, url):  # noqa: F811
    photos, draw, names = load_folder(url).train, random.Random(7), sorted(server.files)
    original, tries = dict(server.files), 0
    for name in names * 8:
        content = bytearray(original[name])
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        server.files = {**original, name: bytes(content)}
        with pytest.raises(DataError) as caught:
            list(verify_shards(url))
        assert url in str(caught.value)
        server.files[name] = PAGE
        with pytest.raises((DataError, BadImageError)) as caught:
            list(verify_shards(url))
        assert url in str(caught.value)
        tries += 2
    server.files = original
    for place in (f"{url}/shards.json", f"{url}/train-000000.tar"):
        server.answer = redirected(place)
        for read in (lambda: load_folder(url), lambda: photos[0]):
            with pytest.raises(SourceError, match=f"cannot read {url}"):
                read()
            tries += 1
    record(
        9,
        "shards altered, replaced by a page or redirected in a loop",
        tries,
        "named; verify finds each altered bit",
    )


# models of the hub


@pytest.mark.faults
def test_a_hub_that_alters_cuts_stalls_or_sends_in_circles(stand_in, monkeypatch):  # noqa: F811
    draw, tries = random.Random(8), 0
    whole = residual.create_model(NAME)
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "1")

    def altered(content):
        changed = bytearray(content)
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
        return bytes(changed)

    faults = {
        "altered": {"changed": altered},
        "page": {"changed": lambda _: PAGE},
        "page of the same length": {"changed": lambda content: PAGE.ljust(len(content))},
        "cut": {"short": True},
        "circle": {"loop": True},
        "refused": {"error": (503, "")},
    }
    from huggingface_hub import constants

    for number in range(4):
        for kind, change in faults.items():
            cache = f"{constants.HF_HUB_CACHE}-{number}-{kind.replace(' ', '-')}"
            monkeypatch.setattr(constants, "HF_HUB_CACHE", cache)
            for key, value in change.items():
                monkeypatch.setattr(stand_in, key, value)
            with pytest.raises(CheckpointError, match=r"hf-hub:someone/net|by its digest|model\.safetensors"):
                residual.create_model(NAME)
            for key, value in (("changed", bytes), ("short", False), ("loop", False), ("error", None)):
                monkeypatch.setattr(stand_in, key, value)
            tries += 1
    use_hub(monkeypatch, "http://127.0.0.1:1")
    assert whole is not None
    record(
        9,
        "a model of the hub altered, cut, a page or a loop",
        tries,
        "refused by name; what is altered by its digest",
    )
