"""What every request passes: size of headers, host, token, number of requests; security headers; counting."""

import asyncio
import hmac
import logging
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import RETRY_AFTER, Limits, Refused
from .metrics import Metrics

logger = logging.getLogger(__name__)
OPEN = frozenset({"/", "/style.css", "/page.js", "/health", "/ready"})  # without a token
ALWAYS = frozenset({"/health", "/ready", "/metrics"})  # however many requests are in progress
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'"
    "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURITY = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
LINGER_SECONDS, LINGER_BYTES = 2.0, 2**26  # of a refused body: a client still sending would miss the answer


def problem(refused: Refused, **more: Any) -> JSONResponse:
    """Return the answer to a refused request, with more values if there are any."""
    headers = {503: {"Retry-After": RETRY_AFTER}, 401: {"WWW-Authenticate": "Bearer"}}.get(refused.status)
    return JSONResponse({**more, "detail": refused.detail}, refused.status, headers)


class Guard:
    """ASGI middleware around all routes.

    Args:
        app: what it guards.
        limits: `header_bytes` and `requests` are checked here.
        metrics: requests are counted here.
        paths: those with a name of their own in the metrics.
        token: what clients must send as `Authorization: Bearer TOKEN`; None: nothing.
        hosts: what the header Host may name, against DNS rebinding; None: anything.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        metrics: Metrics,
        paths: Collection[str],
        token: str | None,
        hosts: Collection[str] | None,
    ) -> None:
        self.app, self.limits, self.metrics, self.paths = app, limits, metrics, frozenset(paths)
        self.hosts = None if hosts is None else frozenset(host.encode() for host in hosts)
        self.token = None if token is None else b"Bearer " + token.encode()
        self.in_progress = 0
        metrics.in_progress.set_function(lambda: self.in_progress)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        exchange, started = _Exchange(scope, receive, send), time.perf_counter()
        refused = self._refuse(scope)
        self.in_progress += 1
        try:
            await (problem(refused) if refused else self.app)(scope, exchange.receive, exchange.send)
        except Exception:
            logger.exception("the request failed: please report it")
            if not exchange.status:
                answer = problem(Refused(500, "the server failed"))
                await answer(scope, exchange.receive, exchange.send)
        finally:
            self.in_progress -= 1
            path = scope["path"] if scope["path"] in self.paths else "other"
            self.metrics.requests.labels(path, exchange.status or 499).inc()  # 499: the client was gone
            self.metrics.seconds.labels(path).observe(time.perf_counter() - started)

    def _refuse(self, scope: Scope) -> Refused | None:
        size, host, authorization = 0, b"", b""
        for name, value in scope["headers"]:
            size += len(name) + len(value)
            if name == b"host":
                host = value
            elif name == b"authorization":
                authorization = value
        if size + len(scope.get("query_string", b"")) > self.limits.header_bytes:
            return Refused(431, f"the headers have more than {self.limits.header_bytes:,} bytes")
        if self.hosts is not None and _without_port(host) not in self.hosts:
            return Refused(400, "the header Host names another host")
        path = scope["path"]
        if self.in_progress >= self.limits.requests and path not in ALWAYS:
            return Refused(503, "too many requests are in progress: try again")
        if self.token and path not in OPEN and not hmac.compare_digest(authorization, self.token):
            return Refused(401, "this server wants its token: Authorization: Bearer TOKEN")
        return None


class _Exchange:
    """A request and its answer: adds headers, and reads on for a moment where an answer precedes the body."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send, self.status = receive, send, 0
        self._unread = any(
            (name == b"content-length" and value != b"0") or name == b"transfer-encoding"
            for name, value in scope["headers"]
        )

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):
            self._unread = False
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            closing = [(b"connection", b"close")] if self._unread else []
            message["headers"] = [*message.get("headers", ()), *SECURITY, *closing]
            await self._send(message)
        elif self._unread and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._linger()
            await self._send({"type": "http.response.body", "body": b""})
        else:
            await self._send(message)

    async def _linger(self) -> None:
        left = LINGER_BYTES
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while self._unread and left > 0:
                    left -= len((await self.receive()).get("body", b""))


def _without_port(host: bytes) -> bytes:
    name, colon, port = host.rpartition(b":")
    return (name if colon and port.isdigit() else host).lower()
