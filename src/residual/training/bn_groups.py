"""A batch in groups, each with BN statistics of its own, as if each were on a device of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.sampler import bounds


def split(batch: tuple[Tensor, Tensor], groups: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield images and targets of each group."""
    images, targets = batch
    for start, stop in bounds(len(images), groups):
        yield images[start:stop], targets[start:stop]


@contextmanager
def momentum_of_group(network: nn.Module, number: int, groups: int) -> Iterator[None]:
    """Let group `number` (0 is the first) change BN's running statistics by its share of the momentum.

    After all groups they are what one update by the mean of the groups' statistics gives: an update of
    momentum m / groups for each, where the later ones diminish the earlier ones.
    """
    layers = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.momentum is not None]
    before = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            assert layer.momentum is not None
            layer.momentum /= groups - (groups - 1 - number) * layer.momentum
        yield
    finally:
        for layer, momentum in zip(layers, before, strict=True):
            layer.momentum = momentum
