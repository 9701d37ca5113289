"""Export: every format gives the same answers as the original, or is refused and leaves no file."""

import dataclasses
import importlib
import importlib.util
import json
import re

import numpy as np
import pytest
import torch
from safetensors import safe_open

import residual
from residual.data.normalization import Normalization
from residual.data.preprocessing import Preprocessing
from residual.errors import CheckpointError, DataError, UsageError
from residual.exporters import checking, export, material, onnx, weights
from residual.exporters.drawn import drawn_images
from residual.exporters.executorch import ExecuTorchNetwork
from residual.exporters.formats import FORMATS
from residual.exporters.onnx import OnnxNetwork
from residual.exporters.openvino import OpenVinoNetwork
from residual.exporters.torch_export import TorchExportNetwork
from residual.exporters.whole import PreparedImages
from residual.models import vgg
from residual.runtime.extras import how_to_install
from residual.zoo.model_folder import ModelConfig, save_model

onnx_library = pytest.importorskip("onnx", reason="needs the extra onnx")
pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own

NAMES = ("ant", "bee", "cat")
SLOW = pytest.mark.slow
RUNNERS = {"onnx": OnnxNetwork, "openvino": OpenVinoNetwork, "torch-export": TorchExportNetwork}
SUFFIX = {"onnx": ".onnx", "openvino": "", "torch-export": ".pt2"}


@pytest.fixture(autouse=True)
def _few_images(monkeypatch):
    monkeypatch.setattr(material, "MOST_IMAGES", 64)


def needs(name):
    if name in ("openvino", "executorch") and importlib.util.find_spec(name) is None:
        pytest.skip(f"needs the extra {name}")


def made(name="resnet8", size=(32, 32), *, temperature=1.0, variant=None, shortcut=None, **preparing):
    """A network as after training, with a config."""
    torch.manual_seed(3)
    network = residual.create_model(name, num_classes=len(NAMES), variant=variant, shortcut=shortcut)
    for key, value in network.state_dict().items():
        if value.dim() == 1 and value.is_floating_point() and "fc" not in key:
            value.uniform_(0.5, 1)
    normalization = Normalization.of_channels((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
    network.config = ModelConfig(
        name,
        residual.models.names.resolve_shortcut(name, shortcut),
        NAMES,
        Preprocessing(size, normalization, **preparing),
        "own",
        "test",
        variant=residual.models.names.resolve_variant(name, variant),
        temperature=temperature,
    )
    return network.eval()


def logits(network, images):
    with torch.no_grad():
        return network(images)


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("onnx", "resnet8"),
        ("torch-export", "resnet8"),
        pytest.param("openvino", "resnet8", marks=SLOW),
        pytest.param("onnx", "resnet11_bottleneck", marks=SLOW),
    ],
)
def test_engines_give_the_originals_logits_for_any_batch_and_size(format, name, tmp_path):
    needs(format)
    network, output = made(name), tmp_path / f"network{SUFFIX[format]}"
    found = residual.export(network, format, output)
    assert [check.batches for check in found.checks] == ["of 1", "of 7", "of 64"]
    assert all(check.agreement == 1 and check.largest_difference < 1e-3 for check in found.checks)
    assert found.notes == ("compared on 64 drawn images",)
    run = RUNNERS[format](output)
    for shape in ((1, 3, 32, 32), (7, 3, 33, 57), (3, 3, 64, 40)):
        images = torch.randn(shape)
        torch.testing.assert_close(run(images), logits(network, images), atol=1e-4, rtol=1e-4)
    assert list(tmp_path.iterdir()) == [output], "nothing else is left"


@SLOW
@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_vgg_of_small_images(format, tmp_path, monkeypatch):
    monkeypatch.setattr(vgg, "HIDDEN", 16)
    monkeypatch.setattr(material, "MOST_IMAGES", 8)
    monkeypatch.setattr(checking, "BATCHES", (1, 7, 8))
    found = residual.export(made("vgg19_bn"), format, tmp_path / f"vgg{SUFFIX[format]}")
    assert min(check.agreement for check in found.checks) == 1


