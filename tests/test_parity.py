"""Parity of the ImageNet networks with independent implementations, in float64, on the same weights."""

import re

import pytest
import torch
from torch import Tensor, nn

from reference import by_the_paper, vgg19_by_its_paper
from residual import create_model
from residual.models import vgg
from residual.models.network import Network

BOUND = 1e-9  # largest difference over largest output
CLASSES = 11


def relative_difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


@torch.no_grad()
def prepared(name: str, size: int, **options: str | None) -> tuple[Network, Tensor]:
    """A network in float64 with BN as after training, and images that it has not seen.

    Scales and shifts of BN are random; its statistics are those of two batches in training mode.
    """
    torch.manual_seed(0)
    network = create_model(name, num_classes=CLASSES, **options).double()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # a cumulative average
            layer.weight.uniform_(0.5, 1.5)
            layer.bias.normal_(0, 0.2)
    network.train()
    for _ in range(2):
        network(torch.randn(4, 3, size, size, dtype=torch.float64))
    return network.eval(), torch.randn(2, 3, size, size, dtype=torch.float64)


def transformers_key(key: str) -> str:
    """Return what Hugging Face transformers calls an entry of our state dict."""
    if key.startswith("fc."):
        return key.replace("fc.", "classifier.1.")
    path, _, part = key.rpartition(".")
    kind = "normalization" if re.search(r"bn\d$|downsample\.1$", path) else "convolution"
    block = re.match(r"layer(\d)\.(\d+)\.(?:conv|bn|downsample\.)(\d)", path)
    if block is None:
        return f"resnet.embedder.embedder.{kind}.{part}"
    place = "shortcut" if "downsample" in path else f"layer.{int(block[3]) - 1}"
    return f"resnet.encoder.stages.{int(block[1]) - 1}.layers.{block[2]}.{place}.{kind}.{part}"


def of_transformers(ours: Network, bottleneck: bool, variant: str | None) -> nn.Module:
    """Build the same network by transformers and give it our weights."""
    transformers = pytest.importorskip("transformers", reason="needs transformers, of the extra dev")
    widths = [64, 128, 256, 512]
    theirs = transformers.ResNetForImageClassification(
        transformers.ResNetConfig(
            layer_type="bottleneck" if bottleneck else "basic",
            depths=[len(ours.get_submodule(f"layer{stage}")) for stage in (1, 2, 3, 4)],
            hidden_sizes=[4 * width for width in widths] if bottleneck else widths,
            downsample_in_bottleneck=variant == "v1",
            num_labels=CLASSES,
        )
    )
    theirs.double().load_state_dict({transformers_key(key): v for key, v in ours.state_dict().items()})
    return theirs.eval()


@pytest.mark.parametrize(
    ("name", "variant", "size"),
    [
        ("resnet18", None, 64),
        ("resnet34", None, 64),
        ("resnet50", "v1", 64),
        ("resnet50", "v1.5", 64),
        ("resnet101", "v1.5", 64),
        pytest.param("resnet152", "v1.5", 64, marks=pytest.mark.slow),
        pytest.param("resnet152", "v1", 64, marks=pytest.mark.slow),
        pytest.param("resnet50", "v1.5", 224, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_transformers_resnet_gives_the_same_logits(name, variant, size):
    ours, images = prepared(name, size, variant=variant)
    theirs = of_transformers(ours, variant is not None, variant)
    assert relative_difference(ours(images), theirs(images).logits) <= BOUND


@pytest.mark.parametrize(
    ("name", "shortcut", "variant"),
    [
        ("plain18", None, None),
        ("plain34", None, None),
        ("resnet18", "A", None),
        ("resnet18", "C", None),
        ("resnet50", "A", "v1"),
        ("resnet50", "C", "v1.5"),
        pytest.param("resnet34", "A", None, marks=pytest.mark.slow),
        pytest.param("resnet34", "C", None, marks=pytest.mark.slow),
    ],
)
@torch.no_grad()
def test_the_papers_text_gives_the_same_logits(name, shortcut, variant):
    ours, images = prepared(name, 64, shortcut=shortcut, variant=variant)
    expected = by_the_paper(ours.state_dict(), images, shortcut, "1x1" if variant == "v1" else "3x3")
    assert relative_difference(ours(images), expected) <= BOUND


@pytest.mark.parametrize("hidden", [64, pytest.param(4096, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["vgg19", "vgg19_bn"])
@torch.no_grad()
def test_vgg_gives_the_logits_of_its_paper(name, hidden, monkeypatch):
    monkeypatch.setattr(vgg, "HIDDEN", hidden)  # the published 4,096 take a gigabyte in float64
    ours, images = prepared(name, 64)
    assert relative_difference(ours(images), vgg19_by_its_paper(ours.state_dict(), images)) <= BOUND


def test_a_difference_would_be_found():
    """The bound is far below what one swapped stride or a wrong epsilon changes."""
    ours, images = prepared("resnet50", 64, variant="v1.5")
    with torch.no_grad():
        logits = ours(images)
        other = by_the_paper(ours.state_dict(), images, "B", "1x1")
    assert relative_difference(logits, other) > 1e-3
