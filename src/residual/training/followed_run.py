"""The run folder for the ranks that do not write: the first one does, for all."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .run_folder import Run


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
