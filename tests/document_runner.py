"""Runs the code blocks of a page in a working folder, in this process where possible.

What a reader waits minutes for is shortened, after the command was read and checked as it stands on the page:

| what                                  | in the test                                                        |
|---------------------------------------|--------------------------------------------------------------------|
| training: `train`, `residual.train`   | 2 steps of 8 images; photographs have 48 pixels                    |
| `--validation 5000`, of CIFAR-10      | a tenth of the stand-in's images                                   |
| several runs: `--seeds`, `reproduce`  | the first two, one after the other, in this process                |
| `train --find-lr`                     | 8 steps with rising rates                                          |
| `bench`                               | one round of one step                                              |
| `serve`                               | in a thread, on a free port, until the end of the page             |
| `push`, `hf-hub:USER/photos`          | a stand-in of the hub on this machine                              |
| `make`, `pip install`, environments   | not run: `.ci/run` and `pyproject.toml` have what is named         |
"""

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import residual
from documents import Block, DocumentError, check_output
from residual.bench import suites
from residual.cli import main as command_line
from residual.recipes.schema import Recipe
from residual.reproduce import campaign
from residual.training import experiment, find_rate, jobs

ROOT = Path(__file__).resolve().parent.parent
STEPS, BATCH, SIDE, RUNS, RATES = 2, 8, 48, 2, 8
SHELL = {
    "awk",
    "cat",
    "cp",
    "cut",
    "echo",
    "find",
    "grep",
    "head",
    "jq",
    "ls",
    "mkdir",
    "mv",
    "rm",
    "sort",
    "tail",
}
INSTALLING = ("make", "pip", "pip3", "pipx", "uv", "source", ".")
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
    """Check that continuous integration installs and makes what a line does, by name.

    Raises:
        DocumentError: it does not.
    """
    words = shlex.split(line, comments=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    if words[0] == "make":
        made = [
            set(_line.split()) for _line in (ROOT / ".ci/run").read_text().splitlines() if "make " in _line
        ]
        unknown = [word for word in words[1:] if not any(word in names for names in made)]
        if unknown:
            raise DocumentError(f"{block.place}: .ci/run does not make {', '.join(unknown)}")
    for word in words:
        extras = re.fullmatch(rf"(?:\.|{re.escape(project['name'])}|.*\.whl)\[(.+)\]", word)
        for extra in extras[1].split(",") if extras else ():
            if extra not in project["optional-dependencies"]:
                raise DocumentError(f"{block.place}: there is no extra '{extra}'")
    if "-c" in words and not (ROOT / words[words.index("-c") + 1]).is_file():
        raise DocumentError(f"{block.place}: there is no file {words[words.index('-c') + 1]}")


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


def shortened(recipe: Recipe) -> Recipe:
    """Return a recipe of a few steps with a few small images."""
    changes: dict[str, Any] = {"iterations": min(recipe.iterations, STEPS), "stop_after": 0, "time": 0.0}
    changes["batch_size"] = min(recipe.batch_size, BATCH)
    changes["optimizer.frozen"] = min(recipe.optimizer.frozen, 1)
    changes["validation"] = recipe.validation if recipe.validation < 1 else 0.1
    if recipe.augment.kind == "resized-crop" and recipe.image_size > SIDE:
        sizes = {"image_size": recipe.image_size, "test_size": recipe.test_size}
        sizes |= {"test_resize": recipe.test_resize, "augment.early_size": recipe.augment.early_size}
        changes |= {key: round(size * SIDE / recipe.image_size) for key, size in sizes.items()}
    return recipe.replace(changes)


def shorten(change: pytest.MonkeyPatch) -> None:
    """Shorten what takes long, as the table at the top says."""
    train, compare = experiment.train, suites.compare

    def train_shortly(recipe: Any, **options: Any) -> Any:
        return train(shortened(recipe) if isinstance(recipe, Recipe) else recipe, **options)

    def run_here(
        planned: Any, _at_once: int, *, reading: Mapping[str, Any] | None = None, **options: Any
    ) -> dict[Path, int]:
        where = {key: options.get(key) for key in ("data_dir", "device")}
        for job in planned[:RUNS]:
            train_shortly(job.recipe, output=job.output, quiet=True, **where, **(reading or {}))
            options["finished"](job, 0)
        return {job.output: 0 for job in planned[:RUNS]}

    def compare_shortly(contestants: Any, steps: Any, _repeats: int, batch: int) -> Any:
        return compare(contestants, dict.fromkeys(steps, 1), 1, batch)

    change.setattr(experiment, "train", train_shortly)
    change.setattr(residual, "train", train_shortly)
    change.setattr(jobs, "run_jobs", run_here)
    change.setattr(campaign, "run_jobs", run_here)
    change.setattr(find_rate, "STEPS", RATES)
    change.setattr(suites, "compare", compare_shortly)


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
