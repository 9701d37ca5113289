"""Archives from the network: downloads that resume, MD5 checks, and extraction member by member."""

import hashlib
import http.client
import os
import re
import shutil
import tarfile
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import DataError
from ..runtime.files import is_abandoned
from ..runtime.progress import display
from ..runtime.streams import standard_error

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30
SLOWEST = 1 << 10  # bytes per second; a slower download is given up
MOST = 1 << 32  # bytes of an archive, packed and unpacked; the largest official one has 190 million


def md5_of(path: Path) -> str:
    """Return a file's MD5 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def check_md5(path: Path, expected: str) -> None:
    """Refuse a file that is not the official one.

    Raises:
        DataError: the MD5 differs.
    """
    found = md5_of(path)
    if found != expected:
        raise DataError(
            f"{path} is truncated or corrupted: its MD5 is {found}, not {expected}; delete it and try again"
        )


def download(url: str, destination: Path, md5: str) -> None:
    """Download a file, with a progress bar, resuming what an interrupted download left in `.part`.

    The file appears under its name only once it is complete and its MD5 is right. Until then the contents of
    `.part` are kept, whatever the server sends; if the two do not fit, the whole file is downloaded anew.

    Raises:
        DataError: the server cannot be reached, or it sends another file.
    """
    part = destination.with_name(destination.name + ".part")
    had = part.stat().st_size if part.is_file() else 0
    try:
        if not (had and (md5_of(part) == md5 or _resumed(url, part, had, md5))):
            _download_whole(url, part, had, md5)
        part.replace(destination)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"cannot download {url} to {destination.parent}: {error}") from error


def _download_whole(url: str, part: Path, had: int, md5: str) -> None:
    """Download the whole file; it replaces `part` once its MD5 is found to be right."""
    target = part.with_suffix(".fresh") if had else part
    try:
        if had:
            target.unlink(missing_ok=True)  # a killed process may have left it
        _receive(url, target, 0)
        found = md5_of(target)
        if found != md5:
            target.unlink()
            raise DataError(f"the download of {url} is corrupted: its MD5 is {found}, not {md5}; try again")
        target.replace(part)
    except OSError as error:
        raise OSError(f"{error} (if this happens again, delete {part})" if had else error) from error
    finally:
        if had:
            target.unlink(missing_ok=True)


def _resumed(url: str, part: Path, had: int, md5: str) -> bool:
    """Complete a partial file; if the rest does not fit, leave the file as it was and return False."""
    if not _receive(url, part, had):
        return False
    if md5_of(part) == md5:
        return True
    os.truncate(part, had)
    return False


def _receive(url: str, file: Path, start: int) -> bool:
    """Append to a file what the server has from byte `start` on; return False if it sends something else."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        response = _opened(request)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == 416:  # there is nothing after `start`
            return False
        raise
    with response:
        total = _total(response, start)
        if start and total is None:
            return False
        _save(response, file, start, total, f"downloading {PurePosixPath(url).name}")
    if total is not None and file.stat().st_size < total:
        raise OSError("the connection ended early; try again to resume")
    return True


def _opened(request: urllib.request.Request) -> Any:
    """Return a server's response; its headers and those of redirections must be there in `TIMEOUT_SECONDS`.

    The socket's own timeout starts again at every byte, so that a thread waits, which may outlive this call.
    """
    opened = Future[Any]()

    def opening() -> None:
        try:
            opened.set_result(urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS))
        except Exception as error:
            opened.set_exception(error)

    threading.Thread(target=opening, daemon=True).start()
    try:
        return opened.result(TIMEOUT_SECONDS)
    except TimeoutError:
        raise TimeoutError(f"no answer in {TIMEOUT_SECONDS} s; try again to resume") from None


def _total(response: Any, start: int) -> int | None:
    """Return the whole file's size by a response's headers, None if it is not given or the range differs."""
    if not start:
        length = response.headers.get("Content-Length")
        return int(length) if length else None
    span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", ""))
    first, last, total = map(int, span.groups()) if span and response.status == 206 else (-1, -1, -1)
    return total if start == first <= last < total else None


def _save(response: Any, file: Path, start: int, total: int | None, title: str) -> None:
    """Append a response's body to a file, each piece as it arrives, so that a lost connection loses none."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    file.parent.mkdir(parents=True, exist_ok=True)
    bar = Progress(*columns, console=Console(file=standard_error()), disable=display.quiet)
    with bar as progress, file.open("ab") as output:
        task = progress.add_task(title, total=total, completed=start)
        for piece in _pieces(response):
            output.write(piece)
            output.flush()
            if output.tell() > MOST:
                os.truncate(file, start)
                raise OSError(f"more than {MOST:,} bytes came")
            progress.advance(task, len(piece))


def _pieces(response: Any) -> Iterator[bytes]:
    """Yield a response's body as it arrives; the socket's own timeout starts again at every byte.

    Raises:
        TimeoutError: for `TIMEOUT_SECONDS`, fewer than `SLOWEST` bytes per second arrived.
    """
    began, received = monotonic(), 0
    while piece := response.read1(CHUNK):
        yield piece
        received += len(piece)
        seconds = monotonic() - began
        if seconds >= TIMEOUT_SECONDS:
            if received < SLOWEST * seconds:
                raise TimeoutError(f"only {received} bytes in {seconds:.0f} s; try again to resume")
            began, received = monotonic(), 0


def extract(archive: Path, folder: str, destination: Path) -> None:
    """Extract an archive of one folder, which appears at `destination / folder` only when it is complete.

    Raises:
        DataError: the archive cannot be read, or a member is not a regular file or folder inside `folder`.
    """
    for left in filter(is_abandoned, destination.glob(f".{folder}-*")):
        shutil.rmtree(left, ignore_errors=True)
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{folder}-", dir=destination))
    except OSError as error:
        raise DataError(f"cannot extract {archive}: {error}") from error
    try:
        if not archive.is_file():  # a device may never end
            raise OSError("not a regular file")
        with tarfile.open(archive) as tar:
            members = list(_checked_members(tar, folder, archive))
            tar.extractall(staging, members, filter="data")
        if not (staging / folder).is_dir():
            raise DataError(f"{archive} holds no folder {folder}")
        (staging / folder).replace(destination / folder)
    except DataError:
        raise
    except Exception as error:  # tarfile and the libraries below it fail with many classes of error
        raise DataError(f"cannot extract {archive}: {' '.join(str(error).split())[:200]}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _checked_members(tar: tarfile.TarFile, folder: str, archive: Path) -> Iterator[tarfile.TarInfo]:
    """Yield the members, each once it is checked.

    Raises:
        DataError: a member could be written outside the folder, or sizes are such that reading would not end.
    """
    last, total = -1, 0
    while (member := tar.next()) is not None:
        _check_member(member, folder, archive)
        total += member.size
        if member.size < 0 or member.offset_data <= last:  # it would read a header again for ever
            raise DataError(f"{archive} is corrupted at byte {member.offset_data:,}")
        if total > MOST:
            raise DataError(f"{archive} would take more than {MOST:,} bytes unpacked: refused")
        last = member.offset_data
        yield member


def _check_member(member: tarfile.TarInfo, folder: str, archive: Path) -> None:
    """Refuse a member that could be written outside the folder."""
    parts = PurePosixPath(member.name).parts
    if not (member.isfile() or member.isdir()):
        raise DataError(f"{archive} holds '{member.name}', which is neither a file nor a folder: refused")
    if member.name.startswith("/") or ".." in parts or parts[:1] != (folder,):
        raise DataError(f"{archive} holds '{member.name}', which lies outside {folder}: refused")
