"""Byte ranges of files in a folder or, through fsspec, on a server, whose faults are waited out."""

import asyncio
import errno
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ...errors import UsageError
from ...runtime.extras import how_to_install
from ...runtime.files import read_bounded
from ..names import is_url, whole_place
from ..photos import SourceError

AT_ONCE = 16  # parts that are read ahead
TRIES = 4
WAIT = 1.0  # seconds before the second try; doubled before each later one
TIMEOUT, SLOWEST = 30.0, 100_000  # each try takes so many seconds at most, and one more for so many bytes
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")  # of botocore
TRY_AGAIN = (408, 425, 429)  # of the HTTP errors that blame the request


class Store(Protocol):
    """Files below `root`, read in parts; a store pickles, for worker processes."""

    root: str

    def read(self, name: str, start: int, length: int, begun: Future[bytes] | None = None) -> bytes:
        """Return a part of a file; `begun` is what `begin` gave for it.

        Raises:
            SourceError: it cannot be read, or the file ends before.
        """

    def read_whole(self, name: str, limit: int) -> bytes:
        """Return a file of at most `limit` bytes.

        Raises:
            SourceError: it cannot be read, or is larger.
        """

    def begin(self, name: str, start: int, length: int) -> Future[bytes] | None:
        """Begin to read a part, which `read` takes when it is needed; None where nothing is won by it."""


def open_store(root: str | Path) -> Store:
    """Return the store of a folder, or of an address such as https://HOST/FOLDER or s3://BUCKET/FOLDER.

    Raises:
        UsageError: it is an address that has a query or a password, or needs a library that is not there.
    """
    return _Remote(whole_place(root)) if is_url(root) else _Local(Path(root))


class _Local:
    """A folder; a file is opened for each read, so that processes and threads share nothing."""

    def __init__(self, folder: Path) -> None:
        self.root, self._folder = str(folder), folder

    def read(self, name: str, start: int, length: int, begun: Future[bytes] | None = None) -> bytes:
        """Return a part of a file, see `Store`."""
        where = f"{self._folder / name} at byte {start:,}"
        try:
            with (self._folder / name).open("rb") as file:
                file.seek(start)
                data = file.read(length)
        except OSError as error:
            raise SourceError(f"cannot read {where}: {error.strerror or error}") from error
        if len(data) < length:
            raise SourceError(f"{where} is truncated: {len(data):,} of {length:,} bytes; copy the file again")
        return data

    def read_whole(self, name: str, limit: int) -> bytes:
        """Return a file, see `Store`."""
        try:
            return read_bounded(self._folder / name, limit)
        except OSError as error:
            raise SourceError(
                f"cannot read the shard {self._folder / name}: {error.strerror or error}"
            ) from error

    def begin(self, name: str, start: int, length: int) -> None:
        """Return None: a part of a file is read at once."""


