"""The networks for CIFAR of section 4.2: a 3x3 stem, three stages, global average pooling, one FC layer."""

from typing import Any

from torch import Tensor, nn

from .blocks import BasicBlock, Bottleneck, conv
from .fused import bn_relu
from .recompute import checkpointed

WIDTHS = (16, 32, 64)


class ResNet(nn.Module):
    """A residual or plain network on small pictures.

    Args:
        block: `BasicBlock` (6n+2 layers) or `Bottleneck` (9n+2 layers).
        blocks_per_stage: the paper's n.
        shortcut: "A", "B" or "C"; None for a plain net.
        num_classes: length of the output.
        checkpoint_activations: keep only the maps between stretches of blocks and compute the others
            again in the backward pass: less memory, one more forward pass, the same result.

    The state dict's keys are torchvision's: `conv1`, `bn1`, `layer1.0.conv1`,
    `layer2.0.downsample.0`, `fc`. `config` is None until the network comes from a model folder.
    """

    config: Any = None

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks_per_stage: int,
        shortcut: str | None,
        num_classes: int = 10,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.checkpoint_activations = checkpoint_activations
        self.conv1 = conv(3, WIDTHS[0], 3)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        stages, width_in = [], WIDTHS[0]
        for index, width in enumerate(WIDTHS):
            blocks = []
            for position in range(blocks_per_stage):
                stride = 2 if index > 0 and position == 0 else 1
                blocks.append(block(width_in, width, stride, shortcut))
                width_in = width * block.expansion
            stages.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(width_in, num_classes)
        initialise(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map pictures [N, 3, H, W] to the last stage's maps [N, C, H / 4, W / 4]."""
        x = bn_relu(self.bn1, self.conv1(x))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = checkpointed(stage, x) if self.checkpoint_activations and self.training else stage(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pictures [N, 3, H, W] to class scores before the softmax, [N, num_classes]."""
        scores: Tensor = self.fc(self.forward_features(x).mean((2, 3)))
        return scores


def initialise(network: nn.Module) -> None:
    """Draw weights as in "Delving Deep into Rectifiers", equation 10: normal, variance 2 / fan-in.

    Uses torch's global random generator; biases and BN shifts start at 0, BN scales at 1.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
