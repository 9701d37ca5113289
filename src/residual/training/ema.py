"""A moving average of a network's weights, which is evaluated and kept in place of the last step's."""

import copy
import math
from itertools import chain

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..recipes.schema import Recipe


def steps_to_average(recipe: Recipe, step: int) -> int:
    """Return for how many steps the average is updated after this one: 0 if it is not."""
    every = recipe.ema.every
    if not recipe.ema.span or (step % every and step != recipe.last_step):
        return 0
    return step % every or every


def has_average(recipe: Recipe, step: int) -> bool:
    """Tell whether the average was updated in so many steps."""
    return bool(recipe.ema.span) and (step >= recipe.ema.every or step == recipe.last_step)


def decay_over(recipe: Recipe, steps: int) -> float:
    """Return what part of the former average so many steps leave: exp(-steps / time constant)."""
    return math.exp(-steps / (recipe.ema.span * recipe.iterations))


def copy_for_average(network: nn.Module) -> nn.Module:
    """Return a copy of a network that is not trained."""
    average = copy.deepcopy(network).requires_grad_(False)
    average.zero_grad()
    return average


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Average parameters and BN statistics; what is counted in whole numbers is copied."""
    pairs = list(zip(_tensors(average), _tensors(network), strict=True))
    floating = [pair for pair in pairs if pair[0].is_floating_point()]
    old, new = ([pair[side] for pair in floating] for side in (0, 1))
    get_ema_multi_avg_fn(decay)(old, new, None)  # type: ignore[no-untyped-call]
    for counter, now in pairs:
        if not counter.is_floating_point():
            counter.copy_(now)


def _tensors(network: nn.Module) -> list[Tensor]:
    return list(chain(network.parameters(), network.buffers()))
