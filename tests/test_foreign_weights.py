"""Weights of other projects: the same function as the networks that they come from."""

import json
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import residual
from residual.data.imagenet_classes import NAMES
from residual.errors import UsageError
from residual.models.build import IMAGENET_BLOCKS, build_model
from residual.zoo.convert import caffe, timm, torchvision, transformers
from residual.zoo.convert.importing import convert
from residual.zoo.convert.layout import network_of
from residual.zoo.convert.source import Options, WeightsFile
from residual.zoo.model_folder import check_weights

State = dict[str, Tensor]


def trained(network: torch.nn.Module) -> torch.nn.Module:
    """Give BN scales, shifts and statistics as different from their first values as after training."""
    generator = torch.Generator().manual_seed(1)
    for value in network.state_dict().values():
        if value.dim() == 1 and value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.5)
    return network.eval()


def same(ours: torch.nn.Module, theirs, x: Tensor) -> None:
    with torch.no_grad():
        expected = theirs(x.double())
        difference = (ours.double()(x.double()) - expected).abs().max() / expected.abs().max()
    assert difference <= 1e-9


# torchvision: its documented keys and shapes, and its function, written down independently


def torchvision_shapes(layers: int, classes: int = 1000) -> dict[str, tuple[int, ...]]:
    bottleneck = layers >= 50
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name, width):
        shapes.update(
            {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")}
        )

    norm("bn1", 64)
    incoming = 64
    for stage, depth in enumerate(IMAGENET_BLOCKS[layers], start=1):
        width = 32 * 2**stage
        out = 4 * width if bottleneck else width
        for block in range(depth):
            name = f"layer{stage}.{block}"
            kernels = (1, 3, 1) if bottleneck else (3, 3)
            widths = (incoming, width, width, out) if bottleneck else (incoming, width, out)
            for i, kernel in enumerate(kernels):
                shapes[f"{name}.conv{i + 1}.weight"] = (widths[i + 1], widths[i], kernel, kernel)
                norm(f"{name}.bn{i + 1}", widths[i + 1])
            if incoming != out:
                shapes[f"{name}.downsample.0.weight"] = (out, incoming, 1, 1)
                norm(f"{name}.downsample.1", out)
            incoming = out
    shapes["fc.weight"], shapes["fc.bias"] = (classes, incoming), (classes,)
    return shapes


def torchvision_vgg19_bn_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    index, incoming = 0, 3
    for layer in (64, 64, "M", 128, 128, "M", *4 * [256], "M", *4 * [512], "M", *4 * [512], "M"):
        if layer == "M":
            index += 1
            continue
        shapes[f"features.{index}.weight"], shapes[f"features.{index}.bias"] = (
            (layer, incoming, 3, 3),
            (layer,),
        )
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"features.{index + 1}.{part}"] = (layer,)
        index, incoming = index + 3, layer
    for number, (out, into) in {0: (4096, 25088), 3: (4096, 4096), 6: (1000, 4096)}.items():
        shapes[f"classifier.{number}.weight"], shapes[f"classifier.{number}.bias"] = (out, into), (out,)
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]]) -> State:
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, shape in shapes.items():
        value = torch.rand(shape, generator=generator)
        state[key] = (value - 0.5) / (0.2 * value[0].numel() ** 0.5) if len(shape) > 1 else value * 0.5 + 0.5
    return state


