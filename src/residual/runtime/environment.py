"""The environment of a measurement: versions, hardware, commit, command."""

import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .._version import __version__


def environment_facts(hardware: Mapping[str, Any]) -> dict[str, Any]:
    """Return date, command, commit, versions, system and hardware of this process."""
    packages = ("torch", "numpy", "pillow", "safetensors", "scikit-learn")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _command(),
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
    """Remove the folders from a command, for files that are published."""
    return re.sub(r"(?:[^\s=]*/)([^/\s]+)", r"\1", command)


def short_commit(commit: str | None) -> str:
    """Shorten the commit that `environment_facts` gives; the suffix "+changes" stays."""
    digits, plus, changes = (commit or "unknown").partition("+")
    return digits[:10] + plus + changes


def _command() -> str:
    """Return the command line, "python -m residual" as such."""
    program, *arguments = sys.argv
    as_module = program == str(Path(__file__).parents[1] / "__main__.py")
    return shlex.join([*(("python", "-m", "residual") if as_module else (program,)), *arguments])


def _commit() -> str | None:
    """Return the commit that the package runs from, "+changes" if it was edited; None if installed."""
    folder = Path(__file__).resolve().parent
    git = ["git", "-C", str(folder)]
    try:
        # an installed copy may lie inside some other project's checkout: only a tracked file counts
        subprocess.run(
            [*git, "ls-files", "--error-unmatch", "environment.py"], check=True, capture_output=True
        )
        head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        dirty = subprocess.run([*git, "status", "--porcelain", "."], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout else "")
