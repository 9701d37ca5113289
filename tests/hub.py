"""A local stand-in of the Hugging Face Hub: what huggingface_hub asks to fetch a model and to push one."""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import use_hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"
NAME = "hf-hub:someone/net"
TOKEN = "hf_of_someone"


@dataclasses.dataclass
class Hub:
    """Files of the repository someone/net, how the server treats them, and what it was asked."""

    files: dict[str, bytes]
    error: tuple[int, str] | None = None  # status and X-Error-Code of every answer
    short: bool = False  # files end early
    changed: Callable[[bytes], bytes] = bytes  # what is sent in place of a file
    loop: bool = False  # every address redirects to itself
    seconds: float = 0.0  # before an answer
    claimed: dict[str, int] = dataclasses.field(default_factory=dict)  # sizes that are not true
    asked: list[str] = dataclasses.field(default_factory=list)
    exists: bool = True
    private: bool = False
    stored: dict[str, bytes] = dataclasses.field(default_factory=dict)  # large files, by their SHA-256
    commits: list[str] = dataclasses.field(default_factory=list)  # their messages


class Handler(http.server.BaseHTTPRequestHandler):
    """HEAD and GET of /USER/NAME/resolve/REVISION/FILE; what makes a repository and a commit."""

    hub: Hub

    def log_message(self, *_: object) -> None:
        """Keep quiet."""

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        if self.path == "/api/models/someone/net":
            self.about()
        else:
            self.answer(body=True)

    def answer(self, body: bool) -> None:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if file:  # the library asks about itself as well
            self.hub.asked.append(f"{self.command} {file}")
        time.sleep(self.hub.seconds)
        if self.hub.loop:
            self.send_response(302)
            self.send_header("Location", f"http://{self.headers['Host']}{self.path}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        code = self.hub.error
        if code is None and repository != "someone/net":
            code = (404, "RepoNotFound")
        elif code is None and revision not in ("main", COMMIT):
            code = (404, "RevisionNotFound")
        elif code is None and file not in self.hub.files:
            code = (404, "EntryNotFound")
        if code is not None:
            self.refuse(*code)
            return
        content = self.hub.files[file]
        sent = self.hub.changed(content) if body else content
        sent = sent[: len(sent) // 2] if self.hub.short and body else sent
        self.send_response(200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        size = self.hub.claimed.get(file, len(sent)) if not body else len(sent)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        if body:
            self.wfile.write(sent)

    def about(self) -> None:
        if self.hub.exists and self.headers.get("Authorization") == f"Bearer {TOKEN}":
            self.tell({"id": "someone/net", "private": self.hub.private})
        else:
            self.refuse(401, "RepoNotFound")

    def refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def tell(self, values: Any, status: int = 200) -> None:
        content = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def received(self) -> bytes:
        """Read the body, which comes with its length or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def do_PUT(self) -> None:
        self.hub.stored[self.path.rpartition("/")[2]] = self.received()
        self.tell({})

    def do_POST(self) -> None:
        content = self.received()
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "")
        elif self.hub.error is not None:
            self.refuse(*self.hub.error)
        elif self.path.endswith("/commit/main"):
            self.commit(content)
        elif self.path == "/verify":
            self.tell({})
        else:
            self.prepare(json.loads(content))

    def prepare(self, asked: dict[str, Any]) -> None:
        """Answer what comes before a commit."""
        host = f"http://{self.headers['Host']}"
        if self.path == "/api/repos/create":
            if asked["organization"] != "someone":
                self.refuse(403, "")
            elif self.hub.exists:
                self.tell({"url": f"{host}/someone/net"}, 409)
            else:
                self.hub.exists, self.hub.private = True, asked.get("visibility") == "private"
                self.tell({"url": f"{host}/someone/net"})
        elif self.path == "/api/validate-yaml":
            front = yaml.safe_load(asked["content"].split("---\n")[1])
            assert isinstance(front, dict)
            self.tell({"errors": [], "warnings": []})
        elif self.path == "/api/models/someone/net/preupload/main":
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                }
                for file in asked["files"]
            ]
            self.tell({"files": files})
        elif self.path == "/someone/net.git/info/lfs/objects/batch":
            objects = [
                {
                    **wanted,
                    "actions": {
                        "upload": {"href": f"{host}/store/{wanted['oid']}"},
                        "verify": {"href": f"{host}/verify"},
                    },
                }
                for wanted in asked["objects"]
            ]
            self.tell({"transfer": "basic", "objects": objects})
        else:
            self.refuse(404, "RepoNotFound")

    def commit(self, content: bytes) -> None:
        """Take the files of a commit."""
        for line in map(json.loads, content.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif line["key"] == "file":
                self.hub.files[value["path"]] = base64.b64decode(value["content"])
            else:
                stored = self.hub.stored[value["oid"]]
                assert hashlib.sha256(stored).hexdigest() == value["oid"]
                self.hub.files[value["path"]] = stored
        self.tell(
            {"commitUrl": f"http://{self.headers['Host']}/someone/net/commit/{COMMIT}", "commitOid": COMMIT}
        )


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[str]:
    """Run the stand-in on a free port of 127.0.0.1."""
    handler = type("OneHub", (Handler,), {"hub": hub})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def account(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """Log in to a stand-in where nothing has been pushed yet; nothing of the user's own is touched."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    served = Hub({}, exists=False)
    with serving(served) as endpoint:
        use_hub(monkeypatch, endpoint)
        yield served
