"""`batch.png`: the images as the network sees them, their labels, and a training that does not notice."""

import numpy as np
import pytest
import torch
from PIL import Image

import residual
from residual import get_recipe
from residual.data.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalization
from residual.data.photo_batches import DecodeStep
from residual.errors import RunError
from residual.report.batch_picture import MOST, TILE, as_pixels, caption, write_batch_picture
from residual.training.run_folder import Run

IMAGENET = Normalization.of_channels(IMAGENET_MEAN, IMAGENET_STD)
NAMES = ("ant", "bee", "cat")
SMALL = {"iterations": 2, "batch_size": 4, "image_size": 32}
MIXED = {"augment.kind": "resized-crop", "augment.mixup": 0.2, "augment.cutmix": 1.0}


def test_the_normalization_is_undone_exactly():
    pixels = torch.randint(0, 256, (3, 8, 8, 3), dtype=torch.uint8)
    for normalization in (IMAGENET, Normalization.of_images(pixels)):
        images = normalization.apply(pixels).permute(0, 3, 1, 2)
        assert torch.equal(as_pixels(images, normalization), pixels)
    assert as_pixels(images, normalization, early_size=4).shape == (3, 4, 4, 3)


def test_labels_and_the_shares_of_mixed_images_are_named():
    assert caption(torch.tensor(1), NAMES) == ["bee"]
    assert caption(torch.tensor([0.3, 0.0, 0.7]), NAMES) == ["70 % cat", "30 % ant"]
    assert caption(torch.tensor([0.0, 1.0, 0.0]), NAMES) == ["bee"], "mixed with an image of its own class"


@pytest.mark.parametrize(("count", "rows"), [(1, 1), (9, 2), (100, 4)])
def test_the_picture_is_a_grid_of_at_most_32_images(tmp_path, count, rows):
    images = IMAGENET.apply(torch.full((count, 16, 16, 3), 200, dtype=torch.uint8)).permute(0, 3, 1, 2)
    names = ("a" * 500, "new\nline \u202e <b>", "\u4e2d\u6587")  # as hostile as folders can be
    write_batch_picture(tmp_path / "batch.png", (images, torch.arange(count) % 3), IMAGENET, names)
    with Image.open(tmp_path / "batch.png") as picture:
        pixels = np.asarray(picture)
    drawn = (pixels == 200).all(2).sum()
    assert drawn == min(count, MOST) * TILE**2
    assert pixels.shape[0] >= rows * TILE


def test_it_comes_before_the_first_step_and_changes_nothing(photographs, tmp_path, stop_at, monkeypatch):
    recipe = get_recipe("imagenet-epochs", "resnet8").replace({**SMALL, "validation": 4, **MIXED})
    seen, steps = [], []
    real = DecodeStep.__call__
    monkeypatch.setattr(DecodeStep, "__call__", lambda self, step: steps.append(step) or real(self, step))
    stop_at(1, lambda trainer: seen.append(trainer.run.batch.is_file()))
    residual.train(recipe, data_dir=photographs, output=tmp_path / "with", workers=0)
    assert steps == [0, 1], "no batch is decoded twice"
    monkeypatch.setattr("residual.training.experiment.write_first_batch", lambda *_: None)
    residual.train(recipe, data_dir=photographs, output=tmp_path / "without", workers=1)
    assert seen == [True, False]
    digests = {Run.open(tmp_path / name).result["model_sha256"] for name in ("with", "without")}
    assert len(digests) == 1


def test_where_it_cannot_be_written_the_run_says_how_to_go_on(photographs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("residual.report.batch_picture.write_atomically", full)
    recipe = get_recipe("imagenet-epochs", "resnet8").replace({**SMALL, "validation": 4})
    with pytest.raises(RunError, match=r"batch\.png.*No space left.*--resume"):
        residual.train(recipe, data_dir=photographs, output=tmp_path / "run", workers=0)
