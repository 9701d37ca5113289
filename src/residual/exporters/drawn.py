"""Drawn images: seeded pictures that look enough like photographs to compare and calibrate networks on.

A network meets edges, areas of one colour, textures and shading in them. They need no download.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Picture = NDArray[np.float64]  # [H, W, 3], about 0 to 1
MOST_SHAPES = 5


def drawn_images(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Draw images, the same ones for the same arguments.

    Each is a gradient between two colours, noise whose spectrum falls as 1/f as that of photographs does, and
    up to five ellipses and rectangles, which have noise of their own.

    Args:
        count: how many.
        size: height and width in pixels.
        seed: other seeds give other images.

    Returns:
        uint8 [count, height, width, 3].
    """
    pictures = [_picture(np.random.default_rng((seed, number)), *size) for number in range(count)]
    return torch.from_numpy(np.stack(pictures))


def _picture(random: np.random.Generator, height: int, width: int) -> NDArray[np.uint8]:
    picture = _gradient(random, height, width) + random.uniform(0.02, 0.25) * _noise(random, height, width)
    for _ in range(random.integers(MOST_SHAPES + 1)):
        inside = _shape(random, height, width)
        filled = random.uniform(0, 1, 3) + random.uniform(0, 0.2) * _noise(random, height, width)
        picture = np.where(inside[..., None], filled, picture)
    return np.round(picture.clip(0, 1) * 255).astype(np.uint8)


def _gradient(random: np.random.Generator, height: int, width: int) -> Picture:
    first, second = random.uniform(0, 1, (2, 3))
    angle = random.uniform(0, 2 * np.pi)
    rows, columns = _coordinates(height, width)
    share = (rows * np.sin(angle) + columns * np.cos(angle))[..., None] * 0.7 + 0.5
    return np.asarray(first + share * (second - first))


def _noise(random: np.random.Generator, height: int, width: int) -> Picture:
    """Noise with an amplitude of 1/f, of standard deviation 1; most of it grey, as in photographs."""
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf  # the mean is the gradient's
    white = random.normal(size=(height, width, 4))
    planes = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) / frequency[..., None], axes=(0, 1)).real
    noise = planes[..., :1] + 0.3 * planes[..., 1:]
    return np.asarray(noise / max(noise.std(), 1e-9))


def _shape(random: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
    """Tell which pixels an ellipse or a rectangle, turned by some angle, covers."""
    rows, columns = _coordinates(height, width)
    (row, column), (tall, wide) = random.uniform(-0.5, 0.5, 2), random.uniform(0.05, 0.45, 2)
    angle = random.uniform(0, np.pi)
    along = ((rows - row) * np.cos(angle) + (columns - column) * np.sin(angle)) / tall
    across = ((columns - column) * np.cos(angle) - (rows - row) * np.sin(angle)) / wide
    round_ = random.random() < 0.5
    distance = np.hypot(along, across) if round_ else np.maximum(abs(along), abs(across))
    return np.asarray(distance < 1)


def _coordinates(height: int, width: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the pixels' rows and columns, from -0.5 to 0.5."""
    return (np.arange(height)[:, None] + 0.5) / height - 0.5, (np.arange(width)[None] + 0.5) / width - 0.5
