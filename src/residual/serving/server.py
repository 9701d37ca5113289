"""uvicorn with the limits that it lacks: time and size of headers, connections; and a stop that finishes."""

import asyncio
import errno
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from ..errors import UsageError
from .limits import Limits

try:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as HTTPProtocol
except ImportError:
    from uvicorn.protocols.http.h11_impl import H11Protocol as HTTPProtocol  # type: ignore[assignment]

KEEP_ALIVE = 30  # seconds
IN_USE = (errno.EADDRINUSE, getattr(errno, "WSAEADDRINUSE", errno.EADDRINUSE))  # the second on Windows


def listen(host: str, port: int) -> socket.socket:
    """Bind a socket; it refuses connections until a server runs on it.

    Raises:
        UsageError: the port is in use, or host or port are not possible here.
    """
    bound = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind)
        if sys.platform != "win32":  # there it would share the port of a running server
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:
        if bound is not None:
            bound.close()
        if getattr(error, "errno", None) in IN_USE:
            raise UsageError(
                f"port {port} of {host} is in use: stop the program that uses it, or choose another by --port"
            ) from None
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot listen on port {port} of {host}: {reason}") from None
    return bound


def create_server(app: FastAPI, limits: Limits, started: Callable[[], object]) -> uvicorn.Server:
    """Make a server; `run(sockets=[...])` serves until a signal, then finishes what was accepted.

    Args:
        app: from `create_app`.
        limits: those of the application.
        started: called when connections are accepted.
    """
    config = uvicorn.Config(
        app,
        http=guarded(limits),
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=int(limits.body_seconds + limits.answer_seconds) + 1,
        h11_max_incomplete_event_size=2**20,  # so that the limit is that of `guarded`
    )
    return _Server(config, app, started)


class _Server(uvicorn.Server):
    """Says when it accepts connections, and from the signal on that it is not ready."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, started: Callable[[], object]) -> None:
        super().__init__(config)
        self._app, self._when_started = app, started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._when_started()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.service.stopping = True
        super().handle_exit(sig, frame)


class _Limited(asyncio.Protocol):
    """What is put before uvicorn's protocol; the attributes without a value are uvicorn's."""

    limits: Limits
    loop: asyncio.AbstractEventLoop
    transport: Any
    cycle: Any
    connections: set[Any]
    _timer: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _size = 0

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(503, b"Service Unavailable")
        else:
            self._wait(self.limits.header_seconds)

    def data_received(self, data: bytes) -> None:
        before = self.cycle
        between = before is None or before.response_complete
        if between:
            self._size += len(data)
            if self._timer is None:
                self._wait(self.limits.header_seconds)
        super().data_received(data)
        if self.cycle is not before:
            self._size = 0
            self._rest()
        elif between and self._size > self.limits.header_bytes:
            self._refuse(431, b"Request Header Fields Too Large")

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.limits.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _wait(self, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self._refuse, 408, b"Request Timeout")

    def _rest(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int, reason: bytes) -> None:
        self._rest()
        if self.transport.is_closing():
            return
        with suppress(OSError):
            self.transport.write(_refusal(status, reason))
        self.transport.close()


def guarded(limits: Limits, base: type[asyncio.Protocol] = HTTPProtocol) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with limits on headers, connections and on clients that do not read.

    uvicorn waits for headers and for a reading client without end, and with httptools takes headers of any
    size.
    """
    return type("Guarded", (_Limited, base), {"limits": limits})


def _refusal(status: int, reason: bytes) -> bytes:
    """Return an answer as it goes over the wire."""
    body = b'{"detail":"%s"}' % reason
    retry = b"retry-after: 1\r\n" if status == 503 else b""
    head = b"HTTP/1.1 %d %s\r\ncontent-type: application/json\r\n%scontent-length: %d\r\n"
    return head % (status, reason, retry, len(body)) + b"connection: close\r\n\r\n" + body
