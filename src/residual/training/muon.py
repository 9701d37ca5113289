"""Muon: momentum SGD whose updates of convolutions are orthogonalized."""

from typing import Any

import torch
from torch import Tensor

TINY = 1e-12  # avoids a division by a norm of 0
POLYNOMIAL = 3.4445, -4.7750, 2.0315  # of x, x^3 and x^5 (Jordan et al., 2024)
LARGE = 256  # rows, from which on fewer products are worth more of them


class Muon(torch.optim.SGD):
    """SGD, except that convolutions are rotated by a fixed angle per step along orthogonalized momentum.

    The orthogonalized update of a convolution [out, in * k * k] has equal singular values (Jordan et al.,
    2024). Batch normalization behind it makes the function independent of its norm, so the norm is kept
    and needs no weight decay. Linear layers, BN and biases are updated by SGD. All convolutions of one shape
    are computed at once, and nothing waits for the device, so that a step can be captured as a CUDA graph.

    Args:
        angle: the step size, as a rotation per step in radians, at the learning rate `lr`; proportional to
            the rate at any other. It is approximate, since the update need not be orthogonal to the weights.
    """

    def __init__(self, groups: Any, angle: float, **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.angle_per_rate = angle / settings["lr"]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take a step and clear the gradients of the convolutions; a closure is not supported."""
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = {}
            for weight in group["params"]:
                if weight.dim() == 4 and weight.grad is not None:
                    shapes.setdefault(weight.shape, []).append(weight)
            for weights in shapes.values():
                self._rotate(weights, group)
        super().step(closure)

    def _rotate(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Update convolutions of one shape, as matrices [count, out, in * k * k]."""
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
        norm = _norm(old)
        direction = direction / (_norm(direction) + TINY)  # a gradient of 0 gives an update of 0
        new = old - group["lr"] * self.angle_per_rate * norm * direction
        new *= norm / (_norm(new) + TINY)
        bad = getattr(self, "found_inf", None)
        if bad is not None:
            new = torch.where(bad > 0, old, new)
        for weight, value in zip(weights, new, strict=True):
            weight.copy_(value.view_as(weight))
            weight.grad = None  # SGD has nothing left to do here


def _norm(matrices: Tensor) -> Tensor:
    """Return the Frobenius norm of each matrix, [count, 1, 1]."""
    return matrices.square().sum((1, 2), keepdim=True).sqrt()


def orthogonalize(matrices: Tensor, iterations: int = 5) -> Tensor:
    """Bring every singular value of matrices [count, rows, columns] close to 1 and keep the singular vectors.

    Iterates an odd polynomial of degree five with a steep slope at 0, after which singular values lie
    between about 0.7 and 1.2, which is close enough (Jordan et al., 2024).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (_norm(x) + TINY)
    x = _iterate_squares(x, iterations) if x.shape[1] >= LARGE else _iterate(x, iterations)
    return x.mT if tall else x


def _iterate(x: Tensor, iterations: int) -> Tensor:
    a, b, c = POLYNOMIAL
    for _ in range(iterations):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x


def _iterate_squares(x: Tensor, iterations: int) -> Tensor:
    """Do the same by iterating the square x x^T and what x is multiplied by, which all commute.

    Of a large wide matrix this takes two fifths of the arithmetic: the many columns take part twice, not ten
    times.
    """
    a, b, c = POLYNOMIAL
    square = x @ x.mT
    identity = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    factor = a * identity + b * square + c * square @ square
    step = factor
    for _ in range(iterations - 1):
        square = step @ square @ step
        step = a * identity + b * square + c * square @ square
        factor = step @ factor
    return factor @ x
