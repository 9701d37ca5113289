"""Optimisation for inference: BN folded into convolutions, which then run with addition and ReLU as one."""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .inference_conv import InferenceConv
from .network import Network


def optimize_for_inference(network: Network) -> Network:
    """Return a copy in evaluation mode with BN folded into the convolutions and channels-last weights.

    The copy computes the same function up to rounding; on a CPU in float32 each convolution runs with the
    addition and the ReLU behind it as one operation. It cannot be trained: its weights take no gradients. Its
    state dict has other keys.
    """
    folded = copy.deepcopy(network).eval().requires_grad_(False)
    with torch.no_grad():
        for module in folded.modules():
            for conv, bn in getattr(module, "conv_bn", ()):
                _fold(module, conv, bn)
    for name, module in list(folded.named_modules()):
        if name and type(module) is nn.Conv2d:
            folded.set_submodule(name, InferenceConv(module))
    return folded.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _fold(parent: nn.Module, conv_name: str, bn_name: str) -> None:
    conv, bn = parent.get_submodule(conv_name), parent.get_submodule(bn_name)
    if isinstance(bn, nn.Identity):  # folded already
        return
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(bn, nn.BatchNorm2d)
    setattr(parent, conv_name, fuse_conv_bn_eval(conv, bn))
    setattr(parent, bn_name, nn.Identity())
