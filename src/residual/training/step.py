"""One training step: what the eager loop and the CUDA graph both compute."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..runtime.device import autocast
from .guard import Guard


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    guard: Guard,
    batch: tuple[Tensor, Tensor],
    step: int | Tensor,
    precision: str = "float32",
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Take one step; the guard skips the update if the loss is not finite.

    Args:
        network, optimizer, guard: what the step changes.
        batch: images [B, 3, H, W], and labels [B] or the shares of the classes [B, classes].
        step: its number, for the guard.
        precision: "float32" or "bfloat16".
        label_smoothing: this part of each target is spread over all classes evenly.
        class_weights: [classes], by which the loss of each image counts; of shares, their mean.

    Returns:
        The mean cross-entropy (weighted, if there are weights), a scalar, and the logits [B, classes], both
        on the device.
    """
    images, targets = batch
    optimizer.zero_grad()
    with autocast(images.device, precision):
        logits = network(images)
    if class_weights is None:
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=label_smoothing)
    else:
        losses = F.cross_entropy(logits.float(), targets, reduction="none", label_smoothing=label_smoothing)
        weights = class_weights[targets] if targets.dim() == 1 else targets @ class_weights
        loss = (losses * weights).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    guard.watch(loss.detach(), step)
    optimizer.step()
    return loss.detach(), logits.detach()
