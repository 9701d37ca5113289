"""What a person sees while a run trains: a bar on a terminal, plain lines elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .streams import standard_error


class Reporter:
    """Shows a run's progress on standard error; silent where nobody asked for it or it cannot be shown."""

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled
        self.console = Console(file=standard_error(), highlight=False, soft_wrap=True)
        self._bar: Progress | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, step: int, last_step: int) -> None:
        """Begin, at a step that is not 0 after a resume."""
        if self.enabled and self.console.file.isatty():
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[figures]}"),
                TimeRemainingColumn(),
                console=self.console,
            )
            self._task = self._bar.add_task("train", total=last_step, completed=step, figures="")
            self._bar.start()
        self._last_step = last_step

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def trained(
        self, step: int, loss: float, error: float, images_per_second: float, seconds_left: float
    ) -> None:
        """Show a window of training."""
        if self._bar is not None:
            figures = f"loss {loss:.3f}  error {error:.2f} %  {images_per_second:.0f} images/s"
            self._bar.update(self._task, completed=step, figures=figures)
        else:
            self.say(
                f"step {step}/{self._last_step}  loss {loss:.4f}  training error {error:.2f} %  "
                f"{images_per_second:.0f} images/s  {_clock(seconds_left)} left"
            )

    def evaluated(self, step: int, kind: str, error: float) -> None:
        """Show an evaluation."""
        self.say(f"step {step}/{self._last_step}  {kind} error {error:.2f} %")

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self.enabled:
            self.console.print(line, markup=False)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
