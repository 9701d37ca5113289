"""VGG-19, the network that Figure 3 sets beside the plain and the residual one of 34 layers.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", configuration E.
"""

from torch import Tensor, nn

from .fused import conv_bn_relu
from .network import Network, initialise
from .recompute import recomputed

DEPTHS = (2, 2, 4, 4, 4)  # convolutions in each stage; a max pooling ends it
WIDTHS = (64, 128, 256, 512, 512)
HIDDEN = 4096


class Stages(nn.Sequential):
    """Convolutions, BN, ReLU and pooling in one row, as torchvision numbers them, with BN and ReLU fused."""

    @property
    def conv_bn(self) -> list[tuple[str, str]]:
        """The pairs that can be folded, by their numbers."""
        norms = [number for number, layer in enumerate(self) if isinstance(layer, nn.BatchNorm2d)]
        return [(str(number - 1), str(number)) for number in norms]

    def forward(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to feature maps."""
        conv: nn.Module = nn.Identity()
        bn: nn.Module = nn.Identity()
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                conv, bn = layer, nn.Identity()
            elif isinstance(layer, nn.ReLU):
                x = conv_bn_relu(conv, bn, x)
            elif isinstance(layer, nn.MaxPool2d):
                x = layer(x)
            else:
                bn = layer
        return x


class VGG(Network):
    """VGG-19.

    Args:
        batch_norm: BN after each convolution; else the convolutions alone, as published.
        num_classes: length of the output.
        in_channels: number of channels of the images.
        checkpoint_activations: activation recomputation (checkpointing) of each stage; see `ResNet`.

    Images must have at least 32 pixels a side; others than 224 are pooled to the 7x7 maps that the classifier
    takes. The state dict has torchvision's keys: `features.0`, `classifier.0`, `classifier.3`,
    `classifier.6`.
    """

    stem_name = "features.0"
    classifier_name = "classifier.6"
    min_size = 2 ** len(DEPTHS)  # each pooling halves it
    stride = min_size // 2  # the last convolution is before the last pooling

    def __init__(
        self,
        batch_norm: bool,
        num_classes: int = 1000,
        *,
        in_channels: int = 3,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.checkpoint_activations = checkpoint_activations
        self.features = Stages()
        width_in = in_channels
        for depth, width in zip(DEPTHS, WIDTHS, strict=True):
            for _ in range(depth):
                self.features.append(nn.Conv2d(width_in, width, 3, padding=1))
                if batch_norm:
                    self.features.append(nn.BatchNorm2d(width))
                self.features.append(nn.ReLU(inplace=True))
                width_in = width
            self.features.append(nn.MaxPool2d(2))
        self.avgpool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            *(nn.Linear(width_in * 7 * 7, HIDDEN), nn.ReLU(inplace=True), nn.Dropout()),
            *(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(inplace=True), nn.Dropout()),
            nn.Linear(HIDDEN, num_classes),
        )
        initialise(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [N, C, H, W] to the pooled maps of the last stage, [N, 512, H / 32, W / 32]."""
        self.check_images(x)
        if self.checkpoint_activations and self.training:
            for stage in self._stages():
                x = recomputed(stage, x)
            return x
        return self.features(x)  # type: ignore[no-any-return]

    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Map images to the pooled feature maps of every stage; see `Network`."""
        self.check_images(x)
        maps = {}
        for level, stage in enumerate(self._stages(), start=1):
            x = maps[f"C{level}"] = stage(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, C, H, W] to logits [N, num_classes]."""
        logits: Tensor = self.classifier(self.avgpool(self.forward_features(x)).flatten(1))
        return logits

    def parts(self) -> dict[str, nn.Module]:
        """Return the pooling layer that ends each stage, and the fully connected layers."""
        pools = [layer for layer in self.features if isinstance(layer, nn.MaxPool2d)]
        dense = [layer for layer in self.classifier if isinstance(layer, nn.Linear)]
        return {
            **{f"stage{number}": pool for number, pool in enumerate(pools, start=1)},
            **{f"fc{number}": layer for number, layer in enumerate(dense, start=6)},
        }

    def _stages(self) -> list[nn.Module]:
        """Split the features behind each max pooling."""
        ends = [n for n, layer in enumerate(self.features, start=1) if isinstance(layer, nn.MaxPool2d)]
        return [self.features[start:end] for start, end in zip([0, *ends], ends, strict=False)]
