"""Normalization of pixel values by mean and standard deviation: one part of preprocessing."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError
from .dataset import Split

# of ILSVRC 2012 on the 0..1 scale, as torchvision and its followers use them
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, eq=False)
class Normalization:
    """Subtract `mean` and divide by `std`, both on the 0..255 scale.

    `mean` is [H, W, 3], a per-pixel mean (section 4.2), or [3], a per-channel mean; `std` is [3].
    """

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, split: Split) -> "Normalization":
        """Measure the per-pixel mean and the per-channel standard deviation of a training set."""
        return cls.of_images([split.images])

    @classmethod
    def of_images(cls, parts: Iterable[Tensor]) -> "Normalization":
        """Measure the same of images that come one [H, W, 3] or several [N, H, W, 3] at a time, all uint8.

        Raises:
            DataError: there are none.
        """
        # 64-bit sums of whole numbers: exact, so the same on every machine
        count, pixels, levels = 0, torch.tensor(0), torch.zeros(3, 256, dtype=torch.int64)
        for images in parts:
            images = images if images.dim() == 4 else images[None]
            count += len(images)
            pixels = pixels + images.sum(0, dtype=torch.int64)
            levels += torch.stack([torch.bincount(images[..., c].flatten(), minlength=256) for c in range(3)])
        if not count:
            raise DataError("there are no images to measure a mean on")
        values = torch.arange(256, dtype=torch.float64)
        total = levels[0].sum()
        channel_mean = (levels * values).sum(1) / total
        variance = (levels * values**2).sum(1) / total - channel_mean**2
        return cls(pixels.double().div(count).float(), variance.sqrt().clamp_min(1).float())

    @classmethod
    def of_channels(cls, mean: Sequence[float], std: Sequence[float]) -> "Normalization":
        """Take channel means and standard deviations that are given on the 0..1 scale."""
        return cls(torch.tensor(mean) * 255, torch.tensor(std) * 255)

    def of_any_size(self) -> "Normalization":
        """Return it for images of any size: in place of a per-pixel mean, its mean over the pixels."""
        mean = self.mean if self.mean.dim() == 1 else self.mean.double().mean((0, 1)).float()
        return Normalization(mean, self.std)

    def to(self, device: torch.device) -> "Normalization":
        """Return it on a device."""
        return Normalization(self.mean.to(device), self.std.to(device))

    def apply(self, images: Tensor) -> Tensor:
        """Map uint8 images [N, H, W, 3] to float32 [N, H, W, 3]."""
        return images.float().sub_(self.mean).div_(self.std)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; a per-pixel mean as nested lists [H][W][3]."""
        return {"scale": "0..255", "mean": _short(self.mean), "std": _short(self.std)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Normalization":
        """Read back what `as_dict` gave.

        Raises:
            ValueError: the mean is neither [H, W, 3] nor [3], the standard deviation is not [3] or not
                above 0, or a value is not finite.
        """
        found = cls(torch.tensor(values["mean"]).float(), torch.tensor(values["std"]).float())
        if found.mean.shape[-1:] != (3,) or found.mean.dim() not in (1, 3) or found.std.shape != (3,):
            raise ValueError("the mean or standard deviation has the wrong shape")
        if not (found.mean.isfinite().all() and found.std.isfinite().all() and (found.std > 0).all()):
            raise ValueError("the mean or standard deviation is not finite, or the latter is not above 0")
        return found


def _short(values: Tensor) -> Any:
    """Return the shortest decimal numbers that read back to the same float32 values."""
    return values.cpu().numpy().astype(str).astype(float).tolist()
