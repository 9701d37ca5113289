"""Folding for inference: the scale and shift of each BN layer moved into the convolution before it."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .network import Network


def optimize_for_inference(network: Network) -> Network:
    """Return a copy in evaluation mode with BN folded into the convolutions and channels-last weights.

    The copy computes the same function up to rounding. It cannot be trained; its state dict has other keys.
    """
    folded = copy.deepcopy(network).eval()
    with torch.no_grad():
        for module in folded.modules():
            for conv, bn in getattr(module, "conv_bn", ()):
                _fold(module, conv, bn)
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fold(parent: nn.Module, conv_name: str, bn_name: str) -> None:
    conv, bn = parent.get_submodule(conv_name), parent.get_submodule(bn_name)
    if isinstance(bn, nn.Identity):  # folded already
        return
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    setattr(parent, conv_name, fuse_conv_bn_eval(conv, bn))
    setattr(parent, bn_name, nn.Identity())
