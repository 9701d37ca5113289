"""The ImageNet networks: feature maps, channels, classifiers, and the fast paths on them."""

import copy
import json
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from residual import create_model, optimize_for_inference
from residual.data.normalization import Normalization
from residual.data.preprocessing import Preprocessing
from residual.errors import UsageError
from residual.exporters.int8 import quantize
from residual.models import fused, inference_conv, vgg
from residual.models.inference_conv import InferenceConv
from residual.models.names import for_small_images
from residual.models.network import adapt_channels
from residual.zoo.model_folder import ModelConfig, load_model, save_model

NAMES = ["resnet18", "plain18", "resnet50", "vgg19", "vgg19_bn"]


@pytest.fixture(autouse=True)
def small_vgg(monkeypatch):
    monkeypatch.setattr(vgg, "HIDDEN", 32)  # the published 4,096 take 0.5 GB


@torch.no_grad()
def varied(name, **options):
    """A network whose BN layers and biases are not the identity, with ten classes."""
    torch.manual_seed(0)
    network = create_model(name, num_classes=10, **options)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.uniform_(0.5, 1)
        if getattr(layer, "bias", None) is not None:
            layer.bias.normal_(0, 0.2)
    return network.eval()


def images(count=2, size=64, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, size, size, generator=generator)


def relative_difference(found, expected):
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


# features and classifiers


