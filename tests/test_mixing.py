"""Mixup, cutmix, PCA colour and random erasing: values by hand, and the distributions of what is drawn."""

import numpy as np
import pytest
import torch

from residual.data.colour import EIGENVALUES, EIGENVECTORS, pca_colour
from residual.data.erasing import draw_erasing, erase
from residual.data.mixing import Mix, apply_mix, draw_mix

LABELS = torch.tensor([0, 1, 2, 2])


def flat_images():
    """Image i is i + 1 everywhere."""
    return torch.arange(1.0, 5).reshape(4, 1, 1, 1).expand(4, 3, 8, 6).clone()


def test_mixup_is_a_weighted_mean_of_images_and_of_classes():
    images, targets = apply_mix(flat_images(), LABELS, 3, Mix(0.75))
    assert torch.allclose(images[:, 0, 0, 0], torch.tensor([0.75 * 1 + 0.25 * 4, 1.75, 2.75, 3.75]))
    assert torch.equal(targets[0], torch.tensor([0.75, 0, 0.25]))
    assert torch.equal(targets[3], torch.tensor([0.0, 0, 1]))


def test_cutmix_puts_a_rectangle_of_the_partner_and_counts_its_pixels():
    random = np.random.default_rng(0)
    for _ in range(200):
        mix = draw_mix(random, 0, 1.0, 8, 6)
        images, targets = apply_mix(flat_images(), LABELS, 3, mix)
        assert torch.allclose(targets.sum(1), torch.ones(4))
        for i in range(4):
            own, partner = (images[i] == i + 1).float().mean(), (images[i] == (i - 1) % 4 + 1).float().mean()
            assert own + partner == 1
            expected = torch.zeros(3)
            expected[LABELS[i]] += own
            expected[LABELS[i - 1]] += partner
            assert torch.allclose(targets[i], expected, atol=1e-6)


def test_what_is_drawn_has_the_betas_and_every_place():
    random = np.random.default_rng(1)
    mixes = [draw_mix(random, 0.2, 1.0, 20, 30) for _ in range(4000)]
    cut = [mix for mix in mixes if mix.box is not None]
    assert abs(len(cut) - 2000) < 5 * np.sqrt(1000)
    shares = np.array([mix.share for mix in mixes if mix.box is None])
    assert abs(shares.mean() - 0.5) < 0.04
    assert abs(shares.var() - 0.25 / 1.4) < 0.01  # of Beta(a, a): 1 / (4 (2 a + 1))
    boxes = np.array([mix.box for mix in cut])
    assert (boxes.min(0) == [0, 0, 0, 0]).all()
    assert (boxes.max(0) >= [17, 26, 20, 30]).all()
    whole = boxes[(boxes[:, 0] > 0) & (boxes[:, 2] < 20) & (boxes[:, 1] > 0) & (boxes[:, 3] < 30)]
    sides = (whole[:, 2:] - whole[:, :2]) / (20, 30)
    assert abs(sides[:, 0] - sides[:, 1]).max() < 0.12  # the image's aspect ratio, in even numbers of pixels
    middle = (boxes[:, 0] + boxes[:, 2]) / 2
    assert abs(middle.mean() - 10) < 0.5
    assert all(draw_mix(random, 0.2, 0, 8, 6).box is None for _ in range(50))
    assert all(draw_mix(random, 0, 0.2, 8, 6).box is not None for _ in range(50))


def test_colours_shift_along_the_principal_components():
    images = torch.full((2, 4, 5, 3), 100, dtype=torch.uint8)
    shifted = pca_colour(images, torch.tensor([[0.1, 0, 0], [0, -0.2, 0.3]]))
    assert shifted.shape == images.shape
    assert torch.allclose(shifted[0, 0, 0] - 100, 5.54625 * torch.tensor([-0.5675, -0.5808, -0.5836]))
    green = 255 * (-0.2 * 0.0188 * -0.0045 + 0.3 * 0.0045 * -0.8140)
    assert shifted[1, 3, 2, 1].item() - 100 == pytest.approx(green, rel=1e-3)
    vectors = np.array(EIGENVECTORS)
    assert abs(vectors.T @ vectors - np.eye(3)).max() < 1e-3  # orthonormal, to the digits published
    assert list(EIGENVALUES) == sorted(EIGENVALUES, reverse=True)


def test_erasing_blacks_out_the_rectangles_and_nothing_else():
    images = torch.rand(3, 2, 7, 9) + 1
    boxes = torch.tensor([[1, 2, 4, 8], [0, 0, 0, 0], [0, 0, 7, 1]])
    erased = erase(images, boxes)
    for image, (top, left, bottom, right), original in zip(erased, boxes.tolist(), images, strict=True):
        expected = original.clone()
        expected[:, top:bottom, left:right] = 0
        assert torch.equal(image, expected)


def test_erased_rectangles_have_torchvisions_areas_and_ratios():
    boxes = draw_erasing(np.random.default_rng(2), 8000, 0.25, 400, 400)
    tall, wide = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    drawn = tall > 0
    assert abs(drawn.mean() - 0.25) < 0.02
    areas, ratios = (tall * wide)[drawn] / 160_000, np.log(tall[drawn] / wide[drawn])
    assert 0.019 < areas.min() < 0.022
    assert 0.32 < areas.max() < 0.333
    assert np.allclose([ratios.min(), ratios.max()], np.log([0.3, 3.3]), atol=0.03)
    assert abs(ratios.mean() - np.log(0.3 * 3.3) / 2) < 0.06
    assert (boxes[drawn][:, :2].min(0) == 0).all()
    assert (boxes[drawn][:, 2:].max(0) == 400).all()
    assert not draw_erasing(np.random.default_rng(2), 100, 0, 400, 400).any()
