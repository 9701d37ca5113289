"""Downloads that break off, and archives that are truncated, corrupted or hostile."""

import contextlib
import errno
import hashlib
import io
import itertools
import shutil
import socket
import struct
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

from residual.data import archive
from residual.data.archive import download, extract
from residual.errors import DataError

CONTENT = np.random.default_rng(0).bytes(2_500_000)
MD5 = hashlib.md5(CONTENT).hexdigest()
FOLDER = "pictures"


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "file.bin"


@pytest.fixture
def url(server):
    server.files["/file.bin"] = CONTENT
    return f"{server.url}/file.bin"


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


# downloads


def test_a_whole_download_appears_under_its_name(server, url, target):
    download(url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert everything(target.parent) == {"file.bin"}
    assert server.seen == [("/file.bin", None, len(CONTENT))]


def test_an_interrupted_download_is_taken_up_again(server, url, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:1_700_000])
    download(url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert everything(target.parent) == {"file.bin"}
    assert server.seen == [("/file.bin", "bytes=1700000-", len(CONTENT) - 1_700_000)]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_that_ends_early_is_gone_on_from(server, url, target, chunked):
    server.cut, server.chunked = 1_300_000, chunked
    with pytest.raises(DataError, match=r"file\.bin"):
        download(url, target, MD5)
    assert not target.exists()
    had = part_of(target).stat().st_size
    assert 0 < had <= 1_300_000
    assert part_of(target).read_bytes() == CONTENT[:had]

    server.cut, server.chunked = None, False
    download(url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.seen[1:] == [("/file.bin", f"bytes={had}-", len(CONTENT) - had)]


def test_the_length_need_not_be_known(server, url, target):
    server.chunked = True
    download(url, target, MD5)
    assert target.read_bytes() == CONTENT


def test_a_server_that_cannot_continue_sends_all_again(server, url, target):
    server.ranges = False
    target.parent.mkdir()
    part_of(target).write_bytes(b"\0" * 1_000)
    download(url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert server.seen[-1] == ("/file.bin", None, len(CONTENT))
    assert everything(target.parent) == {"file.bin"}


def test_what_was_whole_but_not_yet_renamed_is_used(server, url, target):
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT)
    download(url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert everything(target.parent) == {"file.bin"}
    assert server.seen == []


@pytest.mark.parametrize("left", [b"x" * 10, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 5)])
def test_a_part_that_does_not_fit_is_replaced(server, url, target, left):
    target.parent.mkdir()
    part_of(target).write_bytes(left)
    target.with_name("file.bin.fresh").write_bytes(b"left by a kill")
    download(url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert everything(target.parent) == {"file.bin"}


def test_altered_content_is_refused_and_deleted(server, url, target):
    server.files["/file.bin"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(DataError, match=f"{url} is corrupted.*{MD5}"):
        download(url, target, MD5)
    assert everything(target.parent) == set()

    server.files["/file.bin"] = CONTENT
    download(url, target, MD5)
    assert target.read_bytes() == CONTENT


def test_an_altered_download_does_not_replace_what_is_there(server, url, target):
    target.parent.mkdir()
    target.write_bytes(b"the older one")
    with pytest.raises(DataError):
        download(url, target, "0" * 32)
    assert target.read_bytes() == b"the older one"


def test_a_file_that_the_server_has_not(server, target):
    with pytest.raises(DataError, match="404"):
        download(f"{server.url}/other.bin", target, MD5)
    assert everything(target.parent) == set()


def test_no_server(target):
    with pytest.raises(DataError, match=r"cannot download http://127\.0\.0\.1:1/file\.bin"):
        download("http://127.0.0.1:1/file.bin", target, MD5)
    assert everything(target.parent) == set()


@pytest.mark.parametrize("answer", [b"220 not HTTP at all\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_a_server_that_speaks_something_else(server, url, target, answer):
    server.garbage = answer
    with pytest.raises(DataError, match="cannot download"):
        download(url, target, MD5)
    assert not target.exists()


@pytest.mark.parametrize("address", ["no address", "http://127.0.0.1:port/file", "foo://host/file"])
def test_an_address_that_is_none(target, address):
    with pytest.raises(DataError, match="cannot download"):
        download(address, target, MD5)
    assert not target.exists()


def test_a_folder_that_cannot_be_made(server, url, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=str(tmp_path / "file")):
        download(url, tmp_path / "file" / "file.bin", MD5)


def reply(status: int, body: bytes, **headers: str):
    """Make a server's answer."""

    def answer(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # a close that resets the connection
HAD, SIZE = 1_700_000, len(CONTENT)
PAGE = b"<html>Please log in</html>"
BAD_ANSWERS = {
    "a page": reply(200, PAGE),
    "a page in pieces": reply(200, PAGE, Content_Length="1000000"),
    "a page called the rest": reply(206, PAGE, Content_Range=f"bytes {HAD}-{HAD + len(PAGE) - 1}/{SIZE}"),
    "bytes called the rest": reply(206, bytes(SIZE - HAD), Content_Range=f"bytes {HAD}-{SIZE - 1}/{SIZE}"),
    "another place": reply(206, CONTENT[HAD - 1 :], Content_Range=f"bytes {HAD - 1}-{SIZE - 1}/{SIZE}"),
    "another file": reply(206, PAGE, Content_Range=f"bytes {HAD}-{HAD + 25}/{HAD + 26}"),
    "an impossible range": reply(206, PAGE, Content_Range=f"bytes {HAD}-{SIZE}/{SIZE}"),
    "no range": reply(206, CONTENT[HAD:]),
    "a strange range": reply(206, CONTENT[HAD:], Content_Range="all of it"),
    "several ranges": reply(206, CONTENT[HAD:], Content_Type="multipart/byteranges; boundary=x"),
    "416": reply(416, PAGE, Content_Range=f"bytes */{HAD}"),
    "404": reply(404, PAGE),
    "503": reply(503, PAGE),
}


@pytest.mark.parametrize("kind", BAD_ANSWERS)
def test_no_bad_answer_costs_what_was_there(server, url, target, kind):
    """Bytes that the server itself calls the rest may follow: only the whole file's MD5 could tell."""
    target.parent.mkdir()
    part_of(target).write_bytes(CONTENT[:HAD])
    server.answer = BAD_ANSWERS[kind]
    with pytest.raises(DataError, match=r"file\.bin"):
        download(url, target, MD5)
    kept = part_of(target).read_bytes()
    assert kept[:HAD] == CONTENT[:HAD]
    assert len(kept) == HAD or kind == "a page called the rest"
    assert everything(target.parent) == {"file.bin.part"}

    server.answer = None
    download(url, target, MD5)
    assert target.read_bytes() == CONTENT
    assert everything(target.parent) == {"file.bin"}
    if len(kept) == HAD:
        assert server.seen == [("/file.bin", f"bytes={HAD}-", SIZE - HAD)]


def in_step(part: Path, sizes: list[int]):
    """Answer with pieces, each sent when the one before lies on the disk, and end with a reset."""

    def answer(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(SIZE))
        handler.end_headers()
        sent = 0
        for size in sizes:
            handler.wfile.write(CONTENT[sent : sent + size])
            sent += size
            for _ in range(2_000):
                if part.is_file() and part.stat().st_size >= sent:
                    break
                time.sleep(0.001)
            else:
                break
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
        handler.connection.close()

    return answer


def test_a_reset_loses_nothing_that_came(server, url, target):
    server.answer = in_step(part_of(target), [300_001, 1, 5])
    with pytest.raises(DataError, match=r"try again|reset"):
        download(url, target, MD5)
    assert part_of(target).read_bytes() == CONTENT[:300_007]


@pytest.mark.parametrize("size", [1, archive.SLOWEST - 1])
def test_a_server_that_dribbles_is_given_up(server, url, target, monkeypatch, size):
    monkeypatch.setattr(archive, "monotonic", itertools.count().__next__)  # each look at the clock: 1 s
    server.answer = in_step(part_of(target), [size] * 100)
    with pytest.raises(DataError, match=f"only {30 * size} bytes in 30 s; try again"):
        download(url, target, MD5)
    assert part_of(target).read_bytes() == CONTENT[: 30 * size]


def test_a_server_that_is_slow_but_steady_is_not(monkeypatch):
    class Answer:
        read1 = iter([b"x" * archive.SLOWEST] * 200 + [b""]).__next__

    monkeypatch.setattr(archive, "monotonic", itertools.count().__next__)
    monkeypatch.setattr(Answer, "read1", lambda self, _, read=Answer.read1: read())
    assert len(list(archive._pieces(Answer()))) == 200


# extraction


def member(name: str, kind: bytes = tarfile.REGTYPE, **fields: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def pack(path: Path, members: list[tarfile.TarInfo], mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:
        for info in members:
            content = info.name.encode() * 5_000 if info.isfile() else b""
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


GOOD = (f"{FOLDER}/a.bin", f"{FOLDER}/inner/b.bin")


@pytest.fixture
def destination(tmp_path):
    folder = tmp_path / "destination"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("prefix", ["", "./"])
def test_a_good_archive_is_extracted(tmp_path, destination, prefix):
    folders = [member(prefix + FOLDER, tarfile.DIRTYPE, mode=0o755)]
    archive = pack(tmp_path / "good.tar.gz", folders + [member(prefix + name) for name in GOOD])
    extract(archive, FOLDER, destination)
    assert everything(destination) == {FOLDER, f"{FOLDER}/inner", *GOOD}
    for name in GOOD:
        assert (destination / name).read_bytes() == (prefix + name).encode() * 5_000


HOSTILE = {
    "out by ..": member("../evil"),
    "out by .. from inside": member(f"{FOLDER}/../../evil"),
    ".. that stays inside": member(f"{FOLDER}/../{FOLDER}/evil"),
    "absolute": member("/tmp/evil"),
    "another folder": member("elsewhere/evil"),
    "beside the folder": member("evil"),
    "symbolic link": member(f"{FOLDER}/evil", tarfile.SYMTYPE, linkname="/etc/passwd"),
    "symbolic link inside": member(f"{FOLDER}/evil", tarfile.SYMTYPE, linkname="a.bin"),
    "hard link": member(f"{FOLDER}/evil", tarfile.LNKTYPE, linkname=f"{FOLDER}/a.bin"),
    "device": member(f"{FOLDER}/evil", tarfile.CHRTYPE, devmajor=1, devminor=3),
    "block device": member(f"{FOLDER}/evil", tarfile.BLKTYPE, devmajor=1, devminor=3),
    "pipe": member(f"{FOLDER}/evil", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_member_is_refused(tmp_path, destination, kind, first):
    good = [member(name) for name in GOOD]
    evil = [HOSTILE[kind]]
    archive = pack(tmp_path / "evil.tar.gz", evil + good if first else good + evil)
    before = everything(tmp_path)
    with pytest.raises(DataError, match=r"evil.tar.gz holds '.*evil'.*refused"):
        extract(archive, FOLDER, destination)
    assert everything(tmp_path) == before


def test_a_link_is_not_written_through(tmp_path, destination):
    outside = tmp_path / "outside"
    outside.mkdir()
    link = member(FOLDER, tarfile.SYMTYPE, linkname=str(outside))
    archive = pack(tmp_path / "evil.tar.gz", [link, member(f"{FOLDER}/a.bin")])
    with pytest.raises(DataError, match=r"evil\.tar\.gz"):
        extract(archive, FOLDER, destination)
    assert everything(outside) == everything(destination) == set()


@pytest.mark.parametrize("mode", ["w:gz", "w"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9])
def test_a_truncated_archive_is_refused(tmp_path, destination, mode, part):
    whole = pack(tmp_path / "whole.tar", [member(name) for name in GOOD], mode).read_bytes()
    archive = tmp_path / "cut.tar"
    archive.write_bytes(whole[: int(part * len(whole) * (0.98 if mode == "w:gz" else 0.85))])
    before = everything(tmp_path)
    with pytest.raises(DataError, match=r"cut\.tar"):
        extract(archive, FOLDER, destination)
    assert everything(tmp_path) == before


def test_damage_anywhere_ends_in_one_kind_of_error_or_none(tmp_path, destination):
    """The MD5 is compared before; this is for damage that tarfile and zlib meet, each in its own way."""
    path = tmp_path / "altered.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        letters = np.random.default_rng(1).integers(97, 105, 6_000, dtype=np.uint8).tobytes()
        for name in GOOD:
            tar.addfile(member(name, size=len(letters)), io.BytesIO(letters))
    whole = path.read_bytes()
    before = everything(tmp_path)
    errors = []
    for place in range(0, len(whole), 41):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            extract(path, FOLDER, destination)
        except DataError as error:
            errors.append(str(error))
        else:  # where only the checksum or the padding at the end was hit
            shutil.rmtree(destination / FOLDER)
        assert everything(tmp_path) == before
    assert len(errors) >= 3
    assert all("altered.tar.gz" in error for error in errors)


def test_a_size_below_zero_which_would_lead_back_to_the_same_header_is_refused(tmp_path, destination):
    header = bytearray(member(GOOD[0]).tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * ord(" ") + sum(header[156:]))
    (tmp_path / "some.tar").write_bytes(bytes(header) * 2 + bytes(1024))
    with pytest.raises(DataError, match=r"some\.tar"):
        extract(tmp_path / "some.tar", FOLDER, destination)
    assert everything(destination) == set()


def test_what_would_fill_the_disk_is_refused(tmp_path, destination, monkeypatch):
    path = pack(tmp_path / "large.tar.gz", [member(name) for name in GOOD])
    monkeypatch.setattr(archive, "MOST", 100_000)
    with pytest.raises(DataError, match=r"large\.tar\.gz would take more than 100,000 bytes unpacked"):
        extract(path, FOLDER, destination)
    assert everything(destination) == set()


@pytest.mark.parametrize("mode", ["w:bz2", "w:xz"])
def test_other_compressions_that_are_damaged_are_refused(tmp_path, destination, mode):
    path = pack(tmp_path / "altered.tar", [member(name) for name in GOOD], mode)
    whole = path.read_bytes()
    for place in range(20, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with contextlib.suppress(DataError):
            extract(path, FOLDER, destination)
        shutil.rmtree(destination / FOLDER, ignore_errors=True)
        assert everything(destination) == set()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_device_in_place_of_an_archive_is_not_read(tmp_path, destination):
    (tmp_path / "some.tar").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"some\.tar: not a regular file"):
        extract(tmp_path / "some.tar", FOLDER, destination)


def test_what_is_no_archive_is_refused(tmp_path, destination):
    (tmp_path / "page.tar.gz").write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"page\.tar\.gz"):
        extract(tmp_path / "page.tar.gz", FOLDER, destination)
    assert everything(destination) == set()


@pytest.mark.parametrize("members", [[], [member(FOLDER)]])
def test_an_archive_without_the_folder_is_refused(tmp_path, destination, members):
    archive = pack(tmp_path / "empty.tar.gz", members)
    with pytest.raises(DataError, match=f"empty.tar.gz holds no folder {FOLDER}"):
        extract(archive, FOLDER, destination)
    assert everything(destination) == set()


def test_the_folder_appears_only_when_whole(tmp_path, destination, monkeypatch):
    archive = pack(tmp_path / "good.tar.gz", [member(name) for name in GOOD])
    make = tarfile.TarFile.makefile
    made = []

    def fill_the_disk(self, info, path):
        assert not (destination / FOLDER).exists()
        if made:
            raise OSError(errno.ENOSPC, "No space left on device")
        make(self, info, path)
        made.append(path)

    monkeypatch.setattr(tarfile.TarFile, "makefile", fill_the_disk)
    with pytest.raises(DataError, match=r"good\.tar\.gz.*No space left"):
        extract(archive, FOLDER, destination)
    assert len(made) == 1
    assert everything(destination) == set()


def test_a_folder_that_is_there_is_not_overwritten(tmp_path, destination):
    archive = pack(tmp_path / "good.tar.gz", [member(name) for name in GOOD])
    (destination / FOLDER).mkdir()
    (destination / FOLDER / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"good\.tar\.gz"):
        extract(archive, FOLDER, destination)
    assert everything(destination) == {FOLDER, f"{FOLDER}/mine.txt"}
    assert (destination / FOLDER / "mine.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written_to(tmp_path):
    archive = pack(tmp_path / "good.tar.gz", [member(name) for name in GOOD])
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"good\.tar\.gz"):
        extract(archive, FOLDER, tmp_path / "file")