@pytest.mark.parametrize(
    ("name", "widths"),
    [
        ("resnet18", (64, 128, 256, 512)),
        ("resnet50", (256, 512, 1024, 2048)),
        ("vgg19_bn", (128, 256, 512, 512)),
    ],
)
@torch.no_grad()
def test_feature_maps_have_the_widths_and_strides_that_detectors_expect(name, widths):
    network, x = varied(name), torch.zeros(2, 3, 96, 64)
    maps = network.feature_maps(x)
    for level, width in zip((2, 3, 4, 5), widths, strict=True):
        assert maps[f"C{level}"].shape == (2, width, 96 // 2**level, 64 // 2**level)
    assert list(maps)[-1] == "C5"
    assert torch.equal(maps["C5"], network.forward_features(x))


@torch.no_grad()
def test_feature_maps_of_a_cifar_network():
    network, x = create_model("resnet8").eval(), images(size=32)
    maps = network.feature_maps(x)
    shapes = {name: tuple(m.shape[1:]) for name, m in maps.items()}
    assert shapes == {"C0": (16, 32, 32), "C1": (32, 16, 16), "C2": (64, 8, 8)}
    assert torch.equal(network.fc(maps["C2"].mean((2, 3))), network(x))


@pytest.mark.parametrize("name", ["resnet18", "vgg19", "resnet20"])
def test_a_classifier_is_replaced_alone(name):
    network = create_model(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.replace_classifier(7)
    changed = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    assert changed <= {f"{network.classifier_name}.{part}" for part in ("weight", "bias")}
    assert network.get_classifier().weight.std() > 0
    assert network.eval()(images(size=32)).shape == (2, 7)


@pytest.mark.parametrize(("name", "size"), [("vgg19", 31), ("vgg19_bn", 16)])
def test_images_that_are_too_small(name, size):
    network = create_model(name)
    for run in (network, network.feature_maps):
        with pytest.raises(UsageError, match=f"images of {size}x40 pixels are too small .* 32x32 and larger"):
            run(torch.zeros(1, 3, size, 40))


@torch.no_grad()
def test_a_resnet_takes_images_of_any_size():
    network = varied("resnet18")
    for size in ((1, 1), (31, 33), (97, 64)):
        assert network(torch.zeros(1, 3, *size)).isfinite().all()


def test_training_says_that_a_name_means_the_imagenet_network(cli, tmp_path):
    """Before anything is built; this training is then refused, since single images become single pixels."""
    arguments = ("--data", "digits", "--batch-size", 1, "--output", tmp_path / "run")
    code, out, err = cli("train", "resnet50", *arguments)
    assert (code, out) == (2, "")
    assert "note: resnet50 is the network for ImageNet" in err
    assert "networks for such images are resnet44 and resnet56" in err
    assert "BN needs several values for each channel" in err
    assert not (tmp_path / "run").exists()
    assert for_small_images("resnet152") == ["resnet146", "resnet158"]
    assert for_small_images("vgg19") == ["plain14", "plain20"]


@pytest.mark.parametrize(("variant", "channels"), [("v1", 4), (None, 3)])
@torch.no_grad()
def test_a_model_folder_keeps_variant_and_channels(tmp_path, variant, channels):
    network = create_model("resnet50", variant=variant, in_channels=channels, num_classes=2).eval()
    preprocessing = Preprocessing((64, 64), Normalization.of_channels((0.5,) * 3, (0.5,) * 3))
    config = ModelConfig("resnet50", "B", ("a", "b"), preprocessing, "cats", "own", variant, channels)
    save_model(tmp_path / "model", network, config, "")
    loaded = load_model(tmp_path / "model")
    assert loaded.config.as_dict() == config.as_dict()
    x = images(channels=channels)
    torch.testing.assert_close(loaded(x), network(x), rtol=1e-4, atol=0)


def test_info_tells_options_and_the_papers_count(cli):
    code, out, _ = cli("info", "resnet50", "--variant", "v1", "--json")
    found = json.loads(out)
    assert (code, found["variant"], found["shortcut"], found["multiply_adds"]) == (
        0,
        "v1",
        "B",
        3_857_973_248,
    )
    for options, words in {
        ("resnet50",): ["v1.5", "option B", "3.8 G multiply-adds, for v1"],
        ("resnet18", "--shortcut", "C"): ["option C", "1.8 G"],
        ("vgg19_bn",): ["layers         19", "fc8", "512 x 7 x 7"],
    }.items():
        code, out, _ = cli("info", *options)
        assert code == 0
        assert all(word in out for word in words), out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet50", "--variant", "v2"), "unknown variant 'v2': the variants are v1, v1.5"),
        (("resnet34", "--variant", "v1"), "'resnet34' has no variants"),
        (("resnet47_bottleneck", "--variant", "v1"), "'resnet47_bottleneck' has no variants"),
        (("vgg19", "--shortcut", "B"), "it has no shortcuts"),
        (("resnet51",), "nearest: resnet44, resnet56, resnet50 (ImageNet)"),
        (("plain101",), "plain34, vgg19 and vgg19_bn"),
        (("vgg16",), "nearest: vgg19"),
    ],
)
def test_names_and_options_that_do_not_fit(cli, arguments, message):
    code, out, err = cli("info", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


# channels


@pytest.mark.parametrize("name", ["resnet20", "resnet18", "vgg19_bn"])
@pytest.mark.parametrize("channels", [1, 4, 13])
@torch.no_grad()
def test_images_of_other_channels(name, channels):
    network = create_model(name, in_channels=channels, num_classes=5).eval()
    assert network(images(size=32, channels=channels)).shape == (2, 5)
    with pytest.raises(UsageError, match=rf"takes images \[N, {channels}, H, W\], not \[2, 3, 32, 32\]"):
        network(images(size=32))


@pytest.mark.parametrize("channels", [0, -1, 1001])
def test_a_number_of_channels_that_no_image_has(channels):
    with pytest.raises(UsageError, match="in_channels must be at least 1 and at most 1,000"):
        create_model("resnet18", in_channels=channels)


def test_a_trained_stem_gives_grey_images_the_response_of_grey_rgb_images():
    weight, grey = torch.randn(8, 3, 7, 7), images(channels=1)
    expected = F.conv2d(grey.expand(-1, 3, -1, -1), weight)
    for channels in (1, 3, 6, 12):
        adapted = adapt_channels(weight, channels)
        assert adapted.shape == (8, channels, 7, 7)
        found = F.conv2d(grey.expand(-1, channels, -1, -1), adapted)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(adapt_channels(weight, 5)[:, 3], adapt_channels(weight, 5)[:, 0]), "R follows B"
    assert torch.equal(adapt_channels(weight, 3), weight)


@torch.no_grad()
def test_a_pretrained_network_for_grey_images_agrees_with_itself():
    rgb, grey = (
        create_model("resnet20", pretrained=True),
        create_model("resnet20", pretrained=True, in_channels=1),
    )
    x = images(size=32, channels=1)
    assert relative_difference(grey(x), rgb(x.expand(-1, 3, -1, -1))) < 1e-5
    assert grey.config.input_size == (1, 32, 32)


# the fast paths


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_optimised_networks_compute_the_same(name):
    network, x = varied(name), images()
    optimised = optimize_for_inference(network)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in optimised.modules())
    assert all(
        isinstance(layer, InferenceConv) for layer in optimised.modules() if isinstance(layer, nn.Conv2d)
    )
    assert relative_difference(optimised(x), network(x)) < 1e-4
    network, x = network.double(), x.double()
    assert relative_difference(optimize_for_inference(network)(x), network(x)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_every_bn_layer_is_declared(name):
    with torch.device("meta"):
        network = create_model(name)
    pairs = [(m, pair) for m in network.modules() for pair in getattr(m, "conv_bn", ())]
    declared = {id(module.get_submodule(bn)) for module, (_, bn) in pairs}
    assert all(isinstance(module.get_submodule(conv), nn.Conv2d) for module, (conv, _) in pairs)
    assert declared == {id(module) for module in network.modules() if isinstance(module, nn.BatchNorm2d)}


def gradients(network, x, labels):
    loss = F.cross_entropy(network.train()(x), labels)
    return loss, torch.autograd.grad(loss, list(network.parameters()))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vgg19_bn"])
def test_the_fused_gradient_equals_the_plain_one(name, monkeypatch):
    network = varied(name).to(memory_format=torch.channels_last)
    for layer in network.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0
    other = copy.deepcopy(network)
    x, labels = images(8).contiguous(memory_format=torch.channels_last), torch.arange(8)
    calls = []
    real = fused._BatchNormReLU.apply
    monkeypatch.setattr(fused._BatchNormReLU, "apply", lambda *a: calls.append(1) or real(*a))
    loss, found = gradients(network, x, labels)
    assert len(calls) == {"resnet18": 17, "resnet50": 49, "vgg19_bn": 16}[name], "the fused path did not run"
    monkeypatch.setattr(fused, "_fusible", lambda *_: False)
    expected_loss, expected = gradients(other, x, labels)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-4, atol=1e-4)
    scale = max(float(g.abs().max()) for g in expected)
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).abs().max()) <= 1e-3 * max(float(b.abs().max()), 1e-2 * scale)
    for (key, a), b in zip(network.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3, msg=key)


