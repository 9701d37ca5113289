"""Weights that are not of the paper's networks, or damaged: refused in one clear line."""

import json

import pytest
import torch
from safetensors.torch import save_file

import residual
from residual.errors import CheckpointError, UsageError
from residual.models.build import build_model
from residual.zoo.convert.importing import convert
from residual.zoo.convert.source import Options, WeightsFile

Shapes = dict[str, tuple[int, ...]]
STEM = {"conv1.weight": (64, 3, 7, 7)}
BLOCK = {
    "layer1.0.conv1.weight": (64, 64, 1, 1),
    "layer1.0.conv2.weight": (64, 64, 3, 3),
    "layer1.0.conv3.weight": (256, 64, 1, 1),
}


def weights(shapes: Shapes) -> dict[str, torch.Tensor]:
    return {key: torch.zeros(shape) for key, shape in shapes.items()}


def refusal(state, options=None, config=None) -> str:
    with pytest.raises((CheckpointError, UsageError)) as caught:
        convert(WeightsFile("their.pth", state, config), options or Options())
    (line,) = str(caught.value).splitlines()
    assert "their.pth" in line or isinstance(caught.value, UsageError)
    return line


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (
            {"backbone.body.conv1.weight": (64, 3, 7, 7), "rpn.head.conv.0.0.weight": (1, 1)},
            "object detector",
        ),
        ({"model.backbone.conv_encoder.x": (1,), "class_embed.weight": (92, 256)}, "object detector"),
        ({"neck.lateral_convs.0.conv.weight": (1,), "bbox_head.fc_cls.weight": (1, 1)}, "object detector"),
        (
            {"backbone.conv1.weight": (64, 3, 7, 7), "aux_classifier.4.weight": (21, 256, 1, 1)},
            "segmentation",
        ),
        ({"backbone.conv1.weight": (64, 3, 7, 7), "decode_head.conv_seg.weight": (1, 1)}, "segmentation"),
        ({**STEM, "conv1.zero_point": (1,), "conv1.scale": (1,)}, "quantised network"),
        ({**STEM, **BLOCK, "layer1.0.conv2.weight": (128, 4, 3, 3)}, "ResNeXt"),
        ({**STEM, **BLOCK, "layer1.0.conv2.weight": (128, 128, 3, 3)}, "wide ResNet"),
        ({"conv1.0.weight": (32, 3, 3, 3), "conv1.3.weight": (32, 32, 3, 3)}, "deep stem"),
        ({**STEM, **BLOCK, "layer1.0.se.fc1.weight": (16, 256, 1, 1)}, "squeeze-and-excitation"),
        ({"conv1.weight": (64, 3, 3, 3), "layer1.0.conv2.weight": (64, 64, 3, 3)}, "3x3 stem of 64 filters"),
        ({"stem.conv.weight": (64, 3, 7, 7)}, "pre-activation"),
        ({"cls_token": (1, 1, 768), "blocks.0.attn.qkv.weight": (1, 1)}, "vision transformer"),
        ({"features.0.0.weight": (32, 3, 3, 3)}, "MobileNet"),
        ({"features.denseblock1.denselayer1.norm1.weight": (1,)}, "DenseNet"),
        ({f"features.{i}.weight": (64, 64, 3, 3) for i in range(13)}, "VGG-16"),
        ({"some.weight": (3, 3)}, "none of the paper's has its keys (some.weight, ...)"),
    ],
)
def test_other_networks(shapes, words):
    assert words in refusal(weights(shapes))


def test_integer_weights():
    state = {"conv1.weight": torch.zeros(64, 3, 7, 7, dtype=torch.int8)}
    assert "quantised network" in refusal(state)


@pytest.mark.filterwarnings("ignore:torch.quantize:UserWarning", "ignore:TypedStorage:UserWarning")
def test_quantised_tensors_in_a_file(tmp_path):
    value = torch.quantize_per_tensor(torch.zeros(64, 3, 7, 7), 0.1, 0, torch.qint8)
    torch.save({"conv1.weight": value}, tmp_path / "file.pth")
    with pytest.raises(CheckpointError, match="holds a quantised network"):
        residual.create_model("resnet18", weights=tmp_path / "file.pth")


