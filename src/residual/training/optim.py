"""The optimiser, its learning rate as a function of the step, the guard against bad losses."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import NonFiniteLossError
from ..recipes.schema import Optimizer, Recipe


def make_optimizer(network: nn.Module, settings: Optimizer) -> torch.optim.SGD:
    """Make SGD with momentum, or Muon; by default the decay acts on all weights, BN's too (section 4.2)."""
    parameters = list(network.parameters())
    groups: list[dict[str, Any]] = [{"params": parameters}]
    if not settings.decay_all:
        matrices = [p for p in parameters if p.dim() > 1]
        vectors = [p for p in parameters if p.dim() <= 1]  # BN's scales and shifts, and biases
        groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    kind = partial(Muon, angle=settings.muon) if settings.muon else torch.optim.SGD
    return kind(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=True,
    )


TINY = 1e-12  # keeps a length of 0 from being divided by


class Muon(torch.optim.SGD):
    """SGD, except that a convolution turns against its momentum made orthogonal, by a set angle a step.

    Every direction that a convolution [out, in * k * k] can move in then moves equally far (Jordan et al.,
    2024). BN behind it makes its length of no effect, so the length is kept and needs no decay. Linear
    layers, BN and biases are left to SGD. All convolutions of one shape are computed at once, and nothing
    asks the host, so that a step can be captured.

    Args:
        angle: about so many radians a step at the learning rate `lr`, in proportion at any other.
    """

    def __init__(self, groups: Any, angle: float, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.angle_per_rate = angle / settings["lr"]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step, after which convolutions have no gradient any more; a closure is not supported."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.dim() == 4 and weight.grad is not None:
                    shapes.setdefault(weight.shape, []).append(weight)
            for weights in shapes.values():
                self._turn(weights, group)
        super().step(closure)

    def _turn(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Turn convolutions of one shape, as matrices [count, out, in * k * k]."""
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_mul_(momenta, group["momentum"])
        torch._foreach_add_(momenta, gradients)
        ahead = torch._foreach_add(gradients, momenta, alpha=group["momentum"])
        old = torch.stack(weights).flatten(2)
        direction = orthogonalize(torch.stack(ahead if group["nesterov"] else momenta).flatten(2))
        length = _length(old)
        direction = direction / (_length(direction) + TINY)  # no gradient, no direction
        new = old - group["lr"] * self.angle_per_rate * length * direction
        new *= length / (_length(new) + TINY)
        bad = getattr(self, "found_inf", None)
        if bad is not None:
            new = torch.where(bad > 0, old, new)
        for weight, value in zip(weights, new, strict=True):
            weight.copy_(value.view_as(weight))
            weight.grad = None  # SGD has nothing left to do here


def _length(matrices: Tensor) -> Tensor:
    """Return the Frobenius norm of each matrix, [count, 1, 1]."""
    return matrices.square().sum((1, 2), keepdim=True).sqrt()


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Bring every singular value of matrices [count, rows, columns] near 1, keeping the singular vectors.

    A polynomial of fifth degree, iterated, whose slope at 0 is so steep that small values rise fast and
    end between about 0.7 and 1.2, which is near enough (Jordan et al., 2024).
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (_length(x) + TINY)
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


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
