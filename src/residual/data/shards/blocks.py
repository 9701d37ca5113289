"""Images on a server read in blocks, which are kept on the disk while the turn of their images comes.

The worker processes of a training share the folder: whoever needs a block first reads it, the others wait.
"""

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

from filelock import FileLock

from ..photos import SourceError
from .store import AT_ONCE, Store

GAP = 1 << 20  # bytes between two images that are read along with them, sooner than asked for twice
LOCKS = 256
Part = tuple[str, int, int]  # name of a shard, offset and length in bytes


class Blocks:
    """Blocks of images, the `most` read last of them kept in a folder; it pickles, for worker processes."""

    def __init__(self, store: Store, most: int, folder: Path | None = None) -> None:
        self.store, self.most = store, most
        if folder is None:
            try:
                folder = Path(tempfile.mkdtemp(prefix="residual-blocks-"))
            except OSError as error:
                raise _not_kept(store, error) from error
            weakref.finalize(self, _remove, folder, os.getpid())
        self.folder = folder
        self._own: _OfProcess | None = None

    def __reduce__(self) -> tuple[type, tuple[Store, int, Path]]:
        return type(self), (self.store, self.most, self.folder)

    def begin(self, number: int, parts: Sequence[Part]) -> Future[bytes]:
        """Begin to read a block, unless it is on its way; one that failed is tried anew."""
        own = self._of_process()
        with own.guard:
            future = own.coming.get(number)
            if future is None or future.done():
                future = own.coming[number] = Future()
                # a thread that ends with the process, whatever it waits for
                threading.Thread(target=self._work, args=(own, future, number, parts), daemon=True).start()
            return future

    def has(self, number: int) -> bool:
        """Tell whether a block is kept."""
        return (self.folder / str(number)).exists()

    def read(self, number: int, parts: Sequence[Part], place: int) -> bytes:
        """Return an image of a block, whose images are `parts`.

        Raises:
            SourceError: the block cannot be read, or not kept.
        """
        start, length = sum(length for _, _, length in parts[:place]), parts[place][2]
        try:
            with (self.folder / str(number)).open("rb") as file:
                file.seek(start)
                return file.read(length)
        except FileNotFoundError:
            future = self._of_process().coming.get(number) or self.begin(number, parts)
            return future.result()[start : start + length]

    def _of_process(self) -> "_OfProcess":
        """Return what is on its way to this process; threads do not cross a fork."""
        if self._own is None or self._own.process != os.getpid():
            self._own = _OfProcess()
        return self._own

    def _work(self, own: "_OfProcess", future: Future[bytes], number: int, parts: Sequence[Part]) -> None:
        try:
            with own.gate:
                content = self._fetch(number, parts)
        except Exception as error:  # whoever waits for it raises it
            future.set_exception(error)
            return
        with own.guard:
            del own.coming[number]  # sooner than it is done, so that it is not begun anew
        future.set_result(content)

    def _fetch(self, number: int, parts: Sequence[Part]) -> bytes:
        """Return a block, which is kept from now on."""
        path = self.folder / str(number)
        try:
            with FileLock(self.folder / f"{number % LOCKS}.lock"):
                if path.exists():
                    return path.read_bytes()
                content = self._content(parts)
                temporary = path.with_suffix(".tmp")
                try:
                    temporary.write_bytes(content)
                    temporary.replace(path)
                finally:
                    temporary.unlink(missing_ok=True)
            self.keep(self.most)
        except OSError as error:
            raise _not_kept(self.store, error) from error
        return content

    def _content(self, parts: Sequence[Part]) -> bytes:
        """Read the images of a block, those that follow each other in one request."""
        found: dict[Part, bytes] = {}
        for name, start, stop, held in _stretches(parts):
            data = self.store.read(name, start, stop - start)
            found |= {part: data[part[1] - start : part[1] - start + part[2]] for part in held}
        return b"".join(found[part] for part in parts)

    def keep(self, most: int) -> None:
        """Remove all blocks but those read last; one that is needed after all is read again."""
        with suppress(OSError):  # other processes remove them too
            kept = [entry for entry in os.scandir(self.folder) if entry.name.isdigit()]
            ages = sorted((_age(entry), entry.path) for entry in kept)
            for _, path in ages[: max(0, len(ages) - most)]:
                Path(path).unlink(missing_ok=True)


class _OfProcess:
    """The blocks on their way to a process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.coming: dict[int, Future[bytes]] = {}
        self.guard, self.gate = threading.Lock(), threading.Semaphore(AT_ONCE)


def _stretches(parts: Sequence[Part]) -> Iterator[tuple[str, int, int, list[Part]]]:
    """Yield shard, start and stop in bytes of what is read in one request, and the images in it."""
    held: list[Part] = []
    for part in sorted(set(parts)):
        if held and (held[-1][0] != part[0] or part[1] > sum(held[-1][1:]) + GAP):
            yield held[0][0], held[0][1], _stop(held), held
            held = []
        held.append(part)
    if held:
        yield held[0][0], held[0][1], _stop(held), held


def _not_kept(store: Store, error: OSError) -> SourceError:
    reason = error.strerror or error
    return SourceError(
        f"cannot keep what was read of {store.root}: {reason}; set TMPDIR to a folder with room"
    )


def _stop(parts: Sequence[Part]) -> int:
    return max(start + length for _, start, length in parts)


def _age(entry: "os.DirEntry[str]") -> float:
    try:
        return entry.stat().st_mtime
    except OSError:  # another process has just removed it
        return 0.0


def _remove(folder: Path, process: int) -> None:
    """Remove the folder when the training ends; a worker that was forked leaves it alone."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
