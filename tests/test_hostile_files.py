"""Hostile files: what would take too much memory or never end is refused before it is read."""

import hashlib
import io
import json
import os
import pickle
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import residual
from conftest import config_of_format_1
from residual.data.normalization import Normalization
from residual.data.preprocessing import Preprocessing
from residual.errors import CheckpointError, UsageError
from residual.models.names import MAX_CLASSES, parse_name
from residual.recipes import schema as recipe
from residual.recipes.schema import load_recipe
from residual.runtime import files, unpickle
from residual.runtime.files import read_bounded
from residual.runtime.progress import Reporter
from residual.training import checkpoint
from residual.training.checkpoint import load_checkpoint, load_pickle, save_checkpoint
from residual.training.loggers.tracker import Tracker
from residual.training.run_folder import Run
from residual.zoo.convert import read as importing
from residual.zoo.facts import model_facts
from residual.zoo.model_folder import ModelConfig, load_model, save_model

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")


@pytest.fixture
def model(tmp_path):
    """A model folder, to be damaged."""
    preprocessing = Preprocessing((32, 32), Normalization.of_channels([0.5] * 3, [0.25] * 3))
    names = tuple(f"class {label}" for label in range(10))
    config = ModelConfig("resnet8", "A", names, preprocessing, "cifar10", "demo")
    save_model(tmp_path / "model", residual.create_model("resnet8"), config, "a card")
    return tmp_path / "model"


def put(path: Path, kind: str) -> None:
    """Put something that is not a regular file, or a huge one, in a file's place."""
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        with path.open("wb") as file:
            file.truncate(2**23)  # beyond each limit that is set below


KINDS = [*(pytest.param(kind, marks=needs_pipes) for kind in ("pipe", "device")), "folder", "huge"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", ["weights", "import", "safetensors", "recipe", "checkpoint", "checksum"])
def test_what_is_not_a_regular_file_of_the_expected_size_is_not_read(
    tmp_path, monkeypatch, model, kind, reader
):
    for module in (checkpoint, importing):
        monkeypatch.setattr(module, "MAX_WEIGHTS", 2**22)
    if reader == "weights":
        path, error = model / "model.safetensors", CheckpointError
        read = lambda: load_model(model)  # noqa: E731
    elif reader in ("import", "safetensors"):
        path, error = tmp_path / ("file.pt" if reader == "import" else "file.safetensors"), CheckpointError
        read = lambda: residual.import_checkpoint(path, model="resnet8", output=tmp_path / "out")  # noqa: E731
    elif reader == "recipe":
        path, error = tmp_path / "recipe.json", UsageError
        read = lambda: load_recipe(path)  # noqa: E731
    else:
        saved = save_checkpoint(tmp_path, "last", 1, {"step": 1})
        path, error = saved if reader == "checkpoint" else Path(f"{saved}.sha256"), CheckpointError
        read = lambda: load_checkpoint(saved)  # noqa: E731
    put(path, kind)
    with pytest.raises(error, match="at most" if kind == "huge" else "not a regular file"):
        read()


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"1234")
    assert read_bounded(tmp_path / "file", 4) == b"1234"
    with pytest.raises(OSError, match="4 bytes, where at most 3"):
        read_bounded(tmp_path / "file", 3)


@pytest.mark.parametrize("name", ["resnet2006", "plain99998", "resnet2009_bottleneck", "resnet99998"])
def test_a_depth_that_would_take_minutes_is_refused_everywhere(tmp_path, cli, model, name):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"network": name}))
    config = json.loads((model / "config.json").read_text())
    shortcut = None if name.startswith("plain") else "A"
    (model / "config.json").write_text(json.dumps({**config, "network": name, "shortcut": shortcut}))
    commands = {
        ("info", name): 2,
        ("train", name, "--output", tmp_path / "run"): 2,
        ("train", "resnet8", "--set", f"network={name}", "--output", tmp_path / "run"): 2,
        ("evaluate", model): 4,
    }
    for command, expected in commands.items():
        code, out, err = cli(*command)
        assert (code, out, err.count("\n")) == (expected, "", 1)
        assert "more than 2,000 layers" in err
    with pytest.raises(UsageError, match="more than 2,000 layers"):
        load_recipe(path)
    assert not (tmp_path / "run").exists()


def test_the_deepest_names():
    for name in ("resnet1202", "resnet2000", "plain2000", "resnet2000_bottleneck"):
        assert str(parse_name(name)) == name


@pytest.mark.parametrize("classes", [MAX_CLASSES + 1, 10**9, 0, -1])
def test_a_number_of_classes_that_no_data_has(classes):
    with pytest.raises(UsageError, match="num_classes must be at least 1 and at most 100,000"):
        residual.create_model("resnet8", num_classes=classes)


