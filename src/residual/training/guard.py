"""A guard against losses that are not finite, which must not reach the weights."""

import torch
from torch import Tensor

from ..errors import NonFiniteLossError


class Guard:
    """Skips every update from the first loss on that is not finite.

    On CUDA the fused optimizer reads `found_inf` on the device and skips the update where it is 1, so the
    host need not wait for the loss; elsewhere the loss is checked before the optimizer's step.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self.first = torch.full((), -1, dtype=torch.int64, device=device)
        self.deferred = device.type == "cuda"
        optimizer.found_inf = self.found  # type: ignore[attr-defined]

    @torch.no_grad()
    def watch(self, loss: Tensor, step: int | Tensor) -> None:
        """Check a step's loss, before the optimizer's step; where several ranks would agree on `found`.

        Raises:
            NonFiniteLossError: on other devices than CUDA; there `check` raises it later.
        """
        bad = ~torch.isfinite(loss)
        self.first.copy_(torch.where(bad & (self.found == 0), step, self.first))
        self.found.copy_(torch.maximum(self.found, bad.to(self.found.dtype)))
        if not self.deferred:
            self.check()

    def clear(self) -> None:
        """Forget the loss that was not finite."""
        self.found.zero_()
        self.first.fill_(-1)

    def check(self) -> None:
        """Read the flag from the device.

        Raises:
            NonFiniteLossError: a loss was not finite; the message names the step.
        """
        step = int(self.first)
        if step >= 0:
            raise NonFiniteLossError(
                f"the loss of step {step} is not finite: training stopped, the weights stay as before it; "
                "a smaller optimizer.learning_rate may help"
            )
