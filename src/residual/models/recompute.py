"""Activation recomputation (checkpointing), for very deep networks: activations recomputed, not stored."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def checkpointed(stage: nn.Sequential, x: Tensor) -> Tensor:
    """Run a stage in about sqrt(blocks) segments and store only the activations between them.

    Gradients and BN statistics equal those of the plain run: the second forward pass does not update the
    statistics.
    """
    length = math.isqrt(len(stage) - 1) + 1
    for start in range(0, len(stage), length):
        x = recomputed(stage[start : start + length], x)
    return x


def recomputed(segment: nn.Module, x: Tensor) -> Tensor:
    """Run a segment and store none of its activations."""
    contexts = partial(_contexts, segment)
    result = checkpoint(segment, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    assert isinstance(result, Tensor)
    return result


def _contexts(segment: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Return the contexts of the first and of the second forward pass."""
    return nullcontext(), _frozen_statistics(segment)


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Keep BN from updating its running statistics: a momentum of 0 leaves them as they are."""
    layers = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d) and m.track_running_stats]
    before = [(layer, layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, momentum, count in before:
            layer.momentum, layer.num_batches_tracked = momentum, count
