"""The paper's ways to test on photographs (section 4.1): one crop, ten crops, several scales."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ..data.decode import BadImageError
from ..data.photos import Photos, SourceError
from ..data.preprocessing import Preprocessing
from ..data.region import Region
from ..errors import DataError, UsageError
from ..models.network import Network
from .fully_convolutional import fully_convolutional

ProtocolName = Literal["one-crop", "ten-crop", "multi-scale"]
PROTOCOLS: tuple[ProtocolName, ...] = get_args(ProtocolName)
SIZE, RESIZE, SCALES = 224, 256, (224, 256, 384, 480, 640)  # the paper's; in proportion for other networks
MAX_ASPECT = 20  # of the longer to the shorter side of an image that is not cropped


@dataclass(frozen=True)
class ShorterSide:
    """Choose the whole image, resized so that its shorter side has `pixels` pixels.

    Raises:
        DataError: the image is so narrow that it would take far too much memory.
    """

    pixels: int

    def __call__(self, height: int, width: int) -> Region:
        """Choose it for an image of that size."""
        shorter = min(height, width)
        if max(height, width) > MAX_ASPECT * shorter:
            raise DataError(f"its {height}x{width} pixels are too narrow to resize: use one-crop")
        tall, wide = (length * self.pixels // shorter for length in (height, width))
        return Region(0, 0, width, height, tall, wide)


@dataclass(frozen=True, eq=False)
class Protocol(ABC):
    """A way to test: what is decoded of a photograph, and how a network's answers to it become one.

    `load` runs in worker processes, `predict` where the network is.
    """

    preprocessing: Preprocessing

    @abstractmethod
    def load(self, photos: Photos, index: int) -> list[Tensor]:
        """Decode a photograph as uint8 [height, width, 3], once for each size.

        Raises:
            BadImageError: it cannot be decoded.
        """

    @abstractmethod
    def predict(self, network: nn.Module, images: list[list[Tensor]], device: torch.device) -> Tensor:
        """Map photographs, as `load` gives them, to logits or logarithms of probabilities [N, classes]."""

    def check(self, network: nn.Module) -> None:
        """Check that a network takes images of the size.

        Raises:
            UsageError: it does not.
        """
        if isinstance(network, Network):
            network.check_size(*self.preprocessing.image_size)

    @property
    def images_at_once(self) -> int:
        """How many photographs are predicted in one batch: memory for 32 views of 224x224 pixels."""
        height, width = self.preprocessing.image_size
        return max(1, min(250, 32 * SIZE**2 // (height * width)) // self.views)

    @property
    def views(self) -> int:
        """Of each photograph at once."""
        return 1

    @property
    def notes(self) -> tuple[str, ...]:
        """What should be known of the figures."""
        return ()

    def _whole(self, photos: Photos, index: int, shorter_side: int) -> Tensor:
        try:
            return photos.region(index, ShorterSide(shorter_side), self.preprocessing.interpolation)
        except (BadImageError, SourceError):
            raise
        except DataError as error:
            raise BadImageError(photos.name(index), str(error)) from error

    @property
    def _side(self) -> int:
        return max(self.preprocessing.image_size)


class OneCrop(Protocol):
    """The model's own preprocessing."""

    def load(self, photos: Photos, index: int) -> list[Tensor]:
        """Decode it at the model's size."""
        return [self.preprocessing.load(photos, index)]

    def predict(self, network: nn.Module, images: list[list[Tensor]], device: torch.device) -> Tensor:
        """Return the logits."""
        pixels = torch.stack([views[0] for views in images]).to(device)
        return _logits(network, self.preprocessing.apply(pixels))