@pytest.mark.parametrize("name", ["resnet18", "vgg19_bn"])
def test_recomputation_changes_neither_gradients_nor_statistics(name):
    found = []
    for recompute in (False, True):
        network = varied(name, checkpoint_activations=recompute)
        torch.manual_seed(3)  # of the dropout
        loss, grads = gradients(network, images(4), torch.arange(4))
        found.append((loss, *grads, *network.state_dict().values()))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.filterwarnings("ignore")  # the exporters' own
@torch.no_grad()
def test_int8_of_an_imagenet_network(tmp_path):
    pytest.importorskip("onnx", reason="needs the extra onnx")
    pytest.importorskip("onnxruntime", reason="needs the extra onnx")
    network, x = varied("resnet18"), images(8)
    quantised = quantize(network, x, tmp_path / "int8.onnx")
    found, expected = quantised(x[:5]), network(x[:5])
    assert relative_difference(found, expected) < 0.2
    assert not torch.equal(found, expected)
    assert (tmp_path / "int8.onnx").stat().st_size < 13e6, "11.2 M weights of 8 bits"


# convolution, addition and ReLU as one operation


@pytest.mark.parametrize("shortcut", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "groups"), [(1, 2, 0, 1), (3, 1, 1, 2), (7, 2, 3, 1)]
)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_the_operation_is_the_three_in_turn(shortcut, relu, kernel, stride, padding, groups, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(4, 6, kernel, stride, padding, groups=groups, bias=bias)
    conv = InferenceConv(plain)
    for size in (13, 8):  # the second finds the weight in order for the first
        x = torch.randn(3, 4, size, size)
        y = plain(x)
        other = torch.randn_like(y) if shortcut else None
        kept = None if other is None else other.clone()
        expected = y if other is None else y + other
        torch.testing.assert_close(conv(x, other, relu), expected.relu() if relu else expected)
        assert other is None or torch.equal(other, kept), "the shortcut is an input"


@torch.no_grad()
def test_changed_weights_are_seen():
    conv, x = InferenceConv(nn.Conv2d(3, 4, 3)), images()
    conv(x)
    other = nn.Conv2d(3, 4, 3)
    conv.load_state_dict(other.state_dict())
    torch.testing.assert_close(conv(x), other(x))
    conv.double()
    torch.testing.assert_close(conv(x.double()), other.double()(x.double()))
    again = copy.deepcopy(conv.float())
    torch.testing.assert_close(again(x), other.float()(x))


def test_gradients_of_images_take_the_plain_path():
    network = optimize_for_inference(varied("resnet18"))
    x = images().requires_grad_()
    network(x).sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated
@torch.no_grad()
def test_an_optimised_network_can_be_exported_traced_and_pickled():
    network, x = optimize_for_inference(create_model("resnet8")), images(size=32)
    expected = network(x)  # the weights are in oneDNN's order from here on
    exported = torch.export.export(network, (x,))
    assert "mkldnn" not in str(exported.graph)
    for other in (exported.module(), torch.jit.trace(network, x), pickle.loads(pickle.dumps(network))):
        assert relative_difference(other(x), expected) < 1e-5


@torch.no_grad()
def test_where_the_operation_does_not_exist_the_plain_path_runs(monkeypatch):
    network, x = optimize_for_inference(varied("resnet18")), images()
    fast = network(x)
    monkeypatch.setattr(inference_conv, "_available", lambda: False)
    monkeypatch.setattr(InferenceConv, "_fused", None)  # must not be called
    assert relative_difference(network(x), fast) < 1e-5