PREPROCESSING = Preprocessing((32, 32), Normalization.of_channels([0.5] * 3, [0.25] * 3)).as_dict()


def with_value(config: dict, key: str, value: object) -> str:
    if key in ("input_size", "normalization"):
        config = config_of_format_1(config)
    return json.dumps({**config, key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("class_names", "abcdefghij"),
        ("class_names", {"a": 1}),
        ("class_names", list(range(10))),
        ("class_names", ["a"] * (MAX_CLASSES + 1)),
        ("class_names", ["a" * 1001] * 10),
        ("data", ["cifar10"]),
        ("recipe", None),
        ("shortcut", {"A": 1}),
        ("variant", ["v1"]),
        ("variant", "v1"),  # a resnet8 has none
        ("in_channels", 0),
        ("in_channels", 10**9),
        ("in_channels", True),
        ("in_channels", "3"),
        ("input_size", [3, 32]),
        ("input_size", [1, 32, 32]),
        ("input_size", [3, 32, 10**9]),
        ("input_size", [3, 32, 0]),
        ("input_size", [3, 32.0, "32"]),
        ("input_size", "332"),
        ("format", 0),
        ("format", "2"),
        ("format", True),
        ("preprocessing", None),
        ("preprocessing", [1, 2]),
        ("preprocessing", {"image_size": [32, 32]}),
        ("preprocessing", {**PREPROCESSING, "image_size": [32]}),
        ("preprocessing", {**PREPROCESSING, "image_size": [32, 10**9]}),
        ("preprocessing", {**PREPROCESSING, "image_size": [32, 0]}),
        ("preprocessing", {**PREPROCESSING, "image_size": "32"}),
        ("preprocessing", {**PREPROCESSING, "resize": 31}),
        ("preprocessing", {**PREPROCESSING, "resize": 10**9}),
        ("preprocessing", {**PREPROCESSING, "resize": 32.0}),
        ("preprocessing", {**PREPROCESSING, "resize": 40, "fit": "pad"}),
        ("preprocessing", {**PREPROCESSING, "fit": "stretch"}),
        ("preprocessing", {**PREPROCESSING, "fit": ["crop"]}),
        ("preprocessing", {**PREPROCESSING, "interpolation": "nearest"}),
        ("preprocessing", {**PREPROCESSING, "mean": [[[1.0] * 3] * 31] * 32}),
        ("preprocessing", {**PREPROCESSING, "std": [1.0, -1.0, 1.0]}),
        ("normalization", {"mean": [1.0, float("nan"), 1.0], "std": [1.0, 1.0, 1.0]}),
        ("normalization", {"mean": [1.0, 1.0, 1.0], "std": [1.0, 0.0, 1.0]}),
        ("normalization", {"mean": [1.0, 1.0, 1.0], "std": [1.0, float("inf"), 1.0]}),
        ("normalization", {"mean": [[[1.0] * 3] * 31] * 32, "std": [1.0, 1.0, 1.0]}),
        ("normalization", {"mean": [10**400, 1, 1], "std": [1.0, 1.0, 1.0]}),
        ("normalization", {"mean": [True, [1], "x"], "std": [1.0, 1.0, 1.0]}),
    ],
)
def test_a_config_whose_values_do_not_fit(cli, model, key, value):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(with_value(config, key, value))
    code, out, err = cli("evaluate", model)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "config.json" in err
    assert len(err) < 1000


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, " " * (files.MAX_CONFIG + 1)])
def test_a_config_that_is_too_deep_or_too_long(cli, model, text):
    (model / "config.json").write_text(text)
    code, out, err = cli("evaluate", model)
    assert (code, out, err.count("\n")) == (4, "", 1)


