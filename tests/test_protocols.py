"""The paper's protocols on photographs: against crops and scales made by hand, each image exactly once."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from torch.nn import functional as F

import residual
from residual.data.dataset import Split
from residual.data.decode import BadImageError
from residual.data.folder import load_photos
from residual.data.normalization import Normalization
from residual.data.preprocessing import Preprocessing
from residual.data.workers import default_workers
from residual.errors import DataError, UsageError
from residual.evaluation.fully_convolutional import fully_convolutional
from residual.evaluation.photos import evaluate_photos
from residual.evaluation.protocols import PROTOCOLS, MultiScale, OneCrop, TenCrop
from residual.models import vgg
from residual.models.build import build_model
from residual.zoo.model_folder import ModelConfig, save_model

CPU = torch.device("cpu")
HALF = Normalization.of_channels([0.5, 0.4, 0.3], [0.25, 0.2, 0.3])
SMALL = Preprocessing((32, 32), HALF, resize=36)
SIZES = [(50, 70), (64, 41), (40, 40), (36, 90), (57, 48), (33, 32), (80, 61)]  # height, width
CLASSES = ("ant", "bee", "cat")


def picture(number, height, width):
    """A smooth image, as photographs are: libraries' antialiasing differs on noise."""
    noise = np.random.default_rng(number).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with seven images of three classes."""
    folder = tmp_path_factory.mktemp("data") / "photos"
    for number, size in enumerate(SIZES):
        place = folder / CLASSES[number // 3]
        place.mkdir(parents=True, exist_ok=True)
        picture(number, *size).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def photos(root):
    return load_photos(root)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    found = build_model("resnet18", num_classes=3).eval()
    with torch.no_grad():
        found.fc.weight.mul_(0.05)  # probabilities that are neither 0 nor 1
    return found


class Spy(torch.nn.Module):
    """Notes what it is given; predicts class 0."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        assert not self.training
        self.seen.append(x)
        return torch.zeros(len(x), 3)


# decoding a region


