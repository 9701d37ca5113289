"""Which images belong together, as of one person, plant or video: by a pattern of their paths."""

import re
from collections.abc import Iterable

from ..errors import UsageError


def keys_of_paths(paths: Iterable[str], pattern: str) -> list[str]:
    """Return the name of each path's group: what the first group of `pattern` matches in it, or all of it.

    A path in which nothing matches is in no group, "".

    Raises:
        UsageError: `pattern` is no regular expression.
    """
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise UsageError(f"group {pattern!r} is no regular expression: {error}") from error
    first = min(1, expression.groups)
    found = (expression.search(path) for path in paths)
    return [(match[first] or "") if match else "" for match in found]
