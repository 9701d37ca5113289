"""The run folder: names and formats of its files. It knows paths and JSON, no tensors."""

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ..errors import RunError
from ..recipes import schema
from ..recipes.schema import Recipe, load_recipe
from ..runtime.files import found, is_abandoned, read_bounded, write_json, write_text
from .run_files import (
    ENVIRONMENT,
    FORMAT,
    NESTED,
    RECORD,
    RESULT,
    as_run_errors,
    check_keys,
    parse_object,
    read_object,
)

MAX_METRICS = 2**30  # bytes; a record takes two hundred
MOST_THREADS = 4096  # above: a damaged number, which must not be tried
COPY = "restore a copy, or train again"


class Run:
    """A run folder that exists.

    recipe.json        the recipe, resolved
    environment.json   versions, hardware, commit, command, seed; one more entry for each resume
    metrics.jsonl      one record a line: {"step", "kind": "train" | "test" | "validation", ...}
    checkpoints/       what `--resume` starts from
    result.json        the figures, once training has ended
    curves.png         error against iterations
    batch.png          of photographs: the first batch as the network sees it
    report.html        of photographs: the figures, the mistakes, the images
    mistakes.csv       of photographs: the misclassified ones
    find-lr.png        loss against learning rate, if a range test chose the learning rate
    loggers.json       where the run is logged besides, and what it is called there
    model/             the model folder, from the last step
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.model = path / "model"
        self.curves = path / "curves.png"
        self.batch = path / "batch.png"
        self.report = path / "report.html"
        self.mistakes = path / "mistakes.csv"
        self.find_rate = path / "find-lr.png"
        self._recipe = path / "recipe.json"
        self._environment = path / "environment.json"
        self._metrics = path / "metrics.jsonl"
        self._result = path / "result.json"
        self.listeners: list[Callable[[Mapping[str, Any]], None]] = []  # called with each record

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
            new._write_environment({"seed": recipe.seed, **environment, "resumed": []})
            write_json(new._recipe, {"format": schema.FORMAT, **recipe.as_dict()})
            new.path.rename(path)
        except FileNotFoundError as error:  # what was written here was swept away: see below
            raise RunError(f"{path} is being made by another process") from error
        except (OSError, ValueError) as error:  # ValueError: a NUL in its name
            if found(path.exists):  # since a moment ago
                raise RunError(f"{path} exists already: a run is never overwritten") from error
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
            raise RunError(f"{path} is not a run folder: it has no recipe.json")
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
        hint = "delete it, and the next resume writes it again"
        return read_object(self._result, RESULT, hint)

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the figures, which marks the run as finished."""
        with as_run_errors(self._result):
            write_json(self._result, {"format": FORMAT, **result})

    @property
    def environment(self) -> dict[str, Any]:
        """What `environment.json` holds."""
        values = read_object(self._environment, ENVIRONMENT, COPY)
        for key, kinds in NESTED.items():
            check_keys(values[key], kinds, f"'{key}' in {self._environment}", COPY)
        if not 1 <= values["hardware"]["threads"] <= MOST_THREADS:
            raise RunError(f"{self._environment} is corrupted: no run has so many threads; {COPY}")
        return values

    def _write_environment(self, values: Mapping[str, Any]) -> None:
        write_json(self._environment, {"format": FORMAT, **values})

    @property
    def own_network(self) -> str | None:
        """The class of a network that the caller passed, None for one of the recipe's."""
        name = read_object(self._environment, {}, COPY).get("own_network")
        return None if name is None else str(name)

    @property
    def how_to_resume(self) -> str:
        """Say how to resume the run; a network or dataset of the caller's has to be passed again."""
        values = read_object(self._environment, {}, COPY)
        own = ["network=..."] if values.get("own_network") else []
        own += ["dataset=..."] if has_own_dataset(values, self.recipe) else []
        if own:
            return f"residual.resume({str(self.path)!r}, {', '.join(own)}) resumes it"
        return f"'residual train --resume {self.path}' resumes it"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the folder.

        Raises:
            RunError: another process trains it, or the folder cannot be written.
        """
        with as_run_errors(self.path / ".lock"):
            lock = FileLock(self.path / ".lock", timeout=0)
            try:
                lock.acquire()
            except Timeout as error:
                raise RunError(f"{self.path} is being trained by another process") from error
        try:
            with as_run_errors(self.path):
                self._sweep()
            yield
        finally:
            lock.release()

    @property
    def in_use(self) -> bool:
        """Whether a process trains it; False where its lock cannot be tried."""
        path = self.path / ".lock"
        if not found(path.is_file):  # a run's first step makes it; nothing is written here
            return False
        lock = FileLock(path, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            return True
        except OSError:
            return False
        lock.release()
        return False

    @property
    def last_checkpoint(self) -> int | None:
        """The step of the newest checkpoint, where a resume begins; None if there is none."""
        names = (path.stem.rpartition("-")[2] for path in self.checkpoints.glob("last-*.pt"))
        return max((int(step) for step in names if step.isdecimal()), default=None)

    def _sweep(self) -> None:
        """Delete what a killed process left half written: only the holder of the lock writes here."""
        for file in self.path.rglob(".*.tmp"):
            file.unlink(missing_ok=True)
        for checksum in self.checkpoints.glob("*.pt.sha256"):  # written before its checkpoint
            if not checksum.with_suffix("").exists():
                checksum.unlink(missing_ok=True)

    def note_resume(self, step: int, environment: Mapping[str, Any]) -> None:
        """Add the step and the circumstances of a resume to `environment.json`."""
        values = self.environment
        values["resumed"].append({"step": step, **environment})
        with as_run_errors(self._environment):
            self._write_environment(values)

    def note(self, key: str, value: Any) -> None:
        """Add a fact about the process that trains to what `environment.json` says of it."""
        values = self.environment
        (values.get("resumed") or [values])[-1][key] = value
        with as_run_errors(self._environment):
            self._write_environment(values)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a record to `metrics.jsonl`."""
        with as_run_errors(self._metrics), self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        for listener in self.listeners:
            listener(record)

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Read the records, of one kind or all; an incomplete last line is left out."""
        if not self._metrics.is_file():
            return []
        with as_run_errors(self._metrics):
            text = read_bounded(self._metrics, MAX_METRICS).decode()
        lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        records = [self._record(number, line) for number, line in enumerate(lines, start=1)]
        return [record for record in records if kind in (None, record["kind"])]

    def _record(self, number: int, line: str) -> dict[str, Any]:
        """Read a line of `metrics.jsonl`; early versions called the validation set "holdout"."""
        record = parse_object(line, RECORD, f"line {number} of {self._metrics}", "delete that line")
        return {**record, "kind": "validation"} if record["kind"] == "holdout" else record

    def forget_after(self, step: int) -> None:
        """Drop the records of steps that a resume will repeat."""
        kept = [json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step]
        with as_run_errors(self._metrics):
            write_text(self._metrics, "".join(kept))


def has_own_dataset(environment: Mapping[str, Any], recipe: Recipe) -> bool:
    """Tell whether the caller passed the dataset of a run; early versions recorded its name alone."""
    named_otherwise = environment.get("dataset", recipe.data) != recipe.data
    return bool(environment.get("own_dataset", named_otherwise))


def _sweep_unfinished(path: Path) -> None:
    """Delete the folders of processes that were killed while they made a run.

    One for this very path is deleted at once: of two processes that make the same run, one is refused in any
    case. Any other may be in use, so it is deleted only when it is too old for that.
    """
    for folder in path.parent.glob(".*"):
        name, _, process = folder.name.removeprefix(".").rpartition(".")
        if name and process.isdecimal() and (name == path.name or is_abandoned(folder)):
            _delete_unfinished(folder)


def _delete_unfinished(folder: Path) -> None:
    """Delete a run folder that was not finished, unless it holds files that were not made here."""
    known = {"recipe.json", "environment.json"}
    with suppress(OSError, ValueError):  # ValueError: a NUL in its name
        if all(file.name in known or re.fullmatch(r"\..*\.tmp", file.name) for file in folder.iterdir()):
            # at once, for its process may be about to give it its name: never half of it is deleted
            aside = folder.rename(folder.with_name(f"{folder.name}{os.getpid()}"))
            for file in aside.iterdir():
                file.unlink()
            aside.rmdir()


def _unused_name(recipe: Recipe) -> Path:
    name = f"{datetime.now():%Y-%m-%d-%H%M%S}-{recipe.network}-seed{recipe.seed}"
    candidates = (Path("runs") / (name + (f"-{n}" if n else "")) for n in itertools.count())
    return next(path for path in candidates if not path.exists())
