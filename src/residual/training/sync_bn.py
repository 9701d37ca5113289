"""BN with statistics of the whole batch, over all ranks, on any device.

`torch.nn.SyncBatchNorm` refuses tensors on a CPU, so the statistics are reduced here.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..runtime import ranks


class SyncedBatchNorm(nn.BatchNorm2d):
    """BN whose mean and variance are those of the feature maps [N, C, H, W] of all ranks."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise; in evaluation mode as any BN."""
        if not self.training or ranks.count() == 1:
            return super().forward(x)
        maps = x.to(torch.promote_types(x.dtype, torch.float32))
        mean, variance, count = _moments(maps)
        if self.track_running_stats:
            self._update(mean, variance * count / (count - 1))
        y: Tensor = _Normalise.apply(maps, mean, variance, count, self.eps)  # type: ignore[no-untyped-call]
        if self.affine:
            y = y * _of_channels(self.weight) + _of_channels(self.bias)
        return y.to(x.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics, of which the variance is unbiased, towards the batch's."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        # None asks for a cumulative average
        part = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        for running, found in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(found.to(running.dtype), part)


def synchronise(network: nn.Module) -> None:
    """Let all BN layers of a network see the batch of all ranks; parameters and buffers stay."""
    if ranks.count() == 1:
        return
    for layer in network.modules():
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = SyncedBatchNorm


def _of_channels(values: Tensor) -> Tensor:
    return values[:, None, None]


@torch.no_grad()
def _moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance [C] over the maps of all ranks, and of how many values each is.

    Each rank's moments are combined by the formula of Chan et al. (1979), which loses no digits where the
    mean is large beside the deviation, as a sum of squares would.
    """
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    own = torch.cat([mean, variance, mean.new_tensor([x.numel() / x.shape[1]])])
    found = [torch.empty_like(own) for _ in range(ranks.count())]
    ranks.watched(lambda: dist.all_gather(found, own))
    table = torch.stack(found).double()
    counts = table[:, -1:]
    means, variances = table[:, :-1].chunk(2, 1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / total
    return mean.to(x.dtype), variance.to(x.dtype), total.to(x.dtype)


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps), where mean and variance are functions of x on all ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mean: Tensor, variance: Tensor, count: Tensor, eps: float) -> Tensor:
        inverse = (variance + eps).rsqrt()
        normalised = (x - _of_channels(mean)) * _of_channels(inverse)
        ctx.save_for_backward(normalised, inverse, count)
        return normalised

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        normalised, inverse, count = ctx.saved_tensors
        sums = ranks.sum_over_ranks(torch.stack([grad.sum((0, 2, 3)), (grad * normalised).sum((0, 2, 3))]))
        mean, along = (_of_channels(part / count) for part in sums)
        return (grad - mean - normalised * along) * _of_channels(inverse), None, None, None, None
