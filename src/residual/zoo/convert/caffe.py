"""The authors' Caffe models (KaimingHe/deep-residual-networks) in conversions that keep Caffe's layer names.

Layers are `conv1`, `bn_conv1`, `scale_conv1`, `res2a_branch1`, `res2a_branch2a`, `bn2a_branch2a`,
`scale2a_branch2a`, ..., `fc1000`; in the deeper networks the blocks of a stage are a, b1, b2, ... instead of
a, b, c.
"""

import re

import torch

from ...data.normalization import Normalization
from ...data.preprocessing import Preprocessing
from .source import Converted, State, WeightsFile

NAME = "KaimingHe/deep-residual-networks (Caffe)"
MEAN = (123.68, 116.779, 103.939)  # R, G, B on the 0..255 scale; the authors subtract a mean image near it
POOLING = (
    "Caffe's max pooling is not padded: apart from the borders, the result is Caffe's for the image moved by "
    "two pixels"
)
_LAYER = re.compile(r"(res|bn|scale)([2-5])(a|b\d*|[c-z])_branch(1|2[abc])\.(\w+)")
_STEM = {"conv1": "conv1", "bn_conv1": "bn1", "scale_conv1": "bn1.scale", "fc1000": "fc"}


def convert(file: WeightsFile) -> Converted | None:
    """Rename the layers, merge BN with its scale and reverse the stem's channels, which are B, G, R."""
    if not any(_LAYER.fullmatch(key) for key in file.state):
        return None
    state = _merged({_renamed(key): value for key, value in file.state.items()})
    if "conv1.weight" in state:
        state["conv1.weight"] = state["conv1.weight"].flip(1)
    normalization = Normalization(torch.tensor(MEAN), torch.ones(3))
    return Converted(
        NAME,
        state,
        variant="v1",
        preprocessing=Preprocessing((224, 224), normalization, resize=256),
        notes=(POOLING,),
    )


def _renamed(key: str) -> str:
    """Return our name of a Caffe layer's parameter; a scale layer is named after the BN before it."""
    match = _LAYER.fullmatch(key)
    if match is None:
        layer, _, parameter = key.partition(".")
        return f"{_STEM[layer]}.{parameter}" if layer in _STEM else key
    kind, stage, block, branch, parameter = match.groups()
    number = int(block[1:]) if block[1:] else ord(block) - ord("a")
    conv, bn = ("downsample.0", "downsample.1") if branch == "1" else (f"conv{_n(branch)}", f"bn{_n(branch)}")
    layer = {"res": conv, "bn": bn, "scale": f"{bn}.scale"}[kind]
    return f"layer{int(stage) - 1}.{number}.{layer}.{parameter}"


def _n(branch: str) -> int:
    """Return the number of a convolution on the branch 2a, 2b or 2c."""
    return "abc".index(branch[1]) + 1


def _merged(state: State) -> State:
    """Merge each scale layer into its BN, and the bias of a convolution into the mean of the BN after it."""
    merged = {key: value for key, value in state.items() if ".scale." not in key}
    for key in [key for key in merged if key.endswith(".running_mean")]:
        bn = key.removesuffix(".running_mean")
        conv = f"{bn[:-1]}0" if bn.endswith("downsample.1") else bn.replace("bn", "conv")
        one, zero = torch.ones_like(merged[key]), torch.zeros_like(merged[key])
        weight, bias = state.get(f"{bn}.scale.weight", one), state.get(f"{bn}.scale.bias", zero)
        merged[f"{bn}.bias"] = merged.get(f"{bn}.bias", zero) * weight + bias
        merged[f"{bn}.weight"] = merged.get(f"{bn}.weight", one) * weight
        merged[key] = merged[key] - merged.pop(f"{conv}.bias", zero)
    return merged
