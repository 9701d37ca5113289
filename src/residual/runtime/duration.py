"""Times as a user writes them, such as 90s, 25m or 2h."""

import re

from ..errors import UsageError

UNITS = {"s": 1, "m": 60, "h": 3600}


def parse_duration(text: str, option: str) -> float:
    """Return the seconds of "90s", "25m" or "2h"; the option's name goes into the message.

    Raises:
        UsageError: the text is not of this form.
    """
    number, unit = text[:-1], text[-1:]
    if unit not in UNITS or not re.fullmatch(r"\d+(\.\d+)?", number):
        raise UsageError(f"{option} must be a number followed by s, m or h, such as 25m, not '{text}'")
    return float(number) * UNITS[unit]
