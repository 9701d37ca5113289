"""Batches of photographs: the same with any number of workers and from any step on, and what they hold."""

import shutil

import pytest
import torch

from residual.data.decode import BadImageError
from residual.data.folder import load_folder
from residual.data.normalization import Normalization
from residual.data.photo_batches import PhotoBatches, epoch_order
from residual.errors import DataError, UsageError
from residual.recipes.augment import ResizedCrop, ScaleCrop

CPU = torch.device("cpu")
PLAIN = Normalization.of_channels((0, 0, 0), (1 / 255, 1 / 255, 1 / 255))  # leaves values as they are
MODERN = ResizedCrop(trivial=True, erase=0.3, mixup=0.2, cutmix=1.0, repeats=2)


@pytest.fixture
def photos(photographs):
    return load_folder(photographs).train


def batches(photos, augment=ScaleCrop(), batch_size=5, size=16, seed=0, workers=0, normalization=PLAIN):  # noqa: B008
    return PhotoBatches(photos, normalization, size, batch_size, augment, seed, CPU, workers=workers)


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("augment", [ScaleCrop(), MODERN])
def test_a_batch_depends_on_seed_and_step_alone(photos, augment):
    in_order = batches(photos, augment)
    expected = [in_order[step] for step in range(6)]  # 30 crops of 24 images: into the second epoch
    assert same(batches(photos, augment)[4], expected[4])  # as after a resume
    for workers in (1, 2):
        stream = batches(photos, augment, workers=workers)
        for step in (0, 1, 2, 4, 5, 3):
            assert same(stream[step], expected[step])
        stream.close()
    assert not same(batches(photos, augment, seed=1)[0], expected[0])
    assert not same(in_order[1], expected[0])
    images, targets = expected[0]
    assert images.shape == (5, 3, 16, 16)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert targets.shape == ((5,) if isinstance(augment, ScaleCrop) else (5, 3))


def test_an_image_is_augmented_alike_whatever_the_size_of_the_batch(photos):
    plain = ScaleCrop(flip=False, colour=0)
    small, large = batches(photos, plain, 4), batches(photos, plain, 12)
    assert torch.equal(torch.cat([small[step][0] for step in range(3)]), large[0][0])


def test_every_image_comes_once_an_epoch_and_repeats_follow_each_other():
    assert sorted(epoch_order(0, 0, 24, 1).tolist()) == list(range(24))
    assert epoch_order(0, 0, 24, 1).tolist() != epoch_order(0, 1, 24, 1).tolist()
    order = epoch_order(5, 3, 22, 4).tolist()
    assert len(order) == 22
    assert all(len({*order[start : start + 4]}) == 1 for start in range(0, 22, 4))
    assert len({*order}) == 6


def test_repeated_views_of_an_image_differ(photos):
    images, labels = batches(photos, ResizedCrop(repeats=4, flip=False), 4)[0]
    assert len({*labels.tolist()}) == 1
    assert len({image.numpy().tobytes() for image in images}) == 4


def test_half_of_the_images_are_flipped(photos):
    plain = batches(photos, ScaleCrop(colour=0, flip=False), 24)
    flipped = batches(photos, ScaleCrop(colour=0), 24)
    turned = 0
    for step in range(10):
        for image, original in zip(flipped[step][0], plain[step][0], strict=True):
            is_flipped = torch.equal(image, original.flip(2))
            assert is_flipped or torch.equal(image, original)
            turned += is_flipped
    assert 90 <= turned <= 150  # of 240; 120 +- 4 standard deviations


def test_the_mean_is_subtracted_and_colours_shift_whole_images(photos):
    still, shifted = (batches(photos, ScaleCrop(flip=False, colour=colour), 6)[0][0] for colour in (0, 0.1))
    shift = (shifted - still).flatten(2)
    assert torch.allclose(shift, shift[..., :1].expand_as(shift), atol=1e-3)
    assert 0 < shift.abs().max() < 60
    mean = torch.arange(16 * 16 * 3).reshape(16, 16, 3).float()
    centred = batches(
        photos, ScaleCrop(flip=False, colour=0), 6, normalization=Normalization(mean, torch.ones(3) * 2)
    )
    assert torch.allclose(centred[0][0], (still - mean.permute(2, 0, 1)) / 2)


def test_a_bad_image_stops_or_is_replaced_by_the_next_one_and_named(photographs, tmp_path):
    folder = tmp_path / "animals"
    shutil.copytree(photographs, folder)
    photos = load_folder(folder).train
    (folder / photos.files[3]).write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"3\.jpg"):
        batches(photos, batch_size=24)[0]
    skipping = load_folder(folder, on_bad_image="skip").train
    good, found = batches(load_folder(photographs).train, batch_size=24), batches(skipping, batch_size=24)
    images, labels = found[0]
    place = epoch_order(0, 0, 24, 1).tolist().index(3)
    others = [n for n in range(24) if n != place]
    assert torch.equal(images[others], good[0][0][others])
    assert torch.equal(labels[others], good[0][1][others])
    assert labels[place] == skipping.labels[4]
    assert list(found.bad) == [photos.files[3]]
    for file in photos.files:
        (folder / file).write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 24 images"):
        batches(skipping)[0]


def test_a_batch_larger_than_the_training_set_is_refused(photos):
    with pytest.raises(UsageError, match="batch_size must be at most the training set's 24"):
        batches(photos, batch_size=25)
