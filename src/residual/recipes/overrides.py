"""Changes of a recipe as the command line takes them."""

from collections.abc import Iterable

from ..errors import UsageError


def parse_overrides(arguments: Iterable[str]) -> dict[str, str]:
    """Split the `KEY=VALUE` texts of the command line.

    Raises:
        UsageError: a text has no "=".
    """
    changes = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            raise UsageError(f"'{argument}' is not KEY=VALUE")
        changes[key.strip()] = value.strip()
    return changes