def test_class_names_as_one_huge_text_are_not_taken_apart(cli, model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(with_value(config, "class_names", "a" * 20_000_000))
    code, _, err = cli("evaluate", model)
    assert code == 4
    assert "at most" in err


def test_a_recipe_is_read_up_to_its_limit(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("#" * (recipe.MAX_FILE + 1))
    with pytest.raises(UsageError, match="at most"):
        load_recipe(path)


def odd_tensor(kind: str) -> torch.Tensor:
    plain = torch.zeros(16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes and deprecations
        return {
            "expanded": lambda: torch.zeros(1).expand(10**9),
            "sparse": plain.to_sparse,
            "compressed rows": plain.reshape(4, 4).to_sparse_csr,
            "nested": lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
            "quantized": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.quint8),
            "meta": lambda: plain.to("meta"),
            "complex": lambda: plain.to(torch.complex64),
        }[kind]()


ODD = ["expanded", "sparse", "compressed rows", "nested", "quantized", "meta", "complex"]


@pytest.mark.filterwarnings("ignore")  # torch's, of prototypes and deprecations
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("key", ["fc.bias", "bn1.running_mean", "unused"])
def test_tensors_that_are_not_plain_are_not_imported(tmp_path, cli, kind, key):
    state = {**residual.create_model("resnet8").state_dict(), key: odd_tensor(kind)}
    torch.save({"state_dict": state}, tmp_path / "file.pt")
    options = ("--mean", 0.5, 0.5, 0.5, "--std", 0.25, 0.25, 0.25, "--output", tmp_path / "out")
    code, out, err = cli("import", tmp_path / "file.pt", "--model", "resnet8", *options)
    assert (code, out, err.count("\n")) == (4, "", 1)
    said = {"expanded": "more elements than the file", "quantized": "holds a quantised network"}
    assert said.get(kind, "not dense, real") in err
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ODD)
def test_tensors_that_are_not_plain_are_no_checkpoint(tmp_path, kind):
    path = save_checkpoint(tmp_path, "last", 1, {"optimizer": {"state": [{0: (odd_tensor(kind),)}]}})
    with pytest.raises(CheckpointError, match="refused"):
        load_checkpoint(path)


def test_a_format_that_is_a_tensor(tmp_path):
    path = save_checkpoint(tmp_path, "last", 1, {})
    torch.save({"format": torch.ones(2)}, path)
    Path(f"{path}.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(CheckpointError, match="has format"):
        load_checkpoint(path)


def test_whole_numbers_are_no_weights(model):
    state = load_file(model / "model.safetensors")
    save_file({**state, "fc.bias": torch.zeros(10, dtype=torch.int64)}, model / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"of another type: fc\.bias"):
        load_model(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_of_any_width_is(model, dtype):
    state = {key: value.to(dtype) for key, value in load_file(model / "model.safetensors").items()}
    save_file(state, model / "model.safetensors")
    config = json.loads((model / "config.json").read_text())
    digest = hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()
    (model / "config.json").write_text(with_value(config, "weights_sha256", digest))
    assert load_model(model).fc.bias.dtype == torch.float32


def by_hand(values: object, compression: int, pickled: bytes | None = None) -> bytes:
    """Write what `torch.save` writes, with another compression or another pickle."""
    saved, changed = io.BytesIO(), io.BytesIO()
    torch.save(values, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(changed, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, pickled if pickled and name.endswith("data.pkl") else old.read(name))
    return changed.getvalue()


def test_what_grows_when_it_is_read_is_refused():
    zeros = {"w": torch.zeros(1000, 1000)}
    assert torch.equal(load_pickle(Path("file"), by_hand(zeros, zipfile.ZIP_STORED))["w"], zeros["w"])
    compressed = by_hand(zeros, zipfile.ZIP_DEFLATED)
    assert len(compressed) < 100_000
    with pytest.raises(CheckpointError, match="compressed"):
        load_pickle(Path("file"), compressed)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_byte_array_of_any_length_is_refused(zipped):
    pickled = b"\x80\x02}X\x01\x00\x00\x00wcbuiltins\nbytearray\nJ\x00\x00\x00\x01\x85Rs."
    assert len(pickle.loads(pickled)["w"]) == 2**24
    content = by_hand({"w": torch.zeros(2)}, zipfile.ZIP_STORED, pickled) if zipped else pickled
    with pytest.raises(CheckpointError, match="byte arrays"):
        load_pickle(Path("file"), content)


def test_containers_that_hold_themselves_end():
    inner: list[object] = [torch.zeros(1)]
    deep: object = inner
    for _ in range(5000):
        deep = [deep]
    inner.append(inner)
    found = list(unpickle._tensors({"a": inner, "b": deep, "c": (inner,) * 1000}))
    assert len(found) == 1


def test_figures_of_a_model_that_cannot_be_read_are_not_known(model):
    for text in ("[" * 100_000, "[1]", '{"error": 1, "images": 1e999}', '{"error": 1%s}' % (400 * "0"), "{}"):
        (model / "result.json").write_text(text)
        assert model_facts(model).error is None


def test_names_of_loggers_that_cannot_be_read_are_left_out(tmp_path):
    for text in ("[" * 100_000, "[1]", '{"wandb": 5}', ""):
        (tmp_path / "loggers.json").write_text(text)
        assert Tracker(Run(tmp_path), (), Reporter(False))._ids() == {}
