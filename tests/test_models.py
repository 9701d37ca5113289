"""The networks: counts, an independent implementation, shortcut options, initialisation, names."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from reference import by_the_paper
from residual import create_model, list_models
from residual.errors import UsageError
from residual.models.blocks import BasicBlock, Bottleneck
from residual.models.complexity import complexity
from residual.models.fold import optimize_for_inference
from residual.models.resnet import ResNet

GOLDEN = json.loads((Path(__file__).parent / "golden" / "complexity.json").read_text())["networks"]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda g: f"{g['name']}-{g['shortcut']}-{g.get('variant')}")
def test_counts_are_the_golden_ones(golden):
    found = complexity(golden["name"], shortcut=golden["shortcut"], variant=golden.get("variant"))
    assert {key: getattr(found, key) for key in ("layers", "parameters", "multiply_adds")} == {
        key: golden[key] for key in ("layers", "parameters", "multiply_adds")
    }


@pytest.mark.parametrize("depth", [20, 32, 44, 56, 110])
def test_plain_nets_have_the_residual_nets_parameters(depth):
    def shapes(name):
        with torch.device("meta"):
            return {key: value.shape for key, value in create_model(name).state_dict().items()}

    assert shapes(f"plain{depth}") == shapes(f"resnet{depth}")


def test_stage_sizes():
    stages = complexity("resnet47_bottleneck").stages
    assert [stages[f"layer{n}"] for n in (1, 2, 3)] == [(64, 32, 32), (128, 16, 16), (256, 8, 8)]
    stages = complexity("resnet20").stages
    assert [stages[f"layer{n}"] for n in (1, 2, 3)] == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


@torch.no_grad()
def with_random_bn(network: ResNet) -> ResNet:
    """Put a network into evaluation mode with BN that is not the identity."""
    for key, value in network.state_dict().items():
        if "running" in key or "bn" in key or "downsample.1" in key:
            value.copy_(torch.rand(value.shape) + 0.5)
    return network.eval()


@pytest.mark.parametrize(
    ("name", "option"),
    [
        *(("resnet14", option) for option in "ABC"),
        *(("resnet20_bottleneck", option) for option in "ABC"),
        ("plain14", None),
    ],
)
@torch.no_grad()
def test_forward_pass_equals_an_independent_one(name, option):
    torch.manual_seed(1)
    network = with_random_bn(create_model(name, shortcut=option).double())
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(
        network(x), by_the_paper(network.state_dict(), x, option), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("option", ["A", "B", "C"])
@pytest.mark.parametrize("stride_on", ["1x1", "3x3"])
@torch.no_grad()
def test_a_bottlenecks_stride_is_where_it_is_asked_for(option, stride_on):
    torch.manual_seed(1)
    network = with_random_bn(ResNet(Bottleneck, (1, 2), (4, 8), option, stride_on=stride_on).double())
    x = torch.randn(3, 3, 32, 32, dtype=torch.float64)
    expected = by_the_paper(network.state_dict(), x, option, stride_on)
    torch.testing.assert_close(network(x), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(optimize_for_inference(network)(x), expected, rtol=1e-9, atol=1e-9)


def test_stages_have_the_given_depths_and_widths():
    network = ResNet(BasicBlock, (3, 4, 6, 3), (8, 16, 32, 64), "B", num_classes=7)
    assert [len(getattr(network, f"layer{n}")) for n in (1, 2, 3, 4)] == [3, 4, 6, 3]
    assert network.forward_features(torch.zeros(1, 3, 64, 48)).shape == (1, 64, 8, 6)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert list(dict(network.named_children())) == ["conv1", "bn1", *network.stages, "fc"]


@pytest.mark.parametrize("wrong", [{"stem": "none"}, {"stride_on": "5x5"}, {"depths": (1, 1)}])
def test_choices_that_there_are_not(wrong):
    arguments = {"block": BasicBlock, "depths": (1, 1, 1), "widths": (4, 8, 16), "shortcut": "A"}
    with pytest.raises(ValueError, match=r"stem must be|zip"):
        ResNet(**{**arguments, **wrong})


def test_the_initial_weights_are_drawn_in_a_fixed_order():
    """So that a seed goes on giving the same weights: each layer's as torch creates it, then all in order."""
    torch.manual_seed(3)
    network = create_model("resnet11_bottleneck", shortcut="B")
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    found = [layer.weight.clone() for layer in layers]
    torch.manual_seed(3)
    for layer in layers:
        layer.reset_parameters()
    expected = [nn.init.kaiming_normal_(torch.empty_like(layer.weight)) for layer in layers]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_projections_stand_where_the_option_puts_them():
    def projected(name, option):
        keys = create_model(name, shortcut=option).state_dict()
        return [
            key.removesuffix(".downsample.0.weight") for key in keys if key.endswith("downsample.0.weight")
        ]

    assert projected("resnet14", "A") == []
    assert projected("resnet14", "B") == ["layer2.0", "layer3.0"]
    assert projected("resnet14", "C") == [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1)]
    assert projected("resnet20_bottleneck", "B") == ["layer1.0", "layer2.0", "layer3.0"]


def test_initialisation_is_he_normal():
    torch.manual_seed(0)
    network = create_model("resnet56")
    weight = network.layer3[5].conv2.weight
    assert weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.02)
    assert abs(weight.mean().item()) < 1e-3
    kurtosis = ((weight / weight.std()) ** 4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.15)  # a uniform distribution would give 1.8
    assert network.fc.bias.abs().max() == 0


def test_gradients_reach_every_parameter():
    for name in ("resnet8", "plain8", "resnet11_bottleneck"):
        network = create_model(name)
        network(torch.randn(4, 3, 32, 32)).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters()), name


def test_state_dict_keys_are_torchvisions():
    keys = set(create_model("resnet8", shortcut="B").state_dict())
    assert {
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.conv1.weight",
        "layer2.0.downsample.0.weight",
    } <= keys
    assert {"layer2.0.downsample.1.bias", "layer3.0.bn2.weight", "fc.weight", "fc.bias"} <= keys


def test_any_depth_that_fits_is_a_network_and_others_name_the_nearest():
    for depth in (8, 14, 26, 62, 1202):
        with torch.device("meta"):
            assert len(create_model(f"resnet{depth}").layer1) == (depth - 2) // 6
    with pytest.raises(UsageError, match="resnet20, resnet26"):
        create_model("resnet21")
    with pytest.raises(UsageError, match="resnet47_bottleneck"):
        create_model("resnet48_bottleneck")
    for name in ("plain50", "plain152", "plain101", "resnet49"):
        with pytest.raises(UsageError, match="for ImageNet resnet18, 34, 50, 101, 152, plain18, plain34"):
            create_model(name)
    for name in ("resnet2", "resnet", "vgg16", "plain20_bottleneck", "resnet-20", "ResNet20", "resnet020x"):
        with pytest.raises(UsageError):
            create_model(name)


def test_list_models_filters():
    assert list_models("plain*") == [f"plain{depth}" for depth in (20, 32, 44, 56, 110, 18, 34)]
    assert {"resnet1202", "resnet50", "vgg19_bn"} <= set(list_models())
    assert list_models("nothing") == []
