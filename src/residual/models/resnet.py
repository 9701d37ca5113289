"""Residual and plain networks: a stem, stages of blocks, global average pooling, a fully connected layer."""

from collections.abc import Sequence

from torch import Tensor, nn

from .blocks import BasicBlock, Bottleneck, conv
from .fused import conv_bn_relu
from .network import Network, initialise
from .recompute import checkpointed

STEMS = ("cifar", "imagenet")
STRIDE_ON = ("1x1", "3x3")


class ResNet(Network):
    """A residual or plain network.

    Args:
        block: `BasicBlock` or `Bottleneck`.
        depths: number of blocks in each stage.
        widths: number of channels in each stage, before a bottleneck's expansion. The first block of each
            stage but the first has stride 2.
        shortcut: "A", "B" or "C"; None for a plain network.
        num_classes: length of the output.
        stem: "cifar" (section 4.2), a 3x3 convolution with stride 1, or "imagenet" (Table 1), a 7x7
            convolution with stride 2 and a 3x3 max pooling with stride 2.
        stride_on: for bottlenecks, the convolution that has the stride: "1x1" or "3x3". See `Bottleneck`.
        in_channels: number of channels of the images.
        checkpoint_activations: activation recomputation (checkpointing): keep the activations between runs of
            blocks only and recompute the others in the backward pass. It takes less memory and one more
            forward pass; the result is the same.

    Raises:
        ValueError: `stem` or `stride_on` is not a choice, or `depths` and `widths` differ in length.

    The state dict has torchvision's keys: `conv1`, `bn1`, `layer1.0.conv1`, `layer2.0.downsample.0`, `fc`.
    """

    stem_name = "conv1"
    classifier_name = "fc"
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
        in_channels: int = 3,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if stem not in STEMS or stride_on not in STRIDE_ON:
            raise ValueError(f"stem must be one of {STEMS}, stride_on one of {STRIDE_ON}")
        options = {"stride_on": stride_on} if issubclass(block, Bottleneck) else {}
        self.in_channels = in_channels
        self.checkpoint_activations = checkpoint_activations
        kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
        self.conv1 = conv(in_channels, widths[0], kernel, stride)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if stem == "imagenet" else None
        self.stages = [f"layer{number}" for number in range(1, len(depths) + 1)]
        self.stride = (4 if stem == "imagenet" else 1) * 2 ** (len(depths) - 1)
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
        """Map images [N, C, H, W] to the feature maps of the last stage: stride 4 for CIFAR, else 32."""
        x = self._stem(x)
        for name in self.stages:
            x = self._stage(name, x)
        return x

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Map images to the feature maps of every stage; see `Network`."""
        x = self._stem(x)
        maps = {}
        for level, name in enumerate(self.stages, start=0 if self.maxpool is None else 2):
            x = maps[f"C{level}"] = self._stage(name, x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, C, H, W] to logits [N, num_classes]."""
        logits: Tensor = self.fc(self.forward_features(x).mean((2, 3)))
        return logits

    def parts(self) -> dict[str, nn.Module]:
        """Return the stem's convolution and pooling, the stages and the classifier."""
        return {name: part for name, part in self.named_children() if name != "bn1"}

    def _stem(self, x: Tensor) -> Tensor:
        self.check_images(x)
        x = conv_bn_relu(self.conv1, self.bn1, x)
        return x if self.maxpool is None else self.maxpool(x)

    def _stage(self, name: str, x: Tensor) -> Tensor:
        stage = self.get_submodule(name)
        assert isinstance(stage, nn.Sequential)
        return checkpointed(stage, x) if self.checkpoint_activations and self.training else stage(x)
