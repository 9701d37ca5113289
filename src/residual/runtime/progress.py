"""Progress of training and evaluation: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

from .streams import standard_error

REFRESH_SECONDS = 0.5  # how often the bar's figures are updated
ESTIMATE_SECONDS = 3.0  # after this time the remaining time is estimated


class Reporter:
    """Shows progress on standard error; silent if disabled or where standard error cannot be written.

    Args:
        enabled: False shows nothing.
        prefix: written before every line, where several runs share a terminal; there is no bar then.
    """

    def __init__(self, enabled: bool = True, prefix: str = "") -> None:
        self.enabled, self.prefix = enabled, prefix
        self.console = Console(file=standard_error(), highlight=False, soft_wrap=True)
        self._bar: Progress | None = None
        self._first_step = self._last_step = 0
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

    def start(self, step: int, last_step: int, epochs_per_step: float = 0.0) -> None:
        """Start at a step, which after a resume is not 0."""
        self._first_step, self._last_step, self._epochs_per_step = step, last_step, epochs_per_step
        self._started, self._estimated = time.perf_counter(), False
        if self._open_bar():
            assert self._bar is not None
            self._task = self._bar.add_task("training", total=last_step, completed=step, figures="")

    def advance(self, step: int) -> None:
        """Advance the bar, and print once how long training will take."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)
        seconds, done = time.perf_counter() - self._started, step - self._first_step
        if self.enabled and not self._estimated and seconds >= ESTIMATE_SECONDS:
            self._estimated = True
            left = seconds / done * (self._last_step - step)
            if left >= ESTIMATE_SECONDS:
                self.say(f"training will take about {clock(left)} more on this machine")

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
            f"{self._epoch(step)}  step {step}/{self._last_step}  {self._figures(loss, error, rate)}  "
            f"{images_per_second:,.0f} images/s  {clock(seconds_left)} left"
        )

    def evaluated(self, step: int, kind: str, error: float) -> None:
        """Show an evaluation."""
        self.say(f"step {step}/{self._last_step}  {kind} error {error:.2f} %")

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
            )
            self._bar.start()
        return self._bar is not None

    def _epoch(self, step: int) -> str:
        done, total = step * self._epochs_per_step, self._last_step * self._epochs_per_step
        return f"epoch {done:.1f}/{total:.1f}"

    @staticmethod
    def _figures(loss: float, error: float, rate: float) -> str:
        return f"lr {rate:.4g}  loss {loss:.4f}  training error {error:.2f} %"


def clock(seconds: float) -> str:
    """Format a time as 1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
