"""Activation checkpointing: maps computed again in the backward pass instead of kept, for very deep nets."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(stage: nn.Sequential, x: Tensor) -> Tensor:
    """Run a stage in about sqrt(blocks) stretches, keeping only the maps between them.

    Gradients and BN statistics are those of the plain run: the second forward pass leaves the
    statistics alone.
    """
    length = math.isqrt(len(stage) - 1) + 1
    for start in range(0, len(stage), length):
        stretch = stage[start : start + length]
        contexts = partial(_contexts, stretch)
        result = checkpoint(stretch, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
        assert isinstance(result, Tensor)
        x = result
    return x


def _contexts(stretch: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """What the first and the second forward pass run in."""
    return nullcontext(), _frozen_statistics(stretch)


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Let BN compute as before without moving its running statistics: a momentum of 0 leaves them."""
    layers = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    before = [(layer, layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, momentum, count in before:
            layer.momentum, layer.num_batches_tracked = momentum, count
