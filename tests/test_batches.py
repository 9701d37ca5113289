"""Training batches: every image once an epoch, crops, flips, normalization, validation, ranks, loaders."""

import hashlib
import itertools
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from residual.data.augment import crop_and_flip
from residual.data.dataset import Split, indices_sha256, split_validation
from residual.data.load import load_dataset
from residual.data.loader import TrainBatches
from residual.data.normalization import Normalization
from residual.data.preprocessing import Preprocessing
from residual.data.sampler import Draws, Sampler
from residual.errors import UsageError
from residual.recipes.augment import PadCrop

PLAIN = PadCrop(padding=0, flip=False)
NOTHING = Normalization(torch.zeros(3), torch.ones(3))
slow = settings(deadline=None, max_examples=60)
seeds = st.integers(0, 2**31 - 1)


def numbered(count: int, size: int = 4) -> Split:
    """Make a set whose images are told apart by every pixel and by their label."""
    labels = torch.arange(count)
    images = torch.stack([labels % 256, labels // 256, torch.zeros(count).long()], 1)
    return Split(images[:, None, None].expand(-1, size, size, -1).to(torch.uint8).contiguous(), labels)


def random_split(count: int, size: int, seed: int = 0) -> Split:
    images = np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return Split(torch.from_numpy(images), torch.arange(count))


# order


@st.composite
def streams(draw):
    count = draw(st.integers(1, 60))
    return count, draw(st.integers(1, count)), draw(seeds), draw(st.integers(0, 3))


@slow
@given(streams())
def test_every_picture_comes_once_an_epoch_and_every_batch_is_full(stream):
    count, size, seed, first_epoch = stream
    batches = TrainBatches(numbered(count), NOTHING, size, PLAIN, seed)
    # the batches that cover three whole epochs, wherever a batch ends in them
    begin, end = first_epoch * count, (first_epoch + 3) * count
    steps = range(begin // size, -(-end // size))
    taken = [batches[step] for step in steps]
    for images, labels in taken:
        assert images.shape == (size, 3, 4, 4)
        assert labels.shape == (size,)
        assert torch.equal(images[:, 0, 0, 0].long(), labels)
    positions = torch.cat([labels for _, labels in taken])[begin - steps[0] * size :]
    for epoch in range(3):
        stretch = positions[epoch * count : (epoch + 1) * count]
        assert stretch.sort().values.tolist() == list(range(count))


def test_a_batch_straddles_two_epochs():
    batches = TrainBatches(numbered(10), NOTHING, 4, PLAIN, seed=1)
    stream = torch.cat([batches[step][1] for step in range(5)]).tolist()
    assert len(stream) == 20
    assert sorted(stream[:10]) == sorted(stream[10:]) == list(range(10))
    assert stream[:10] != stream[10:]


@settings(deadline=None, max_examples=20)
@given(streams(), st.randoms(use_true_random=False))
def test_a_batch_depends_on_its_number_alone(stream, random):
    count, size, seed, _ = stream
    split, augment = random_split(count, 6), PadCrop(padding=2, flip=True)
    in_order = TrainBatches(split, NOTHING, size, augment, seed)
    expected = [in_order[step] for step in range(8)]
    steps = list(range(8)) * 2
    random.shuffle(steps)
    jumping = TrainBatches(split, NOTHING, size, augment, seed)
    for step in steps:
        fresh = TrainBatches(split, NOTHING, size, augment, seed)
        for images, labels in (jumping[step], fresh[step]):
            assert torch.equal(images, expected[step][0])
            assert torch.equal(labels, expected[step][1])


def test_a_batch_does_not_depend_on_torchs_global_generator():
    split = random_split(20, 6)
    torch.manual_seed(1)
    first = TrainBatches(split, NOTHING, 7, PadCrop(padding=2), 3)[5]
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = TrainBatches(split, NOTHING, 7, PadCrop(padding=2), 3)[5]
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_and_epochs_draw_differently():
    pairs = [(seed, epoch) for seed in (0, 1, 2, 2**31 - 1) for epoch in (0, 1, 2)]
    draws = [Draws.of_epoch(seed, epoch, 500, PadCrop()) for seed, epoch in pairs]
    for name in ("order", "offsets", "flips"):
        values = {getattr(draw, name).numpy().tobytes() for draw in draws}
        assert len(values) == len(draws), name


def test_runs_of_different_seeds_see_different_batches():
    split = random_split(40, 6)
    first, second = (TrainBatches(split, NOTHING, 40, PadCrop(), seed)[0] for seed in (0, 1))
    assert not torch.equal(first[1], second[1])
    assert not torch.equal(first[0], second[0])


def test_a_batch_may_be_the_whole_set_but_not_larger():
    images, labels = TrainBatches(numbered(10), NOTHING, 10, PLAIN, seed=0)[3]
    assert images.shape == (10, 3, 4, 4)
    assert sorted(labels.tolist()) == list(range(10))
    with pytest.raises(UsageError, match="batch_size must be at most the training set's 10, not 11"):
        TrainBatches(numbered(10), NOTHING, 11, PLAIN, seed=0)


# crops and flips


def naive(image: np.ndarray, row: int, column: int, flip: bool, padding: int) -> np.ndarray:
    """Pad, cut and mirror one picture [H, W, C], pixel by pixel."""
    height, width, _ = image.shape
    cut = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            source_y, source_x = y + row - padding, x + column - padding
            if 0 <= source_y < height and 0 <= source_x < width:
                cut[y, width - 1 - x if flip else x] = image[source_y, source_x]
    return cut


@st.composite
def crops(draw):
    count, padding = draw(st.integers(1, 5)), draw(st.integers(0, 5))
    shape = (count, draw(st.integers(1, 7)), draw(st.integers(1, 7)), draw(st.integers(1, 3)))
    offsets = draw(arrays.arrays(np.int64, (count, 2), elements=st.integers(0, 2 * padding)))
    flips = draw(arrays.arrays(np.bool_, count))
    return shape, offsets, flips, padding


@slow
@given(crops(), seeds)
def test_crops_and_flips_are_those_of_a_naive_implementation(crop, seed):
    shape, offsets, flips, padding = crop
    images = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    found = crop_and_flip(
        torch.from_numpy(images), torch.from_numpy(offsets), torch.from_numpy(flips), padding
    )
    expected = [
        naive(image, row, column, flip, padding)
        for image, (row, column), flip in zip(images, offsets, flips, strict=True)
    ]
    assert np.array_equal(found.numpy(), np.stack(expected))


@pytest.mark.parametrize(
    "augment", [PadCrop(), PadCrop(padding=2, flip=False), PadCrop(padding=0, flip=True)]
)
def test_batches_are_cropped_and_flipped_as_drawn(augment):
    count, size, seed = 23, 9, 5
    split = random_split(count, 32)
    normalization = Normalization.of(split)
    normalised = normalization.apply(split.images).numpy()
    drawn = [Draws.of_epoch(seed, epoch, count, augment) for epoch in range(3)]
    order, offsets, flips = (
        torch.cat([getattr(d, name) for d in drawn]).numpy() for name in ("order", "offsets", "flips")
    )
    batches = TrainBatches(split, normalization, size, augment, seed)
    for step in range(7):
        images, labels = batches[step]
        place = range(step * size, (step + 1) * size)
        expected = [
            naive(normalised[order[k]], offsets[k][0], offsets[k][1], flips[k], augment.padding)
            for k in place
        ]
        assert labels.tolist() == order[list(place)].tolist()
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), np.stack(expected))
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)


