"""What is known of a model beside its config: its error, and what allows its use."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.files import found
from .pretrained import MEASURED, WEIGHTS

LICENCE = "MIT"  # of the pretrained models, as of the package


@dataclass(frozen=True)
class ModelFacts:
    """A model's error in percent on so many test images, and its licence; None where it is not known."""

    error: float | None = None
    images: int | None = None
    licence: str | None = None


def model_facts(folder: Path) -> ModelFacts:
    """Read what is known of the model in a model folder or run folder."""
    shipped = folder.parent == WEIGHTS
    candidates = (folder / MEASURED, folder / "result.json", folder.parent / "result.json")
    path = next((path for path in candidates if found(path.is_file)), None)
    licence = LICENCE if shipped else None
    if path is None:
        return ModelFacts(licence=licence)
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ModelFacts(float(values["error"]), int(values["images"]), licence)
    except (OSError, ValueError, KeyError, TypeError):
        return ModelFacts(licence=licence)
