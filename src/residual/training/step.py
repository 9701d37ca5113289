"""One training step: what the eager loop and the CUDA graph both compute."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.device import autocast
from .bn_groups import momentum_of_group, split
from .guard import Guard
from .parallel import accumulating, finish, to_differentiate


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    guard: Guard,
    batch: tuple[Tensor, Tensor],
    step: int | Tensor,
    precision: str = "float32",
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    groups: int = 1,
    share: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Take one step; the guard skips the update if the loss is not finite.

    Args:
        network, optimizer, guard: what the step changes; a `Parallel` network takes it with all ranks.
        batch: images [B, 3, H, W], and labels [B] or the shares of the classes [B, classes].
        step: its number, for the guard.
        precision: "float32" or "bfloat16".
        label_smoothing: this part of each target is spread over all classes evenly.
        class_weights: [classes], by which the loss of each image counts; of shares, their mean.
        groups: parts of the batch that are computed one after the other, with BN statistics of their own; the
            gradient is that of the whole batch.
        share: the part of the whole batch that these images are.

    Returns:
        The mean cross-entropy (weighted, if there are weights) of the whole batch, a scalar, and the logits
        of these images [B, classes], both on the device.
    """
    optimizer.zero_grad()
    backward = partial(
        _backward,
        network,
        precision=precision,
        label_smoothing=label_smoothing,
        class_weights=class_weights,
    )
    if groups == 1:
        loss, logits = backward(batch, share=share)
    else:
        loss, logits = _backward_in_groups(network, batch, groups, share, backward)
    loss = finish(network, loss)
    guard.watch(loss, step)
    optimizer.step()
    return loss, logits


def _backward_in_groups(
    network: nn.Module,
    batch: tuple[Tensor, Tensor],
    groups: int,
    share: float,
    backward: Callable[..., tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """Add the gradients of the groups up to that of the mean loss; return the loss and the logits."""
    found = []
    for number, part in enumerate(split(batch, groups)):
        last = number == groups - 1
        with momentum_of_group(network, number, groups), nullcontext() if last else accumulating(network):
            found.append(backward(part, share=share * len(part[0]) / len(batch[0])))
    losses, logits = zip(*found, strict=True)
    return torch.stack(losses).sum(), torch.cat(logits)


def _backward(
    network: nn.Module,
    batch: tuple[Tensor, Tensor],
    precision: str,
    label_smoothing: float,
    class_weights: Tensor | None,
    share: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Add the gradient of `share` times the mean loss; return that loss and the logits."""
    images, targets = batch
    with autocast(images.device, precision):
        logits = network(images)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if class_weights is None:
        loss = F.cross_entropy(wide, targets, label_smoothing=label_smoothing)
    else:
        losses = F.cross_entropy(wide, targets, reduction="none", label_smoothing=label_smoothing)
        weights = class_weights[targets] if targets.dim() == 1 else targets @ class_weights
        loss = (losses * weights).mean()
    if share != 1:
        loss = loss * share
    to_differentiate(network, loss).backward()  # type: ignore[no-untyped-call]
    return loss.detach(), logits.detach()