def forward(state: State, layers: int, x: Tensor, stride_on: int) -> Tensor:
    """The network of Table 1 by functions alone; `stride_on` is the number of a bottleneck's strided conv."""
    s = {key: value.double() for key, value in state.items()}

    def conv_bn(x, conv, bn, stride=1):
        weight = s[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        return F.batch_norm(
            x, *(s[f"{bn}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        )

    x = F.max_pool2d(conv_bn(x, "conv1", "bn1", 2).relu(), 3, 2, 1)
    for stage, depth in enumerate(IMAGENET_BLOCKS[layers], start=1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = x
            count = 3 if layers >= 50 else 2
            for i in range(1, count + 1):
                y = conv_bn(y, f"{name}.conv{i}", f"{name}.bn{i}", stride if i == stride_on else 1)
                y = y if i == count else y.relu()
            if f"{name}.downsample.0.weight" in s:
                x = conv_bn(x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            x = (x + y).relu()
    return F.linear(x.mean((2, 3)), s["fc.weight"], s["fc.bias"])


def renamed_vgg(state: State) -> State:
    """The keys and shapes of timm's VGG."""
    names = {
        "classifier.0.": "pre_logits.fc1.",
        "classifier.3.": "pre_logits.fc2.",
        "classifier.6.": "head.fc.",
    }
    kernels = {"classifier.0.weight": (-1, 512, 7, 7), "classifier.3.weight": (-1, 4096, 1, 1)}
    out = {}
    for key, value in state.items():
        prefix = next((p for p in names if key.startswith(p)), "")
        out[names.get(prefix, "") + key.removeprefix(prefix)] = value.reshape(kernels.get(key, value.shape))
    return out


@pytest.mark.parametrize("layers", [18, 34, 50, 101, 152])
def test_our_keys_are_torchvisions(layers):
    with torch.device("meta"):
        network = build_model(f"resnet{layers}")
        state = {key: torch.empty(shape) for key, shape in torchvision_shapes(layers).items()}
    check_weights(network, state, "torchvision")


@pytest.mark.parametrize("change", [dict, renamed_vgg])
def test_the_keys_of_vgg(change):
    with torch.device("meta"):
        network = build_model("vgg19_bn")
        state = {key: torch.empty(shape) for key, shape in torchvision_vgg19_bn_shapes().items()}
    file = WeightsFile("file.pth", change(state))
    found = timm.convert(file) or torchvision.convert(file)
    check_weights(network, found.state, "vgg")
    assert network_of(found.state) == "vgg19_bn"
    assert found.source.startswith("timm" if change is renamed_vgg else "torchvision")


def test_the_fully_connected_layers_of_timms_vgg_compute_the_same():
    torch.manual_seed(0)
    x, fc1, fc2 = torch.randn(2, 3, 7, 7), torch.randn(5, 3, 7, 7), torch.randn(4, 5, 1, 1)
    theirs = F.conv2d(F.conv2d(x, fc1), fc2).flatten(1)
    state = timm.convert(WeightsFile("", {"pre_logits.fc1.weight": fc1, "pre_logits.fc2.weight": fc2})).state
    ours = F.linear(F.linear(x.flatten(1), state["classifier.0.weight"]), state["classifier.3.weight"])
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("layers", "variant", "stride_on"), [(18, None, 1), (50, None, 2), (50, "v1.5", 2), (50, "v1", 1)]
)
def test_torchvisions_resnets_compute_the_same(layers, variant, stride_on):
    state = random_state(torchvision_shapes(layers))
    found = convert(WeightsFile(f"resnet{layers}.pth", state), Options(variant=variant))
    config = found.config
    assert (config.network, config.shortcut, config.data) == (f"resnet{layers}", "B", "imagenet-1k")
    assert config.variant == (None if layers == 18 else variant or "v1.5")
    assert config.class_names == NAMES
    same(found.network, lambda x: forward(state, layers, x, stride_on), torch.randn(1, 3, 64, 64))
    said = " ".join(found.notes)
    assert ("v1.5 assumed" in said) == (layers == 50 and variant is None)
    assert "shorter side to 256 pixels, bilinear, center crop of 224x224" in said
    assert "mean 0.485, 0.456, 0.406" in said


def test_torchvisions_second_weights_have_another_resize():
    state = random_state(torchvision_shapes(50))
    assert (
        convert(WeightsFile("a/resnet50-11ad3fa6.pth", state), Options()).config.preprocessing.resize == 232
    )


# transformers


def hugging_face(layers: int, **settings):
    library = pytest.importorskip("transformers")
    bottleneck = layers >= 50
    widths = [(256 if bottleneck else 64) * 2**i for i in range(4)]
    config = library.ResNetConfig(
        hidden_sizes=widths,
        depths=list(IMAGENET_BLOCKS[layers]),
        layer_type="bottleneck" if bottleneck else "basic",
        **settings,
    )
    torch.manual_seed(0)
    return trained(library.ResNetForImageClassification(config))


def test_what_transformers_saves_computes_the_same(tmp_path, cli):
    theirs = hugging_face(18, id2label={0: "cat", 1: "dog", 2: "eel"})
    theirs.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(
        json.dumps(
            {"size": {"shortest_edge": 224}, "crop_pct": 0.875, "resample": 3, "image_mean": 3 * [0.5]}
        )
    )
    code, out, _ = cli("import", tmp_path / "theirs", "--output", tmp_path / "ours")
    assert (code, out.splitlines()[0]) == (0, f"resnet18 from Hugging Face transformers: {tmp_path / 'ours'}")
    ours = residual.load_model(tmp_path / "ours")
    assert ours.config.class_names == ("cat", "dog", "eel")
    assert (ours.config.preprocessing.resize, ours.config.preprocessing.interpolation) == (256, "bicubic")
    assert ours.config.normalization.mean.tolist() == [127.5] * 3
    theirs = theirs.double()
    same(ours, lambda x: theirs(x).logits, torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("variant", ["v1", "v1.5"])
def test_the_config_of_transformers_tells_the_variant(variant):
    theirs = hugging_face(50, downsample_in_bottleneck=variant == "v1", num_labels=5)
    file = WeightsFile("theirs", theirs.state_dict(), theirs.config.to_dict())
    found = convert(file, Options())
    assert found.config.variant == variant
    assert f"variant: {variant}, as Hugging Face transformers has it" in found.notes
    theirs = theirs.double()
    same(found.network, lambda x: theirs(x).logits, torch.randn(1, 3, 64, 64))


@pytest.mark.parametrize(
    ("settings", "resized"),
    [
        ({"size": 224, "crop_pct": 0.875, "resample": 3}, (256, "crop", "bicubic", (224, 224))),
        ({"size": {"shortest_edge": 384}, "crop_pct": 0.9}, (None, "squish", "bicubic", (384, 384))),
        ({"size": {"height": 192, "width": 160}, "resample": 2}, (None, "squish", "bilinear", (192, 160))),
        (
            {
                "size": {"shortest_edge": 256},
                "do_center_crop": True,
                "crop_size": {"height": 224, "width": 224},
            },
            (256, "crop", "bicubic", (224, 224)),
        ),
    ],
)
def test_the_preprocessors_of_transformers(settings, resized):
    with torch.device("meta"):
        state = {"embedder.embedder.convolution.weight": torch.empty(64, 3, 7, 7)}
    found = transformers.convert(WeightsFile("theirs", state, None, settings)).preprocessing
    assert (found.resize, found.fit, found.interpolation, found.image_size) == resized


# timm


TIMM = {
    "architecture": "resnet18",
    "num_classes": 1000,
    "pretrained_cfg": {
        "input_size": [3, 224, 224],
        "test_input_size": [3, 288, 288],
        "interpolation": "bicubic",
        "crop_pct": 0.95,
        "crop_mode": "center",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.2, 0.1],
    },
}


@pytest.fixture(scope="module")
def resnet18() -> State:
    return random_state(torchvision_shapes(18))


def test_the_config_of_timm(tmp_path, resnet18):
    save_file(resnet18, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(TIMM))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        config = residual.create_model("resnet18", weights=path).config
        assert (config.recipe, config.class_names) == ("timm", NAMES)
        preprocessing = config.preprocessing
        assert (preprocessing.resize, preprocessing.image_size) == (235, (224, 224))
        assert preprocessing.interpolation == "bicubic"
        assert config.normalization.mean.tolist() == pytest.approx([127.5, 102, 76.5])


def test_fine_tuned_models_of_timm_name_their_classes():
    state = random_state(torchvision_shapes(18, classes=2))
    wrapped = {f"timm_model.{key}": value for key, value in state.items()}
    for given in (state, wrapped):
        found = convert(WeightsFile("x", given, {**TIMM, "label_names": ["no", "yes"]}), Options())
        assert found.config.class_names == ("no", "yes")
    assert convert(WeightsFile("x", state, TIMM), Options()).config.class_names == ("class 0", "class 1")


# chenyaofo and Caffe


@pytest.mark.parametrize(("data", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_chenyaofos_networks(tmp_path, data, classes):
    theirs = trained(build_model("resnet20", shortcut="B", num_classes=classes))
    file = tmp_path / f"{data}_resnet20-0123abcd.pt"
    torch.save(theirs.state_dict(), file)
    ours = residual.create_model("resnet20", weights=file)
    assert (ours.config.recipe, ours.config.data) == ("chenyaofo/pytorch-cifar-models", data)
    mean, std = ours.config.normalization.mean / 255, ours.config.normalization.std / 255
    expected = [0.4914, 0.4822, 0.4465] if classes == 10 else [0.5070, 0.4865, 0.4409]
    assert mean.tolist() == pytest.approx(expected)
    assert std.tolist() == pytest.approx(
        [0.2023, 0.1994, 0.2010] if classes == 10 else [0.2673, 0.2564, 0.2761]
    )
    theirs = theirs.double()
    same(ours, theirs, torch.randn(2, 3, 32, 32))


def caffe_layer(key: str, layers: int) -> str:
    """Caffe's name of one of torchvision's keys; BN's scale and shift are in a layer of their own."""
    layer, _, parameter = key.rpartition(".")
    scale = parameter in ("weight", "bias")
    if layer in ("conv1", "bn1", "fc"):
        kind = "scale" if scale else "bn"
        return {"conv1": "conv1", "bn1": f"{kind}_conv1", "fc": "fc1000"}[layer] + f".{parameter}"
    stage, block, rest = re.fullmatch(r"layer(\d)\.(\d+)\.(.*)", layer).groups()
    deep = layers >= 101 and stage in "23"
    letter = ("a" if block == "0" else f"b{block}") if deep else "abcdef"[int(block)]
    branch = "1" if "downsample" in rest else "2" + "abc"[int(rest[-1]) - 1]
    conv = rest.startswith("conv") or rest.endswith(".0")
    kind = "res" if conv else ("scale" if scale else "bn")
    return f"{kind}{int(stage) + 1}{letter}_branch{branch}.{parameter}"


@pytest.mark.parametrize("scales", ["in layers of their own", "in BN", "in both"])
def test_the_authors_caffe_models(scales):
    state = random_state(torchvision_shapes(50))
    given = {caffe_layer(key, 50): value for key, value in state.items()}
    if scales == "in BN":
        given = {key.replace("scale", "bn"): value for key, value in given.items()}
    elif scales == "in both":
        given |= {"bn_conv1.weight": torch.full((64,), 2.0), "bn_conv1.bias": torch.full((64,), 3.0)}
        state["bn1.bias"] = state["bn1.bias"] + 3 * state["bn1.weight"]
        state["bn1.weight"] = 2 * state["bn1.weight"]
    given["conv1.weight"] = given["conv1.weight"].flip(1)  # B, G, R
    given["conv1.bias"] = torch.rand(64)  # which their ResNet-50 has
    state["bn1.running_mean"] = state["bn1.running_mean"] - given["conv1.bias"]
    found = convert(WeightsFile("theirs.pth", given), Options())
    assert (found.config.network, found.config.variant) == ("resnet50", "v1")
    assert found.config.normalization.mean.tolist() == pytest.approx([123.68, 116.779, 103.939])
    assert found.config.normalization.std.tolist() == [1, 1, 1]
    same(found.network, lambda x: forward(state, 50, x, stride_on=1), torch.randn(1, 3, 64, 64))
    assert "pooling is not padded" in " ".join(found.notes)


@pytest.mark.parametrize("layers", [101, 152])
def test_the_blocks_of_deeper_caffe_models(layers):
    with torch.device("meta"):
        network = build_model(f"resnet{layers}", variant="v1")
        shapes = torchvision_shapes(layers)
        state = {caffe_layer(key, layers): torch.empty(shape) for key, shape in shapes.items()}
        check_weights(network, caffe.convert(WeightsFile("theirs", state)).state, "Caffe")


# wrappers, and networks made of the weights


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}, "epoch": 3},
        lambda s: {"model": s, "optimizer": {}, "args": None},
        lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}},
        lambda s: {"model_ema": {"n_averaged": torch.tensor(1), **{f"module.{k}": v for k, v in s.items()}}},
        lambda s: {"ema": {"state_dict": {f"_orig_mod.{k}": v for k, v in s.items()}}},
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
def test_weights_inside_a_training_checkpoint(tmp_path, wrap, suffix):
    state = build_model("resnet8", shortcut="B").state_dict()
    file = tmp_path / f"cifar10_resnet8.{suffix}"
    torch.save(wrap(state), file)
    loaded = residual.create_model("resnet8", weights=file).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_half_precision_weights(tmp_path, resnet18):
    save_file({key: value.half() for key, value in resnet18.items()}, tmp_path / "file.safetensors")
    network = residual.create_model("resnet18", weights=tmp_path / "file.safetensors")
    assert torch.equal(network.fc.weight, resnet18["fc.weight"].half().float())


def test_other_classes_get_a_fresh_head_and_other_channels_an_adapted_stem(tmp_path, resnet18):
    file = tmp_path / "resnet18.safetensors"
    save_file(resnet18, file)
    network = residual.create_model("resnet18", weights=file, num_classes=3, in_channels=1)
    assert network.config.class_names == ("0", "1", "2")
    assert network.config.in_channels == 1
    assert torch.equal(network.conv1.weight, resnet18["conv1.weight"].sum(1, keepdim=True))
    assert torch.equal(network.layer4[1].conv2.weight, resnet18["layer4.1.conv2.weight"])
    assert network.fc.weight.shape == (3, 512)
    assert not network.training
    backbone = {key: value for key, value in resnet18.items() if not key.startswith("fc.")}
    save_file(backbone, tmp_path / "backbone.safetensors")
    network = residual.create_model("resnet18", weights=tmp_path / "backbone.safetensors", num_classes=5)
    assert len(network.config.class_names) == network.fc.out_features == 5


def test_our_own_folders_are_weights_too(tmp_path):
    state = build_model("resnet8", shortcut="B").state_dict()
    torch.save(state, tmp_path / "cifar10_resnet8.pt")
    residual.import_checkpoint(tmp_path / "cifar10_resnet8.pt", output=tmp_path / "ours")
    network = residual.create_model("resnet8", weights=tmp_path / "ours")
    assert network.config.shortcut == "B"
    assert torch.equal(network.fc.weight, state["fc.weight"])
    with pytest.raises(UsageError, match="holds resnet8, not resnet14"):
        residual.create_model("resnet14", weights=tmp_path / "ours")
    with pytest.raises(UsageError, match="option B, not A"):
        residual.create_model("resnet8", weights=tmp_path / "ours", shortcut="A")
    with pytest.raises(UsageError, match="not both"):
        residual.create_model("resnet8", weights=tmp_path / "ours", pretrained=True)
