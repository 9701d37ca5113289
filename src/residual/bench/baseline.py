"""The baseline: Pillow transforms in a DataLoader, NCHW, eager, as in most training scripts."""

import random
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from ..models.build import build_model
from ..models.names import default_size

MEAN = np.array([0.4914, 0.4822, 0.4465], np.float32)[:, None, None]
STD = np.array([0.2470, 0.2435, 0.2616], np.float32)[:, None, None]


class PillowImages(Dataset[tuple[Tensor, int]]):
    """Random images [N, 32, 32, 3], each padded, cropped, flipped and scaled on its own with Pillow."""

    def __init__(self, count: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return one augmented image [3, 32, 32] and its label."""
        image = ImageOps.expand(Image.fromarray(self.pixels[index]), border=4)
        left, top = random.randint(0, 8), random.randint(0, 8)
        image = image.crop((left, top, left + 32, top + 32))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        values = np.asarray(image, np.float32).transpose(2, 0, 1) / 255
        return torch.from_numpy((values - MEAN) / STD), index % 10


def batches(batch_size: int, workers: int) -> Iterator[list[Tensor]]:
    """Yield augmented batches, epoch after epoch."""
    loader = DataLoader(
        PillowImages(10_000),
        batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    while True:
        yield from loader


def train(name: str, batch_size: int, workers: int, device: str) -> Iterator[None]:
    """Train; each `next` takes one step."""
    network = build_model(name).to(device)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=1e-4)
    running_loss = 0.0
    for images, labels in batches(batch_size, workers):
        logits = network(images.to(device))
        loss = F.cross_entropy(logits, labels.to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        running_loss += loss.item()
        yield


def infer(name: str, batch_size: int, channels_last: bool) -> Iterator[None]:
    """Run the network in evaluation mode; each `next` processes one batch."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = build_model(name).eval().to(memory_format=layout)  # type: ignore[call-overload]
    size = default_size(name)
    images = torch.randn(batch_size, 3, size, size).contiguous(memory_format=layout)
    while True:
        with torch.no_grad():
            network(images)
        yield
