"""The run folder: its files' names and formats. It knows paths and JSON, no tensors."""

import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import RunError
from ..recipes.schema import FORMAT, Recipe, load_recipe
from ..runtime.files import found, is_abandoned, read_bounded, write_json, write_text

# what is read of a run's files, and its type
Kinds = Mapping[str, type | tuple[type, ...]]
NUMBER = (int, float)
RECORD: Kinds = {"step": int, "kind": str, "error": NUMBER}
RESULT: Kinds = {
    **dict.fromkeys(("network", "data", "recipe"), str),
    **dict.fromkeys(("seed", "iterations", "images"), int),
    **dict.fromkeys(("error", "training_error", "seconds", "images_per_second"), NUMBER),
    "validation_best": (dict, type(None)),
}
ENVIRONMENT: Kinds = {
    **dict.fromkeys(("date", "command"), str),
    **dict.fromkeys(("hardware", "versions"), dict),
    "commit": (str, type(None)),
    "resumed": list,
}
NESTED: Mapping[str, Kinds] = {"hardware": {"device": str, "threads": int}, "versions": {"torch": str}}
MAX_FILE = 2**24  # bytes of a file other than the metrics
MOST_THREADS = 4096  # above: a damaged number, which must not be tried
COPY = "put a copy back, or train anew"


class Run:
    """A run folder that exists.

    recipe.json        the recipe, resolved
    environment.json   versions, hardware, commit, command, seed; one entry more for each resume
    metrics.jsonl      one record a line: {"step", "kind": "train" | "test" | "validation", ...}
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
        if found(path.exists):
            raise RunError(f"{path} exists already: a run is never overwritten")
        new = cls(path.with_name(f".{path.name}.{os.getpid()}"))  # renamed once it can be resumed
        try:
            _sweep_unfinished(path)
            new.path.mkdir(parents=True)
            write_json(new._environment, {"seed": recipe.seed, **environment, "resumed": []})
            write_json(new._recipe, {"format": FORMAT, **recipe.as_dict()})
            new.path.rename(path)
        except (OSError, ValueError) as error:  # ValueError: a NUL in its name
            raise RunError(f"cannot make the run folder {path}: {error}") from error
        finally:
            _delete_unfinished(new.path)
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> "Run":
        """Open a run folder.

        Raises:
            RunError: there is none.
        """
        run = cls(path)
        if not found(run._recipe.is_file):
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
        hint = "delete it, and the resume that follows writes it again"
        return _read_object(self._result, RESULT, hint)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the figures: the last act of a run."""
        with _as_run_errors(self._result):
            write_json(self._result, result)

    @property
    def environment(self) -> dict[str, Any]:
        """What `environment.json` holds."""
        values = _read_object(self._environment, ENVIRONMENT, COPY)
        for key, kinds in NESTED.items():
            _check_keys(values[key], kinds, f"'{key}' in {self._environment}", COPY)
        if not 1 <= values["hardware"]["threads"] <= MOST_THREADS:
            raise RunError(f"{self._environment} is corrupted: no run has so many threads; {COPY}")
        return values

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
            with _as_run_errors(self.path):
                self._sweep()
            yield
        finally:
            lock.release()

    def _sweep(self) -> None:
        """Delete what a killed process left half written: only the holder of the lock writes here."""
        for file in self.path.rglob(".*.tmp"):
            file.unlink(missing_ok=True)
        for checksum in self.checkpoints.glob("*.pt.sha256"):  # written before its checkpoint
            if not checksum.with_suffix("").exists():
                checksum.unlink(missing_ok=True)

    def note_resume(self, step: int, environment: Mapping[str, Any]) -> None:
        """Add where and how a resume went on to `environment.json`."""
        values = self.environment
        values["resumed"].append({"step": step, **environment})
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
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        records = [self._record(number, line) for number, line in enumerate(lines, start=1)]
        return [record for record in records if kind in (None, record["kind"])]

    def _record(self, number: int, line: str) -> dict[str, Any]:
        """Read a line of `metrics.jsonl`; early ones call the validation set a hold-out."""
        record = _object(line, RECORD, f"line {number} of {self._metrics}", "delete that line")
        return {**record, "kind": "validation"} if record["kind"] == "holdout" else record

    def forget_after(self, step: int) -> None:
        """Drop the records of steps that a resume will take again."""
        kept = [json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step]
        with _as_run_errors(self._metrics):
            write_text(self._metrics, "".join(kept))


def _sweep_unfinished(path: Path) -> None:
    """Delete the folders of processes that were killed while they made a run.

    One for this very path goes at once: of two that make the same run, one is refused in any case. Another
    may be in the making, so it goes only when it is too old for that.
    """
    for folder in path.parent.glob(".*"):
        name, _, process = folder.name.removeprefix(".").rpartition(".")
        if name and process.isdecimal() and (name == path.name or is_abandoned(folder)):
            _delete_unfinished(folder)


def _delete_unfinished(folder: Path) -> None:
    """Delete a run folder that was not finished; one that holds anything else was not made here."""
    known = {"recipe.json", "environment.json"}
    with suppress(OSError, ValueError):  # ValueError: a NUL in its name
        files = list(folder.iterdir())
        if all(file.name in known or re.fullmatch(r"\..*\.tmp", file.name) for file in files):
            for file in files:
                file.unlink()
            folder.rmdir()


@contextmanager
def _as_run_errors(path: Path) -> Iterator[None]:
    """Turn what a disk or a damaged file may do into one clear line."""
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot read or write {path}: {error}") from error
    except ValueError as error:
        raise RunError(f"{path} is cut or altered: {error}") from error


def _read_object(path: Path, kinds: Kinds, hint: str) -> dict[str, Any]:
    with _as_run_errors(path):
        text = read_bounded(path, MAX_FILE).decode()
    return _object(text, kinds, str(path), hint)


def _object(text: str, kinds: Kinds, source: str, hint: str) -> dict[str, Any]:
    """Read an object in JSON that must have certain keys; the hint says what to do if it has not."""
    try:
        values: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{source} is truncated or corrupted: {error}; {hint}") from error
    _check_keys(values, kinds, source, hint)
    return values


def _check_keys(values: Any, kinds: Kinds, source: str, hint: str) -> None:
    """Refuse what is not an object, or lacks a key, or has a value of another type there."""
    if not isinstance(values, dict):
        raise RunError(f"{source} is truncated or corrupted: it is not an object; {hint}")
    for key, kind in kinds.items():
        if key not in values:
            raise RunError(f"{source} is truncated or corrupted: it lacks '{key}'; {hint}")
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise RunError(f"{source} is truncated or corrupted: {key} is {values[key]!r}; {hint}")


def _unused_name(recipe: Recipe) -> Path:
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{recipe.network}-seed{recipe.seed}"
    candidates = (Path("runs") / (name + (f"-{n}" if n else "")) for n in itertools.count())
    return next(path for path in candidates if not path.exists())
