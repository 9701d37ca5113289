"""What `--data` names: a known data set, or photographs in a folder, a CSV file or shards; without torch."""

import re
from pathlib import Path

from ..recipes.schema import DATASETS
from ..runtime.files import found


def is_folder(data: str | Path) -> bool:
    """Tell photographs in a folder or a CSV file from the name of a data set, which wins where both exist."""
    text = str(data)
    return text not in DATASETS and (found(Path(text).exists) or any(sign in text for sign in "/\\"))


def is_url(data: str | Path) -> bool:
    """Tell an address of shards on a server, such as https://HOST/FOLDER, from a path."""
    return isinstance(data, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", data) is not None


def whole_place(data: str | Path) -> str:
    """Return where data are as a run records it: an address, or a path from the root."""
    return str(data).rstrip("/") if is_url(data) else str(Path(data).resolve())
