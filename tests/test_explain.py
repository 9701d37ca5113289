"""Grad-CAM: equal to one written here with hooks, for every kind of network, stage and number of threads."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import residual
from residual.data.decode import BadImageError
from residual.data.normalization import Normalization
from residual.data.preprocessing import Preprocessing
from residual.errors import UsageError
from residual.inference.explain import explain, grad_cam, stages
from residual.models import vgg
from residual.models.blocks import BasicBlock, Bottleneck
from residual.models.build import build_model
from residual.models.resnet import ResNet
from residual.report.explanation import overlaid
from residual.zoo.model_folder import ModelConfig

TOLERANCE = 1e-5  # of maps whose largest value is 1
HALF = Normalization.of_channels([0.5, 0.4, 0.3], [0.25, 0.2, 0.3])


def varied(network):
    """Give BN statistics and scales that differ between channels, as training does."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight.data, module.running_var):
                value.uniform_(0.7, 1.3)
            for value in (module.bias.data, module.running_mean):
                value.normal_(0, 0.2)
    return network


def make(name):
    """A small network of a kind, and the size of its images."""
    torch.manual_seed(len(name))
    small = {"depths": (1, 1, 1, 1), "widths": (8, 12, 16, 24), "num_classes": 7, "stem": "imagenet"}
    if name == "bottleneck":
        return varied(ResNet(Bottleneck, shortcut="B", **small)), 96
    if name == "plain":
        return varied(ResNet(BasicBlock, shortcut=None, **small)), 96
    if name in ("vgg", "vgg_bn"):
        network = vgg.VGG(name == "vgg_bn", num_classes=7)
        return varied(network), 64
    return varied(build_model(name)), 64 if name == "resnet18" else 32


@pytest.fixture(autouse=True)
def small_vgg(monkeypatch):
    monkeypatch.setattr(vgg, "HIDDEN", 32)
    monkeypatch.setattr(vgg, "WIDTHS", (4, 8, 12, 16, 16))


def by_hooks(network, image, label, module):
    """Grad-CAM of one image [C, H, W] as a user would write it with hooks; and the scale of its terms."""
    kept = []
    handle = module.register_forward_hook(lambda _m, _i, output: kept.append(output))
    logits = network(image[None])
    kept[0].retain_grad()
    logits[0, label].backward()
    handle.remove()
    maps, gradients = kept[0].detach()[0].numpy(), kept[0].grad[0].numpy()
    summed = np.zeros(maps.shape[1:])
    for feature, gradient in zip(maps, gradients, strict=True):
        summed += gradient.sum() / gradient.size * feature
    return np.where(summed > 0, summed, 0), abs(summed).max()


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "bottleneck", "plain", "vgg", "vgg_bn"])
def test_it_equals_grad_cam_by_hooks(name):
    network, size = make(name)
    exact = copy.deepcopy(network).double().eval()
    images, classes = torch.randn(4, 3, size, size), torch.tensor([3, 6, 0, 1])
    positive = 0
    for stage in stages(network)[-2:]:
        found = grad_cam(network, images, classes, stage)
        for image, label, own in zip(images, classes, found, strict=True):
            expected, scale = by_hooks(exact, image.double(), label, exact.parts()[stage])
            np.testing.assert_allclose(own.numpy() / scale, expected / scale, atol=TOLERANCE, rtol=0)
            positive += expected.any()
    assert positive >= 3, "random networks have classes that nothing speaks for"


def test_one_image_serves_several_classes():
    network, size = make("resnet20")
    image, classes = torch.randn(1, 3, size, size), torch.tensor([3, 6, 0])
    each = torch.cat([grad_cam(network, image, label[None]) for label in classes])
    torch.testing.assert_close(grad_cam(network, image, classes), each)


def test_it_leaves_the_network_as_it_was():
    network, size = make("resnet20")
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        grad_cam(network, torch.randn(2, 3, size, size), torch.tensor([0, 1]))
    assert network.training
    assert all(value.grad is None and value.requires_grad for value in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_it_finds_the_place_of_the_evidence():
    """A network that knows class 0 by red and class 1 by blue, and sees both."""
    network = ResNet(BasicBlock, (1,), (2,), "A", num_classes=2)
    with torch.no_grad():
        for value in network.parameters():
            if value.dim() > 1:
                value.zero_()
        network.conv1.weight[:, (0, 2), 1, 1] = torch.eye(2)
        network.fc.weight.copy_(torch.eye(2))
    image = torch.zeros(1, 3, 12, 12)
    image[0, 0, 2:5, 1:4] = 1
    image[0, 2, 8:11, 6:10] = 1
    red, blue = grad_cam(network, image, torch.tensor([0, 1]))
    assert torch.equal(red > 0, image[0, 0] > 0)
    assert torch.equal(blue > 0, image[0, 2] > 0)


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(3)
    network = varied(ResNet(BasicBlock, (1, 1, 1), (8, 12, 16), "A", num_classes=5))
    names = ("ant", "bee", "cat", "dog", "eel")
    network.config = ModelConfig(
        "resnet8", "A", names, Preprocessing((40, 48), HALF), "test", "none", temperature=2.0
    )
    return residual.Classifier(network, device="cpu")


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (70, 90, 3), dtype=np.uint8)


