"""Models of the Hugging Face Hub, fetched from a local stand-in."""

import importlib
import json
import re
import sys
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import save

import residual
from conftest import use_hub
from hub import COMMIT, NAME, Hub, serving
from residual.errors import CheckpointError, UsageError
from residual.models.build import build_model
from residual.runtime.extras import how_to_install
from residual.training import starting_weights
from residual.training.run_folder import Run
from residual.zoo import hub as fetching
from residual.zoo.model_folder import load_model

constants = pytest.importorskip("huggingface_hub.constants")

TIMM = {
    "architecture": "resnet18",
    "label_names": ["cat", "dog"],
    "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 0.8},
}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return build_model("resnet18", num_classes=2).state_dict()


@pytest.fixture
def stand_in(monkeypatch, tmp_path, state) -> Iterator[Hub]:
    files = {"config.json": json.dumps(TIMM).encode(), "model.safetensors": save(state)}
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    served = Hub(files)
    with serving(served) as endpoint:
        use_hub(monkeypatch, endpoint)
        yield served


def away(monkeypatch) -> None:
    """Nothing answers any more."""
    use_hub(monkeypatch, "http://127.0.0.1:1")


def test_a_model_of_timm(stand_in, state, monkeypatch):
    network = residual.create_model(NAME)
    assert (network.config.network, network.config.class_names) == ("resnet18", ("cat", "dog"))
    assert network.config.preprocessing.resize == 80
    assert torch.equal(network.fc.weight, state["fc.weight"])
    assert {line for line in stand_in.asked if line.startswith("GET")} == {
        "GET config.json",
        "GET model.safetensors",
    }
    away(monkeypatch)  # the cache serves
    assert torch.equal(residual.create_model(NAME).fc.weight, state["fc.weight"])
    assert residual.create_model(NAME, num_classes=5).fc.out_features == 5


def test_the_command(stand_in, tmp_path, cli):
    code, out, _ = cli("import", NAME, "--output", tmp_path / "net")
    assert (code, out.splitlines()[0]) == (0, f"resnet18 from timm: {tmp_path / 'net'}")
    assert f"| imported from | `{NAME}` |" in (tmp_path / "net" / "README.md").read_text()
    assert load_model(tmp_path / "net").config.class_names == ("cat", "dog")


def test_our_own_model_folders(stand_in, tmp_path):
    torch.save(build_model("resnet8", shortcut="B").state_dict(), tmp_path / "cifar10_resnet8.pt")
    residual.import_checkpoint(tmp_path / "cifar10_resnet8.pt", output=tmp_path / "ours")
    stand_in.files = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    assert residual.create_model(NAME).config.recipe == "chenyaofo/pytorch-cifar-models"
    with pytest.raises(UsageError, match="is a model folder of residual"):
        residual.create_model(NAME, variant="v1")


def test_pickles_only_where_there_is_no_safetensors(stand_in, tmp_path, state):
    torch.save(state, tmp_path / "file")
    stand_in.files["pytorch_model.bin"] = (tmp_path / "file").read_bytes()
    residual.create_model(NAME)
    assert not any("bin" in line for line in stand_in.asked)
    del stand_in.files["model.safetensors"]
    assert torch.equal(residual.create_model(f"{NAME}@{COMMIT}").fc.weight, state["fc.weight"])


def said(name: str = NAME) -> str:
    with pytest.raises(CheckpointError) as caught:
        fetching.fetch(name)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("name", "error", "line"),
    [
        ("hf-hub:someone/nothing", None, "hf-hub:someone/nothing is not on the hub, or is private"),
        (f"{NAME}@v9", None, f"{NAME}@v9 has no revision 'v9'"),
        (NAME, (403, "GatedRepo"), f"{NAME} is gated: accept its terms"),
        (NAME, (401, "RepoNotFound"), f"{NAME} is not on the hub, or is private"),
        (NAME, (500, ""), f"{NAME} is not in the cache, and the hub does not answer: HfHubHTTPError"),
    ],
)
def test_what_the_hub_refuses(stand_in, name, error, line):
    stand_in.error = error
    assert said(name).startswith(line)


def test_without_a_connection(stand_in, monkeypatch):
    away(monkeypatch)
    assert said().startswith(f"{NAME} is not in the cache, and the hub does not answer: ConnectError")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert said().startswith(f"{NAME} is not in the cache, and the hub does not answer: OfflineMode")


def test_a_repository_without_weights(stand_in):
    del stand_in.files["model.safetensors"]
    assert said() == f"{NAME} has neither model.safetensors nor pytorch_model.bin"


