"""Models pushed to a local stand-in of the hub, and loaded back by name."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

import residual
from conftest import use_hub
from hub import NAME, Hub, account
from residual.errors import CheckpointError, RunError, UsageError
from residual.zoo.model_folder import load_model
from small_models import NAMES, small_model

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # of huggingface_hub
pytest.importorskip("huggingface_hub")


@pytest.fixture
def stand_in(monkeypatch, tmp_path) -> Iterator[Hub]:
    """An account without a repository."""
    with account(monkeypatch, tmp_path) as served:
        yield served


@pytest.fixture
def model(tmp_path) -> Path:
    return small_model(tmp_path / "model", size=(24, 40), fit="pad", temperature=1.7)


def test_what_is_pushed_loads_back_by_name(stand_in, model, cli, tmp_path):
    code, out, err = cli("push", model, "someone/net")
    assert code == 0, err
    assert out.splitlines()[0].startswith("pushed  http://127.0.0.1:")
    assert out.splitlines()[0].endswith("/someone/net")
    assert "predict hf-hub:someone/net IMAGE" in out.splitlines()[1]
    assert stand_in.files.keys() == {"config.json", "model.safetensors", "README.md"}
    assert len(stand_in.commits) == 1
    assert not stand_in.private
    ours, theirs = load_model(model), residual.create_model(NAME)
    assert theirs.config.as_dict() == ours.config.as_dict()
    assert (theirs.config.class_names, theirs.config.temperature) == (NAMES, 1.7)
    images = torch.randn(3, 3, 24, 40)
    with torch.no_grad():
        assert torch.equal(theirs(images), ours(images))
        assert torch.equal(residual.load_model(NAME)(images), ours(images))
    assert residual.Classifier(NAME).class_names == NAMES
    card = stand_in.files["README.md"].decode()
    assert "residual predict hf-hub:someone/net photo.jpg" in card
    code, out, _ = cli("export", NAME, "--format", "safetensors", "--output", tmp_path / "net.safetensors")
    assert code == 0, "commands take the name too"
    code, out, err = cli("push", model, "someone/net", "--json", "--quiet")
    assert (code, err, json.loads(out)["model"]) == (0, "", "hf-hub:someone/net")


def test_a_run_is_pushed_with_its_figures(stand_in, tmp_path):
    run = tmp_path / "run"
    small_model(run / "model")
    (run / "recipe.json").write_text("{}")
    figures = {"error": 8.25, "images": 400, "error_interval": [5.9, 11.4], "top5_error": 1.5}
    (run / "result.json").write_text(json.dumps(figures))
    assert residual.push(run, "someone/net", private=True).endswith("/someone/net")
    assert stand_in.private
    front = yaml.safe_load(stand_in.files["README.md"].decode().split("---\n")[1])
    (entry,) = front["model-index"]
    values = {metric["type"]: metric["value"] for metric in entry["results"][0]["metrics"]}
    assert values == {"accuracy": 0.9175, "error": 8.25, "top_5_accuracy": 0.985}
    residual.push(run / "model", "someone/net")
    assert len(stand_in.commits) == 2, "another commit in the same repository"


def test_a_network_in_memory_and_a_pretrained_one(stand_in, monkeypatch, tmp_path):
    network = residual.create_model("resnet20", pretrained=True, num_classes=3)
    residual.push(network, "someone/net")
    assert residual.create_model(NAME).config.class_names == ("0", "1", "2")
    residual.push("resnet20", "someone/net")
    front = yaml.safe_load(stand_in.files["README.md"].decode().split("---\n")[1])
    assert (front["license"], front["datasets"]) == ("mit", ["uoft-cs/cifar10"])
    with pytest.raises(CheckpointError, match="not from a model folder"):
        residual.push(residual.create_model("resnet8"), "someone/net")


def test_a_card_that_was_edited_is_kept_and_an_early_one_is_written_anew(stand_in, model):
    (model / "README.md").write_text("---\nlicense: mit\n---\nMine: MODEL_FOLDER\n")
    residual.push(model, "someone/net")
    assert stand_in.files["README.md"].decode().endswith("\nMine: hf-hub:someone/net\n")
    (model / "README.md").write_text("---\nlibrary_name: residual\n---\n\n    residual evaluate FOLDER\n")
    residual.push(model, "someone/net")
    assert "residual serve hf-hub:someone/net" in stand_in.files["README.md"].decode()


def refused(kind: type[Exception], model: Path, name: str = "someone/net", **options: bool) -> str:
    with pytest.raises(kind) as caught:
        residual.push(model, name, **options)
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize("name", ["net", "hf-hub:someone/net", "a/b/c", "../b", "a b/c", "", "a/b--c"])
def test_names_of_another_form(stand_in, model, name):
    assert refused(UsageError, model, name).startswith(f"'{name}' is no name for a model on the hub")


def test_without_a_token_or_with_another(stand_in, model, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert refused(RunError, model).startswith("cannot push to someone/net: the hub does not know the token")
    monkeypatch.delenv("HF_TOKEN")
    assert refused(UsageError, model) == (
        "pushing to someone/net needs a token of the hub: log in with `hf auth login`, or set HF_TOKEN"
    )
    assert not stand_in.exists


def test_where_one_may_not_write(stand_in, model):
    assert "the token may not write there" in refused(RunError, model, "google/net")


def test_a_public_repository_is_not_taken_for_a_private_one(stand_in, model):
    stand_in.exists = True
    assert "exists and is public" in refused(UsageError, model, private=True)
    assert not stand_in.files


def test_without_a_connection(stand_in, model, monkeypatch):
    use_hub(monkeypatch, "http://127.0.0.1:1")
    assert refused(RunError, model).startswith("cannot push to someone/net: ConnectError: ")


def test_a_hub_with_a_fault(stand_in, model):
    stand_in.error = (500, "")
    assert refused(RunError, model).startswith("cannot push to someone/net: HfHubHTTPError: ")


def test_a_damaged_model_is_not_pushed(stand_in, model):
    content = bytearray((model / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (model / "model.safetensors").write_bytes(content)
    assert "is altered" in refused(CheckpointError, model)
    shutil.rmtree(model)
    assert "is not a run folder, a model folder" in refused(UsageError, model)
    assert not stand_in.exists


def test_without_huggingface_hub(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert refused(UsageError, model) == (
        "pushing needs huggingface_hub: pip install -c constraints.txt -e '.[hub]'"
    )


def test_a_model_of_another_project_is_named(stand_in, model, monkeypatch):
    stand_in.exists, stand_in.files = (
        True,
        {
            "config.json": json.dumps({"architecture": "resnet18"}).encode(),
            "model.safetensors": b"",
        },
    )
    with pytest.raises(UsageError, match="holds a model of another project: convert it by 'residual import"):
        residual.load_model(NAME)