def test_another_network_than_the_one_that_is_named():
    state = build_model("resnet18").state_dict()
    line = refusal(state, Options(model="resnet34"))
    assert "missing: layer1.2." in line
    assert line.endswith("its blocks are those of resnet18")


def test_keys_that_do_not_fit_are_named():
    state = {**build_model("resnet18").state_dict(), "fc2.weight": torch.zeros(2, 2)}
    del state["layer4.1.bn2.bias"]
    line = refusal(state)
    assert "missing: layer4.1.bn2.bias" in line
    assert "unexpected: fc2.weight" in line


def test_a_backbone_has_no_classifier():
    state = {k: v for k, v in build_model("resnet18").state_dict().items() if not k.startswith("fc.")}
    assert "it has no classifier: create_model(..., weights=FILE, num_classes=N) adds one" in refusal(state)


@pytest.mark.parametrize("name", ["plain18", "plain20"])
def test_plain_networks_must_be_named(name):
    state = build_model(name, num_classes=10).state_dict()
    residual_one = name.replace("plain", "resnet")
    assert (
        refusal(state)
        == f"{residual_one} with option A and {name} have the same keys: say which with --model"
    )
    mean = Options(model=name, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert convert(WeightsFile("x", state), mean).config.network == name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (Options(variant="v1"), "'resnet18' has no variants"),
        (Options(variant="v2"), "unknown variant 'v2'"),
        (Options(zeros="last"), "--zeros"),
        (Options(model="resnet17"), ""),
    ],
)
def test_options_that_do_not_fit(options, words):
    assert words in refusal(build_model("resnet18").state_dict(), options)


TIMM = {"architecture": "resnet18", "pretrained_cfg": {}}
HUGGING_FACE = {"embedder.embedder.convolution.weight": (64, 3, 7, 7)}


@pytest.mark.parametrize(
    ("shapes", "config", "words"),
    [
        (STEM, {**TIMM, "architecture": "resnetaa50d"}, "config.json says 'resnetaa50d'"),
        (STEM, {**TIMM, "model_args": {"output_stride": 8}}, "changes resnet18 by ['output_stride']"),
        (STEM, {**TIMM, "pretrained_cfg": {"input_size": 7}}, "has a value that does not fit"),
        (STEM, {**TIMM, "pretrained_cfg": {"std": [0, 1, 1]}}, "has a value that does not fit"),
        (STEM, {**TIMM, "pretrained_cfg": {"crop_pct": 0}}, "has a value that does not fit"),
        (HUGGING_FACE, {"downsample_in_first_stage": True}, "downsample_in_first_stage=True"),
        (HUGGING_FACE, {"hidden_act": "gelu"}, "hidden_act='gelu', not 'relu'"),
        (HUGGING_FACE, {"id2label": {"a": "b"}}, "has a value that does not fit"),
        (HUGGING_FACE, {"id2label": [1]}, "has a value that does not fit"),
    ],
)
def test_configs_of_other_networks_and_damaged_ones(shapes, config, words):
    assert words in refusal(weights(shapes), config=config)


def test_a_config_with_another_number_of_classes():
    state = build_model("resnet18", num_classes=3).state_dict()
    line = refusal(state, config={**TIMM, "label_names": ["a", "b"]})
    assert "has 3 outputs, but its config.json names 2 classes" in line


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a": ', b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_config(tmp_path, content):
    save_file(build_model("resnet8", shortcut="B").state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"config\.json is truncated or corrupted"):
        residual.create_model("resnet8", weights=tmp_path)


def test_a_folder_without_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    with pytest.raises(CheckpointError, match=r"cannot read .*model\.safetensors"):
        residual.create_model("resnet18", weights=tmp_path)


def test_half_written_weights(tmp_path):
    state = build_model("resnet18", num_classes=2).state_dict()
    save_file(state, tmp_path / "file.safetensors")
    torch.save(state, tmp_path / "file.pth")
    for name in ("file.safetensors", "file.pth"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
        with pytest.raises(CheckpointError, match=f"{name} is truncated or corrupted"):
            residual.create_model("resnet18", weights=path)


def test_a_folder_of_another_project_is_not_a_model_folder(tmp_path, cli):
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    code, _, err = cli("evaluate", tmp_path)
    assert code == 2
    assert f"convert it by 'residual import {tmp_path} --output F'" in err
