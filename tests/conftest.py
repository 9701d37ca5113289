"""Fixtures that several test files share: data, real or made up, a local server, the command line."""

import contextlib
import dataclasses
import hashlib
import http.server
import io
import logging
import os
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import residual
from residual.cli import main as command_line
from residual.data import cifar, index
from residual.data.load import load_dataset
from residual.data.loader import TrainBatches
from residual.data.normalization import Normalization
from residual.recipes.schema import Recipe
from residual.training.engine import Engine
from residual.training.run_folder import Run
from residual.training.trainer import Trainer

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = Path(os.environ.get("RESIDUAL_REFERENCE") or ROOT.parent / "shared" / "data")
DATA = os.environ.get("RESIDUAL_DATA")  # as the caller set it; every test sees another value, see `alone`


@pytest.fixture(autouse=True)
def alone(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test from the network and from the user's own data; a test may set its own values."""
    monkeypatch.setenv("RESIDUAL_MIRROR", "http://127.0.0.1:1")  # nothing listens there
    monkeypatch.setenv("RESIDUAL_DATA", str(tmp_path_factory.getbasetemp() / "no-data"))
    kept = tmp_path_factory.getbasetemp() / "index"
    monkeypatch.setattr(index, "index_folder", lambda: kept)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setenv("no_proxy", "*")
    use_hub(monkeypatch)


def use_hub(monkeypatch: pytest.MonkeyPatch, endpoint: str = "http://127.0.0.1:1") -> None:
    """Do what the environment variable HF_ENDPOINT does, which is read once, at the library's import."""
    monkeypatch.setenv("HF_ENDPOINT", endpoint)  # for other processes
    with contextlib.suppress(ImportError):
        from huggingface_hub import constants

        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + template)
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)


@pytest.fixture(scope="session")
def cifar10_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder that holds the real `cifar-10-batches-bin/`."""
    folder = cifar.find(cifar.CIFAR10, Path(DATA)) if DATA else None
    if folder is not None and folder.name == cifar.CIFAR10.folder:
        return folder.parent
    unpack = REFERENCE / "cifar10" / "unpack.py"
    if not unpack.is_file():
        pytest.skip("needs CIFAR-10: set RESIDUAL_DATA")
    root = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(unpack), str(root)], check=True)
    return root


@pytest.fixture(scope="session")
def akamaster() -> Path:
    """Give the folder of the checkpoints of akamaster/pytorch_resnet_cifar10."""
    folder = REFERENCE / "checkpoints" / "akamaster"
    if not folder.is_dir():
        pytest.skip("needs akamaster's checkpoints: set RESIDUAL_REFERENCE")
    return folder


@dataclasses.dataclass(frozen=True)
class FakeRelease:
    """A release of a few made-up pictures, and the bytes of its files and of its archive."""

    release: cifar.Release
    files: dict[str, bytes]
    archive: bytes

    def put_folder(self, root: Path) -> Path:
        """Write the folder of record files into `root`."""
        folder = root / self.release.folder
        folder.mkdir(parents=True)
        for name, content in self.files.items():
            (folder / name).write_bytes(content)
        return folder

    def put_archive(self, root: Path) -> Path:
        """Write the archive into `root`."""
        root.mkdir(parents=True, exist_ok=True)
        path = root / self.release.archive
        path.write_bytes(self.archive)
        return path


def config_of_format_1(config: dict[str, Any]) -> dict[str, Any]:
    """Return a model folder's config in format 1."""
    old = {key: value for key, value in config.items() if key not in ("format", "preprocessing")}
    new = config["preprocessing"]
    return {
        **old,
        "input_size": [3, *new["image_size"]],
        "normalization": {key: new[key] for key in ("scale", "mean", "std")},
    }


