"""One network on several ranks: gradients, loss and BN statistics are those of the whole batch.

Each rank computes its share of a batch. DistributedDataParallel sums the gradients while the backward pass
goes on; the losses and BN's running statistics follow in one small all-reduce, so that after a step the
ranks hold the same state and any number of them can go on from it.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ..runtime import ranks


class Parallel(DistributedDataParallel):
    """A network whose gradients are summed over all ranks; see `to_differentiate`."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        ids = [device] if device.type == "cuda" else None
        super().__init__(network, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)


def to_differentiate(network: nn.Module, loss: Tensor) -> Tensor:
    """Return the loss, scaled so that gradients are summed over the ranks, where torch averages them."""
    return loss * ranks.count() if isinstance(network, Parallel) else loss


def accumulating(network: nn.Module) -> AbstractContextManager[Any]:
    """Return a context whose backward passes add to the gradients of this rank alone."""
    return network.no_sync() if isinstance(network, Parallel) else nullcontext()


@torch.no_grad()
def finish(network: nn.Module, loss: Tensor) -> Tensor:
    """Return the loss of the whole batch, and average BN's running statistics over the ranks.

    Each rank's update of the statistics is a linear function of them, so their average is what one process
    has that updates them by the mean of the groups' statistics (`bn_groups`).
    """
    if not isinstance(network, Parallel):
        return loss
    own = [loss, *_statistics(network)]
    sums = ranks.sum_over_ranks(torch.cat([value.flatten() for value in own]))
    whole, *statistics = torch.split(sums, [value.numel() for value in own])
    for value, total in zip(own[1:], statistics, strict=True):
        value.copy_(total.view_as(value) / ranks.count())
    return whole.reshape(())


@torch.no_grad()
def average_statistics(network: nn.Module) -> None:
    """Average BN's running statistics over the ranks."""
    for value in _statistics(network):
        value.copy_(ranks.sum_over_ranks(value) / ranks.count())


def _statistics(network: nn.Module) -> list[Tensor]:
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm)]
    found = [tensor for layer in layers for tensor in (layer.running_mean, layer.running_var)]
    return [tensor for tensor in found if tensor is not None]
