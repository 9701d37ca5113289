"""TensorBoard: event files in the run folder, `tensorboard --logdir runs` shows those of all runs."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL.Image import Image

from ..run_folder import Run


class TensorBoard:
    """Event files in RUN/tensorboard.

    A resume begins another file, which has all records from the start: its first event tells TensorBoard to
    drop those of earlier files. So what is shown is `metrics.jsonl`, without a step twice.
    """

    remote_id = "tensorboard"
    sent = 0

    def __init__(self, run: Run) -> None:
        folder = run.path / "tensorboard"
        writing: Any = importlib.import_module("torch.utils.tensorboard")
        self._writer = writing.SummaryWriter(str(folder), purge_step=0 if folder.exists() else None)
        rows = "".join(f"| {key} | {value} |\n" for key, value in run.recipe.flat().items())
        self._writer.add_text("recipe", f"| key | value |\n|---|---|\n{rows}", 0)
        self.place = f"TensorBoard: tensorboard --logdir {run.path.parent}"

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write a record, at once, for the process may be killed."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self, step: int, figures: Mapping[str, float], pictures: Mapping[str, Image]) -> None:
        """Write the figures of the result, and the pictures."""
        for name, value in figures.items():
            self._writer.add_scalar(f"result/{name}", value, step)
        for name, picture in pictures.items():
            self._writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def close(self, ended: bool) -> None:
        """Close the file."""
        self._writer.close()


def open_run(run: Run, remote_id: str | None) -> TensorBoard:
    """Begin an event file of a run."""
    return TensorBoard(run)
