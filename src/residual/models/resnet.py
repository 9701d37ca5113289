"""The networks: a stem, stages of blocks, global average pooling and one fully connected layer."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .blocks import BasicBlock, Bottleneck, conv
from .fused import bn_relu
from .recompute import checkpointed

STEMS = ("cifar",)
STRIDE_ON = ("1x1", "3x3")


class ResNet(nn.Module):
    """A residual or plain network.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: number of blocks in each stage.
        widths: number of channels in each stage, before a bottleneck's expansion. The first block of each
            stage but the first has stride 2.
        shortcut: "A", "B" or "C"; None for a plain network.
        num_classes: length of the output.
        stem: "cifar" (section 4.2), a 3x3 convolution with stride 1.
        stride_on: for bottlenecks, the convolution that has the stride: "1x1" or "3x3". See `Bottleneck`.
        checkpoint_activations: activation recomputation (checkpointing): keep the activations between runs of
            blocks only and recompute the others in the backward pass. It takes less memory and one more
            forward pass; the result is the same.

    Raises:
        ValueError: `stem` or `stride_on` is not a choice, or `depths` and `widths` differ in length.

    The state dict has torchvision's keys: `conv1`, `bn1`, `layer1.0.conv1`, `layer2.0.downsample.0`, `fc`.
    `config` is None unless the network comes from a model folder.
    """

    config: Any = None
    conv_bn = (("conv1", "bn1"),)

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        widths: Sequence[int],
        shortcut: str | None,
        num_classes: int = 10,
        *,
        stem: str = "cifar",
        stride_on: str = "3x3",
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if stem not in STEMS or stride_on not in STRIDE_ON:
            raise ValueError(f"stem must be one of {STEMS}, stride_on one of {STRIDE_ON}")
        options = {"stride_on": stride_on} if issubclass(block, Bottleneck) else {}
        self.checkpoint_activations = checkpoint_activations
        self.conv1 = conv(3, widths[0], 3)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = [f"layer{number}" for number in range(1, len(depths) + 1)]
        width_in = widths[0]
        for stage, depth, width in zip(self.stages, depths, widths, strict=True):
            blocks = []
            for position in range(depth):
                stride = 2 if position == 0 and stage != self.stages[0] else 1
                blocks.append(block(width_in, width, stride, shortcut, **options))
                width_in = width * block.expansion
            self.add_module(stage, nn.Sequential(*blocks))
        self.fc = nn.Linear(width_in, num_classes)
        initialise(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [N, 3, H, W] to the feature maps of the last stage, [N, C, H / 4, W / 4] for CIFAR."""
        x = bn_relu(self.bn1, self.conv1(x))
        for name in self.stages:
            stage = self.get_submodule(name)
            assert isinstance(stage, nn.Sequential)
            x = checkpointed(stage, x) if self.checkpoint_activations and self.training else stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, 3, H, W] to logits [N, num_classes]."""
        logits: Tensor = self.fc(self.forward_features(x).mean((2, 3)))
        return logits


def initialise(network: nn.Module) -> None:
    """Draw weights as in "Delving Deep into Rectifiers", equation 10: normal, variance 2 / fan-in.

    Uses torch's global random generator; biases and BN shifts start at 0, BN scales at 1.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