class _Remote:
    """A folder on a server; each process has connections of its own."""

    def __init__(self, root: str) -> None:
        parts = urlsplit(root)
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise UsageError(
                "the address of shards takes neither a query nor a password, which would be recorded with "
                "every run: give the libraries of the server their credentials in the environment"
            )
        self.root, self._scheme = root, parts.scheme
        self._opened: tuple[int, Any] | None = None
        self._opening = threading.Lock()
        self._gate = asyncio.Semaphore(AT_ONCE)
        self._filesystem()

    def __reduce__(self) -> tuple[type, tuple[str]]:  # connections do not cross processes
        return type(self), (self.root,)

    def _filesystem(self) -> Any:
        """Return fsspec's file system of this process; after a fork that of the parent would not answer."""
        with self._opening:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened, self._gate = (os.getpid(), self._open()), asyncio.Semaphore(AT_ONCE)
            return self._opened[1]

    def _open(self) -> Any:
        try:
            import fsspec

            return fsspec.filesystem(self._scheme, skip_instance_cache=True, **self._options())
        except ImportError as error:
            extra = "s3" if self._scheme == "s3" else "shards"
            raise UsageError(
                f"{self.root} needs a library that is not installed ({error}): {how_to_install(extra)}"
            ) from error
        except ValueError as error:
            raise UsageError(f"{self.root}: fsspec knows no {self._scheme}://") from error

    def begin(self, name: str, start: int, length: int) -> Future[bytes] | None:
        """Begin to read a part, see `Store`; not more than `AT_ONCE` at a time."""
        from fsspec.asyn import AsyncFileSystem

        files = self._filesystem()
        if not length or not isinstance(files, AsyncFileSystem):
            return None

        async def reading() -> bytes:
            async with self._gate:
                return bytes(await files._cat_file(f"{self.root}/{name}", start=start, end=start + length))

        return asyncio.run_coroutine_threadsafe(reading(), files.loop)

    def _options(self) -> dict[str, Any]:
        """Let HTTP heed proxies and passwords of the user's environment, as other protocols do."""
        return {"client_kwargs": {"trust_env": True}} if self._scheme in ("http", "https") else {}

    def read(self, name: str, start: int, length: int, begun: Future[bytes] | None = None) -> bytes:
        """Return a part of a file, see `Store`."""
        where = f"{self.root}/{name} at byte {start:,}"

        def check(data: bytes) -> None:
            if len(data) > length:
                raise _FinalError(
                    f"{where} came as {len(data):,} bytes, not {length:,}: the server must heed byte ranges"
                )
            if len(data) < length:
                raise OSError(f"{len(data):,} of {length:,} bytes came")

        return self._patiently(name, where, start, start + length, check, begun) if length else b""

    def read_whole(self, name: str, limit: int) -> bytes:
        """Return a file, see `Store`."""
        where = f"{self.root}/{name}"

        def check(data: bytes) -> None:
            if len(data) > limit:
                raise _FinalError(f"{where} has more than the {limit:,} bytes that are expected")

        return self._patiently(name, where, 0, limit + 1, check)

    def _patiently(
        self,
        name: str,
        where: str,
        start: int,
        end: int,
        check: Callable[[bytes], None],
        begun: Future[bytes] | None = None,
    ) -> bytes:
        """Read a range; what may pass, such as a connection that is cut, is tried again."""
        reason = ""
        for number in range(TRIES):
            if number:
                time.sleep(WAIT * 2 ** (number - 1))
            try:
                data = self._cat(f"{self.root}/{name}", start, end, None if number else begun)
                check(data)
                return data
            except _FinalError:
                raise
            except Exception as error:  # each file system of fsspec has errors of its own
                reason = _reason(error)
                if _is_final(error):
                    raise SourceError(f"cannot read {where}: {reason}") from error
        raise SourceError(f"cannot read {where}, tried {TRIES} times: {reason}")

    def _cat(self, path: str, start: int, end: int, begun: Future[bytes] | None) -> bytes:
        from fsspec.asyn import AsyncFileSystem, sync

        files, seconds = self._filesystem(), TIMEOUT + (end - start) / SLOWEST
        try:
            if begun is not None:
                return bytes(begun.result(seconds))
            if not isinstance(files, AsyncFileSystem):
                return bytes(files.cat_file(path, start=start, end=end))
            return bytes(sync(files.loop, files._cat_file, path, start=start, end=end, timeout=seconds))
        except TimeoutError as error:
            if begun is not None:
                begun.cancel()
            raise OSError(f"no complete answer in {seconds:.0f} s") from error


class _FinalError(SourceError):
    """A fault of the server that another try would not mend."""


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):  # its text is the path alone
        return "there is no such bucket" if "(NoSuchBucket)" in str(error.__cause__) else "it is not there"
    return " ".join(str(error).split())[:200] or type(error).__name__


def _is_final(error: Exception) -> bool:
    """Tell whether a file is not there, too short or not for us, which another try would not change."""
    status = getattr(error, "status", None)
    refused = isinstance(status, int) and 400 <= status < 500 and status not in TRY_AGAIN
    too_short = isinstance(error, OSError) and error.errno == errno.EINVAL  # how s3fs says 416
    return (
        refused
        or too_short
        or isinstance(error, FileNotFoundError | PermissionError | UsageError)
        or (type(error).__name__ in NO_CREDENTIALS)
    )
