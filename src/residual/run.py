"""The run folder: its files' names and formats. It knows paths and JSON, no tensors."""

import itertools
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ._version import __version__
from .errors import RunError
from .files import write_json
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
        run = cls(path if path is not None else _unused_name(recipe))
        try:
            run.path.mkdir(parents=True)
        except FileExistsError as error:
            raise RunError(f"{run.path} exists already: a run is never overwritten") from error
        except OSError as error:
            raise RunError(f"cannot make the run folder {run.path}: {error}") from error
        write_json(run._environment, {"seed": recipe.seed, **environment, "resumed": []})
        write_json(run._recipe, recipe.as_dict())
        return run

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
        try:
            values: dict[str, Any] = json.loads(self._result.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RunError(f"{self._result} is cut or altered: {error}") from error
        return values

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Write the figures: the last act of a run."""
        write_json(self._result, result)

    def note_resume(self, step: int, environment: Mapping[str, Any]) -> None:
        """Add where and how a resume went on to `environment.json`."""
        values = json.loads(self._environment.read_text(encoding="utf-8"))
        values["resumed"].append({"step": step, **environment})
        write_json(self._environment, values)

    def log(self, record: Mapping[str, Any]) -> None:
        """Append a record to `metrics.jsonl`."""
        with self._metrics.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def metrics(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Read the records, of one kind or all; a last line that a kill cut short is left out."""
        if not self._metrics.is_file():
            return []
        text = self._metrics.read_text(encoding="utf-8")
        records = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [record for record in records if kind in (None, record["kind"])]

    def forget_after(self, step: int) -> None:
        """Drop the records of steps that a resume will take again."""
        kept = [json.dumps(record) + "\n" for record in self.metrics() if record["step"] <= step]
        self._metrics.write_text("".join(kept), encoding="utf-8")


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
