"""Two error rates measured on the same images: McNemar's exact test, and an interval of their difference.

Only images that one of the two gets wrong and the other right tell them apart. Each function takes the number
of those that only the first gets wrong, and that only the second does.
"""

from math import sqrt

from .metrics import Z95

HALVINGS = 60  # of an interval of at most 2


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the p-value of McNemar's exact test, two-sided, that the two err equally often.

    If they do, each image that tells them apart is as likely to be the one's as the other's: McNemar, "Note
    on the sampling error of the difference between correlated proportions or percentages" (1947).
    """
    from scipy.stats import binomtest  # takes a while to import

    apart = only_first + only_second
    return float(binomtest(only_first, apart).pvalue) if apart else 1.0


def difference_interval(only_first: int, only_second: int, images: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of the first error minus the second, as rates from -1 to 1.

    It is the score interval of Tango, "Equivalence test and confidence interval for the difference in
    proportions for the paired-sample design" (1998), which holds for few images and for small differences.
    """
    observed = (only_first - only_second) / images
    return (
        _limit(only_first, only_second, images, observed, -1.0),
        _limit(only_first, only_second, images, observed, 1.0),
    )


def _limit(only_first: int, only_second: int, images: int, inside: float, outside: float) -> float:
    """Search between a difference in the interval and one outside it for the last that the data allow."""
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        if abs(_score(only_first, only_second, images, middle)) <= Z95:
            inside = middle
        else:
            outside = middle
    return inside


def _score(only_first: int, only_second: int, images: int, difference: float) -> float:
    """Return how many standard deviations the observed difference is away from one that is assumed.

    The standard deviation is that of the likeliest rates which have the assumed difference (Tango, section
    3): the rate of "only the second is wrong" solves a q^2 + b q + c = 0.
    """
    a = 2 * images
    b = -only_first - only_second + (a - only_first + only_second) * difference
    c = -only_second * difference * (1 - difference)
    rate = (sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = images * (2 * rate + difference * (1 - difference))
    distance = only_first - only_second - images * difference
    if variance <= 0:
        return 0.0 if distance == 0 else float("inf")
    return distance / sqrt(variance)