class TenCrop(Protocol):
    """Four corners, the center, and their flips, of an image with a shorter side of 256 pixels."""

    def load(self, photos: Photos, index: int) -> list[Tensor]:
        """Decode it whole and cut the crops out, [5, *image_size, 3]; the flips are made later."""
        image = self._whole(photos, index, self.shorter_side)
        (tall, wide), (height, width) = self.preprocessing.image_size, image.shape[:2]
        bottom, right = height - tall, width - wide
        corners = [(0, 0), (0, right), (bottom, 0), (bottom, right)]
        places = [*corners, (round(bottom / 2), round(right / 2))]
        return [torch.stack([image[top : top + tall, left : left + wide] for top, left in places])]

    def predict(self, network: nn.Module, images: list[list[Tensor]], device: torch.device) -> Tensor:
        """Average the softmax of the ten crops."""
        crops = torch.stack([views[0] for views in images]).to(device)
        crops = torch.cat([crops, crops.flip(3)], 1)
        logits = _logits(network, self.preprocessing.apply(crops.flatten(0, 1)))
        return mean_probability(logits.reshape(*crops.shape[:2], -1))

    @property
    def shorter_side(self) -> int:
        """The shorter side in pixels, which is the preprocessing's `resize` where it has one."""
        return self.preprocessing.resize or round(RESIZE / SIZE * self._side)

    @property
    def views(self) -> int:
        """Of each photograph at once."""
        return 10

    @property
    def notes(self) -> tuple[str, ...]:
        """Name the shorter side."""
        return (f"ten crops of images with a shorter side of {self.shorter_side} pixels",)


class MultiScale(Protocol):
    """The whole image at several scales and its flip, by the fully convolutional network.

    At each scale, scores are averaged over all places; their softmax is averaged over scales and flips.
    """

    def load(self, photos: Photos, index: int) -> list[Tensor]:
        """Decode it whole, once for each scale."""
        return [self._whole(photos, index, side) for side in self.scales]

    def predict(self, network: nn.Module, images: list[list[Tensor]], device: torch.device) -> Tensor:
        """Average over places, scales and flips."""
        assert isinstance(network, Network)
        dense, normalization = fully_convolutional(network), self.preprocessing.normalization.of_any_size()
        answers = []
        for views in images:  # one by one, for sizes differ
            logits = []
            for view in views:
                pair = torch.stack([view, view.flip(1)]).to(device)
                logits.append(_logits(dense, normalization.apply(pair)))
            answers.append(mean_probability(torch.cat(logits)[None]))
        return torch.cat(answers)

    def check(self, network: nn.Module) -> None:
        """Check that a network is one of this package and takes images of every scale.

        Raises:
            UsageError: it does not.
        """
        if not isinstance(network, Network):
            raise UsageError("multi-scale needs a network of this package in floating point: use one-crop")
        network.check_size(self.scales[0], self.scales[0])

    @property
    def scales(self) -> tuple[int, ...]:
        """The shorter sides in pixels."""
        return tuple(round(scale * self._side / SIZE) for scale in SCALES)

    @property
    def images_at_once(self) -> int:
        """One, since sizes differ."""
        return 1

    @property
    def notes(self) -> tuple[str, ...]:
        """Name the scales, and what became of a per-pixel mean."""
        scales = f"shorter sides of {', '.join(map(str, self.scales))} pixels, each image and its flip"
        if self.preprocessing.normalization.mean.dim() == 1:
            return (scales,)
        return scales, "channel means are subtracted in place of the per-pixel mean, since sizes differ"


def make_protocol(name: str, preprocessing: Preprocessing) -> Protocol:
    """Return the protocol of that name for a model's preprocessing.

    Raises:
        UsageError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"unknown protocol '{name}': the protocols are {', '.join(PROTOCOLS)}")
    if name == "one-crop":
        return OneCrop(preprocessing)
    return TenCrop(preprocessing) if name == "ten-crop" else MultiScale(preprocessing)


def mean_probability(logits: Tensor) -> Tensor:
    """Average the softmax of logits [N, views, classes]; return its logarithm [N, classes], on the CPU."""
    return logits.cpu().double().log_softmax(2).logsumexp(1) - log(logits.shape[1])


def _logits(network: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Apply a network to normalised images [N, H, W, 3]."""
    return network(images.permute(0, 3, 1, 2)).float()
