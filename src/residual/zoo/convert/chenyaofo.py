"""chenyaofo/pytorch-cifar-models: CIFAR networks with option B under torchvision's keys.

Those keys do not tell it from others, so the name of the file must: `cifar10_resnet20-4118986f.pt`.
"""

import re
from pathlib import Path

from ...data.normalization import Normalization
from ...data.preprocessing import Preprocessing
from .source import Converted, WeightsFile

NAME = "chenyaofo/pytorch-cifar-models"
NORMALIZATIONS = {  # mean and standard deviation, 0..1 scale, from its training logs
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": ((0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)),
}


def convert(file: WeightsFile) -> Converted | None:
    """Keep the keys, which are ours."""
    match = re.match(r"(cifar100?)_(resnet\d+)", Path(file.origin).name)
    stem = file.state.get("conv1.weight")
    if match is None or stem is None or stem.shape != (16, 3, 3, 3):
        return None
    normalization = Normalization.of_channels(*NORMALIZATIONS[match[1]])
    return Converted(NAME, file.state, match[2], preprocessing=Preprocessing((32, 32), normalization))
