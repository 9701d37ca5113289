"""A server in a thread of the test, and requests to it, well-formed or not."""

import contextlib
import copy
import io
import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

import residual
from residual.serving.app import create_app
from residual.serving.limits import Limits
from residual.serving.server import create_server, listen


class Answer(NamedTuple):
    """A status, headers by lower-case name, and a body."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A server that runs: its port, and requests to it."""

    def __init__(self, port: int, service: Any) -> None:
        self.port, self.service = port, service

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        with self.connect() as connection:
            connection.sendall(request(method, path, body, **headers))
            return answer(connection)

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, **headers)

    def predict(self, body: bytes, query: str = "", **headers: str) -> Answer:
        return self.send("POST", f"/predict{query}", body, **headers)

    def form(self, files: Sequence[tuple[str, bytes]], path: str = "/predict", field: str = "file") -> Answer:
        return self.send("POST", path, form(files, field), content_type=FORM)

    def metric(self, name: str) -> float:
        """Return the value of a line of /metrics."""
        lines = self.get("/metrics").body.decode().splitlines()
        return float(next(line for line in lines if line.startswith(name)).rpartition(" ")[2])


FORM = "multipart/form-data; boundary=ABC"


def form(files: Sequence[tuple[str, bytes]], field: str = "file") -> bytes:
    """Return the body of a form."""
    head = f'--ABC\r\nContent-Disposition: form-data; name="{field}"; filename='
    parts = [f'{head}"{name}"\r\n\r\n'.encode() + content for name, content in files]
    return b"\r\n".join([*parts, b"--ABC--\r\n"])


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Return the bytes of a request."""
    lines = {"host": "127.0.0.1", "content-length": str(len(body)), "connection": "close"}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def answer(connection: socket.socket) -> Answer:
    """Read one answer, which has a Content-Length."""
    file = connection.makefile("rb")
    status = int(file.readline().split()[1])
    headers = {}
    while line := file.readline().strip().decode():
        name, _, value = line.partition(": ")
        headers[name.lower()] = value
    return Answer(status, headers, file.read(int(headers["content-length"])))


@contextlib.contextmanager
def serving(
    classifier: residual.Classifier, limits: Limits | None = None, protocol: Any = None, **options: Any
) -> Iterator[Running]:
    """Run a server of one model, "net", on a free port."""
    limits, started = limits or Limits(), threading.Event()
    app = create_app({"net": classifier}, limits=limits, **options)
    server = create_server(app, limits, started.set)
    if protocol is not None:
        server.config.http = protocol
    bound = listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    with bound:
        thread.start()
        assert started.wait(30)
        try:
            yield Running(bound.getsockname()[1], app.state.service)
        finally:
            server.should_exit = True
            thread.join(30)
    assert not thread.is_alive()


class Engine:
    """Stands before a classifier's `logits`: counts batches, and can hold them up or fail.

    It also computes the warm-up, whose images are zeros: these batches are not counted.
    """

    def __init__(self, classifier: residual.Classifier) -> None:
        self.sizes: list[int] = []
        self.fault: Callable[[Tensor], None] = lambda _: None
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self._logits = classifier.logits
        self.classifier = copy.copy(classifier)
        self.classifier.logits = self._computed  # type: ignore[method-assign]

    def _computed(self, pixels: Tensor) -> Tensor:
        if pixels.any():
            self.sizes.append(len(pixels))
            self.entered.set()
            assert self.open.wait(30)
            self.fault(pixels)
        return self._logits(pixels)


def picture(seed: int = 0, height: int = 40, width: int = 50, kind: str = "JPEG") -> bytes:
    """Return an image file of noise."""
    pixels = np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()
