"""The optimizer of a network, by a recipe's settings."""

from functools import partial
from typing import Any

import torch
from torch import nn

from ..models.network import Network
from ..recipes.schema import Optimizer
from .muon import Muon


def make_optimizer(network: nn.Module, settings: Optimizer) -> torch.optim.SGD:
    """Make SGD with momentum, or Muon; weight decay acts on all parameters by default (section 4.2).

    Where the body is treated apart, its groups have "scale", its rate relative to the last layer's: in one
    group, fused SGD has a momentum of all parameters or of none.
    """
    parameters = list(network.parameters())
    groups = _groups(parameters, settings)
    if settings.body_rate != 1 or settings.frozen:
        body = body_parameters(network)
        known = set(map(id, body))
        groups = _groups([p for p in parameters if id(p) not in known], settings)
        groups += [{**group, "scale": settings.body_rate} for group in _groups(body, settings)]
    kind = partial(Muon, angle=settings.muon) if settings.muon else torch.optim.SGD
    return kind(
        groups,
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        fused=True,
    )


def body_parameters(network: nn.Module) -> list[nn.Parameter]:
    """Return the parameters of a network of this package but those of its last layer."""
    assert isinstance(network, Network)
    last = f"{network.classifier_name}."
    return [parameter for name, parameter in network.named_parameters() if not name.startswith(last)]


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the rate of the next step, which groups with a "scale" have in proportion."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("scale", 1.0)


def _groups(parameters: list[nn.Parameter], settings: Optimizer) -> list[dict[str, Any]]:
    """Return parameter groups: all in one, or those without weight decay apart."""
    if settings.decay_all:
        return [{"params": parameters}]
    matrices = [p for p in parameters if p.dim() > 1]
    vectors = [p for p in parameters if p.dim() <= 1]  # BN's scales and shifts, and biases
    return [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
