"""All that a run on photographs hands to its report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from ..data.findings import Findings
from ..data.photos import Photos
from ..evaluation.classification import Evaluation
from ..evaluation.predictions import Predictions
from ..evaluation.temperature import Temperature
from .judged import Judged, judge
from .suspicious import Suspicion, suspect

Curve = Sequence[tuple[float, float]]  # epochs, error in percent


@dataclass(frozen=True, eq=False)
class Outcome:
    """A trained network's figures and predictions.

    Args:
        network: its name.
        data: the name of the photographs.
        train: the training images; `test` is what was measured on the others.
        predictions: by "test", "validation" and "training"; perhaps of a sample of the latter.
        temperature: fitted on one of the sets.
        training_error: on the training images without augmentation, in percent.
        curves: error during training, by "training", "validation" or "test".
        seconds, epochs: of training.
        findings: of the look at the images before training.
        bad: files that cannot be decoded, with the reason where it is known.
        recipe: its values by dotted key.
        notes: what should be known of the figures.
    """

    network: str
    data: str
    train: Photos
    test: Evaluation
    predictions: Mapping[str, Predictions]
    temperature: Temperature
    training_error: float
    curves: Mapping[str, Curve] = field(default_factory=dict)
    seconds: float = 0.0
    epochs: float = 0.0
    findings: Findings = field(default_factory=Findings)
    bad: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, by label."""
        return self.train.class_names

    @cached_property
    def training_images(self) -> list[int]:
        """How many training images each class has."""
        return torch.bincount(self.train.labels, minlength=len(self.class_names)).tolist()

    @cached_property
    def judged(self) -> dict[str, Judged]:
        """What the network says of each image, by set, with the temperature."""
        return {kind: judge(found, self.temperature.value) for kind, found in self.predictions.items()}

    @cached_property
    def suspicion(self) -> Suspicion:
        """How wrong each label looks, of the images of all sets, one set after the other."""
        found = list(self.predictions.values())
        features = [p.features for p in found if p.features is not None]
        if len(features) < len(found):
            features = [p.logits for p in found]
        labels = torch.cat([p.photos.labels for p in found])
        return suspect(torch.cat(features), labels, len(self.class_names))

    @property
    def looked_at(self) -> int:
        """The number of images of all sets."""
        return sum(len(found.photos) for found in self.predictions.values())

    @cached_property
    def suspects(self) -> list[tuple[str, int, int]]:
        """Images whose label looks wrong, the most suspicious first: set, index in it, and likely class."""
        places = [(kind, index) for kind, p in self.predictions.items() for index in range(len(p.photos))]
        found = self.suspicion
        order = [index for index in found.order.tolist() if found.flagged[index]]
        return [(*places[index], int(found.likely[index])) for index in order]