@pytest.mark.parametrize("resize", [None, 32, 36])
@pytest.mark.parametrize("fit", ["crop", "pad", "squish"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_decoding_a_region_is_decoding_the_whole_and_resizing_it(photos, resize, fit, interpolation):
    if resize is not None and fit != "crop":
        pytest.skip("resize goes with crop")
    preprocessing = Preprocessing((32, 28), HALF, resize=resize, fit=fit, interpolation=interpolation)
    for index in range(len(photos)):
        found = preprocessing.load(photos, index)
        assert (found.dtype, found.shape) == (torch.uint8, (32, 28, 3))
        expected = preprocessing.resized(photos[index][0][None])[0]
        assert (found.float() - expected.float()).abs().mean() < 2


sides = st.integers(1, 300)


@settings(deadline=None, max_examples=150)
@given(sides, sides, sides, sides, st.sampled_from(["crop", "pad", "squish", 300]))
def test_a_region_lies_in_the_image_and_is_only_padded_afterwards(height, width, tall, wide, fit):
    options = {"fit": fit} if isinstance(fit, str) else {"resize": fit}
    preprocessing = Preprocessing((tall, wide), HALF, **options)
    region = preprocessing.region(height, width)
    assert 0 <= region.left < region.right <= width
    assert 0 <= region.top < region.bottom <= height
    decoded = torch.full((1, region.height, region.width, 3), 200, dtype=torch.uint8)
    found = preprocessing.resized(decoded)
    assert found.shape == (1, tall, wide, 3)
    assert (found == 200).sum() == decoded.numel(), "nothing is lost or resized again"
    assert (decoded.shape == found.shape) or fit == "pad"


def test_an_image_that_has_the_size_is_decoded_as_it_is(photos):
    preprocessing = Preprocessing(SIZES[0], HALF, resize=100)
    assert torch.equal(preprocessing.load(photos, 0), photos[0][0])


# protocols, by hand


def resized_by_pillow(root, files, shorter_side):
    """The images, whole, and normalized as float32 [1, 3, H, W]; and their mirror images."""
    for file in files:
        image = Image.open(root / file)
        scale = shorter_side / min(image.size)
        image = image.resize([int(side * scale + 1e-9) for side in image.size], Image.Resampling.BILINEAR)
        yield image, ImageOps.mirror(image)


def normalized(image):
    values = (np.asarray(image, np.float64) - HALF.mean.numpy()) / HALF.std.numpy()
    return torch.from_numpy(values).float().permute(2, 0, 1)[None]


@torch.no_grad()
def test_ten_crop_averages_the_softmax_of_ten_crops_made_by_hand(root, photos, network):
    expected = []
    for image, _ in resized_by_pillow(root, photos.files, 36):
        right, bottom = image.width - 32, image.height - 32
        places = [(0, 0), (right, 0), (0, bottom), (right, bottom), (round(right / 2), round(bottom / 2))]
        crops = [image.crop((left, top, left + 32, top + 32)) for left, top in places]
        answers = [network(normalized(crop)).softmax(1) for crop in (*crops, *map(ImageOps.mirror, crops))]
        assert len(answers) == 10
        expected.append(torch.stack(answers).mean(0))
    protocol = TenCrop(SMALL)
    found = protocol.predict(network, [protocol.load(photos, index) for index in range(7)], CPU)
    assert torch.allclose(found.exp().float(), torch.cat(expected), atol=1e-4)
    assert not torch.allclose(torch.cat(expected)[-1], answers[0][0], atol=1e-2), "crops differ"
    result = evaluate_photos(network, photos, SMALL, CPU, protocol="ten-crop")
    assert result.loss == pytest.approx(float(F.nll_loss(found, photos.labels)), abs=1e-4)


def test_the_shorter_side_of_ten_crop():
    assert TenCrop(SMALL).shorter_side == 36
    assert TenCrop(Preprocessing((224, 224), HALF)).shorter_side == 256
    assert TenCrop(Preprocessing((112, 96), HALF, fit="squish")).shorter_side == 128


@torch.no_grad()
def test_multi_scale_averages_scores_over_places_and_softmax_over_scales(root, photos, network):
    """With a classifier that is a 1x1 convolution over the feature maps."""
    assert MultiScale(Preprocessing((224, 224), HALF)).scales == (224, 256, 384, 480, 640)
    protocol = MultiScale(SMALL)
    assert protocol.scales == (32, 37, 55, 69, 91)
    few = photos.files[:3]
    answers = []
    for side in protocol.scales:
        for pair in zip(*resized_by_pillow(root, few, side), strict=True):
            scores = [
                F.conv2d(network.forward_features(normalized(x)), network.fc.weight[:, :, None, None])
                for x in pair
            ]
            means = [(score + network.fc.bias[:, None, None]).mean((2, 3)) for score in scores]
            answers.append(torch.cat(means).softmax(1))
    expected = torch.stack(answers).mean(0)
    assert len(answers) == 10
    found = protocol.predict(network, [protocol.load(photos, index) for index in range(3)], CPU)
    assert torch.allclose(found.exp().float(), expected, atol=1e-4)
    assert not torch.allclose(expected, answers[0], atol=1e-2)


@torch.no_grad()
def test_vggs_fully_connected_layers_become_convolutions(monkeypatch):
    monkeypatch.setattr(vgg, "HIDDEN", 8)
    monkeypatch.setattr(vgg, "WIDTHS", (2, 2, 4, 4, 8))
    torch.manual_seed(0)
    network = build_model("vgg19_bn", num_classes=3).eval()
    images = torch.randn(2, 3, 256, 300)
    maps = network.forward_features(images)
    assert maps.shape == (2, 8, 8, 9)
    windows = [maps[:, :, top : top + 7, left : left + 7] for top in range(2) for left in range(3)]
    expected = torch.stack([network.classifier(window.flatten(1)) for window in windows]).mean(0)
    assert torch.allclose(fully_convolutional(network)(images), expected, atol=1e-4)
    for size in (224, 64):  # one place; maps smaller than 7x7 are pooled as ever
        images = torch.randn(1, 3, size, size)
        assert torch.allclose(fully_convolutional(network)(images), network(images), atol=1e-4)
    with pytest.raises(UsageError, match="16x16 pixels are too small for this network: it takes 32x32"):
        evaluate_photos(network, [], Preprocessing((16, 16), HALF), CPU)


def test_a_per_pixel_mean_is_replaced_by_its_channel_means_where_sizes_differ(photos, network):
    torch.manual_seed(0)
    mean = torch.rand(32, 32, 3) * 255
    per_pixel = Preprocessing((32, 32), Normalization(mean, HALF.std), resize=36)
    per_channel = replace(per_pixel, normalization=Normalization(mean.mean((0, 1)), HALF.std))
    one, other = (
        evaluate_photos(network, photos, p, CPU, protocol="multi-scale") for p in (per_pixel, per_channel)
    )
    assert one.loss == pytest.approx(other.loss, abs=1e-4)
    assert "channel means are subtracted" in one.notes[-1]
    assert not any("channel means" in note for note in other.notes)
    ten = evaluate_photos(network, photos, per_pixel, CPU, protocol="ten-crop")
    assert not any("channel means" in note for note in ten.notes), "its crops have the size of the mean"


# each image once


@pytest.mark.parametrize("workers", [0, 1])
def test_every_image_counts_once_and_in_order(monkeypatch, photos, workers):
    monkeypatch.setattr(OneCrop, "images_at_once", 3)
    spy, done = Spy().train(), []
    found = evaluate_photos(spy, photos, SMALL, CPU, done.append, workers)
    assert [len(batch) for batch in spy.seen] == [3, 3, 1]
    assert done == [3, 6, 7]
    assert spy.training, "the mode is put back"
    expected = SMALL.normalization.apply(torch.stack([SMALL.load(photos, index) for index in range(7)]))
    assert torch.equal(torch.cat(spy.seen), expected.permute(0, 3, 1, 2))
    assert found.images == 7
    assert [row[0] for row in found.confusion] == [3, 3, 1]
    assert found.skipped == ()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_bad_images_stop_or_are_skipped_and_named(tmp_path, root, network, protocol):
    for number, size in enumerate(SIZES[:4]):
        place = tmp_path / CLASSES[number % 2]
        place.mkdir(exist_ok=True)
        picture(number, *size).save(place / f"{number}.png")
    (tmp_path / "ant" / "0.png").write_bytes((tmp_path / "ant" / "2.png").read_bytes()[:300])
    (tmp_path / "bee" / "1.png").write_bytes(b"no image")
    with pytest.raises(BadImageError, match=r"0\.png"):
        evaluate_photos(network, load_photos(tmp_path), SMALL, CPU, protocol=protocol)
    lenient = load_photos(tmp_path, on_bad_image="skip")
    workers, done = 1 if protocol == "one-crop" else 0, []
    found = evaluate_photos(network, lenient, SMALL, CPU, done.append, workers, protocol)
    assert found.skipped == ("ant/0.png", "bee/1.png")
    assert found.images == sum(map(sum, found.confusion)) == 2
    assert done[-1] == 4


def test_only_bad_images_are_an_error_and_not_a_figure(tmp_path, network):
    (tmp_path / "ant").mkdir()
    (tmp_path / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="no images to evaluate on"):
        evaluate_photos(network, load_photos(tmp_path, on_bad_image="skip"), SMALL, CPU)


def test_a_panorama_takes_no_memory(tmp_path, network):
    (tmp_path / "ant").mkdir()
    Image.new("RGB", (30_000, 2)).save(tmp_path / "ant" / "long.png")
    photos = load_photos(tmp_path)
    for protocol in ("ten-crop", "multi-scale"):
        with pytest.raises(BadImageError, match=r"long\.png: its 2x30000 pixels are too narrow"):
            evaluate_photos(network, photos, SMALL, CPU, protocol=protocol)
    assert evaluate_photos(network, photos, SMALL, CPU).images == 1


def test_few_images_start_no_processes():
    assert default_workers(10, CPU) == 0
    assert default_workers(50_000, CPU) >= 1
    assert default_workers(50_000, torch.device("cuda")) >= 1


# the command


@pytest.fixture(scope="module")
def model(tmp_path_factory, network):
    """A model folder; its classes are the folder's and another."""
    folder = tmp_path_factory.mktemp("models") / "model"
    torch.manual_seed(0)
    other = build_model("resnet8", num_classes=4)
    save_model(folder, other, ModelConfig("resnet8", "A", (*CLASSES, "dog"), SMALL, "pets", "mine"), "a card")
    return folder


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_evaluate_on_a_folder(cli, model, root, protocol):
    code, out, err = cli("evaluate", model, "--data", root, "--protocol", protocol, "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found == json.loads(json.dumps(residual.evaluate(model, data=root, protocol=protocol).as_dict()))
    assert found["images"] == 7
    assert found["per_class_error"][3] is None
    assert found["notes"][0] == "3 of the model's 4 classes, matched by name"


def test_evaluate_prints_what_it_did(cli, model, root, tmp_path, monkeypatch):
    monkeypatch.setattr("residual.cli.evaluate.LARGEST_MATRIX", 3)
    for name in CLASSES[:2]:
        (tmp_path / name).mkdir()
        picture(0, 40, 50).save(tmp_path / name / "0.png")
    (tmp_path / "bee" / "1.png").write_bytes(b"no image")
    code, out, _ = cli(
        "evaluate", model, "--data", tmp_path, "--protocol", "ten-crop", "--on-bad-image", "skip"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[1] == f"data        {tmp_path}, ten-crop"
    assert "images      2" in lines
    assert "skipped     1 that cannot be decoded: bee/1.png" in lines
    assert "note        ten crops of images with a shorter side of 36 pixels" in lines
    assert [line.split()[0] for line in lines[-3:]] == ["class", "ant", "bee"], "classes with images alone"
    code, _, err = cli("evaluate", model, "--data", tmp_path, "--workers", "0")
    assert (code, err.count("\n")) == (3, 1)
    assert "1.png" in err


def test_the_line_that_an_import_ends_with_works(cli, tmp_path):
    (tmp_path / "photos" / "n01440764").mkdir(parents=True)
    picture(0, 40, 50).save(tmp_path / "photos" / "n01440764" / "0.png")
    torch.save(build_model("resnet18").state_dict(), tmp_path / "theirs.pth")
    _, out, _ = cli("import", tmp_path / "theirs.pth", "--output", tmp_path / "ours")
    line = out.splitlines()[-1]
    assert line.endswith(f"evaluate {tmp_path / 'ours'} --data FOLDER_OF_IMAGES")
    arguments = line[line.index("evaluate") :].replace("FOLDER_OF_IMAGES", str(tmp_path / "photos")).split()
    code, out, _ = cli(*arguments)
    assert code == 0
    assert "note        1 of the model's 1,000 classes, matched by WordNet id" in out
    assert out.splitlines()[-1].startswith("tench, Tinca tinca")
    assert cli("evaluate", tmp_path / "ours")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "trained on 'pets', which is not a known data set: give --data"),
        (["--data", "./nowhere"], 3, "there is no folder nowhere"),
        (["--data", "{root}", "--protocol", "two-crop"], 2, "unknown protocol 'two-crop'"),
        (["--data", "{root}", "--on-bad-image", "pray"], 2, "stop or skip"),
        (["--data", "{root}", "--workers", "-1"], 2, "workers must be 0 or more"),
        (["--data", "{root}", "--int8", "--protocol", "ten-crop"], 2, "INT8 is evaluated with one-crop"),
        (["--data", "{root}/.."], 4, "1 cannot be matched (photos)"),
    ],
)
def test_what_does_not_fit_is_one_line(cli, model, root, arguments, code, message):
    found, _, err = cli("evaluate", model, *(text.format(root=root) for text in arguments))
    assert (found, err.count("\n")) == (code, 1)
    assert message in err


def test_protocols_are_for_photographs():
    images = Split(torch.zeros(10, 32, 32, 3, dtype=torch.uint8), torch.arange(10))
    names = residual.create_model("resnet20", pretrained=True).config.class_names
    mine = residual.Dataset("mine", images, images, names)
    with pytest.raises(
        UsageError, match="ten-crop is for photographs in a folder: mine is tested with one-crop"
    ):
        residual.evaluate("resnet20", dataset=mine, protocol="ten-crop")


@pytest.mark.slow
@pytest.mark.parametrize("beside", [True, False])
def test_int8_is_calibrated_on_training_images_where_there_are_some(tmp_path, model, beside):
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name)
    for part in ("train", "val"):
        for number, name in enumerate(CLASSES):
            (tmp_path / part / name).mkdir(parents=True)
            picture(number, 40, 50).save(tmp_path / part / name / "0.png")
    root = tmp_path / "val"
    if not beside:
        (tmp_path / "train").rename(tmp_path / "other")
    plain, int8 = (residual.evaluate(model, data=root, int8=flag, quiet=True) for flag in (False, True))
    assert int8.images == 3
    assert plain.loss != int8.loss == pytest.approx(plain.loss, rel=0.1)
    assert int8.notes[1] == "INT8 calibrated on 3 " + (
        "images of train/" if beside else "of the evaluated images, since there is no train/ beside them"
    )
