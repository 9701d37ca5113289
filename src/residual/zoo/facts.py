"""What is known of a model beside its config: its error, and what allows its use."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..runtime.files import MAX_CONFIG, found, read_bounded
from .model_card import Measured
from .pretrained import MEASURED, WEIGHTS

LICENCE = "MIT"  # of the pretrained models, as of the package


@dataclass(frozen=True)
class ModelFacts:
    """What was measured of a model, and its licence; None where it is not known."""

    measured: Measured | None = None
    licence: str | None = None

    @property
    def error(self) -> float | None:
        """The error on the test set, in percent."""
        return None if self.measured is None else self.measured.error

    @property
    def images(self) -> int | None:
        """How many images the test set has."""
        return None if self.measured is None else self.measured.images


def model_facts(folder: Path) -> ModelFacts:
    """Read what is known of the model in a model folder or run folder."""
    shipped = folder.parent == WEIGHTS
    candidates = (folder / MEASURED, folder / "result.json", folder.parent / "result.json")
    path = next((path for path in candidates if found(path.is_file)), None)
    licence = LICENCE if shipped else None
    if path is None:
        return ModelFacts(licence=licence)
    try:
        values: dict[str, Any] = json.loads(read_bounded(path, MAX_CONFIG))
        return ModelFacts(Measured.of(values), licence)
    except Exception:  # a corrupted file may hold anything
        return ModelFacts(licence=licence)