def test_files_that_are_too_large(stand_in):
    stand_in.claimed = {"model.safetensors": 2**40}
    assert "model.safetensors of hf-hub:someone/net has 1,099,511,627,776 bytes, where at most" in said()
    assert not any(line.startswith("GET") for line in stand_in.asked)


def test_a_file_that_ends_early(stand_in):
    stand_in.short = True
    assert said().startswith(f"cannot fetch model.safetensors of {NAME}: ")


def test_a_cached_file_that_was_altered(stand_in, monkeypatch):
    path = fetching.fetch(NAME) / "model.safetensors"
    blob = path.resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert "is cut or altered, by its digest: delete" in said()
    away(monkeypatch)
    assert "is cut or altered, by its digest: delete" in said()
    blob.write_bytes(content[:1000])
    assert "is cut or altered, by its digest: delete" in said()


@pytest.mark.parametrize("name", ["", "net", "a/b/c", "../b", "a/..", "a b/c", "a/b@", "a/b@x y", "-/"])
def test_names_of_another_form(name):
    with pytest.raises(UsageError, match="hf-hub:USER/NAME"):
        residual.create_model(f"hf-hub:{name}")


def test_quiet_hides_the_bars_of_the_hub(stand_in, cli, tmp_path):
    code, out, err = cli("import", NAME, "--output", tmp_path / "model", "--quiet", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["config"]["network"] == "resnet18"
    bars = importlib.import_module("huggingface_hub.utils")
    assert bars.are_progress_bars_disabled(), "a terminal shows none either"
    bars.enable_progress_bars()


def test_without_huggingface_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=re.escape(f"needs huggingface_hub: {how_to_install('hub')}")):
        residual.create_model(NAME)


def test_a_hub_name_and_weights(tmp_path):
    with pytest.raises(UsageError, match="has weights of its own"):
        residual.create_model(NAME, weights=tmp_path)


def test_weights_by_name_are_found_on_the_hub_or_in_the_cache(stand_in, monkeypatch):
    monkeypatch.setitem(starting_weights.IMAGENET_WEIGHTS, "resnet18", NAME)
    recipe = residual.get_recipe("finetune", "resnet18")
    assert starting_weights.find_imagenet_weights(recipe) == (NAME, f"ImageNet weights {NAME}")
    away(monkeypatch)
    assert starting_weights.find_imagenet_weights(recipe)[0] == NAME
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    name, why = starting_weights.find_imagenet_weights(recipe)
    assert (name, why.endswith(f"needs huggingface_hub: {how_to_install('hub')}")) == (None, True)


@pytest.mark.parametrize("fault", ["silent", "restricted", "cut", "other"])
def test_weights_that_cannot_be_fetched_do_not_fail_the_run(stand_in, state, monkeypatch, fault):
    monkeypatch.setitem(starting_weights.IMAGENET_WEIGHTS, "resnet18", NAME)
    monkeypatch.setattr(starting_weights, "HUB_SECONDS", 0.1)
    if fault == "silent":
        stand_in.seconds = 0.5
    elif fault == "restricted":
        stand_in.error = (403, "GatedRepo")
    elif fault == "cut":
        stand_in.short = True
    else:
        stand_in.files["model.safetensors"] = save({"fc.weight": state["fc.weight"]})
    name, why = starting_weights.find_imagenet_weights(residual.get_recipe("finetune", "resnet18"))
    assert name is None
    assert "\n" not in why
    if fault == "silent":
        assert len(stand_in.asked) == 1, "a hub that does not answer is asked once"


def test_the_command_finetunes_from_the_hub(stand_in, photographs, tmp_path, monkeypatch, cli):
    monkeypatch.setitem(starting_weights.IMAGENET_WEIGHTS, "resnet18", NAME)
    options = ["--image-size", 32, "--set", "stop_after=1", "--workers", 0, "--output", tmp_path / "run"]
    code, _, err = cli("train", "resnet18", "--data", photographs, *options)
    assert code == 0, err
    recipe = Run.open(tmp_path / "run").recipe
    assert (recipe.name, recipe.weights, recipe.optimizer.body_rate) == ("finetune", NAME, 0.01)
    assert "\nbase_model: someone/net\n" in (tmp_path / "run/model/README.md").read_text()
    assert f"note: starting from ImageNet weights {NAME} (recipe finetune)\n" in err
    assert "all but 2 of the last layer's 3 classes" in err, "cat is one of the model's"
