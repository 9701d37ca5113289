"""Mixup, cutmix, erasing and PCA colour: pixels and targets against their definitions, and what is drawn."""

import math

import numpy as np
import pytest
import torch

from residual.data.colour import pca_colour
from residual.data.erasing import draw_erasing, erase
from residual.data.mixing import Mix, apply_mix, draw_mix

CHANNELS_LAST = torch.channels_last


def numbered(count=5, height=12, width=20):
    """Images whose every pixel is the image's number, so that a mean says which images are in it."""
    numbers = torch.arange(count).float()[:, None, None, None].expand(count, 3, height, width)
    return numbers.contiguous(memory_format=CHANNELS_LAST), torch.tensor([3, 1, 0, 2, 3])[:count]


def test_mixup():
    images, labels = numbered()
    mixed, targets = apply_mix(images, labels, 4, Mix("mixup", 0.75))
    for image in range(5):
        partner = (image - 1) % 5
        expected = torch.full((3, 12, 20), 0.75 * image + 0.25 * partner)
        torch.testing.assert_close(mixed[image], expected)
        target = torch.zeros(4)
        target[labels[image]] += 0.75
        target[labels[partner]] += 0.25
        torch.testing.assert_close(targets[image], target)
    assert mixed.is_contiguous(memory_format=CHANNELS_LAST)
    assert torch.equal(images, numbered()[0])


def test_cutmix_targets_are_shares_of_pixels():
    images, labels = numbered()[0], torch.arange(5)
    random = np.random.default_rng(0)
    for _ in range(60):
        mix = draw_mix(random, 0.0, 1.0, 12, 20)
        mixed, targets = apply_mix(images, labels, 5, mix)
        assert targets.dtype == torch.float32
        torch.testing.assert_close(targets.sum(1), torch.ones(5))
        shares = torch.stack([(mixed[:, 0] == number).float().mean((1, 2)) for number in range(5)], 1)
        torch.testing.assert_close(targets, shares)
        top, left, bottom, right = mix.box
        assert torch.equal(
            mixed[:, :, top:bottom, left:right], images.roll(1, 0)[:, :, top:bottom, left:right]
        )
        assert mixed.is_contiguous(memory_format=CHANNELS_LAST)
    assert torch.equal(images, numbered()[0])


def test_nothing_mixed():
    images, labels = numbered()
    assert draw_mix(np.random.default_rng(0), 0, 0, 12, 20) == Mix()
    mixed, targets = apply_mix(images, labels, 4, Mix())
    assert mixed is images
    assert targets is labels


@pytest.mark.parametrize(("mixup", "cutmix", "expected"), [(0.2, 0, 1), (0, 1.0, 0), (0.2, 1.0, 0.5)])
def test_which_mix_is_drawn(mixup, cutmix, expected):
    random = np.random.default_rng(1)
    kinds = [draw_mix(random, mixup, cutmix, 12, 20).kind for _ in range(2000)]
    assert set(kinds) <= {"mixup", "cutmix"}
    assert kinds.count("mixup") / 2000 == pytest.approx(expected, abs=0.05 if expected == 0.5 else 0)