def test_an_explanation_has_what_the_classifier_says(classifier):
    found = explain(classifier, picture(0), top=4)
    assert found.predictions == classifier(picture(0), top=4)
    assert torch.equal(found.pixels, classifier.load(picture(0)))
    assert found.maps.shape == (4, 40, 48)
    assert found.maps.dtype == torch.float32
    assert found.maps.amin() >= 0
    for number, own in enumerate(found.maps):
        assert own.max() == 1 or not own.any(), number
    assert found.stage == "layer3"
    label = classifier.class_names.index(found.predictions[1].class_name)
    coarse = grad_cam(classifier.network, classifier.normalised(found.pixels[None]), torch.tensor([label]))
    assert coarse.shape == (1, 10, 12)
    row, column = divmod(int(coarse[0].argmax()), 12)
    place = found.maps[1][4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
    assert place.max() == 1, "upsampled to the image, whatever the map's size"


def test_more_classes_than_there_are(classifier):
    assert len(explain(classifier, picture(0), top=99).predictions) == 5


def test_no_evidence_for_a_class_is_a_map_of_zeros(classifier):
    network = ResNet(BasicBlock, (1,), (2,), "A", num_classes=2)
    nn.init.zeros_(network.fc.weight)
    network.config = ModelConfig("resnet8", "A", ("a", "b"), Preprocessing((8, 8), HALF), "test", "none")
    assert not explain(residual.Classifier(network, device="cpu"), picture(0)).maps.any()


def test_eight_threads_find_what_one_does(classifier):
    images = [picture(seed) for seed in range(24)]
    serial = [explain(classifier, image) for image in images]
    with ThreadPoolExecutor(8) as pool:
        threaded = list(pool.map(lambda image: explain(classifier, image), images))
    for one, other in zip(serial, threaded, strict=True):
        assert one.predictions == other.predictions
        torch.testing.assert_close(one.maps, other.maps, atol=TOLERANCE, rtol=0)


def test_the_stages_of_a_network():
    assert stages(build_model("resnet20")) == ["layer1", "layer2", "layer3"]
    assert stages(build_model("resnet18")) == ["maxpool", "layer1", "layer2", "layer3", "layer4"]
    assert stages(vgg.VGG(batch_norm=True)) == [f"stage{number}" for number in range(1, 6)]


@pytest.mark.parametrize("stage", ["layer4", "fc", "conv1", "", "layer1.0"])
def test_another_stage(classifier, stage):
    assert explain(classifier, picture(0), stage="layer1").stage == "layer1"
    with pytest.raises(UsageError, match=rf"stage '{stage}'.* layer1, layer2, layer3"):
        explain(classifier, picture(0), stage=stage)


def test_errors(classifier):
    with pytest.raises(BadImageError):
        explain(classifier, b"no image")
    with pytest.raises(UsageError, match="top"):
        explain(classifier, picture(0), top=0)


def test_a_map_is_laid_over_the_image_where_it_is_above_0():
    image = torch.full((2, 3, 3), 200, dtype=torch.uint8)
    strength = torch.tensor([[0.0, 0.35, 1.0], [0.0, 0.0, 0.0]])
    drawn = overlaid(image, strength)
    assert torch.equal(drawn[strength == 0], image[strength == 0])
    red, green, _ = drawn[0, 2].tolist()
    assert red > 180 > 100 > green


def test_the_command_draws_the_image_and_each_class(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(1)).save("pet.jpg")
    code, out, _ = cli("explain", "resnet20", "pet.jpg", "--top", "2", "--device", "cpu")
    assert code == 0
    first, second, path = out.splitlines()
    said = residual.Classifier("resnet20", device="cpu")("pet.jpg", top=2)
    assert [line.split()[-1] for line in (first, second)] == [found.class_name for found in said]
    assert path == "pet-explained.png"
    with Image.open(path) as drawn:
        assert drawn.width > 3 * 240
    small = cli("explain", "resnet20", "pet.jpg", "--top", "2", "--stage", "layer1", "--output", "b.png")
    assert small[0] == 0
    assert (tmp_path / "b.png").read_bytes() != (tmp_path / path).read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--stage", "layer9"), 2, "layer1, layer2, layer3"),
        (("--top", "0"), 2, "top must be 1 or more"),
        (("--output", "a.jpg"), 2, "ends in .png"),
        (("--output", "pet.png"), 2, "would overwrite pet.png"),
        (("--output", "no/where.png"), 5, "cannot write no/where.png"),
    ],
)
def test_errors_of_the_command(cli, tmp_path, monkeypatch, arguments, code, says):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(picture(1)).save("pet.png")
    found, _, err = cli("explain", "resnet20", "pet.png", "--device", "cpu", *arguments)
    assert (found, err.count("\n")) == (code, 1)
    assert says in err.replace("\\", "/")


def test_the_command_names_a_bad_image(cli, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    code, _, err = cli("explain", "resnet20", tmp_path / "text.jpg", "--output", tmp_path / "a.png")
    assert code == 3
    assert "text.jpg" in err
