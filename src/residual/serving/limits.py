"""What one request may cost, and the error that refuses it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

RETRY_AFTER = "1"  # seconds, of an answer 503


@dataclass(frozen=True)
class Limits:
    """Limits of the server; times are in seconds.

    Attributes:
        body_bytes: of a request's body.
        pixels: of an image, by its header.
        images: of a request.
        header_bytes: of a request's headers.
        queue: images that wait to be decoded or computed, of each model.
        requests: requests in progress.
        connections: open connections.
        held_bytes: of the bodies of all requests in progress.
        header_seconds: until a request's headers are complete.
        body_seconds: until its body is.
        answer_seconds: until its images are classified.
    """

    body_bytes: int = 32 * 2**20
    pixels: int = 64_000_000
    images: int = 100
    header_bytes: int = 32 * 2**10
    queue: int = 512
    requests: int = 512
    connections: int = 1024
    held_bytes: int = 256 * 2**20
    header_seconds: float = 10
    body_seconds: float = 30
    answer_seconds: float = 60


class Refused(Exception):  # noqa: N818 - an answer, not always an error of the server
    """A request that gets no result: the status and one line that says why."""

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class Memory:
    """The bytes of request bodies that are held at a time."""

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0

    @contextmanager
    def share(self) -> Iterator["Share"]:
        """Return a share for one request, which is given back at the end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held -= share.size


class Share:
    """What one request holds."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self.size = memory, 0

    def grow(self, size: int) -> None:
        """Take more bytes.

        Raises:
            Refused: all requests together would hold too much.
        """
        if self._memory.held + size > self._memory.limit:
            raise Refused(503, "the server holds too many large requests: try again")
        self._memory.held += size
        self.size += size
