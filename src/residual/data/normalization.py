"""Normalization of pixel values by mean and standard deviation: one part of preprocessing."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .dataset import Split


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
        # 64-bit sums of whole numbers: exact, so the same on every machine
        pixels = split.images.reshape(len(split), -1)
        mean = pixels.sum(0, dtype=torch.int64).double().div(len(split)).reshape(split.images.shape[1:])
        counts = torch.stack(
            [torch.bincount(split.images[..., c].flatten(), minlength=256) for c in range(3)]
        )
        levels = torch.arange(256, dtype=torch.float64)
        total = counts[0].sum()
        channel_mean = (counts * levels).sum(1) / total
        variance = (counts * levels**2).sum(1) / total - channel_mean**2
        return cls(mean.float(), variance.sqrt().clamp_min(1).float())

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
