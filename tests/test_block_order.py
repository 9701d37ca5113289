"""The order of an epoch by blocks: each image once, mixed as evenly as by a shuffle."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.data.photo_batches import epoch_order
from residual.data.shards import order
from residual.data.shards.order import BLOCK, MIXED, block_order
from residual.errors import UsageError
from residual.recipes.catalog import get_recipe

LARGE = 40 * MIXED * BLOCK + 17  # images


@given(size=st.integers(1, 30_000), seed=st.integers(0, 2**31 - 1), epoch=st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_every_image_comes_once_whatever_the_size(size, seed, epoch):
    found = block_order(seed, epoch, size)
    assert torch.equal(found.sort().values, torch.arange(size))
    assert torch.equal(found, block_order(seed, epoch, size)), "of seed and epoch alone"
    assert size < 50 or not torch.equal(found, block_order(seed, epoch + 1, size))


def test_the_draws_stay_what_they_were():
    """An order that changes with a version would change what a run resumes with."""
    assert block_order(3, 1, LARGE)[:6].tolist() == [36445, 14052, 30481, 159921, 19032, 121240]


def test_images_of_a_block_come_within_a_bounded_stretch():
    places = block_order(0, 0, LARGE).argsort().numpy()
    blocks = np.array_split(places[: LARGE // BLOCK * BLOCK], LARGE // BLOCK)
    spans = np.array([block.max() - block.min() for block in blocks]) / BLOCK
    assert spans.max() <= 2 * MIXED, "the first and the last ones come among twice as many"
    assert np.median(spans) > 0.8 * MIXED, "and are spread over it"


def kinds_in_batches(found, labels, size=256):
    """Return how many classes each batch holds."""
    whole = labels[found][: len(found) // size * size].reshape(-1, size)
    return np.array([len(set(batch.tolist())) for batch in whole])


def test_batches_hold_ten_classes_in_a_row_as_evenly_as_a_shuffle():
    labels = np.arange(LARGE) * 10 // LARGE  # in the list, a class follows the other
    counts = {}
    for name, found in (
        ("blocks", block_order(1, 0, LARGE)),
        ("shuffle", epoch_order(1, 0, LARGE, 1)),
    ):
        batches = labels[found.numpy()][: LARGE // 256 * 256].reshape(-1, 256)
        counts[name] = np.array([np.bincount(batch, minlength=10) for batch in batches])
    assert counts["blocks"].std() == pytest.approx(counts["shuffle"].std(), rel=0.1)
    ends = counts["blocks"][[0, -1]]
    assert ends.min() > 8, "the first and the last batch too"


def test_a_batch_holds_images_of_most_blocks_that_are_mixed():
    blocks = np.arange(LARGE) // BLOCK
    found = kinds_in_batches(block_order(1, 0, LARGE).numpy(), blocks)
    drawn = MIXED * (1 - (1 - 1 / MIXED) ** 256)
    assert found.min() > 0.85 * drawn
    assert found.mean() > drawn


def test_few_images_are_shuffled_fully():
    size = 2 * MIXED * BLOCK
    places = block_order(0, 0, size).argsort().numpy().astype(float)
    assert abs(np.corrcoef(places, np.arange(size))[0, 1]) < 0.05


def test_the_recipe_says_which_order(monkeypatch):
    recipe = get_recipe("imagenet-modern", "resnet18")
    assert recipe.order == "shuffle"
    assert recipe.replace({"order": "blocks"}).order == "blocks"
    with pytest.raises(UsageError, match="order = blocks and balance = sampler cannot be combined"):
        recipe.replace({"order": "blocks", "balance": "sampler"})
    monkeypatch.setattr(order, "BLOCK", 2)
    monkeypatch.setattr(order, "MIXED", 2)
    repeated = epoch_order(0, 0, 24, 4, None, "blocks").tolist()
    assert repeated[::4] == block_order(0, 0, 24).tolist()[:6]
