"""Where several ranks would agree. There is one rank today, so each function returns what it is given."""

from torch import Tensor


def sum_over_ranks(sums: Tensor) -> Tensor:
    """Return the sum of a tensor over all ranks (an all-reduce); every metric is read through it."""
    return sums


def any_rank_stops(signal_number: int | None) -> int | None:
    """Return the signal that stops training, if any rank received one, so that all stop at the same step."""
    return signal_number
