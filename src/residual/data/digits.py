"""scikit-learn's handwritten digits as 32x32 RGB images: the dataset that needs no download."""

import torch
from torch.nn import functional as F

from .dataset import Dataset, Split

TEST_SIZE = 360
SPLIT_SEED = 0


def load() -> Dataset:
    """Return 1,437 training and 360 test images, always the same split.

    The 8x8 grayscale images (17 levels) are enlarged four times, bilinearly, and repeated in three channels.
    """
    from sklearn.datasets import load_digits  # takes a second to load, and no other dataset needs it

    digits = load_digits()
    grey = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    large = F.interpolate(grey, size=(32, 32), mode="bilinear", align_corners=False)
    images = large.round().to(torch.uint8).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()
    everything = Split(images, torch.from_numpy(digits.target).long())
    order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return Dataset(
        name="digits",
        train=everything.take(order[TEST_SIZE:]),
        test=everything.take(order[:TEST_SIZE]),
        class_names=tuple(str(digit) for digit in range(10)),
    )
