"""What `--data` names: a known data set, or photographs in a folder or a CSV file; without torch."""

from pathlib import Path

from ..recipes.schema import DATASETS
from ..runtime.files import found


def is_folder(data: str | Path) -> bool:
    """Tell photographs in a folder or a CSV file from the name of a data set, which wins where both exist."""
    text = str(data)
    return text not in DATASETS and (found(Path(text).exists) or any(sign in text for sign in "/\\"))
