"""Weights & Biases. Its own settings apply: `wandb login`, WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE."""

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ...errors import UsageError
from ...runtime.files import write_text
from ..run_folder import Run

SECONDS = {"init_timeout": 30, "finish_timeout": 120}  # to wait for the server


class Wandb:
    """A run of Weights & Biases; its files are in RUN/wandb.

    Each record is a row, numbered from 0, with the step of training in the column "step". Rows cannot be
    changed once they are there, so records that a resume repeats are left out. How many rows there are is
    told by the server or, offline, by RUN/wandb/rows.
    """

    def __init__(self, run: Run, remote_id: str | None) -> None:
        self._wandb: Any = importlib.import_module("wandb")
        offline = self._wandb.setup().settings.mode in ("offline", "dryrun", "disabled")
        if not offline and not self._wandb.login(prompt=False):  # which would wait for an answer
            raise UsageError("there is no login: `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "residual"),
            name=run.path.name,
            id=remote_id,
            resume="allow",
            dir=str(run.path),
            config=run.recipe.flat(),
            allow_val_change=True,
            settings=self._wandb.Settings(console="off", silent=True, finish_timeout_raises=True, **SECONDS),
        )
        self._run.define_metric("*", step_metric="step")
        self._rows: Path | None = run.path / "wandb" / "rows" if offline else None
        self.sent = int(self._run.starting_step)
        if self._rows is not None and self._rows.is_file():
            self.sent = int(self._rows.read_text(encoding="utf-8"))
        self._next = self.sent
        self.remote_id = str(self._run.id)
        where = f"offline in {run.path / 'wandb'}" if offline else self._run.url
        self.place = f"Weights & Biases: {where}"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Log a row."""
        self._log({"step": step, **values})

    def finish(self, step: int, figures: Mapping[str, float], pictures: Mapping[str, Image]) -> None:
        """Log the pictures as a row, and the figures of the result as the run's summary."""
        images = {name: self._wandb.Image(picture) for name, picture in pictures.items()}
        self._log({"step": step, **images})
        self._run.summary.update({f"result/{name}": value for name, value in figures.items()})

    def _log(self, row: Mapping[str, Any]) -> None:
        self._run.log(row, step=self._next, commit=True)
        self._next += 1
        if self._rows is not None:
            write_text(self._rows, str(self._next))

    def close(self, ended: bool) -> None:
        """Wait until all is sent."""
        self._run.finish(exit_code=0 if ended else 1)


def open_run(run: Run, remote_id: str | None) -> Wandb:
    """Begin a run of Weights & Biases, or go on with one."""
    return Wandb(run, remote_id)
