"""Training metrics, accumulated on the device and read only when something is logged."""

import torch
from torch import Tensor

from .ranks import sum_over_ranks


class Window:
    """Sums of loss and of wrong predictions over the steps since the last reading."""

    def __init__(self, device: torch.device) -> None:
        # loss sum, wrong predictions, images; 64 bits where the device has them, so that sums stay exact
        self.sums = torch.zeros(
            3, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device
        )

    @torch.no_grad()
    def add(self, loss: Tensor, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: its mean loss, its logits [B, classes] and its targets.

        The targets are labels [B], or the shares of the classes [B, classes], of which the largest counts.
        """
        labels = targets if targets.dim() == 1 else targets.argmax(1)
        wrong = (logits.argmax(1) != labels).sum()
        count = torch.full_like(loss, len(labels))
        self.sums += torch.stack([loss * len(labels), wrong.to(loss.dtype), count])

    @property
    def empty(self) -> bool:
        """Whether no batch was added since the last reading: its step was left out."""
        return not bool(self.sums[2])

    def read(self) -> tuple[float, float]:
        """Return the mean loss and the error in percent, and start a new window."""
        means = self.peek()
        self.sums.zero_()
        return means

    def peek(self) -> tuple[float, float]:
        """Return the mean loss and the error in percent so far."""
        loss, wrong, count = sum_over_ranks(self.sums).tolist()
        return loss / max(count, 1), 100 * wrong / max(count, 1)
