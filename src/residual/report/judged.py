"""What the network said of each photograph of a set: class, confidence, probability of the label."""

import csv
import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..data.photos import Photos
from ..evaluation.predictions import Predictions
from ..runtime.files import write_atomically

CHUNK = 4096  # images whose probabilities are in memory at once
COLUMNS = ("path", "true", "predicted", "confidence", "true_probability", "set")


@dataclass(frozen=True, eq=False)
class Judged:
    """Photographs with predicted classes [N], their probabilities [N] and those of the labels [N]."""

    photos: Photos
    predicted: Tensor
    confidence: Tensor
    true: Tensor

    @property
    def wrong(self) -> Tensor:
        """The indices of the mistakes, those that the network was surest of first."""
        mistakes = (self.predicted != self.photos.labels).nonzero()[:, 0]
        return mistakes[(self.true - self.confidence)[mistakes].argsort(stable=True)]

    def names(self, index: int) -> tuple[str, str]:
        """Return the names of the label and of the predicted class."""
        names = self.photos.class_names
        return names[int(self.photos.labels[index])], names[int(self.predicted[index])]


def judge(predictions: Predictions, temperature: float) -> Judged:
    """Sum up predictions, with the softmax of logits divided by a temperature."""
    labels, parts = predictions.photos.labels, []
    for start in range(0, len(labels), CHUNK):
        part = slice(start, start + CHUNK)
        logits = predictions.logits[part]
        shares = (logits.double() / temperature).softmax(1)
        predicted = logits.topk(min(5, logits.shape[1])).indices[
            :, :1
        ]  # as the evaluation chooses among equals
        true = shares.gather(1, labels[part, None])
        parts.append((predicted[:, 0], shares.gather(1, predicted)[:, 0], true[:, 0]))
    predicted, confidence, true = (torch.cat(column) for column in zip(*parts, strict=True))
    return Judged(predictions.photos, predicted, confidence, true)


def write_mistakes(path: Path, sets: Mapping[str, Judged]) -> None:
    """Write the mistakes in all sets as CSV, those that the network was surest of first.

    Raises:
        OSError: the file cannot be written.
    """
    rows = []
    for kind, judged in sets.items():
        for index in judged.wrong.tolist():
            sure, true = float(judged.confidence[index]), float(judged.true[index])
            row = (judged.photos.files[index], *judged.names(index), f"{sure:.4f}", f"{true:.4f}", kind)
            rows.append((true - sure, row))
    rows.sort(key=lambda item: item[0])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row for _, row in rows)
    # names that are not UTF-8 keep their bytes
    content = text.getvalue().encode("utf-8", sys.getfilesystemencodeerrors())
    write_atomically(path, lambda file: file.write(content))
