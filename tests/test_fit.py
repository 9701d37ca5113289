"""Images that are not square: training and test agree on what remains of them, in files and in the cache."""

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data.decoded import keep_decoded
from residual.data.folder import load_photos
from residual.data.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalization
from residual.data.photo_augment import Place, choose_crop
from residual.data.preprocessing import Preprocessing
from residual.recipes.augment import ResizedCrop
from residual.training.run_folder import Run
from residual.zoo.model_folder import load_model

IMAGENET = Normalization.of_channels(IMAGENET_MEAN, IMAGENET_STD)
SIZES = [(80, 240), (240, 80), (97, 301), (120, 120), (3, 200)]


@pytest.fixture
def photos(tmp_path):
    """Write smooth pictures of several shapes, stored upright or turned."""
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(random.integers(0, 256, (4, 4, 3), np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6 if number == 1 else 1
        noise.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95, exif=exif)
    return load_photos(tmp_path / "photos")


@pytest.mark.parametrize("fit", ["pad", "squish"])
def test_a_crop_of_everything_is_the_test_image(photos, fit, tmp_path):
    preprocessing = Preprocessing((48, 48), IMAGENET, fit=fit)
    kept = keep_decoded(photos, 96, 1 << 30, tmp_path / "kept")
    choose = choose_crop(ResizedCrop(smallest=1), 48, Place(0, 0, 0), fit)
    for source in (photos, kept):
        for index in range(len(photos)):
            crop, tested = source.region(index, choose), preprocessing.load(photos, index)
            assert crop.shape == tested.shape == (48, 48, 3)
            assert (crop.int() - tested.int()).abs().float().mean() < 2, photos.files[index]
            assert torch.equal(crop.sum(-1) == 0, tested.sum(-1) == 0) or fit == "squish"


@pytest.mark.parametrize("fit", ["crop", "pad", "squish"])
def test_crops_lie_inside_and_fill_their_size(fit):
    seen = set()
    for height, width in SIZES:
        for position in range(200):
            place = Place(0, 0, position)
            region = choose_crop(ResizedCrop(smallest=0.08), 32, place, fit)(height, width)
            left, top, right, bottom = region.around
            assert 0 <= region.left < region.right <= width
            assert 0 <= region.top < region.bottom <= height
            assert (region.width + left + right, region.height + top + bottom) == (32, 32)
            assert min(region.width, region.height) > 0 <= min(region.around)
            shown = (region.right - region.left) * (region.bottom - region.top) / height / width
            assert shown >= 0.07 or min(height, width) < 10  # whole pixels of a narrow image
            seen.add(max(region.around) > 0)
    assert seen == ({True, False} if fit == "pad" else {False})


def test_a_run_keeps_its_fit_and_refuses_what_goes_with_crops(photographs, tmp_path, cli):
    options = ["--image-size", 32, "--batch-size", 4, "--iterations", 2, "--workers", 0, "--device", "cpu"]
    base = ["train", "resnet20", "--data", photographs, *options]
    modern = ["--recipe", "imagenet-modern", "--set", "optimizer.learning_rate=0.01"]
    run = tmp_path / "run"
    code, _, err = cli(*base, *modern, "--fit", "pad", "--set", "test_resize=0", "--output", run)
    assert code == 0, err
    result = Run.open(run).result
    assert result["macro_error"] == pytest.approx(result["error"])  # the classes are of one size
    assert result["error_interval"][0] <= result["error"] <= result["error_interval"][1]
    preprocessing = load_model(Run.open(run).model).config.preprocessing
    assert (preprocessing.fit, preprocessing.resize) == ("pad", None)
    for arguments, message in (
        ([*modern, "--fit", "squish", "--set", "test_resize=48"], "set test_resize=0"),
        (
            ["--recipe", "imagenet-epochs", "--fit", "pad"],
            "goes with augment.kind = resized-crop",
        ),
        (["--fit", "stretch"], "fit must be one of crop, pad, squish"),
    ):
        code, _, err = cli(*base, *arguments, "--output", tmp_path / "none")
        assert (code, message in err, err.count("residual:")) == (2, True, 1), err
