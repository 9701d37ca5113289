"""The crops of training photographs: their distributions, and what they depend on."""

import numpy as np
import pytest

from residual.data.photo_augment import (
    Place,
    RandomArea,
    RandomScale,
    choose_crop,
    longest_side,
    scaled,
)
from residual.recipes.augment import ResizedCrop, ScaleCrop


def chosen(kind, count, height, width, *arguments):
    return [kind(*arguments, Place(3, 0, n))(height, width) for n in range(count)]


def test_draws_depend_on_seed_epoch_position_and_purpose_alone():
    first = Place(1, 2, 3).random(0).random(4)
    assert np.array_equal(first, Place(1, 2, 3).random(0).random(4))
    places = Place(2, 2, 3), Place(1, 3, 3), Place(1, 2, 4)
    others = [*(place.random(0) for place in places), Place(1, 2, 3).random(1)]
    drawn = [first, *(random.random(4) for random in others)]
    assert len({values.tobytes() for values in drawn}) == 5


def test_the_shorter_side_takes_every_length_of_the_range_alike():
    regions = chosen(RandomScale, 4000, 3000, 4000, 4, 8, 12)
    sides = np.array([round(4 * 3000 / (region.bottom - region.top)) for region in regions])
    lengths, counts = np.unique(sides, return_counts=True)
    assert lengths.tolist() == [8, 9, 10, 11, 12]
    assert (abs(counts - 800) < 4 * np.sqrt(800)).all()


def test_a_scaled_crop_takes_every_offset_and_is_a_square():
    regions = chosen(RandomScale, 3000, 6, 8, 32, 48, 48)  # two thirds of 6 pixels: offsets 0..2 and 0..4
    found, counts = np.unique(np.array([(r.top, r.left) for r in regions]), axis=0, return_counts=True)
    assert found.tolist() == [[row, column] for row in range(3) for column in range(5)]
    assert (abs(counts - 200) < 4 * np.sqrt(200)).all()
    assert {(r.bottom - r.top, r.right - r.left, r.height, r.width) for r in regions} == {(4, 4, 32, 32)}


@pytest.mark.parametrize(("height", "width"), [(7, 500), (500, 7), (31, 33), (224, 224), (1, 1)])
@pytest.mark.parametrize("augment", [ScaleCrop(), ResizedCrop()])
def test_a_crop_lies_inside_the_image(augment, height, width):
    for position in range(200):
        region = choose_crop(augment, 32, Place(0, 1, position))(height, width)
        assert 0 <= region.left < region.right <= width
        assert 0 <= region.top < region.bottom <= height
        assert (region.height, region.width) == (32, 32)


def test_area_and_ratio_of_a_resized_crop_are_those_of_torchvision():
    regions = chosen(RandomArea, 6000, 1000, 1000, 32, 0.25)
    tall = np.array([region.bottom - region.top for region in regions])
    wide = np.array([region.right - region.left for region in regions])
    # large areas fit into the image with few ratios only, so the small half is compared with the formula
    ratios = np.log(wide / tall)[wide * tall < 0.5e6]
    assert abs(ratios.mean()) < 0.02
    assert np.allclose([ratios.min(), ratios.max()], [np.log(3 / 4), np.log(4 / 3)], atol=0.01)
    assert abs(ratios.std() - np.log(16 / 9) / np.sqrt(12)) < 0.01  # uniform
    areas = wide * tall / 1e6
    assert 0.249 < areas.min() < 0.26
    assert areas.max() > 0.95
    assert abs((areas < 0.5).mean() - 1 / 3) < 0.08
    free = 1000 - tall
    shares = np.array([region.top for region in regions])[free > 100] / free[free > 100]
    assert abs(shares.mean() - 0.5) < 0.02
    assert (shares.min(), shares.max()) == (0, 1)


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(10, 1000, (493, 0, 506, 10)), (1000, 10, (0, 493, 10, 506))]
)
def test_an_image_too_narrow_for_a_ratio_is_cropped_in_the_middle(height, width, expected):
    for region in chosen(RandomArea, 20, height, width, 32, 0.9):
        assert abs(np.array((region.left, region.top, region.right, region.bottom)) - expected).max() <= 1


def test_the_range_of_the_paper_is_scaled_with_the_crop():
    assert [scaled(side, 224) for side in (256, 480)] == [256, 480]
    assert [scaled(side, 96) for side in (256, 480)] == [110, 206]
    assert scaled(224, 96) == 96
    assert longest_side(ScaleCrop(), 96) == 206
    assert longest_side(ResizedCrop(), 96) == 192
