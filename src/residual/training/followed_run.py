"""The run folder for the ranks that do not write: the first one does, for all."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..runtime.files import found
from ..runtime.launch import started_as
from .run_folder import Run


def check_new(path: str | Path | None) -> None:
    """Refuse a run folder that exists.

    Raises:
        RunError: it does.
    """
    if path is not None and found(Path(path).exists):
        raise RunError(f"{path} exists already: a run is never overwritten")


def run_of_rank(path: Path) -> Run:
    """Return a run folder, for a rank that is not the first one that it does not write."""
    return Run(path) if started_as()[0] == 0 else FollowedRun(path)


class FollowedRun(Run):
    """A run folder that another rank writes."""

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Do nothing."""
        yield

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Do nothing."""

    def note_resume(self, step: int, environment: Mapping[str, Any]) -> None:
        """Do nothing."""

    def note(self, key: str, value: Any) -> None:
        """Do nothing."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Do nothing."""

    def forget_after(self, step: int) -> None:
        """Do nothing."""