def seen_draws(augment: PadCrop, steps: int) -> np.ndarray:
    """Read crop offsets and flips off the images: rows of (row offset, column offset, flipped)."""
    size, count = 12, 300  # every pixel tells its row and its column
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    image = torch.stack([rows + 1, columns + 1, torch.zeros_like(rows)], -1).to(torch.uint8)
    split = Split(image.expand(count, -1, -1, -1).contiguous(), torch.zeros(count).long())
    batches = TrainBatches(split, NOTHING, count, augment, seed=0)
    images = torch.cat([batches[step][0] for step in range(steps)]).long().numpy()
    middle = size // 2
    flipped = images[:, 1, middle, middle] < images[:, 1, middle, middle - 1]
    row = images[:, 0, middle, middle] - 1 - middle + augment.padding
    left = np.where(flipped, images[:, 1, middle, size - 1 - middle], images[:, 1, middle, middle])
    return np.stack([row, left - 1 - middle + augment.padding, flipped], 1)


def test_every_offset_and_flip_is_equally_likely():
    seen = seen_draws(PadCrop(padding=4, flip=True), steps=54)
    assert seen.min() == 0
    assert seen[:, :2].max() == 8
    counts = np.zeros((9, 9, 2))
    np.add.at(counts, tuple(seen.T), 1)
    expected = len(seen) / counts.size
    assert expected == 100
    assert counts.min() > 0
    # chi-square with 161, 80 and 1 degrees of freedom: mean + 5 standard deviations
    for table, freedom in ((counts, 161), (counts.sum(2), 80), (counts.sum((0, 1)), 1)):
        even = len(seen) / table.size
        assert ((table - even) ** 2 / even).sum() < freedom + 5 * (2 * freedom) ** 0.5


