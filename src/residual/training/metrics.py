"""Training metrics, accumulated on the device and read only when something is logged."""

import torch
from torch import Tensor

from ..runtime import ranks


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
        return not bool(ranks.sum_over_ranks(self.sums[2]))

    def read(self) -> tuple[float, float]:
        """Return the mean loss and the error in percent, of all ranks, and start a new window."""
        means = _means(ranks.sum_over_ranks(self.sums))
        self.sums.zero_()
        return means

    def peek(self) -> tuple[float, float]:
        """Return the mean loss and the error in percent so far, of this rank."""
        return _means(self.sums)

    def state(self) -> Tensor:
        """Return the sums [3], of several ranks those of each [ranks, 3], so that a resume is bit-exact."""
        return self.sums if ranks.count() == 1 else torch.stack(ranks.gathered(self.sums))

    def restore(self, state: Tensor) -> None:
        """Go back to sums that `state` returned, perhaps on another number of ranks.

        Raises:
            ValueError: they are of another shape.
        """
        if state.shape[-1:] != (3,) or state.dim() > 2:
            raise ValueError(f"the shape {list(state.shape)}, not [3]")
        rank, count = ranks.own()
        rows = state.reshape(-1, 3)
        if len(rows) == count:
            self.sums.copy_(rows[rank])
        else:
            self.sums.copy_(rows.sum(0) if rank == 0 else torch.zeros(3))


def _means(sums: Tensor) -> tuple[float, float]:
    loss, wrong, count = sums.tolist()
    return loss / max(count, 1), 100 * wrong / max(count, 1)
