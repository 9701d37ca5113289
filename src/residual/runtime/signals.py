"""Handling of SIGTERM and SIGINT: at once, or after the current step."""

import _thread
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

SAME = 0.5  # seconds in which a signal is the first one again: timeout(1) signals a process, then its group


class Interrupted(BaseException):
    """A signal that is handled at once; like KeyboardInterrupt, `except Exception` does not catch it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class StopSignals:
    """The signals that ask this process to stop.

    `number` is the first one received, None if there was none. A second one is handled at once; a third is
    left to the system.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._since = 0.0
        self._handled = self._deferred = False

    @contextmanager
    def handled(self, numbers: Sequence[int] = (signal.SIGTERM, signal.SIGINT)) -> Iterator[None]:
        """Raise `Interrupted` when a signal is received.

        If signals are handled already, or in another thread than the main one, nothing changes.
        """
        if self._handled or threading.current_thread() is not threading.main_thread():
            yield
            return
        before: dict[int, Any] = {}
        self._handled = True
        try:
            for number in numbers:
                before[number] = signal.signal(number, self._arrived)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler or signal.SIG_DFL)
            self._handled, self.number = False, None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer the first signal: the code inside checks `number` where it can stop.

        Raises:
            Interrupted: at the end, if a signal was received and not acted on; or at once by a second one.
        """
        outer, self._deferred = self._deferred, True
        try:
            yield
        finally:
            self._deferred = outer
        if self.number is not None and not outer:
            raise Interrupted(self.number)

    def send(self) -> None:
        """Do what SIGTERM does, from another thread and on Windows too, unless a signal came before."""
        if self.number is None:
            _thread.interrupt_main(signal.SIGTERM)

    def _arrived(self, number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.number is None:
            self.number, self._since = number, now
            if self._deferred:
                return
        elif now - self._since < SAME:
            return
        else:
            signal.signal(number, signal.SIG_DFL)
        raise Interrupted(number)


stop_signals = StopSignals()  # signal handlers belong to the process, and so does this
