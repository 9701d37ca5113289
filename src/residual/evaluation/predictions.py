"""What a network says of each photograph, kept for reports and for the temperature."""

from dataclasses import dataclass

from torch import Tensor

from ..data.photos import Photos


@dataclass(frozen=True, eq=False)
class Predictions:
    """Logits of photographs, one crop each, in their order.

    Args:
        photos: those that could be decoded, with their labels.
        logits: [len(photos), classes], float32 on the CPU.
    """

    photos: Photos
    logits: Tensor