def test_without_flips_none_is_flipped():
    seen = seen_draws(PadCrop(padding=4, flip=False), steps=20)
    assert not seen[:, 2].any()
    assert len(np.unique(seen[:, :2], axis=0)) == 81


def test_without_padding_pictures_are_only_flipped():
    seen = seen_draws(PadCrop(padding=0, flip=True), steps=5)
    assert not seen[:, :2].any()
    assert 600 < seen[:, 2].sum() < 900


def test_without_padding_and_flips_pictures_stay_as_they_are():
    split = random_split(8, 5)
    images, labels = TrainBatches(split, NOTHING, 8, PLAIN, seed=0)[0]
    assert torch.equal(images.permute(0, 2, 3, 1).to(torch.uint8), split.images[labels])


def test_padding_is_zero_after_normalisation():
    split = Split(torch.full((50, 8, 8, 3), 200, dtype=torch.uint8), torch.zeros(50).long())
    normalization = Normalization(torch.tensor([10.0, 20.0, 30.0]), torch.tensor([2.0, 3.0, 4.0]))
    images, _ = TrainBatches(split, normalization, 50, PadCrop(padding=4), seed=0)[0]
    inside = torch.tensor([95.0, 60.0, 42.5])[:, None, None]
    assert bool(((images == 0) | (images == inside)).all())
    assert 0 < int((images == 0).sum()) < images.numel()
    assert bool(((images == 0).all(1) | (images != 0).all(1)).all())


# normalization


def test_mean_and_deviation_are_numpys():
    split = random_split(257, 6)
    pixels = split.images.numpy().astype(np.float64)
    found = Normalization.of(split)
    assert found.mean.dtype == found.std.dtype == torch.float32
    assert np.array_equal(found.mean.numpy(), pixels.mean(0).astype(np.float32))
    assert found.std.numpy() == pytest.approx(pixels.reshape(-1, 3).std(0), rel=1e-6)


def test_pictures_are_centred_and_scaled():
    split = random_split(64, 6)
    found = Normalization.of(split).apply(split.images).double()
    assert found.mean(0).abs().max() < 1e-5
    pixels = split.images.double()
    expected = (pixels - pixels.mean(0)) / pixels.reshape(-1, 3).std(0, correction=0)
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_set_without_any_contrast_gives_no_infinity():
    split = Split(torch.full((5, 4, 4, 3), 7, dtype=torch.uint8), torch.zeros(5).long())
    normalization = Normalization.of(split)
    assert normalization.std.tolist() == [1, 1, 1]
    assert not normalization.apply(split.images).any()


def test_channel_means_may_be_given():
    found = Normalization.of_channels((0.5, 0.25, 0.125), (0.5, 0.25, 0.2))
    images = torch.tensor([255, 0, 51], dtype=torch.uint8).expand(1, 2, 2, 3)
    assert torch.allclose(found.apply(images)[0, 0, 0], torch.tensor([1.0, -1.0, 0.375]))


def test_applying_leaves_the_pictures_as_they_are():
    split = random_split(4, 3)
    before = split.images.clone()
    Normalization.of(split).apply(split.images)
    assert torch.equal(split.images, before)


floats = st.floats(0, 255, width=32, allow_subnormal=False)
positive = st.floats(2.0**-20, 255, width=32)


@slow
@given(arrays.arrays(np.float32, (3, 2, 3), elements=floats), arrays.arrays(np.float32, 3, elements=positive))
def test_json_gives_back_the_same_bits(mean, std):
    normalization = Normalization(torch.from_numpy(mean), torch.from_numpy(std))
    found = Normalization.from_dict(json.loads(json.dumps(normalization.as_dict())))
    for name in ("mean", "std"):
        before, after = getattr(normalization, name), getattr(found, name)
        assert after.dtype == torch.float32
        assert after.shape == before.shape
        assert torch.equal(after.view(torch.int32), before.view(torch.int32))


# validation set


@slow
@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_the_hold_out_is_disjoint_and_complete(sizes):
    count, wanted = sizes
    rest, held = (part.tolist() for part in split_validation(count, wanted))
    assert len(held) == wanted
    assert (rest, held) == (sorted(rest), sorted(held))
    assert sorted(rest + held) == list(range(count))


