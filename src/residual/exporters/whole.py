"""A network with its preprocessing and probabilities in one module that can be exported.

The resizing is two products with matrices, whose entries are the weights of the antialiasing filter. They are
computed from the images' size within the graph, by operators that every engine has; some engines read ONNX's
Resize but pass over its antialiasing.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..data.preprocessing import Preprocessing

Side = Any  # int, or torch.SymInt while a module is exported


class PreparedImages(nn.Module):
    """Uint8 images of any size -> the network's input: `Preprocessing.apply`, up to its rounding.

    It has no limit as `Preprocessing.resized` has for narrow images, since only what remains is computed.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.size = preprocessing.image_size
        self.resize, self.fit = preprocessing.resize, preprocessing.fit
        self.filter = _bilinear if preprocessing.interpolation == "bilinear" else _bicubic
        mean, std = preprocessing.normalization.mean, preprocessing.normalization.std
        planes = mean[:, None, None] if mean.dim() == 1 else mean.permute(2, 0, 1)
        self.register_buffer("mean", planes.contiguous())
        self.register_buffer("std", std[:, None, None].contiguous())

    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 images [N, H, W, 3] to float32 [N, 3, *image_size]."""
        height, width = images.shape[1:3]
        tall, wide = self._resized_size(height, width)
        rows = self._weights(height, tall, self.size[0])
        columns = self._weights(width, wide, self.size[1])
        planes = images.permute(0, 3, 1, 2).float()
        resized = torch.matmul(rows, torch.matmul(planes, columns.t()))
        mean, std = self.get_buffer("mean"), self.get_buffer("std")
        return (resized.round().clamp(0, 255) - mean) / std

    def _resized_size(self, height: Side, width: Side) -> tuple[Side, Side]:
        """Return `Preprocessing`'s size before crop and pad, without branches on the images' size."""
        to_tall, to_wide = self.size
        if self.fit == "squish":
            return self.size
        if self.resize is not None:
            shorter = _least(height, width)
            tall, wide = height * self.resize // shorter, width * self.resize // shorter
        elif self.fit == "crop":
            tall = _most(to_tall, height * to_wide // width)
            wide = _most(to_wide, width * to_tall // height)
        else:
            tall = _most(1, _least(to_tall, height * to_wide // width))
            wide = _most(1, _least(to_wide, width * to_tall // height))
        # images of the right size stay as they are: 0 for them, 1 for others
        other = _least(1, _distance(height, to_tall) + _distance(width, to_wide))
        return to_tall + other * (tall - to_tall), to_wide + other * (wide - to_wide)

    def _weights(self, side: Side, resized: Side, remaining: int) -> Tensor:
        """Return what each pixel of a side adds to each that remains of it, [remaining, side].

        Pixels that remain are those in the middle; rows beyond the resized side are 0, hence black.
        """
        scale = side / resized
        first = _half(_most(0, resized - remaining)) - _half(_most(0, remaining - resized))
        places = torch.arange(remaining) + first
        center = (places.float() + 0.5) * scale
        widened = torch.clamp(torch.ones(1) * scale, min=1)
        distance = (torch.arange(side).float() - center[:, None] + 0.5) / widened
        weights = self.filter(distance.abs())
        inside = ((places >= 0) & (places < resized)).float()
        total = weights.sum(1, keepdim=True).clamp(min=1e-9)
        return torch.mul(weights / total, inside[:, None])


class WholeNetwork(nn.Module):
    """Uint8 images [N, H, W, 3] of any size -> probabilities [N, classes] at a temperature."""

    def __init__(self, network: nn.Module, preprocessing: Preprocessing, temperature: float) -> None:
        super().__init__()
        self.prepared = PreparedImages(preprocessing)
        self.network = network
        self.probabilities = Probabilities(temperature)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to probabilities."""
        found: Tensor = self.probabilities(self.network(self.prepared(images)))
        return found


class Probabilities(nn.Module):
    """Logits [N, classes] -> probabilities at a temperature."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, logits: Tensor) -> Tensor:
        """Map logits to probabilities."""
        return (logits / self.temperature).softmax(1)


def _bilinear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp(min=0)


def _bicubic(distance: Tensor) -> Tensor:
    """Keys' filter with a = -0.5, as Pillow and torch have it where they antialias."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(far)))


def _least(a: Side, b: Side) -> Side:
    return torch.sym_min(a, b)  # type: ignore[no-untyped-call]


def _most(a: Side, b: Side) -> Side:
    return torch.sym_max(a, b)  # type: ignore[no-untyped-call]


def _distance(a: Side, b: int) -> Side:
    return _most(a - b, b - a)


def _half(number: Side) -> Side:
    """Return round(number / 2) of a number that is not negative, as Python rounds: a half to the even."""
    down = number // 2
    return down + (number - 2 * down) * (down - 2 * (down // 2))
