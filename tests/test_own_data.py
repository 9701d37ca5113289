"""Data of one's own in memory: named as it is, checked, and never scored as if it were another set."""

import json

import pytest
import torch

import residual
from residual.data.dataset import Dataset, Split
from residual.errors import CheckpointError, DataError, RunError

NAMES = ("cup", "plate", "spoon")


def split(count=30, size=(12, 20), classes=3):
    generator = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, *size, 3), dtype=torch.uint8, generator=generator)
    return Split(images, torch.arange(count) % classes)


def dataset(**changes):
    return Dataset(**{"name": "kitchen", "train": split(), "test": split(9), "class_names": NAMES, **changes})


def recipe(**changes):
    short = {"iterations": 4, "batch_size": 8, "log_every": 2, "checkpoint_every": 2}
    return residual.get_recipe("paper", "resnet8").replace({**short, **changes})


def test_a_run_and_its_model_carry_the_name_of_the_data(tmp_path):
    result = residual.train(recipe(), dataset=dataset(), output=tmp_path / "run")
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    card = (tmp_path / "run/model/README.md").read_text()
    assert result.figures["data"] == config["data"] == "kitchen"
    assert config["preprocessing"]["image_size"] == [12, 20]
    assert "kitchen" in card
    assert "cifar" not in card
    with pytest.raises(residual.ResidualError, match="'kitchen', which is not a known data set"):
        residual.evaluate(tmp_path / "run")


def test_a_resume_needs_the_same_data(tmp_path):
    run = tmp_path / "run"
    residual.train(recipe(), dataset=dataset(), output=run)
    whole = (run / "model/model.safetensors").read_bytes()
    (run / "result.json").unlink()
    with pytest.raises(RunError, match="'kitchen'"):
        residual.resume(run)
    residual.resume(run, dataset=dataset())
    assert (run / "model/model.safetensors").read_bytes() == whole


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": Split(torch.zeros(4, 8, 8, dtype=torch.uint8), torch.zeros(4).long())}, "N, H, W, 3"),
        ({"train": Split(torch.zeros(4, 8, 8, 1, dtype=torch.uint8), torch.zeros(4).long())}, "grayscale"),
        ({"train": Split(torch.zeros(4, 8, 8, 3), torch.zeros(4).long())}, "uint8"),
        ({"test": split(0)}, "at least one image"),
        ({"test": Split(split().images, torch.zeros(29).long())}, "label for each of its 30 images"),
        ({"class_names": NAMES[:2]}, "labels from 0 to 2 but 2 class names"),
        ({"test": split(size=(8, 8))}, r"\(12, 20\) pixels, test images of \(8, 8\)"),
    ],
)
def test_data_that_does_not_fit_is_refused(changes, words):
    with pytest.raises(DataError, match=words):
        dataset(**changes)


def test_class_names_are_compared_and_not_only_counted():
    network = residual.create_model("resnet20", pretrained=True)
    with pytest.raises(CheckpointError, match=r"digits has 10 classes \(0, 1, 2, ...\).*airplane"):
        residual.evaluate(network, data="digits")


def test_images_of_another_size_are_refused(tmp_path):
    residual.train(recipe(), dataset=dataset(), output=tmp_path / "run")
    other = dataset(train=split(size=(8, 8)), test=split(size=(8, 8)))
    with pytest.raises(CheckpointError, match="images of 8x8 pixels, the model takes 12x20"):
        residual.evaluate(tmp_path / "run", dataset=other)


def test_a_name_in_place_of_a_recipe_is_refused_with_what_to_write():
    with pytest.raises(residual.ResidualError, match="get_recipe\\('paper', 'resnet20'\\), not 'resnet20'"):
        residual.train("resnet20")
