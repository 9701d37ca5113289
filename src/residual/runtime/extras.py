"""The extras of the package: how one is installed."""


def how_to_install(extra: str) -> str:
    """Return the command, for one line of an error; it is given in a clone of the repository."""
    return f"pip install -c constraints.txt -e '.[{extra}]'"
