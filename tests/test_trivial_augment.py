"""TrivialAugment: each operation gives the pixels that Pillow gives, at every strength, and each is drawn."""

import collections
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from residual.data.trivial_augment import OPERATIONS, trivial_augment


def photograph(height=40, width=52):
    """Draw smooth noise, wider than high so that the axes differ, and of limited contrast."""
    noise = np.random.default_rng(0).integers(20, 230, (height // 4, width // 4, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def moved(image, source):
    """Take each pixel from where `source` says, by its centre; 0 from outside the image."""
    pixels = np.asarray(image)
    height, width = pixels.shape[:2]
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    x, y = source(x, y)
    x, y = np.floor(x).astype(int), np.floor(y).astype(int)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    taken = pixels[y.clip(0, height - 1), x.clip(0, width - 1)]
    return np.where(inside[..., None], taken, 0)


class Fixed:
    """Stands for a generator: draws what it was given."""

    def __init__(self, *drawn):
        self.drawn = drawn

    def integers(self, bounds):
        assert bounds == (14, 31, 2)
        return self.drawn


def augmented(image, name, level, negative=0):
    fixed = Fixed(list(OPERATIONS).index(name), level, negative)
    changed = trivial_augment(torch.from_numpy(np.array(image)), fixed)
    assert changed.dtype == torch.uint8
    return changed.numpy()


@pytest.mark.parametrize("negative", [0, 1])
@pytest.mark.parametrize("level", [0, 1, 7, 15, 30])
def test_geometry(level, negative):
    image, sign = photograph(), -1 if negative else 1
    shear, shift = sign * 0.033 * level, sign * math.floor(32 * level / 30)
    expected = {
        "ShearX": moved(image, lambda x, y: (x + shear * y, y)),
        "ShearY": moved(image, lambda x, y: (x, y + shear * x)),
        "TranslateX": moved(image, lambda x, y: (x - shift, y)),
        "TranslateY": moved(image, lambda x, y: (x, y - shift)),
        "Rotate": np.asarray(image.rotate(sign * 4.5 * level, Image.Resampling.NEAREST, fillcolor=0)),
    }
    for name, pixels in expected.items():
        # a source that lies on the edge of two pixels may round to either
        differs = (augmented(image, name, level, negative) != pixels).any(2).mean()
        assert differs <= (0 if name in ("TranslateX", "TranslateY", "Rotate") else 0.002), name


@pytest.mark.parametrize("negative", [0, 1])
@pytest.mark.parametrize("level", [0, 11, 30])
def test_enhancements(level, negative):
    image = photograph()
    for name in ("Brightness", "Color", "Contrast", "Sharpness"):
        factor = 1 + (-0.033 if negative else 0.033) * level
        expected = np.asarray(getattr(ImageEnhance, name)(image).enhance(factor))
        assert abs(augmented(image, name, level, negative).astype(int) - expected).max() <= 1, name
        assert (augmented(image, name, level, negative) == expected).mean() > 0.99, name


def test_levels_of_posterize_and_solarize():
    image = photograph()
    pixels = np.asarray(image)
    bits = [8, 8, 8, 7, 7, 7, 7, 7, 6, 6, 6, 6, 6, 5, 5, 5, 5, 5, 4, 4, 4, 4, 4, 3, 3, 3, 3, 3, 2, 2, 2]
    for level in range(31):
        kept = 256 - 2 ** (8 - bits[level])
        assert np.array_equal(augmented(image, "Posterize", level, level % 2), pixels & kept)
        inverted = pixels >= np.float32(255 * (30 - level)) / np.float32(30)
        solarized = np.where(inverted, 255 - pixels, pixels)
        assert np.array_equal(augmented(image, "Solarize", level, level % 2), solarized), level
    assert np.array_equal(augmented(image, "Solarize", 30), np.asarray(ImageOps.invert(image)))


def test_operations_without_strength():
    image = photograph()
    for level in (0, 30):
        assert np.array_equal(augmented(image, "Identity", level), np.asarray(image))
        assert np.array_equal(
            augmented(image, "AutoContrast", level), np.asarray(ImageOps.autocontrast(image))
        )
        assert np.array_equal(augmented(image, "Equalize", level), np.asarray(ImageOps.equalize(image)))


def test_everything_is_drawn_equally_often(monkeypatch):
    assert " ".join(OPERATIONS) == (
        "Identity ShearX ShearY TranslateX TranslateY Rotate Brightness Color Contrast Sharpness "
        "Posterize Solarize AutoContrast Equalize"
    )
    seen = collections.Counter()
    for name in OPERATIONS:

        def spy(image, share, sign, name=name):
            seen.update([("operation", name), ("level", round(share * 30, 9)), ("sign", sign)])
            return image

        monkeypatch.setitem(OPERATIONS, name, spy)
    image, random = torch.zeros(2, 2, 3, dtype=torch.uint8), np.random.default_rng(0)
    for _ in range(6200):
        trivial_augment(image, random)
    for kind, count in (("operation", 14), ("level", 31), ("sign", 2)):
        found = {value: times for (what, value), times in seen.items() if what == kind}
        assert len(found) == count
        expected = 6200 / count
        assert all(abs(times - expected) < 5 * math.sqrt(expected) for times in found.values())
        if kind == "level":
            assert sorted(found) == list(range(31))
        if kind == "sign":
            assert set(found) == {1, -1}


def test_the_image_itself_is_left_as_it_is():
    image = torch.from_numpy(np.array(photograph()))
    before = image.clone()
    first = [trivial_augment(image, np.random.default_rng(seed)) for seed in range(40)]
    assert torch.equal(image, before)
    again = [trivial_augment(image, np.random.default_rng(seed)) for seed in range(40)]
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert all(one.shape == image.shape and one.data_ptr() != image.data_ptr() for one in first)
