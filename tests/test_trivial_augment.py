"""TrivialAugment: every operation against an independent computation, and what is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.trivial_augment import OPERATIONS, trivial_augment


def picture(height=40, width=50):
    return np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)


def apply(name, pixels, strength, sign=1):
    return np.array(OPERATIONS[name](Image.fromarray(pixels), strength, sign))


def moved(pixels, source):
    """Take for each pixel (row, column) the one that `source` tells; black outside."""
    result = np.zeros_like(pixels)
    height, width, _ = pixels.shape
    for row in range(height):
        for column in range(width):
            x, y = source(column + 0.5, row + 0.5)
            if 0 <= x < width and 0 <= y < height:
                result[row, column] = pixels[int(y), int(x)]
    return result


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("shear_x", lambda x, y, m: (x + 0.99 * m * y, y)),
        ("shear_y", lambda x, y, m: (x, y + 0.99 * m * x)),
        ("shift_x", lambda x, y, m: (x + int(32 * m), y)),
        ("shift_y", lambda x, y, m: (x, y + int(32 * m))),
    ],
)
def test_shears_and_shifts_move_pixels(name, source, sign):
    for strength in (0, 0.3, 1):
        found = apply(name, picture(), strength, sign)
        expected = moved(picture(), lambda x, y, m=sign * strength: source(x, y, m))
        assert (found == expected).all(2).mean() > 0.999  # a coordinate on an edge may be rounded either way


def test_a_rotation_turns_about_the_middle_by_up_to_135_degrees():
    pixels = picture(51, 51)
    assert np.array_equal(apply("rotate", pixels, 90 / 135), np.rot90(pixels))
    assert np.array_equal(apply("rotate", pixels, 90 / 135, -1), np.rot90(pixels, -1))
    black = (apply("rotate", np.full_like(pixels, 255), 1) == 0).all(2).mean()
    assert abs(black - 0.17) < 0.03  # 1 - 2 (sqrt(2) - 1): the corners outside an octagon


def blend(pixels, other, factor):
    return np.clip(other + factor * (pixels.astype(float) - other), 0, 255)


@pytest.mark.parametrize("factor", [1.99, 0.01, 1.495])
def test_enhancements_blend_with_black_grey_or_the_mean(factor):
    strength, sign = abs(factor - 1) / 0.99, 1 if factor > 1 else -1
    pixels = picture()
    grey = (pixels @ np.array([299, 587, 114]) / 1000)[..., None]
    for name, other in (("brightness", 0), ("colour", grey), ("contrast", round(grey.mean()))):
        assert abs(apply(name, pixels, strength, sign) - blend(pixels, other, factor)).max() <= 1.5, name
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    smooth = sum(
        kernel[i, j] * pixels[i : i + 38, j : j + 48].astype(float) for i in range(3) for j in range(3)
    )
    found = apply("sharpness", pixels, strength, sign)
    assert abs(found[1:-1, 1:-1] - blend(pixels[1:-1, 1:-1], smooth, factor)).max() <= 2


def test_posterize_keeps_eight_to_two_bits():
    pixels = picture()
    assert np.array_equal(apply("posterize", pixels, 0), pixels)
    assert np.array_equal(apply("posterize", pixels, 0.5), pixels & 0b11111000)
    assert np.array_equal(apply("posterize", pixels, 1), pixels & 0b11000000)


def test_solarize_inverts_values_from_a_threshold_on():
    pixels = picture()
    for strength, threshold in ((0, 255), (1, 0), (0.5, 127.5)):
        expected = np.where(pixels >= threshold, 255 - pixels, pixels)
        assert np.array_equal(apply("solarize", pixels, strength), expected)


def test_autocontrast_and_equalize_stretch_each_channel():
    dark = picture() // 4 + 20
    stretched = apply("autocontrast", dark, 0.5)
    assert abs(stretched - (dark - 20.0) * 255 / 63).max() <= 1
    flat = apply("equalize", picture(100, 100) // 4, 0)
    levels = np.sort(flat[..., 0].ravel())
    assert abs(levels - np.linspace(0, 255, levels.size)).max() < 10  # 64 levels of 4


def test_operations_strengths_and_signs_are_drawn_alike(monkeypatch):
    seen = []
    for name in OPERATIONS:
        monkeypatch.setitem(
            OPERATIONS,
            name,
            lambda image, strength, sign, name=name: seen.append((name, strength, sign)) or image,
        )
    image = torch.zeros(4, 4, 3, dtype=torch.uint8)
    for number in range(14_000):
        trivial_augment(image, np.random.default_rng(number))
    names, strengths, signs = zip(*seen, strict=True)
    for values, kinds in ((names, 14), (strengths, 31), (signs, 2)):
        found, counts = np.unique(values, return_counts=True)
        assert len(found) == kinds
        assert (abs(counts - 14_000 / kinds) < 5 * np.sqrt(14_000 / kinds)).all()
    assert (min(strengths), max(strengths)) == (0, 1)


def test_an_image_keeps_its_shape_and_type():
    image = torch.from_numpy(picture())
    for number in range(50):
        changed = trivial_augment(image, np.random.default_rng(number))
        assert (changed.shape, changed.dtype) == (image.shape, torch.uint8)
