"""The distribution and its extras: how one is installed."""

import os
from pathlib import Path

DISTRIBUTION = "residual-nets"  # its name for pip; the import name and the command are `residual`


def how_to_install(extra: str) -> str:
    """Return the command, for one line of an error: in the clone that this file lies in, or for a wheel."""
    quote = '"' if os.name == "nt" else "'"
    if _in_clone():
        return f"pip install -c constraints.txt -e {quote}.[{extra}]{quote}"
    return f"pip install {quote}{DISTRIBUTION}[{extra}]{quote}"


def _in_clone() -> bool:
    clone = Path(__file__).parents[3]
    return all((clone / name).is_file() for name in ("pyproject.toml", "constraints.txt"))
