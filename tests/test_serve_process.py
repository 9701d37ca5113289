"""The command `serve` as a process: what it refuses to start with, and how it stops."""

import contextlib
import gc
import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import residual
from residual.runtime.extras import how_to_install
from residual.serving import server
from residual.zoo.pretrained import find_model
from serving import Running, answer, picture, request


@contextlib.contextmanager
def process(*options):
    """Run the command on a free port; give the process and requests to it."""
    command = [sys.executable, "-m", "residual", "serve", *map(str, options), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        try:
            line = running.stdout.readline()
            assert " at http://127.0.0.1:" in line, line + running.stderr.read()
            yield running, Running(int(line.partition("127.0.0.1:")[2].split()[0]), None)
        finally:
            running.kill()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM")
def test_a_signal_lets_accepted_requests_finish(tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(find_model("resnet20"), folder)
    with process("resnet20", folder) as (running, client):
        models = client.get("/model").json
        assert [model["name"] for model in models["models"]] == ["resnet20", "mine"]
        found = client.predict(picture(), "?model=mine").json
        best = residual.Classifier(folder)(picture())[0]
        assert found["model"] == "mine"
        assert found["images"][0]["predictions"][0] == {
            "class": best.class_name,
            "probability": pytest.approx(best.probability, abs=1e-5),
        }
        asked = request("POST", "/predict", picture(1))
        with client.connect() as late, client.connect() as idle:
            late.sendall(asked[:-100])
            client.get("/health")  # by now the request is accepted
            running.send_signal(signal.SIGTERM)
            assert idle.recv(1) == b"", "a connection without a request is closed"
            with pytest.raises(OSError):  # noqa: PT011 - refused or reset, by the system
                client.get("/health")
            late.sendall(asked[-100:])
            assert answer(late).status == 200
        assert running.wait(30) == 128 + signal.SIGTERM
        assert running.stderr.read() == "residual: interrupted\n"


def test_a_port_in_use_is_one_line(cli):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = cli("serve", "resnet20", "--port", port)
    assert (code, out) == (2, "")
    assert f"port {port} of 127.0.0.1 is in use" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (("no-such-model",), 2, "no-such-model is not a run folder"),
        (("resnet20", "--host", "256.0.0.1"), 2, "cannot listen on port 0 of 256.0.0.1"),
        (("resnet20", "resnet20"), 2, "two of the models have the name resnet20"),
        (("resnet20", "--engine", "fortran"), 2, "unknown engine 'fortran'"),
        (("resnet20", "--engine", "int8"), 2, "calibrate"),
        (("resnet20", "--batch", "0"), 2, "--batch"),
        (("resnet20", "--token", " "), 2, "--token is empty"),
    ],
)
def test_what_cannot_be_served_is_one_line(cli, arguments, code, reason):
    found, out, err = cli("serve", *arguments, "--port", "0")
    assert (found, out, reason in err, err.count("\n")) == (code, "", True, 1), err


def test_an_altered_model_is_refused(cli, tmp_path):
    folder = tmp_path / "mine"
    shutil.copytree(find_model("resnet20"), folder)
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    code, _, err = cli("serve", folder, "--port", "0")
    assert (code, "is altered" in err) == (4, True)


@pytest.mark.parametrize("name", ["fastapi", "uvicorn", "python_multipart", "prometheus_client"])
def test_a_missing_library_is_named_with_what_installs_it(cli, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    code, _, err = cli("serve", "resnet20")
    assert (code, f"serving needs {name}: {how_to_install('serve')}" in err) == (2, True)


@pytest.mark.parametrize(
    ("options", "warned"),
    [
        ((), True),
        (("--token", "x"), False),
        (("--host", "localhost"), False),
        (("--json",), True),
        (("--quiet",), False),
    ],
)
def test_an_open_server_without_a_token_is_warned_of(cli, monkeypatch, options, warned):
    started = []

    class Server:
        def __init__(self, app, limits, ready):
            self.ready = ready

        def run(self, sockets):
            self.ready()
            started.extend(sockets)
            assert gc.get_freeze_count()  # no full collection while it serves
            gc.unfreeze()

    monkeypatch.setattr(server, "create_server", Server)
    code, out, err = cli("serve", "resnet20", "--host", "0.0.0.0", "--port", "0", *options)
    assert (code, len(started)) == (0, 1)
    if "--json" in options:
        found = json.loads(out)
        assert (found["models"], found["url"].startswith("http://"), out.count("\n")) == (
            ["resnet20"],
            True,
            1,
        )
    else:
        assert out.startswith("resnet20 at http://")
    assert ("everyone who reaches 0.0.0.0" in err) is warned


ROOT = Path(__file__).parent.parent


def test_the_container_is_small_unprivileged_and_watched():
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line and not line.startswith(("#", " "))]
    first = dict(reversed(steps))
    base = first["FROM"]
    assert base.split()[0].partition(":")[2].endswith("-slim"), "a fixed version, slim"
    users = [value for name, value in steps if name == "USER"]
    assert users, "it is not run as root"
    assert users[-1] not in ("root", "0")
    assert "/health" in first["HEALTHCHECK"] + "".join(lines)
    assert json.loads(first["ENTRYPOINT"])[:2] == ["residual", "serve"]
    assert "constraints.txt" in "".join(lines), "the tested versions"
    assert first["EXPOSE"] == "8000"


def test_the_compose_file_serves_on_loopback_with_limits():
    yaml = pytest.importorskip("yaml")
    composed = yaml.safe_load((ROOT / "compose.yaml").read_text())
    (service,) = composed["services"].values()
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert "latest" not in service.get("image", "")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["mem_limit"]
    assert service["stop_grace_period"]
