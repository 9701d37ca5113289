"""The run folder: its files' names and formats. It knows paths and JSON, no tensors."""

import itertools
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ._version import __version__
from .errors import RunError
from .files import write_json, write_text
from .recipe import Recipe, load_recipe


class Run:
    """A run folder that exists.

    recipe.json        the recipe, resolved
    environment.json   versions, hardware, commit, command, seed; one entry more for each resume
    metrics.jsonl      one record a line: {"step", "kind": "train" | "test" | "holdout", ...}
    checkpoints/       what `--resume` goes on from
    result.json        the figures, once training has ended
    curves.png         error against iterations
    model/             the model folder, from the last step
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.curves = path / "curves.png"
        self._recipe = path / "recipe.json"
        self._environment = path / "environment.json"
        self._metrics = path / "metrics.jsonl"
        self._result = path / "result.json"

    @classmethod
    def create(cls, path: Path | None, recipe: Recipe, environment: Mapping[str, Any]) -> "Run":
        """Make a new run folder; without a path, `runs/DATE-NETWORK-seedSEED`.

        Raises:
            RunError: the folder exists or cannot be written.
        """
        path = path if path is not None else _unused_name(recipe)
        if path.exists():
            raise RunError(f"{path} exists already: a run is never overwritten")
        new = cls(path.with_name(f".{path.name}.{os.getpid()}"))  # renamed once it can be resumed
        try:
            new.path.mkdir(parents=True)
            write_json(new._environment, {"seed": recipe.seed, **environment, "resumed": []})
            write_json(new._recipe, recipe.as_dict())
            new.path.rename(path)
        except OSError as error:
            raise RunError(f"cannot make the run folder {path}: {error}") from error
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open a run folder.

        Raises:
            RunError: there is none.
        """
        run = cls(path)
        if not run._recipe.is_file():
            raise RunError(f"{path} is no run folder: it has no recipe.json")
        return run

    @property
    def recipe(self) -> Recipe:
        """The recipe that the folder holds."""
        return load_recipe(self._recipe)

    @property
    def result(self) -> dict[str, Any] | None:
        """The figures, None while training has not ended."""
        if not self._result.is_file():
            return None
        return _read_object(self._result)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the figures: the last act of a run."""
        with _as_run_errors(self._result):
            write_json(self._result, result)

    @property
    def environment(self) -> dict[str, Any]:
        """What `environment.json` holds."""
        return _read_object(self._environment)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the folder.

        Raises:
            RunError: another process trains it, or the folder cannot be written.
        """
        with _as_run_errors(self.path / ".lock"):
            lock = FileLock(self.path / ".lock", timeout=0)
            try:
                lock.acquire()
            except Timeout as error:
                raise RunError(f"{self.path} is being trained by another process") from error
        try:
            yield
        finally:
            lock.release()

    def note_resume(self, step: int, environment: Mapping[str, Any]) -> None:
        """Add where and how a resume went on to `environment.json`."""
        values = self.environment
        values.setdefault("resumed", []).append({"step": step, **environment})
        with _as_run_errors(self._environment):
            write_json(self._environment, values)

    def note(self, key: str, value: Any) -> None:
        """Add a fact about the process that trains to what `environment.json` says of it."""
        values = self.environment
        (values.get("resumed") or [values])[-1][key] = value
        with _as_run_errors(self._environment):
            write_json(self._environment, values)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a record to `metrics.jsonl`."""
        with _as_run_errors(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Read the records, of one kind or all; a last line that a kill cut short is left out."""
        if not self._metrics.is_file():
            return []
        with _as_run_errors(self._metrics):
            text = self._metrics.read_text(encoding="utf-8")
            records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [record for record in records if kind in (None, record["kind"])]

    def forget_after(self, step: int) -> None:
        """Drop the records of steps that a resume will take again."""
        kept = [json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step]
        with _as_run_errors(self._metrics):
            write_text(self._metrics, "".join(kept))


@contextmanager
def _as_run_errors(path: Path) -> Iterator[None]:
    """Turn what a disk or a damaged file may do into one clear line."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot read or write {path}: {error}") from error
    except ValueError as error:
        raise RunError(f"{path} is cut or altered: {error}") from error


def _read_object(path: Path) -> dict[str, Any]:
    with _as_run_errors(path):
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values


def environment_facts(hardware: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is worth knowing of the process that trains: versions, hardware, commit, command."""
    packages = ("torch", "numpy", "pillow", "safetensors", "scikit-learn")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(sys.argv),
        "commit": _commit(),
        "versions": {
            "residual": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in packages},
        },
        "system": platform.platform(),
        "hardware": dict(hardware),
    }


def without_paths(command: str) -> str:
    """Leave out of a command where things lie on the machine that ran it, for files that are published."""
    return re.sub(r"(?:[^\s=]*/)([^/\s]+)", r"\1", command)


def short_commit(commit: str | None) -> str:
    """Return the beginning of what `environment_facts` gives as the commit; that it was edited stays."""
    digits, plus, changes = (commit or "unknown").partition("+")
    return digits[:10] + plus + changes


def _commit() -> str | None:
    """Return the commit that the package runs from, "+changes" if it was edited; None if installed."""
    folder = Path(__file__).resolve().parent
    git = ["git", "-C", str(folder)]
    try:
        # an installed copy may lie inside some other project's checkout: only a tracked file counts
        subprocess.run([*git, "ls-files", "--error-unmatch", "run.py"], check=True, capture_output=True)
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "."], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout else "")


def _unused_name(recipe: Recipe) -> Path:
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{recipe.network}-seed{recipe.seed}"
    candidates = (Path("runs") / (name + (f"-{n}" if n else "")) for n in itertools.count())
    return next(path for path in candidates if not path.exists())