@pytest.mark.parametrize("alpha", [0.2, 1.0])
def test_shares_of_mixup(alpha):
    random = np.random.default_rng(2)
    shares = np.array([draw_mix(random, alpha, 0, 12, 20).share for _ in range(8000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.04)  # of Beta(alpha, alpha)


def test_boxes_of_cutmix():
    random = np.random.default_rng(3)
    mixes = [draw_mix(random, 0, 1.0, 100, 300) for _ in range(6000)]
    top, left, bottom, right = np.array([mix.box for mix in mixes]).T
    assert (top.min(), left.min(), bottom.max(), right.max()) == (0, 0, 100, 300)
    assert ((top <= bottom) & (left <= right)).all()
    uncut = (top > 0) & (left > 0) & (bottom < 100) & (right < 300)
    ratios = ((right - left) / (bottom - top).clip(1))[uncut & (bottom - top > 40)]
    assert ratios.mean() == pytest.approx(3, rel=0.02)  # as the image's
    # one side of uncut boxes: sqrt(1 - lambda) of the image's; both of whole images: the centre in the middle
    shares = np.array([mix.share for mix in mixes])
    np.testing.assert_allclose(shares, 1 - (bottom - top) * (right - left) / 30_000)
    # a side of length s about a uniform centre keeps s - s^2 / 4; the mean of its square for 1 - s^2 uniform
    side = np.sqrt(np.linspace(0, 1, 10_001))
    assert 1 - shares.mean() == pytest.approx(((side - side**2 / 4) ** 2).mean(), abs=0.015)


def test_boxes_are_erased():
    images = torch.rand(4, 3, 9, 14).contiguous(memory_format=CHANNELS_LAST) + 1
    boxes = torch.tensor([[0, 0, 0, 0], [2, 3, 7, 5], [0, 0, 9, 14], [8, 13, 9, 14]])
    erased = erase(images, boxes)
    expected = images.clone()
    for image, (top, left, bottom, right) in zip(expected, boxes.tolist(), strict=True):
        image[:, top:bottom, left:right] = 0
    assert torch.equal(erased, expected)
    assert images.min() >= 1
    assert erased.is_contiguous(memory_format=CHANNELS_LAST)


def test_which_boxes_are_drawn():
    boxes = draw_erasing(np.random.default_rng(4), 6000, 0.25, 200, 300)
    assert boxes.shape == (6000, 4)
    drawn = boxes[boxes.any(1)]
    assert len(drawn) / 6000 == pytest.approx(0.25, abs=0.025)
    top, left, bottom, right = drawn.T
    tall, wide = bottom - top, right - left
    assert (top.min(), left.min()) >= (0, 0)
    assert (bottom <= 200).all()
    assert (right <= 300).all()
    area, ratio = tall * wide / 60_000, np.log(tall / wide)
    assert (area.min(), area.max()) == pytest.approx((0.02, 0.33), abs=0.006)
    assert area.mean() == pytest.approx(0.172, abs=0.012)
    assert (ratio.min(), ratio.max()) == pytest.approx((math.log(0.3), math.log(3.3)), abs=0.06)
    # log-uniform, where a rectangle of any ratio fits
    assert ratio[area < 0.19].mean() == pytest.approx(math.log(0.3 * 3.3) / 2, abs=0.08)
    assert (top / (200 - tall)).mean() == pytest.approx(0.5, abs=0.03)
    assert (left / (300 - wide)).mean() == pytest.approx(0.5, abs=0.03)


def test_all_or_none_are_erased():
    random = np.random.default_rng(5)
    assert not draw_erasing(random, 300, 0.0, 30, 30).any()
    assert draw_erasing(random, 300, 1.0, 30, 30).any(1).all()
    # in ten tries no rectangle of the right ratio fits in an image this narrow
    assert not draw_erasing(random, 300, 1.0, 400, 2).any()


def test_pca_colour():
    alphas = torch.tensor([[0.0, 0.0, 0.0], [0.1, 0.0, 0.0], [-0.05, 0.2, -0.1]])
    images = torch.randint(0, 256, (3, 4, 6, 3), dtype=torch.uint8)
    shifted = pca_colour(images, alphas)
    assert shifted.dtype == torch.float32
    assert torch.equal(shifted[0], images[0].float())
    # numbers of fb.resnet.torch, by hand: 255 * 0.1 * 0.2175 * (-0.5675, -0.5808, -0.5836)
    first = torch.tensor([-3.147496, -3.221262, -3.236791])
    torch.testing.assert_close(shifted[1] - images[1].float(), first.expand(4, 6, 3), atol=1e-4, rtol=0)
    columns = np.array([[-0.5675, -0.5808, -0.5836], [0.7192, -0.0045, -0.6948], [0.4009, -0.8140, 0.4203]])
    weights = 255 * np.array([-0.05, 0.2, -0.1]) * np.array([0.2175, 0.0188, 0.0045])
    third = torch.from_numpy(weights @ columns).float()
    torch.testing.assert_close(shifted[2] - images[2].float(), third.expand(4, 6, 3), atol=1e-4, rtol=0)
    floats = images.float()
    assert torch.equal(pca_colour(floats, alphas.double()), shifted)
    assert torch.equal(floats, images.float())