def test_an_onnx_file_names_its_ends_uses_standard_operators_and_says_what_it_is(tmp_path):
    found = residual.export("resnet20", "onnx", tmp_path / "a.onnx")
    assert found.size == (tmp_path / "a.onnx").stat().st_size
    model = onnx_library.load(tmp_path / "a.onnx")
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == ["images", "logits"]
    assert {opset.domain for opset in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    said = {entry.key: entry.value for entry in model.metadata_props}
    network = residual.create_model("resnet20", pretrained=True)
    assert tuple(json.loads(said["class_names"])) == network.config.class_names
    assert (said["licence"], said["temperature"], said["network"]) == ("MIT", "1.0", "resnet20")
    preparing = json.loads(said["preprocessing"])
    assert (preparing["image_size"], preparing["fit"], preparing["resize"]) == ([32, 32], "crop", None)
    mean = torch.tensor(preparing["mean"])
    torch.testing.assert_close(mean * 255, network.config.normalization.mean)
    # what the metadata says is enough to prepare an image without this package
    pixels = drawn_images(3, (32, 32))
    by_hand = (pixels / 255 - mean) / torch.tensor(preparing["std"])
    run = OnnxNetwork(tmp_path / "a.onnx")(by_hand.permute(0, 3, 1, 2))
    expected = residual.Classifier("resnet20").logits(pixels)
    torch.testing.assert_close(run, expected, atol=1e-4, rtol=1e-4)


ODD = [(32, 32), (320, 32), (7, 70), (1, 1), (1, 50), (33, 47), (31, 32), (24, 31), (90, 61)]
WAYS = [
    {"fit": "crop"},
    {"fit": "crop", "resize": 37, "interpolation": "bicubic"},
    {"fit": "pad"},
    {"fit": "squish", "interpolation": "bicubic"},
]


@pytest.mark.parametrize("size", [(32, 32), (24, 31)])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_the_preprocessing_in_the_graph_is_pythons(way, size):
    preprocessing = Preprocessing(size, Normalization(torch.tensor([1.0, 2, 3]), torch.ones(3)), **way)
    prepare = PreparedImages(preprocessing)
    for other in (*ODD, size):
        images = drawn_images(2, other, seed=5)
        try:
            expected = preprocessing.apply(images)
        except DataError:  # too narrow for Python's way, which resizes all of it
            continue
        difference = (prepare(images) - expected.permute(0, 3, 1, 2)).abs()
        assert difference.max() <= 1, "one level of 255, where a value is rounded the other way"
        assert (difference > 0.5).float().mean() < 0.01


@pytest.mark.parametrize(
    "format", ["openvino", *(pytest.param(other, marks=SLOW) for other in ("onnx", "torch-export", "triton"))]
)
def test_with_preprocessing_answers_are_those_of_the_classifier(format, tmp_path):
    needs(format)
    network = made(temperature=2.0, resize=40)
    output = tmp_path / f"whole{SUFFIX.get(format, '')}"
    found = residual.export(network, format, output, with_preprocessing=True)
    assert found.checks[-1].batches == "of other sizes"
    run = RUNNERS.get(format, OnnxNetwork)(output if format != "triton" else output / "1/model.onnx")
    classify = residual.Classifier(network)
    grey = drawn_images(1, (45, 38))[..., :1].expand(-1, -1, -1, 3)
    for pixels in (*(drawn_images(1, size, seed=9) for size in ODD), grey):
        found = run(pixels.contiguous())[0].double()
        expected = classify.probabilities(classify.logits(classify.load(pixels[0])[None]))[0]
        assert found.argmax() == expected.argmax()
        assert (found - expected).abs().max() < checking.PREPARED
        assert found.sum() == pytest.approx(1, abs=1e-5)


def stored(network):
    return 4 * sum(value.numel() for value in network.parameters())


def test_the_shipped_network_in_8_bits(tmp_path, monkeypatch, cli, cifar10_root):
    monkeypatch.setattr(material, "MOST_IMAGES", 500)
    flags = ("--format", "onnx", "--int8", "--data-dir", cifar10_root, "--output")
    code, out, err = cli("export", "resnet20", *flags, tmp_path / "a.onnx")
    assert code == 0, err
    assert "compared on 500 test images of cifar10" in out
    assert "INT8 calibrated on 512 training images of cifar10" in out
    assert (tmp_path / "a.onnx").stat().st_size < stored(residual.create_model("resnet20")) * 0.5


@SLOW
def test_the_shipped_network_in_16_bits_with_its_preprocessing(tmp_path, cli):
    flags = ("--format", "onnx", "--half", "--with-preprocessing", "--output")
    code, out, err = cli("export", "resnet20", *flags, tmp_path / "a.onnx")
    assert code == 0, err
    assert "compared on 64 drawn images" in out
    assert (tmp_path / "a.onnx").stat().st_size < stored(residual.create_model("resnet20")) * 0.75


@SLOW
def test_photographs_of_the_user_are_compared_and_calibrate(photographs, tmp_path):
    network = made(resize=40)
    found = residual.export(
        network, "onnx", tmp_path / "a.onnx", with_preprocessing=True, data_dir=photographs
    )
    assert found.notes == (f"compared on 12 photographs of {photographs.name}",)
    taken = material.find_material(network.config, photographs)
    assert taken.calibrated_on == "24 images of train/"
    assert len(taken.pixels) == 12
    with pytest.raises(DataError, match="no folder"):
        residual.export(network, "onnx", tmp_path / "b.onnx", data_dir=tmp_path / "none")


def test_a_folder_without_the_release_is_never_filled_by_a_download(tmp_path, monkeypatch):
    monkeypatch.setattr(residual.data.archive, "download", None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image"):
        residual.export("resnet20", "onnx", tmp_path / "a.onnx", data_dir=tmp_path / "empty")


@pytest.mark.parametrize(
    "wrong", ["a weight", *(pytest.param(other, marks=SLOW) for other in ("an operator", "not finite"))]
)
def test_a_wrong_export_is_refused_and_leaves_nothing(wrong, tmp_path, monkeypatch):
    real = onnx.export_onnx

    def spoiled(network, images, path):
        real(network, images, path)
        model = onnx_library.load(path)
        if wrong == "an operator":
            model.graph.node[0].domain = "com.microsoft"
        else:
            tensor = next(t for t in model.graph.initializer if len(t.dims) == 4)
            values = onnx_library.numpy_helper.to_array(tensor).copy()
            values[0] = np.nan if wrong == "not finite" else values[0] * 1.5
            tensor.CopyFrom(onnx_library.numpy_helper.from_array(values, tensor.name))
        onnx_library.save(model, path)

    monkeypatch.setattr(export, "export_onnx", spoiled)
    with pytest.raises(CheckpointError, match=r"nothing is written|not written"):
        residual.export(made(), "onnx", tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


@SLOW
def test_int8_that_agrees_too_rarely_is_refused(tmp_path, monkeypatch):
    other = residual.create_model("resnet20")
    monkeypatch.setattr(export, "quantize", lambda _, images, path: onnx.export_onnx(other, images, path))
    with pytest.raises(CheckpointError, match=r"at least 98 %.*images of the data by --data-dir"):
        residual.export(residual.create_model("resnet20", pretrained=True), "onnx", tmp_path / "a", int8=True)
    assert not list(tmp_path.iterdir())


IMAGENET = [
    ("resnet18", None),
    pytest.param("resnet50", "v1.5", marks=SLOW),
    pytest.param("vgg19", None, marks=SLOW),
]


@pytest.mark.parametrize("format", ["torchvision", "timm", "transformers"])
@pytest.mark.parametrize(("name", "variant"), IMAGENET)
def test_other_libraries_files_are_imported_as_the_same_network(format, name, variant, tmp_path, monkeypatch):
    monkeypatch.setattr(vgg, "HIDDEN", 16)
    network = made(name, (64, 64), variant=variant, resize=72, interpolation="bicubic")
    if (format, name) == ("transformers", "vgg19"):
        with pytest.raises(UsageError, match="transformers has no VGG"):
            residual.export(network, format, tmp_path / "model")
        assert not list(tmp_path.iterdir())
        return
    output = tmp_path / ("model.pth" if format == "torchvision" else "model")
    assert not residual.export(network, format, output).checks
    config = residual.import_checkpoint(output, output=tmp_path / "back", variant=variant)
    back = residual.load_model(tmp_path / "back")
    for key, value in network.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key
    if format != "torchvision":
        assert (config.network, config.variant, config.class_names) == (name, variant, NAMES)
        ours, theirs = network.config.preprocessing, config.preprocessing
        assert (theirs.image_size, theirs.resize, theirs.interpolation) == ((64, 64), 72, "bicubic")
        torch.testing.assert_close(theirs.normalization.mean, ours.normalization.mean)


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("resnet50", "v1"),
        pytest.param("resnet50", "v1.5", marks=SLOW),
        pytest.param("resnet18", None, marks=SLOW),
    ],
)
def test_transformers_loads_the_folder_and_gives_the_same_logits(name, variant, tmp_path):
    library = pytest.importorskip("transformers")
    network = made(name, (64, 64), variant=variant, resize=72)
    residual.export(network, "transformers", tmp_path / "model")
    theirs, told = library.AutoModelForImageClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not told["missing_keys"]
    assert not told["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(NAMES))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(logits(theirs.eval(), images).logits, logits(network, images))


@SLOW
def test_timms_vgg_is_stored_as_convolutions(tmp_path, monkeypatch):
    monkeypatch.setattr(vgg, "HIDDEN", 16)
    residual.export(made("vgg19_bn", (64, 64)), "timm", tmp_path / "model")
    with safe_open(tmp_path / "model/model.safetensors", "pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys() if "weight" in key}  # noqa: SIM118
    assert shapes["pre_logits.fc1.weight"] == [16, 512, 7, 7]
    assert shapes["pre_logits.fc2.weight"] == [16, 16, 1, 1]
    assert shapes["head.fc.weight"] == [3, 16]
    assert (
        json.loads((tmp_path / "model/config.json").read_text())["pretrained_cfg"]["classifier"] == "head.fc"
    )


@pytest.mark.parametrize(
    ("network", "format", "message"),
    [
        (("resnet8",), "torchvision", "torchvision has no resnet8"),
        (("plain18",), "transformers", "transformers has no plain18"),
        (("resnet18", "A"), "timm", "timm has no resnet18 with shortcut option A"),
        (("resnet50", "B", "v1"), "torchvision", "torchvision has no resnet50 of variant v1"),
    ],
)
def test_networks_that_a_library_has_not_are_refused(network, format, message, tmp_path):
    name, shortcut, variant = (*network, None, None)[:3]
    model = made(name, (32, 32), shortcut=shortcut, variant=variant)
    with pytest.raises(UsageError, match=message):
        residual.export(model, format, tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_a_weight_that_is_written_wrongly_is_found(tmp_path, monkeypatch):
    real = weights._state

    def spoiled(network, half):
        state = real(network, half)
        state["fc.bias"] = state["fc.bias"] + 1
        return state

    monkeypatch.setattr(weights, "_state", spoiled)
    with pytest.raises(CheckpointError, match=r"fc\.bias"):
        residual.export(made("resnet18", (64, 64)), "torchvision", tmp_path / "a.pth")
    assert not list(tmp_path.iterdir())


def test_safetensors_hold_the_weights_and_the_metadata(tmp_path):
    network = made()
    residual.export(network, "safetensors", tmp_path / "a.safetensors", half=True)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert json.loads(file.metadata()["class_names"]) == list(NAMES)
        assert file.get_tensor("fc.weight").dtype == torch.float16
        torch.testing.assert_close(file.get_tensor("fc.weight"), network.fc.weight.half())


def test_a_folder_for_triton_has_its_three_files(tmp_path):
    found = residual.export(made(), "triton", tmp_path / "ants")
    assert found.path == tmp_path / "ants"
    files = {str(path.relative_to(found.path)).replace("\\", "/") for path in found.path.rglob("*.*")}
    assert files == {"config.pbtxt", "labels.txt", "1/model.onnx"}
    text = (found.path / "config.pbtxt").read_text()
    assert text.count("{") == text.count("}") == 3
    assert 'name: "images" data_type: TYPE_FP32 dims: [3, -1, -1]' in text
    assert 'name: "logits" data_type: TYPE_FP32 dims: [3] label_filename: "labels.txt"' in text
    assert (found.path / "labels.txt").read_text().splitlines() == list(NAMES)


def test_executorch(tmp_path):
    pytest.importorskip("executorch.exir", reason="needs the extra executorch")
    network = made()
    found = residual.export(network, "executorch", tmp_path / "a.pte")
    assert [check.batches for check in found.checks] == ["of 1", "of 7", "of 15"]
    images = torch.randn(5, 3, 32, 32)
    torch.testing.assert_close(ExecuTorchNetwork(tmp_path / "a.pte")(images), logits(network, images))


@pytest.mark.parametrize(
    ("format", "library", "extra"),
    [
        ("onnx", "onnx", "onnx"),
        ("openvino", "openvino", "openvino"),
        ("executorch", "executorch", "executorch"),
    ],
)
def test_a_missing_engine_is_named_with_the_command_that_installs_it(
    format, library, extra, tmp_path, monkeypatch
):
    real = importlib.import_module

    def missing(name, *rest):
        if name.partition(".")[0] == library or (library == "onnx" and name.startswith("onnx")):
            raise ImportError(name)
        return real(name, *rest)

    network = made()
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(UsageError, match=re.escape(f"is not installed: {how_to_install(extra)}")):
        residual.export(network, format, tmp_path / "a")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "flags", "message"),
    [
        ("jpeg", [], "the formats are onnx"),
        ("timm", ["--int8"], "timm takes no --int8: onnx, openvino, triton do"),
        ("torch-export", ["--half"], "torch-export takes no --half"),
        ("executorch", ["--with-preprocessing"], "executorch takes no --with-preprocessing"),
        ("onnx", ["--int8", "--half"], "exclude each other"),
        ("torchvision", [], "ends in .pth or .pt or .safetensors"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(format, flags, message, tmp_path, cli):
    code, out, err = cli("export", "resnet20", "--format", format, "--output", tmp_path / "a", *flags)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


def test_an_output_that_exists_and_a_network_of_unknown_classes_are_refused(tmp_path):
    (tmp_path / "a.onnx").write_text("mine")
    with pytest.raises(UsageError, match="exists already"):
        residual.export("resnet20", "onnx", tmp_path / "a.onnx")
    assert (tmp_path / "a.onnx").read_text() == "mine"
    with pytest.raises(CheckpointError, match="classes"):
        residual.export(residual.create_model("resnet8"), "onnx", tmp_path / "b.onnx")
    grey = made()
    grey.config = dataclasses.replace(grey.config, in_channels=1)
    with pytest.raises(UsageError, match="RGB"):
        residual.export(grey, "onnx", tmp_path / "b.onnx")


@SLOW
def test_a_model_folder_is_exported_by_its_path(tmp_path, cli):
    network = made()
    save_model(tmp_path / "model", network, network.config, "card")
    code, out, _ = cli(
        *("export", tmp_path / "model", "--format", "torch-export"),
        *("--output", tmp_path / "out" / "a.pt2", "--json"),
    )
    found = json.loads(out)
    assert (code, found["format"], len(found["checks"])) == (0, "torch-export", 3)
    assert found["checks"][0]["agreement"] == 1


def test_drawn_images_are_the_same_every_time_and_differ_from_each_other():
    first, again, other = drawn_images(6, (20, 30)), drawn_images(6, (20, 30)), drawn_images(6, (20, 30), 1)
    assert first.dtype == torch.uint8
    assert first.shape == (6, 20, 30, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len({image.numpy().tobytes() for image in first}) == 6
    assert first.float().std() > 40
    assert drawn_images(1, (1, 1)).shape == (1, 1, 1, 3)


def test_every_format_has_a_title_that_the_command_prints():
    assert all(known.title.startswith(("a", "the")) for known in FORMATS.values())
