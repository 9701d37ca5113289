"""What all networks of the paper have in common: features, their feature maps by stride, a classifier."""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ..errors import UsageError


class Network(nn.Module, ABC):
    """A network for classification: convolutional features, then a classifier that ends in a linear layer.

    `config` is None unless the network comes from a model folder. `stem_name` and `classifier_name` are the
    paths of the first convolution and of the last linear layer among the modules, and so the prefixes of
    their keys in the state dict. Images must have `in_channels` channels and at least `min_size` rows and
    columns.
    """

    config: Any = None
    in_channels: int
    min_size = 1
    stride: int  # of the last convolution's feature maps
    stem_name: str
    classifier_name: str

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Map normalised images [N, C, H, W] to the feature maps of the last stage."""

    @abstractmethod
    def feature_maps(self, x: Tensor) -> dict[str, Tensor]:
        """Map normalised images [N, C, H, W] to the feature maps of every stage, for detectors and the like.

        The name of a map gives its stride: "C2" has H / 4 rows, "C5" has H / 32. ImageNet networks have C2 to
        C5, CIFAR networks C0 to C2.
        """

    def check_images(self, x: Tensor) -> None:
        """Check the shape of images.

        Raises:
            UsageError: they have another number of channels, or fewer rows or columns than the network takes.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise UsageError(f"the network takes images [N, {self.in_channels}, H, W], not {list(x.shape)}")
        self.check_size(*x.shape[2:])

    def check_size(self, height: int, width: int) -> None:
        """Check the size of images in pixels.

        Raises:
            UsageError: they are smaller than the network takes.
        """
        if min(height, width) < self.min_size:
            raise UsageError(
                f"images of {height}x{width} pixels are too small for this network: it takes "
                f"{self.min_size}x{self.min_size} and larger"
            )

    def check_training(self, batch_size: int, height: int, width: int) -> None:
        """Check the size of training images in pixels, and that BN has several values for each channel.

        Raises:
            UsageError: the images are too small, or a single image becomes a map of one pixel.
        """
        self.check_size(height, width)
        if batch_size == 1 and max(height, width) <= self.stride:
            raise UsageError(
                f"BN needs several values for each channel, and one image of {height}x{width} pixels has one "
                "in the last stage: use a batch size of 2 or more, or larger images"
            )

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Return the parts whose output sizes describe the network, by name and in order."""

    def get_classifier(self) -> nn.Linear:
        """Return the last linear layer."""
        layer = self.get_submodule(self.classifier_name)
        assert isinstance(layer, nn.Linear)
        return layer

    def replace_classifier(self, num_classes: int) -> None:
        """Replace the last linear layer by one with fresh weights (He et al.'s) for other classes."""
        old = self.get_classifier()
        new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        initialise(new)
        self.set_submodule(self.classifier_name, new)


def adapt_channels(weight: Tensor, in_channels: int) -> Tensor:
    """Adapt the first convolution of a network trained on RGB images to images of other channels.

    For grey images the three are summed, which gives the response to a grey RGB image. For more channels they
    are repeated (R, G, B, R, ...) and divided, which keeps the size of the response.

    Args:
        weight: [width, 3, height, width of the kernel].
        in_channels: number of channels of the images.

    Returns:
        The new weight, [width, in_channels, height, width of the kernel].
    """
    if in_channels == 1:
        return weight.sum(1, keepdim=True)
    own = weight.shape[1]
    return weight[:, [channel % own for channel in range(in_channels)]] * (own / in_channels)


def initialise(network: nn.Module) -> None:
    """Draw weights as in "Delving Deep into Rectifiers", equation 10: normal, variance 2 / fan-in.

    Uses torch's global random generator; biases and BN shifts start at 0, BN scales at 1.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
