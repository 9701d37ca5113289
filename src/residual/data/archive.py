"""Archives from the network: downloaded with resume, checked by MD5, extracted member by member."""

import hashlib
import http.client
import os
import re
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from time import monotonic
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import DataError
from ..runtime.files import is_abandoned
from ..runtime.streams import standard_error

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30
SLOWEST = 1 << 10  # bytes a second, below which a download is given up


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
            f"{path} is cut or altered: its MD5 is {found}, not {expected}; delete it and try again"
        )


def download(url: str, destination: Path, md5: str) -> None:
    """Fetch a file, with a progress bar; what an interrupted download left in `.part` is taken up again.

    The file appears under its name only when it is whole and its MD5 is right. Until then what `.part` held
    is kept, whatever the server answers: where the two do not fit, the whole file is fetched beside it.

    Raises:
        DataError: the network does not answer, or what came is not the file that was asked for.
    """
    part = destination.with_name(destination.name + ".part")
    had = part.stat().st_size if part.is_file() else 0
    try:
        if not (had and (md5_of(part) == md5 or _continued(url, part, had, md5))):
            _anew(url, part, had, md5)
        part.replace(destination)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"cannot download {url} to {destination.parent}: {error}") from error


def _anew(url: str, part: Path, had: int, md5: str) -> None:
    """Fetch the whole file; it takes the place of what `part` had once its MD5 is found to be right."""
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
        raise OSError(f"{error} (if this goes on, delete {part})" if had else error) from error
    finally:
        if had:
            target.unlink(missing_ok=True)


def _continued(url: str, part: Path, had: int, md5: str) -> bool:
    """Complete a partial file; where what comes does not fit it, leave it as it was and return False."""
    if not _receive(url, part, had):
        return False
    if md5_of(part) == md5:
        return True
    os.truncate(part, had)
    return False


def _receive(url: str, file: Path, start: int) -> bool:
    """Append to a file what the server has from byte `start` on; False if it answers with something else."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        error.close()
        if start and error.code == 416:  # there is nothing behind `start`
            return False
        raise
    with answer:
        total = _total(answer, start)
        if start and total is None:
            return False
        _save(answer, file, start, total, f"downloading {PurePosixPath(url).name}")
    if total is not None and file.stat().st_size < total:
        raise OSError("the connection ended early; try again to go on from there")
    return True


def _total(answer: Any, start: int) -> int | None:
    """Return the whole file's size by an answer's headers, None if they do not tell or begin elsewhere."""
    if not start:
        length = answer.headers.get("Content-Length")
        return int(length) if length else None
    span = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
    first, last, total = map(int, span.groups()) if span and answer.status == 206 else (-1, -1, -1)
    return total if start == first <= last < total else None


def _save(answer: Any, file: Path, start: int, total: int | None, title: str) -> None:
    """Write an answer's body to the end of a file, each piece as it comes, so that a reset loses none."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    file.parent.mkdir(parents=True, exist_ok=True)
    with Progress(*columns, console=Console(file=standard_error())) as progress, file.open("ab") as output:
        task = progress.add_task(title, total=total, completed=start)
        for piece in _pieces(answer):
            output.write(piece)
            output.flush()
            progress.advance(task, len(piece))


def _pieces(answer: Any) -> Iterator[bytes]:
    """Yield an answer's body as it comes; the socket's timeout alone would wait for a byte at a time.

    Raises:
        TimeoutError: in `TIMEOUT_SECONDS` fewer than `SLOWEST` bytes a second came.
    """
    began, came = monotonic(), 0
    while piece := answer.read1(CHUNK):
        yield piece
        came += len(piece)
        seconds = monotonic() - began
        if seconds >= TIMEOUT_SECONDS:
            if came < SLOWEST * seconds:
                raise TimeoutError(f"only {came} bytes in {seconds:.0f} s; try again to go on from there")
            began, came = monotonic(), 0


def extract(archive: Path, folder: str, destination: Path) -> None:
    """Extract an archive that holds one folder; the folder appears at `destination / folder` when whole.

    Raises:
        DataError: the archive cannot be read, or a member is no plain file or folder inside `folder`.
    """
    for left in filter(is_abandoned, destination.glob(f".{folder}-*")):
        shutil.rmtree(left, ignore_errors=True)
    try:
        staging = Path(tempfile.mkdtemp(prefix=f".{folder}-", dir=destination))
    except OSError as error:
        raise DataError(f"cannot extract {archive}: {error}") from error
    try:
        with tarfile.open(archive) as tar:
            members = tar.getmembers()
            for member in members:
                _check_member(member, folder, archive)
            tar.extractall(staging, members, filter="data")
        if not (staging / folder).is_dir():
            raise DataError(f"{archive} holds no folder {folder}")
        (staging / folder).replace(destination / folder)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"cannot extract {archive}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check_member(member: tarfile.TarInfo, folder: str, archive: Path) -> None:
    """Refuse whatever could be written outside the folder."""
    parts = PurePosixPath(member.name).parts
    if not (member.isfile() or member.isdir()):
        raise DataError(f"{archive} holds '{member.name}', which is neither a file nor a folder: refused")
    if member.name.startswith("/") or ".." in parts or parts[:1] != (folder,):
        raise DataError(f"{archive} holds '{member.name}', which lies outside {folder}: refused")
