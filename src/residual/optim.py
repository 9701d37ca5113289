"""The optimiser, its learning rate as a function of the step, the guard against bad losses."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .errors import NonFiniteLossError
from .recipe import Optimizer, Recipe


def make_optimizer(network: nn.Module, settings: Optimizer) -> torch.optim.SGD:
    """Make SGD with momentum; by default the decay acts on all weights, BN's too (section 4.2)."""
    parameters = list(network.parameters())
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not settings.decay_all:
        matrices = [p for p in parameters if p.dim() > 1]
        vectors = [p for p in parameters if p.dim() <= 1]  # BN's scales and shifts, and biases
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.SGD(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=True,
    )


def learning_rate(recipe: Recipe, step: int, warmup_end: int | None = None) -> float:
    """Return the learning rate of a step (0 is the first).

    Args:
        recipe: its schedule's drops are fractions of its iterations.
        step: the step about to be taken.
        warmup_end: the first step after the warm-up, None while it lasts; of no effect where the
            recipe has no warm-up.
    """
    schedule = recipe.schedule
    if schedule.warmup_learning_rate and warmup_end is None:
        return schedule.warmup_learning_rate
    if schedule.shape != "steps":
        return recipe.optimizer.learning_rate * _rise_and_fall(
            step, recipe.iterations, schedule.peak, schedule.shape == "cosine"
        )
    drops = sum(step >= round(drop * recipe.iterations) for drop in schedule.drops)
    return recipe.optimizer.learning_rate * schedule.factor**drops


def _rise_and_fall(step: int, iterations: int, peak: float, cosine: bool) -> float:
    """Rise linearly to 1 at the fraction `peak` of the run, then fall, linearly or by a cosine, towards 0."""
    rise = (step + 1) / max(1.0, peak * iterations)
    fall = (iterations - step) / max(1.0, (1 - peak) * iterations)
    if cosine:
        fall = (1 - math.cos(math.pi * min(fall, 1.0))) / 2
    return min(rise, fall, 1.0)


class Guard:
    """Keeps every update from the weights from the first loss on that is not finite.

    On CUDA the fused optimiser reads `found_inf` on the device and leaves the weights alone where it is 1,
    so the host need not wait for the loss; elsewhere the loss is looked at before the optimiser acts.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device) -> None:
        self.found = torch.zeros((), device=device)
        self.first = torch.full((), -1, dtype=torch.int64, device=device)
        self.deferred = device.type == "cuda"
        optimizer.found_inf = self.found  # type: ignore[attr-defined]

    @torch.no_grad()
    def watch(self, loss: Tensor, step: int | Tensor) -> None:
        """Look at a step's loss, before the optimiser acts on it.

        Raises:
            NonFiniteLossError: elsewhere than on CUDA, where `check` does so later.
        """
        bad = ~torch.isfinite(loss)
        self.first.copy_(torch.where(bad & (self.found == 0), step, self.first))
        self.found.copy_(torch.maximum(self.found, bad.to(self.found.dtype)))
        if not self.deferred:
            self.check()

    def check(self) -> None:
        """Read the flag.

        Raises:
            NonFiniteLossError: a loss was not finite; the message names the step.
        """
        step = int(self.first)
        if step >= 0:
            raise NonFiniteLossError(
                f"the loss of step {step} is not finite: training stopped, the weights stay as before it; "
                "a smaller optimizer.learning_rate may help"
            )
