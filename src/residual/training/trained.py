"""What training hands on to the stages after it."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..runtime.cpu_time import CpuTime


@dataclass(frozen=True)
class Trained:
    """What training hands on: the network after the last step, or the average of its weights, and figures.

    `stopped_early` is the step at which `recipe.early_stop` ended the run, to keep the best step's weights.
    `best` holds step and validation error of the best evaluation, `best_checkpoint` its weights, both None
    without a validation set. Errors are in percent.
    """

    network: nn.Module
    steps: int
    seconds: float
    cpu: CpuTime
    training_error: float | None
    warmup_end: int | None
    best: dict[str, float] | None
    best_checkpoint: Path | None
    stopped_early: int | None = None
