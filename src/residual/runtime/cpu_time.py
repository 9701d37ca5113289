"""CPU time of this process and of all others, so that a run can tell whether it was disturbed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

DISTURBED = 0.05  # the share of the cores from which other processes count as a disturbance

OWN = ("user", "system", "children_user", "children_system")
BUSY = (
    "user",
    "nice",
    "system",
    "irq",
    "softirq",
    "steal",
)  # time stolen by a hypervisor's host counts as others'


@dataclass
class CpuTime:
    """Seconds: elapsed, computed by this process and its children, computed by all other processes."""

    elapsed: float = 0.0
    own: float = 0.0
    others: float = 0.0

    @property
    def others_share(self) -> float:
        """The share of all cores that other processes kept busy, 0 to 1."""
        return self.others / max(self.elapsed * (psutil.cpu_count() or 1), 1e-9)


def of_ranks(found: Sequence[CpuTime]) -> CpuTime:
    """Return the CPU time of a run of several processes on one machine, of which the first is measured."""
    first, rest = found[0], sum(time.own for time in found[1:])
    return CpuTime(first.elapsed, first.own + rest, max(first.others - rest, 0.0))


class CpuMeter:
    """Adds up the time between its readings."""

    def __init__(self) -> None:
        self.total = CpuTime()
        self._last = self._now()

    def read(self) -> CpuTime:
        """Return the sums since the beginning, this moment included."""
        now = self._now()
        elapsed, own, busy = (new - old for new, old in zip(now, self._last, strict=True))
        self._last = now
        self.total.elapsed += elapsed
        self.total.own += own
        self.total.others += max(busy - own, 0.0)
        return self.total

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """Read the clock, this process's CPU seconds and the whole machine's."""
        mine, machine = psutil.Process().cpu_times(), psutil.cpu_times()
        own = sum(getattr(mine, kind, 0.0) for kind in OWN)
        return time.monotonic(), own, sum(getattr(machine, kind, 0.0) for kind in BUSY)
