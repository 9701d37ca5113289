"""The building blocks of sections 3.2 to 3.4: shortcut options A, B, C and the two residual blocks.

A module that has a convolution followed by BN declares the pair in `conv_bn`, by attribute names; these are
the pairs that `fold.py` folds.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from .fused import conv_bn_relu


def conv(width_in: int, width_out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Create a convolution that keeps height and width at stride 1; no bias, since BN follows."""
    return nn.Conv2d(width_in, width_out, kernel, stride, padding=kernel // 2, bias=False)


class Projection(nn.Sequential):
    """A 1x1 convolution and its BN, for options B and C; the state dict's keys are `0` and `1`."""

    conv_bn = (("0", "1"),)

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__(conv(width_in, width_out, 1, stride), nn.BatchNorm2d(width_out))


class PaddedIdentity(nn.Module):
    """Option A: the input, subsampled by `stride`, with zero channels appended. It has no parameters."""

    def __init__(self, width_in: int, width_out: int, stride: int) -> None:
        super().__init__()
        self.new_channels = width_out - width_in
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width_out, H / stride, W / stride]."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def make_shortcut(option: str | None, width_in: int, width_out: int, stride: int) -> nn.Module | None:
    """Create the shortcut that is added to a block's output (section 3.3, "Residual Network").

    Option A pads with zeros where the dimensions change, B projects there with a 1x1 convolution, and C
    projects everywhere. Returns None for a plain network, which has no shortcuts.
    """
    changes = stride != 1 or width_in != width_out
    if option is None:
        return None
    if option == "C" or (option == "B" and changes):
        return Projection(width_in, width_out, stride)
    return PaddedIdentity(width_in, width_out, stride) if changes else nn.Identity()


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and their shortcut (Figure 5, left)."""

    expansion = 1
    conv_bn = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, width_in: int, width: int, stride: int, shortcut: str | None) -> None:
        super().__init__()
        self.conv1 = conv(width_in, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = make_shortcut(shortcut, width_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, width, H / stride, W / stride]."""
        shortcut = None if self.downsample is None else self.downsample(x)
        y = conv_bn_relu(self.conv1, self.bn1, x)
        return conv_bn_relu(self.conv2, self.bn2, y, shortcut)


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 restore to four times the width, and their shortcut (Figure 5, right).

    `stride_on` is the convolution with the stride: "1x1", the first, as in the authors' ImageNet models, or
    "3x3", as in most later implementations. The parameters are the same; the multiply-adds differ.
    """

    expansion = 4
    conv_bn = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(
        self, width_in: int, width: int, stride: int, shortcut: str | None, stride_on: str = "3x3"
    ) -> None:
        super().__init__()
        self.conv1 = conv(width_in, width, 1, stride if stride_on == "1x1" else 1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv(width, width, 3, stride if stride_on == "3x3" else 1)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv(width, width * self.expansion, 1)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = make_shortcut(shortcut, width_in, width * self.expansion, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, width_in, H, W] to [N, 4 width, H / stride, W / stride]."""
        shortcut = None if self.downsample is None else self.downsample(x)
        y = conv_bn_relu(self.conv1, self.bn1, x)
        y = conv_bn_relu(self.conv2, self.bn2, y)
        return conv_bn_relu(self.conv3, self.bn3, y, shortcut)