def _tar_gz(folder: str, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _fake(
    official: cifar.Release, records: dict[str, int], extra: dict[str, bytes], published: bool
) -> FakeRelease:
    random = np.random.default_rng(7)
    files = {}
    for name, count in records.items():
        values = random.integers(0, 256, (count, official.label_bytes + cifar.PIXELS), dtype=np.uint8)
        values[:, official.label_bytes - 1] = np.arange(count) % official.num_classes
        files[name] = values.tobytes()
    archive = _tar_gz(official.folder, {**files, **extra})
    release = dataclasses.replace(
        official,
        md5=hashlib.md5(archive).hexdigest(),
        files={name: hashlib.md5(files[name]).hexdigest() if published else "" for name in records},
        records=records,
    )
    return FakeRelease(release, {**files, **extra}, archive)


@pytest.fixture
def fake_cifar10(monkeypatch: pytest.MonkeyPatch) -> FakeRelease:
    """Put a small release in CIFAR-10's place: 5 x 12 training pictures and 20 test pictures."""
    names = [name for name in cifar.CIFAR10.files if name != "test_batch.bin"]
    fake = _fake(cifar.CIFAR10, {**dict.fromkeys(names, 12), "test_batch.bin": 20}, {}, published=True)
    monkeypatch.setattr(cifar, "CIFAR10", fake.release)
    monkeypatch.setitem(cifar.RELEASES, "cifar10", fake.release)
    return fake


@pytest.fixture
def fake_cifar100(monkeypatch: pytest.MonkeyPatch) -> FakeRelease:
    """Put a small release in CIFAR-100's place: 110 training pictures and 20 test pictures."""
    names = "".join(f"thing_{label}\n" for label in range(100)).encode()
    fake = _fake(
        cifar.CIFAR100,
        {"train.bin": 110, "test.bin": 20},
        {cifar.CIFAR100.class_names_file: names},
        published=False,
    )
    monkeypatch.setattr(cifar, "CIFAR100", fake.release)
    monkeypatch.setitem(cifar.RELEASES, "cifar100", fake.release)
    return fake


class Server:
    """A file server on this machine that can be told to misbehave.

    files     what it serves, by path
    ranges    whether it heeds the Range header
    cut       close the connection after this many bytes of a body
    chunked   send the body in chunks, without its length
    garbage   answer with these bytes in place of HTTP
    answer    answer with this function of the request's handler in place of all that
    seen      the requests so far: path, Range header, bytes of body that were sent
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.ranges = True
        self.cut: int | None = None
        self.chunked = False
        self.garbage = b""
        self.answer: Callable[[http.server.BaseHTTPRequestHandler], None] | None = None
        self.seen: list[tuple[str, str | None, int]] = []
        self.url = ""


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            if server.answer:
                server.answer(self)
            else:
                self.send_file()

        def send_file(self) -> None:
            wanted = self.headers.get("Range")
            if server.garbage:
                server.seen.append((self.path, wanted, 0))
                self.wfile.write(server.garbage)
                return
            content = server.files.get(self.path)
            given = wanted.removeprefix("bytes=") if wanted and server.ranges else "0-"
            start, end = (int(text) if text else None for text in given.split("-"))
            ranged = bool(start) or end is not None
            if content is None or (start and start >= len(content)):
                server.seen.append((self.path, wanted, 0))
                self.send_error(404 if content is None else 416)
                return
            body = content[start : None if end is None else end + 1]
            sent = body[: server.cut] if server.cut is not None else body
            server.seen.append((self.path, wanted, len(sent)))
            if server.chunked:
                self.protocol_version = "HTTP/1.1"
            self.send_response(206 if ranged else 200)
            if ranged:
                last = start + len(body) - 1
                self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            if server.chunked:
                self.send_header("Transfer-Encoding", "chunked")
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(f"{len(body):x}\r\n".encode() + sent)
                if len(sent) == len(body):
                    self.wfile.write(b"\r\n0\r\n\r\n")
            else:
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(sent)

    return Handler


class _Listening(http.server.ThreadingHTTPServer):
    request_queue_size = 64  # connections at once, as other servers take them


@pytest.fixture
def server() -> Iterator[Server]:
    """Run a file server on a free port of 127.0.0.1."""
    told = Server()
    with _Listening(("127.0.0.1", 0), _handler(told)) as listening:
        listening.handle_error = lambda *_: None  # a client that hangs up is no news
        told.url = f"http://127.0.0.1:{listening.server_port}"
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield told
        listening.shutdown()
        thread.join()


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: `code, stdout, stderr = cli("models", "--json")`."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["residual", *map(str, arguments)])
        with contextlib.ExitStack() as stack:
            stack.callback(logging.captureWarnings, False)
            caught = stack.enter_context(pytest.raises(SystemExit))
            command_line.main()
        code = caught.value.code
        assert isinstance(code, int)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def stop_at(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Callable[[], None]]:
    """Make training meet a fault just after a given step."""

    def arrange(step, fault):
        real = Trainer.train_one

        def train_one(self):
            real(self)
            if self.step == step:
                fault(self)

        monkeypatch.setattr(Trainer, "train_one", train_one)
        return lambda: monkeypatch.setattr(Trainer, "train_one", real)

    return arrange


def comparable(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return everything of a finished run that must not depend on having been stopped."""
    run = Run.open(path)
    untimed = {"seconds", "images_per_second", "cpu_seconds", "others_share", "disturbed"}
    result = {key: value for key, value in run.result.items() if key not in untimed}
    metrics = [{key: value for key, value in r.items() if key not in untimed} for r in run.metrics()]
    return result, metrics


def make_engine(recipe: Recipe, captured: bool = False) -> Engine:
    """Make an engine that trains on digits."""
    train = load_dataset("digits").train
    batches = TrainBatches(train, Normalization.of(train), recipe.batch_size, recipe.augment, recipe.seed)
    torch.manual_seed(recipe.seed)
    engine = Engine(recipe, residual.create_model(recipe.network), batches)
    engine.captured = captured
    engine.network.train()
    return engine


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder of photographs of 3 classes that differ in colour: 24 in `train/`, 12 in `val/`."""
    root, random = tmp_path_factory.mktemp("photographs") / "animals", np.random.default_rng(5)
    for part, count in (("train", 8), ("val", 4)):
        for channel, name in enumerate(("ant", "bee", "cat")):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 128, (40 + 9 * number, 90 - 7 * number, 3), dtype=np.uint8)
                pixels[..., channel] += 100
                Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=90)
    return root
