"""Runs the code blocks of a page in a working folder, in this process where possible; see `shortened.py`."""

import contextlib
import gc
import io
import logging
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from documents import Block, DocumentError, check_output
from residual.cli import main as command_line
from shortened import shorten

ROOT = Path(__file__).resolve().parent.parent
SHELL = {"cat", "cp", "cut", "echo", "find", "grep", "head", "ls", "mkdir", "mv", "rm", "sort", "tail"}
INSTALLING = ("make", "pip", "source")
SECONDS = 120  # for a program that runs on its own


class _Stream(io.TextIOWrapper):
    """Keeps what is written, and copies it to what both streams share."""

    def __init__(self, both: list[str]) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)
        self.both, self.own = both, list[str]()

    def write(self, text: str) -> int:
        self.own.append(text)
        self.both.append(text)
        return len(text)


class Page:
    """A page in progress: its Python names, its servers, and what its commands have printed.

    The working folder is the current one, and environment variables are those of the process.
    """

    def __init__(self, change: pytest.MonkeyPatch) -> None:
        self.change = change
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.servers: list[tuple[Any, threading.Thread]] = []
        self.ports: dict[str, str] = {}  # as on the page -> as it is
        self.repositories: dict[str, str] = {}  # likewise, repositories on the hub
        self._wanted_port = "8000"

    def run(self, block: Block) -> None:
        """Run a block and compare its output.

        Raises:
            DocumentError: it fails, or prints other than the page says.
        """
        out, both = list[str](), list[str]()
        fails = any(line.startswith("residual: ") for line in (block.expected or "").splitlines())
        if block.language == "python":
            self._python(block, out, both)
        else:
            lines = commands(block.text)
            for number, line in enumerate(lines):
                code = self._command(block, line, out, both)
                if bool(code) != (fails and number == len(lines) - 1):
                    raise DocumentError(f"{block.place}: '{line}' has exit code {code}:\n{''.join(both)}")
        check_output(block, *(self._as_written("".join(text)) for text in (out, both)))

    def _python(self, block: Block, out: list[str], both: list[str]) -> None:
        source = "\n" * block.line + self._as_it_is(block.text)
        with _captured(both, out), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                exec(compile(source, block.where, "exec"), self.names)
            except Exception as error:
                raise DocumentError(f"{block.place}: {type(error).__name__}: {error}") from error

    def _command(self, block: Block, line: str, out: list[str], both: list[str]) -> int:
        """Run a line of a shell and return its exit code."""
        line = self._as_it_is(line)
        values, words = _split(line)
        if words[:3] == ["python", "-m", "residual"]:
            line, words = line.replace("python -m residual", "residual", 1), words[2:]
        if not words or words[0] == "export":
            for name, value in (word.split("=", 1) for word in [*words[1:], *map("=".join, values.items())]):
                self.change.setenv(name, value)
            return 0
        if words[0] == "cd":
            self.change.chdir(words[1])
            return 0
        pipe = re.fullmatch(
            r"(?:(?P<before>.*?) \| )?(?P<own>(?:\w+=\S* )*residual .*?)(?P<after> (?:\||>>?) .*)?", line
        )
        if pipe is None:
            return self._program(block, line, words[0], out, both)
        with pytest.MonkeyPatch.context() as change:
            values, words = _split(pipe["own"])
            for name, value in values.items():
                change.setenv(name, value)
            given = _shell(pipe["before"]) if pipe["before"] else ""
            if pipe["after"] is None:
                return self._residual(words[1:], given, out, both)
            passed = list[str]()
            code = self._residual(words[1:], given, passed, both)
            out.append(_shell(f"cat {pipe['after']}", "".join(passed)))
            return code

    def _program(self, block: Block, line: str, program: str, out: list[str], both: list[str]) -> int:
        if program in INSTALLING or "-m pip" in line or "-m venv" in line:
            check_installation(block, line)
            return 0
        if program not in (*SHELL, "curl", "python"):
            raise DocumentError(f"{block.place}: '{program}' is not run here: <!-- not run: REASON -->")
        line = line.replace("curl ", "curl --silent --show-error --fail-with-body ", 1)
        try:
            printed = _shell(line)
        except subprocess.CalledProcessError as error:
            both.append(error.stdout + error.stderr)
            return int(error.returncode)
        out.append(printed)
        both.append(printed)
        return 0

    def _residual(self, words: list[str], given: str, out: list[str], both: list[str]) -> int:
        """Run the command line in this process."""
        words = [word for word in words if word != "&"]
        if words[:1] == ["serve"] and "--help" not in words:
            self._wanted_port = words[words.index("--port") + 1] if "--port" in words else "8000"
            self.stop(self._wanted_port)
            words = [*words, "--port", "0"]
        with _captured(both, out), pytest.MonkeyPatch.context() as change:
            change.setattr(sys, "argv", ["residual", *words])
            change.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
            try:
                command_line.main()
            except SystemExit as end:
                return int(end.code or 0)
            finally:
                logging.captureWarnings(False)

    def serve(self, run: Callable[..., None], server: Any, sockets: list[Any]) -> None:
        """Run a server in a thread, and return once it answers: in place of uvicorn's `run`."""
        started, announce = threading.Event(), server._when_started

        def told() -> None:
            announce()
            started.set()

        server._when_started = told
        kept = [socket.dup() for socket in sockets]
        self.ports[self._wanted_port] = str(kept[0].getsockname()[1])
        server.port_on_page = self._wanted_port
        thread = threading.Thread(target=run, args=(server,), kwargs={"sockets": kept})
        thread.start()
        self.servers.append((server, thread))
        if not started.wait(60):
            raise DocumentError("the server does not start")

    def stop(self, port: str | None = None) -> None:
        """Stop the servers, or that on a port of the page."""
        for server, thread in list(self.servers):
            if port in (None, server.port_on_page):
                server.should_exit = True
                thread.join(60)
                self.servers.remove((server, thread))
                gc.unfreeze()

    def _as_it_is(self, text: str) -> str:
        for written, real in self.ports.items():
            text = re.sub(rf"(127\.0\.0\.1|localhost):{written}\b", rf"\1:{real}", text)
        for written, real in self.repositories.items():
            text = text.replace(written, real)
        return text

    def _as_written(self, text: str) -> str:
        for written, real in self.ports.items():
            text = text.replace(f":{real}", f":{written}")
        for written, real in self.repositories.items():
            text = text.replace(real, written)
        return text