def test_the_hold_out_is_the_same_for_every_run():
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        _, held = split_validation(50_000, 5_000)
        found.append((held.tolist(), indices_sha256(held)))
    assert found[0] == found[1]
    assert found[0][0][:5] == [1, 11, 23, 39, 44]
    assert found[0][1] == "5870d31a67b4df54e921360737c912f16132b1ad173415394319ea8c9075e66b"


@pytest.mark.parametrize("count", [10, 11, 50_000])
def test_something_must_remain_to_train_on(count):
    with pytest.raises(UsageError, match=f"smaller than the training set of 10, not {count}"):
        split_validation(10, count)


# digits


def test_digits_are_pictures_in_the_shape_of_cifar():
    dataset = load_dataset("digits")
    for split, count in ((dataset.train, 1_437), (dataset.test, 360)):
        assert split.images.shape == (count, 32, 32, 3)
        assert split.images.dtype == torch.uint8
        assert torch.equal(split.images[..., 0], split.images[..., 2])
        assert bool((torch.bincount(split.labels, minlength=10) > count // 15).all())
    again = load_dataset("digits")
    assert torch.equal(dataset.test.images, again.test.images)
    train, test = ({image.numpy().tobytes() for image in s.images} for s in (dataset.train, dataset.test))
    assert not train & test


def test_an_alternating_flip_alternates_for_every_image():
    augment = PadCrop(padding=0, alternate_flip=True)
    flipped = []
    for epoch in range(4):
        draws = Draws.of_epoch(3, epoch, 1000, augment)
        flipped.append(torch.empty(1000, dtype=torch.bool).index_put_((draws.order,), draws.flips))
    assert 400 < int(flipped[0].sum()) < 600
    for before, after in itertools.pairwise(flipped):
        assert torch.equal(before, ~after)
    other = Draws.of_epoch(4, 0, 1000, augment)
    assert not torch.equal(flipped[0], torch.empty_like(flipped[0]).index_put_((other.order,), other.flips))


# the sampler


def test_the_draws_are_those_of_every_version_so_far():
    found = []
    for augment in (PadCrop(), PadCrop(alternate_flip=True)):
        draws = Sampler(1000, augment, seed=5).draws(950, 2100)
        tensors = (draws.order, draws.offsets, draws.flips)
        found.append(hashlib.sha256(b"".join(t.numpy().tobytes() for t in tensors)).hexdigest()[:16])
    assert found == ["cfcf11acd204c5c1", "70074951b69aca1a"]


@slow
@given(streams(), st.integers(1, 9), st.integers(0, 200))
def test_the_ranks_slices_make_up_the_global_batch(stream, ranks, position):
    size, count, seed, _ = stream
    whole = Sampler(size, PadCrop(), seed).draws(position, count)
    slices = [Sampler(size, PadCrop(), seed).draws(position, count).slice_for(r, ranks) for r in range(ranks)]
    for name in ("order", "offsets", "flips"):
        assert torch.equal(torch.cat([getattr(s, name) for s in slices]), getattr(whole, name))
    lengths = [len(part) for part in slices]
    assert max(lengths) - min(lengths) <= 1


@slow
@given(streams(), st.integers(0, 200), st.integers(0, 100))
def test_a_stretch_of_the_stream_is_its_parts_in_any_order(stream, position, split_at):
    size, _, seed, _ = stream
    whole, other = Sampler(size, PadCrop(), seed), Sampler(size, PadCrop(), seed)
    later = other.draws(position + split_at, 50)  # drawn first
    earlier = other.draws(position, split_at) if split_at else later.part(0, 0)
    expected = whole.draws(position, split_at + 50)
    for name in ("order", "offsets", "flips"):
        parts = torch.cat([getattr(earlier, name), getattr(later, name)])
        assert torch.equal(parts, getattr(expected, name))


# the loaders


def test_images_in_memory_of_another_size_are_resized_on_the_way():
    split = random_split(10, 6)
    preprocessing = Preprocessing((4, 4), NOTHING)
    images, labels = TrainBatches(split, preprocessing, 10, PLAIN, seed=0)[0]
    assert torch.equal(images.permute(0, 2, 3, 1), preprocessing.resized(split.images[labels]).float())


def test_a_split_is_a_dataset_of_pairs_itself():
    split = Split(random_split(6, 4).images, torch.arange(6) % 2, ("a", "b"))
    image, label = split[3]
    assert (image.shape, label, type(label)) == ((4, 4, 3), 1, int)
    assert [label for _, label in torch.utils.data.DataLoader(split, batch_size=None)] == [0, 1, 0, 1, 0, 1]
    assert (
        split.take(torch.tensor([1])).class_names == split.to(torch.device("cpu")).class_names == ("a", "b")
    )
