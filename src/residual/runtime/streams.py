"""Standard output and standard error that raise no error when they cannot be written."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast


class Unfailing:
    """A text stream that does not raise the errors of its file: after the first one, output is dropped.

    `error` is that first error, None if there was none. A stream that was closed before the program started,
    which is None in `sys`, counts as one that has failed.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream: TextIO = stream if stream is not None else io.StringIO()
        self.error: Exception | None = None if stream is not None else OSError(errno.EBADF, "it is closed")

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        if not isinstance(text, str):  # as other text streams, also where nothing is written any more
            raise TypeError(f"a text stream takes str, not {type(text).__name__}")
        if self.error is None:
            try:
                self._stream.write(text)
            except (OSError, ValueError) as error:  # ValueError: closed meanwhile, or text it cannot encode
                self.error = error
        return len(text)

    def flush(self) -> None:
        """Write out what is buffered, or drop it."""
        if self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self.error = error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def reader_gone(self) -> bool:
        """Whether the stream failed because its reader has closed it, as with `| head -1`."""
        closed = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)  # EINVAL: so on Windows
        return isinstance(self.error, OSError) and self.error.errno in closed

    def forget_unwritten(self) -> None:
        """After an error, discard what is left in the buffer, which would fail again when Python exits."""
        if self.error is not None:
            with suppress(OSError, ValueError, AttributeError), Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())


def standard_error() -> TextIO:
    """Return standard error as it is now, made unfailing: for progress, which must never stop a run."""
    return cast(TextIO, sys.stderr if isinstance(sys.stderr, Unfailing) else Unfailing(sys.stderr))


@contextmanager
def unfailing_streams() -> Iterator[Unfailing]:
    """Replace both standard streams by unfailing ones; gives standard output, to report its `error`."""
    _reserve_descriptors()
    output, errors = Unfailing(sys.stdout), Unfailing(sys.stderr)
    try:
        with redirect_stdout(cast(TextIO, output)), redirect_stderr(cast(TextIO, errors)):
            yield output
    finally:
        output.forget_unwritten()
        errors.forget_unwritten()


def _reserve_descriptors() -> None:
    """Open the null device under the number of a closed stream, which the next file would get otherwise."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