def commands(text: str) -> list[str]:
    """Return the commands of a block: a line each, unless it ends with a backslash."""
    joined = re.sub(r"\\\n\s*", "", text)
    return [line.strip() for line in joined.splitlines() if line.strip() and not line.strip().startswith("#")]


def check_installation(block: Block, line: str) -> None:
    """Check that .ci/run makes what a line makes, by its name, and that what it installs is there.

    Raises:
        DocumentError: it does not.
    """
    words = shlex.split(line, comments=True)
    if words[0] == "make":
        made = [line.split() for line in (ROOT / ".ci/run").read_text().splitlines() if "make " in line]
        unknown = [word for word in words[1:] if not any(word in names for names in made)]
        if unknown:
            raise DocumentError(f"{block.place}: .ci/run does not make {', '.join(unknown)}")
    elif "install" in words:
        for word in words[words.index("install") + 1 :]:
            _check_installed(block, word)


def _check_installed(block: Block, word: str) -> None:
    """Check an argument of `pip install`: this project, its extras, or a file of the repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.fullmatch(rf"(?:\.|{re.escape(project['name'])}|\S+\.whl)(?:\[(?P<extras>.+)\])?", word)
    if named is None and not word.startswith("-") and not (ROOT / word).is_file():
        raise DocumentError(f"{block.place}: '{word}' is none of this project's: take an extra")
    for extra in (named["extras"] or "").split(",") if named else ():
        if extra and extra not in project["optional-dependencies"]:
            raise DocumentError(f"{block.place}: there is no extra '{extra}'")


def _split(line: str) -> tuple[dict[str, str], list[str]]:
    """Return the variables that a command sets for itself, and its words."""
    words = shlex.split(line, comments=True)
    values = {}
    while words and re.match(r"\w+=", words[0]):
        name, _, value = words.pop(0).partition("=")
        values[name] = value
    return values, words


def _shell(line: str, given: str = "") -> str:
    """Run a line by bash and return what it prints."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        input=given, capture_output=True, text=True, check=True, timeout=SECONDS,
        env={**os.environ, "PATH": path},
    )  # fmt: skip
    return done.stdout


@contextlib.contextmanager
def _captured(both: list[str], out: list[str]) -> Iterator[None]:
    """Keep what is printed: standard output, and both streams as they come."""
    output, errors = _Stream(both), _Stream(both)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            yield
    finally:
        out.extend(output.own)


@contextlib.contextmanager
def opened(change: pytest.MonkeyPatch) -> Iterator[Page]:
    """Give a page whose blocks run in the current folder; its servers stop at the end."""
    page = Page(change)
    shorten(change)
    with contextlib.suppress(ImportError):
        import uvicorn

        run = uvicorn.Server.run
        change.setattr(
            uvicorn.Server, "run", lambda server, sockets=None: page.serve(run, server, sockets or [])
        )
    try:
        yield page
    finally:
        page.stop()
