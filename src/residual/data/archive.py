"""Archives from the network: downloaded with resume, checked by MD5, extracted member by member."""

import hashlib
import http.client
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from ..errors import DataError
from ..files import is_abandoned
from ..streams import standard_error

CHUNK = 1 << 20
TIMEOUT_SECONDS = 30


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
    """Fetch a file, with a progress bar; what an interrupted download left is taken up again.

    The file appears under its name only when it is whole and its MD5 is right.

    Raises:
        DataError: the network does not answer, or what came is not the file that was asked for.
    """
    partial = destination.with_name(destination.name + ".part")
    try:
        _continue(url, partial)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not partial.exists():  # 416: nothing is missing behind what is there
            raise DataError(f"cannot download {url}: {error}") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DataError(f"cannot download {url} to {destination.parent}: {error}") from error
    found = md5_of(partial)
    if found != md5:
        partial.unlink()
        raise DataError(f"the download of {url} is altered: its MD5 is {found}, not {md5}; it was deleted")
    partial.replace(destination)


def _continue(url: str, partial: Path) -> None:
    """Append what is missing to a partial file; start anew if the server cannot continue."""
    done = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(file=standard_error())
    with (
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer,
        Progress(*columns, console=console) as progress,
    ):
        continued = answer.status == 206
        done = done if continued else 0
        length = answer.headers.get("Content-Length")
        total = done + int(length) if length else None
        task = progress.add_task(f"downloading {PurePosixPath(url).name}", total=total, completed=done)
        partial.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("ab" if continued else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                progress.advance(task, len(chunk))
    if total is not None and partial.stat().st_size < total:
        raise OSError("the connection ended early; try again to go on from there")


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
