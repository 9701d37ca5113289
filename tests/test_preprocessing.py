"""Preprocessing: sizes and pixels of resized images, and what a model folder keeps of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import residual
from conftest import config_of_format_1
from residual.data.dataset import Split
from residual.data.normalization import Normalization
from residual.data.preprocessing import Preprocessing
from residual.errors import CheckpointError, DataError
from residual.zoo.model_folder import ModelConfig, load_model, save_model
from residual.zoo.pretrained import WEIGHTS

HALF = Normalization.of_channels([0.5] * 3, [0.25] * 3)
FITS = ("crop", "pad", "squish")
sides = st.integers(1, 40)
slow = settings(deadline=None, max_examples=60)


def random_images(count, height, width, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


# resizing


@slow
@given(sides, sides, sides, sides, st.sampled_from(FITS), st.sampled_from(["bilinear", "bicubic"]))
def test_every_image_gets_the_size(height, width, tall, wide, fit, interpolation):
    preprocessing = Preprocessing((tall, wide), HALF, fit=fit, interpolation=interpolation)
    found = preprocessing.resized(random_images(2, height, width))
    assert found.shape == (2, tall, wide, 3)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()
    assert preprocessing.apply(random_images(2, height, width)).shape == (2, tall, wide, 3)


@slow
@given(sides, sides, st.sampled_from(FITS), st.integers(0, 5))
def test_images_that_have_the_size_are_only_normalized(height, width, fit, seed):
    images = random_images(3, height, width, seed)
    measured = Preprocessing.measure(Split(images, torch.zeros(3).long()))
    changed = Preprocessing(measured.image_size, measured.normalization, fit=fit)
    expected = Normalization.of(Split(images, torch.zeros(3).long())).apply(images)
    for preprocessing in (measured, changed):
        assert preprocessing.image_size == (height, width)
        assert preprocessing.resized(images) is images
        assert torch.equal(preprocessing.apply(images), expected)


@slow
@given(sides, sides, st.integers(0, 6), st.integers(0, 6), st.sampled_from(["above", "left"]))
def test_padding_keeps_every_pixel(height, width, more, odd, where):
    # one side fits exactly, so nothing is scaled; the other is padded on both sides
    size = (height + 2 * more + odd, width) if where == "above" else (height, width + 2 * more + odd)
    images = random_images(2, height, width)
    found = Preprocessing(size, HALF, fit="pad").resized(images)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    places = [(t, le) for t in (top, size[0] - height - top) for le in (left, size[1] - width - left)]
    assert any(torch.equal(found[:, t : t + height, le : le + width], images) for t, le in places)
    assert int(found.long().sum()) == int(images.long().sum())


@slow
@given(sides, sides, sides, sides, st.integers(0, 255))
def test_an_image_of_one_colour_keeps_it(height, width, tall, wide, level):
    images = torch.full((1, height, width, 3), level, dtype=torch.uint8)
    for fit in FITS:
        found = Preprocessing((tall, wide), HALF, fit=fit).resized(images)
        assert set(found.unique().tolist()) <= ({level} if fit != "pad" else {level, 0})
        assert level in found.unique().tolist()


@slow
@given(st.integers(2, 20), st.integers(2, 20))
def test_a_square_is_never_cropped_padded_or_distorted(side, size):
    images = random_images(2, side, side)
    crop, pad, squish = (Preprocessing((size, size), HALF, fit=fit).resized(images) for fit in FITS)
    assert torch.equal(crop, squish)
    assert torch.equal(pad, squish)


@pytest.mark.parametrize("shape", [(20, 40), (41, 20), (20, 20)])
def test_a_crop_is_the_center_of_the_image(shape):
    images = random_images(1, *shape)
    found = Preprocessing((20, 20), HALF).resized(images)
    top, left = round((shape[0] - 20) / 2), round((shape[1] - 20) / 2)
    assert torch.equal(found, images[:, top : top + 20, left : left + 20])


def test_resize_is_the_shorter_side_before_the_crop():
    images = random_images(2, 24, 30)
    found = Preprocessing((20, 18), HALF, resize=24).resized(images)
    assert torch.equal(found, images[:, 2:22, 6:24])
    whole = Preprocessing((32, 40), HALF).resized(images)  # 24x30 scaled to 32x40, nothing to crop
    assert torch.equal(Preprocessing((20, 20), HALF, resize=32).resized(images), whole[:, 6:26, 10:30])


@pytest.mark.parametrize(
    ("interpolation", "pillows"), [("bilinear", Image.BILINEAR), ("bicubic", Image.BICUBIC)]
)
@pytest.mark.parametrize("size", [(17, 9), (64, 50)])
def test_resized_pixels_are_pillows(interpolation, pillows, size):
    image = random_images(1, 40, 33) // 4 + 96  # bicubic overshoots, and Pillow clips that between directions
    preprocessing = Preprocessing(size, HALF, fit="squish", interpolation=interpolation)
    found = preprocessing.resized(image)[0].numpy().astype(int)
    expected = np.asarray(Image.fromarray(image[0].numpy()).resize(size[::-1], pillows)).astype(int)
    assert np.abs(found - expected).max() <= 1  # Pillow rounds its weights and after each direction


def test_an_image_far_too_narrow_to_crop_takes_no_memory():
    image = torch.zeros(1, 1, 10**6, 3, dtype=torch.uint8)
    with pytest.raises(DataError, match="1x1000000 pixels are too narrow to crop: use fit='pad' or 'squish'"):
        Preprocessing((224, 224), HALF).apply(image)
    assert Preprocessing((224, 224), HALF, fit="pad").apply(image).shape == (1, 224, 224, 3)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (0, 32)},
        {"image_size": (32,)},
        {"image_size": (32, 4097)},
        {"image_size": (32.0, 32)},
        {"fit": "stretch"},
        {"interpolation": "nearest"},
        {"resize": 31},
        {"resize": 40, "fit": "squish"},
        {"normalization": Normalization(torch.zeros(31, 32, 3), torch.ones(3))},
    ],
)
def test_values_out_of_range_are_refused(changes):
    with pytest.raises(ValueError, match=r"image_size|fit|interpolation|resize|mean"):
        Preprocessing(**{"image_size": (32, 32), "normalization": HALF, **changes})


# what a model folder keeps


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing((12, 20), Normalization(torch.rand(12, 20, 3) * 255, torch.rand(3) + 1)),
        Preprocessing((8, 9), HALF, resize=16, interpolation="bicubic"),
        Preprocessing((8, 9), HALF, fit="pad"),
    ],
)
def test_a_model_folder_gives_back_the_same_preprocessing(tmp_path, preprocessing):
    config = ModelConfig("resnet8", "A", ("a", "b"), preprocessing, "kitchen", "demo")
    save_model(tmp_path, residual.create_model("resnet8", num_classes=2), config, "a card")
    values = json.loads((tmp_path / "config.json").read_text())
    assert values["format"] == 2
    assert values["preprocessing"] == preprocessing.as_dict()
    found = load_model(tmp_path).config
    assert found.input_size == (3, *preprocessing.image_size)
    assert found.preprocessing.as_dict() == preprocessing.as_dict()
    images = random_images(2, 30, 25)
    assert torch.equal(found.preprocessing.apply(images), preprocessing.apply(images))
    sized = preprocessing.resized(images)
    assert torch.equal(found.normalization.apply(sized), preprocessing.apply(images))


def test_the_shipped_weights_load_with_the_preprocessing_that_their_files_state():
    for name in residual.list_pretrained():
        values = json.loads((Path(WEIGHTS) / name / "config.json").read_text())
        assert values["format"] == 2
        config = residual.create_model(name, pretrained=True).config
        assert config.input_size == (3, 32, 32)
        images = random_images(4, 32, 32)
        mean, std = (torch.tensor(values["preprocessing"][key]) for key in ("mean", "std"))
        expected = (images.float() - mean) / std
        torch.testing.assert_close(config.preprocessing.apply(images), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def folder(tmp_path):
    config = ModelConfig("resnet8", "A", ("a", "b"), Preprocessing((32, 32), HALF), "kitchen", "demo")
    save_model(tmp_path / "model", residual.create_model("resnet8", num_classes=2), config, "a card")
    return tmp_path / "model"


def test_a_config_of_format_1_loads_as_it_did(folder):
    path = folder / "config.json"
    before = load_model(folder).config
    path.write_text(json.dumps(config_of_format_1(json.loads(path.read_text()))))
    after = load_model(folder).config
    assert after.as_dict() == before.as_dict()


@pytest.mark.parametrize("more", [{}, {"preprocessing": {"steps": []}}, {"network": {"name": "resnet8"}}])
def test_a_newer_format_is_refused_with_what_to_do(folder, cli, more):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3, **more}))
    with pytest.raises(CheckpointError, match=r"config\.json: it has format 3, .* reads up to 2: upgrade"):
        load_model(folder)
    code, out, err = cli("evaluate", folder)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "altered" not in err


@pytest.mark.parametrize("int8", [False, True])
def test_training_evaluation_and_calibration_preprocess_alike(tmp_path, monkeypatch, int8):
    if int8:
        for name in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(name)
    seen = []
    real = Preprocessing.apply
    monkeypatch.setattr(
        Preprocessing, "apply", lambda self, x: seen.append((len(x), self.as_dict())) or real(self, x)
    )
    monkeypatch.setattr("residual.evaluation.evaluate.CALIBRATION_IMAGES", 61)
    recipe = residual.get_recipe("demo", "resnet8").replace({"iterations": 2, "batch_size": 16})
    run = residual.train(recipe, output=tmp_path / "run", quiet=True)
    assert [count for count, _ in seen[:2]] == [16, 16]
    trained = len(seen)
    residual.evaluate(run.path, int8=int8, quiet=True)
    evaluated = [count for count, _ in seen[trained:]]
    assert sum(evaluated) == 360 + (61 if int8 else 0)
    assert all(values == seen[0][1] for _, values in seen)
