"""Progress of training and evaluation: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from .streams import standard_error

REFRESH_SECONDS = 0.5  # how often the bar's figures are updated
ESTIMATE_SECONDS = 3.0  # after this time the remaining time is estimated
SOON_SECONDS = 20 * 3600  # up to here a time of day says which day it is


@dataclass
class Display:
    """What a process shows on standard error; `quiet`: results and errors only, whatever is asked for."""

    quiet: bool = False


display = Display()  # a process has one standard error, and so one of these


class Reporter:
    """Shows progress on standard error; silent if disabled or where standard error cannot be written.

    Args:
        enabled: False shows nothing.
        prefix: written before every line, where several runs share a terminal; there is no bar then.
    """

    def __init__(self, enabled: bool = True, prefix: str = "") -> None:
        self.enabled, self.prefix = enabled and not display.quiet, prefix
        self.console = Console(file=standard_error(), highlight=False, soft_wrap=True, emoji=False)
        self._bar: Progress | None = None
        self._last_step: int | None = None
        self._epochs_per_step = 0.0
        self._started = self._shown = 0.0
        self._estimated = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def start(self, step: int, last_step: int | None, epochs_per_step: float = 0.0) -> None:
        """Start at a step, which after a resume is not 0; the last one may not be known yet."""
        self._last_step, self._epochs_per_step = last_step, epochs_per_step
        self._started, self._estimated = time.perf_counter(), not self.enabled
        if self._open_bar():
            assert self._bar is not None
            for task in self._bar.task_ids:  # of a run that went back
                self._bar.remove_task(task)
            self._task = self._bar.add_task("training", total=last_step, completed=step, figures="")

    def fitted(self, last_step: int) -> None:
        """Take another last step than so far."""
        self._last_step = last_step
        if self._bar is not None:
            self._bar.update(self._task, total=last_step)

    def advance(self, step: int) -> None:
        """Advance the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def wants_estimate(self) -> bool:
        """Tell whether to estimate now, once, how long the run will take."""
        return not self._estimated and time.perf_counter() - self._started >= ESTIMATE_SECONDS

    def estimate(self, seconds_left: float) -> None:
        """Print how long the run will take, unless it is about to end."""
        self._estimated = True
        if seconds_left >= ESTIMATE_SECONDS:
            self.say(
                f"training will take about {clock(seconds_left)} more on this machine, "
                f"until {time_of_day(seconds_left)}"
            )

    def wants_figures(self) -> bool:
        """Tell whether the bar's figures are due for an update; never without a bar."""
        return self._bar is not None and time.perf_counter() - self._shown >= REFRESH_SECONDS

    def show(self, step: int, loss: float, error: float, rate: float, images_per_second: float) -> None:
        """Update the bar's figures."""
        if self._bar is not None:
            self._shown = time.perf_counter()
            figures = f"{self._figures(loss, error, rate)}  {images_per_second:,.0f} images/s"
            self._bar.update(self._task, completed=step, description=self._epoch(step), figures=figures)

    def trained(
        self, step: int, loss: float, error: float, rate: float, images_per_second: float, seconds_left: float
    ) -> None:
        """Show a logged window of training."""
        if self._bar is not None:
            self.show(step, loss, error, rate, images_per_second)
            return
        self.say(
            f"{self._epoch(step)}  {self._step(step)}  {self._figures(loss, error, rate)}  "
            f"{images_per_second:,.0f} images/s  {clock(seconds_left)} left"
        )

    def evaluated(self, step: int, kind: str, error: float) -> None:
        """Show an evaluation."""
        self.say(f"{self._step(step)}  {kind} error {error:.2f} %")

    @contextmanager
    def working(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Show a bar for a stretch of work, such as an evaluation; gives a function that takes what is done.

        `total`, like what is done, is mostly a number of images; None where it is not known before.
        """
        if not self._open_bar():
            yield lambda _done: None
            return
        bar = self._bar
        assert bar is not None
        task = bar.add_task(what, total=total, figures="")
        try:
            yield lambda done: bar.update(task, completed=done)
        finally:
            bar.remove_task(task)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self.enabled:
            self.complain(line)

    def complain(self, line: str) -> None:
        """Print a line above the bar, also where nothing else is shown."""
        self.console.print(self.prefix + line, markup=False)

    def _open_bar(self) -> bool:
        """Start the bar if there is a terminal; return whether there is one."""
        if self._bar is None and self.enabled and not self.prefix and self.console.file.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeLeftColumn(),
                console=self.console,
                # what a terminal shows goes above the bar; a pipe or a file gets what is written to it
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
            )
            self._bar.start()
        return self._bar is not None

    def _epoch(self, step: int) -> str:
        done = f"epoch {step * self._epochs_per_step:.1f}"
        return done if self._last_step is None else f"{done}/{self._last_step * self._epochs_per_step:.1f}"

    def _step(self, step: int) -> str:
        return f"step {step}" if self._last_step is None else f"step {step}/{self._last_step}"

    @staticmethod
    def _figures(loss: float, error: float, rate: float) -> str:
        return f"lr {rate:.4g}  loss {loss:.4f}  training error {error:.2f} %"


def time_of_day(seconds_left: float) -> str:
    """Format the moment in so many seconds: 14:35, with the date where that is not soon."""
    moment = datetime.now() + timedelta(seconds=seconds_left)
    return f"{moment:%H:%M}" if seconds_left < SOON_SECONDS else f"{moment:%Y-%m-%d %H:%M}"


def clock(seconds: float) -> str:
    """Format a time as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
