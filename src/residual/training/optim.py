"""The optimizer of a network, by a recipe's settings."""

from functools import partial
from typing import Any

import torch
from torch import nn

from ..recipes.schema import Optimizer
from .muon import Muon


def make_optimizer(network: nn.Module, settings: Optimizer) -> torch.optim.SGD:
    """Make SGD with momentum, or Muon; weight decay acts on all parameters by default (section 4.2)."""
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
