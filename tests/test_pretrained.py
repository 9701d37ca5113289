"""Pretrained models: their stated errors, what publishing refuses, names on the command line."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

import residual
from residual.errors import RunError, UsageError
from residual.recipes.catalog import get_recipe, recipe_label
from residual.recipes.schema import from_dict
from residual.training.run_folder import Run
from residual.zoo import pretrained

ROOT = Path(__file__).parent.parent
SCRIPT = importlib.util.spec_from_file_location("publish", ROOT / "scripts" / "publish.py")
publishing = importlib.util.module_from_spec(SCRIPT)
SCRIPT.loader.exec_module(publishing)
publish = publishing.publish
NAMES = residual.list_pretrained()


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A short run on digits, which publishing takes for CIFAR-10's in these tests."""
    path = tmp_path_factory.mktemp("runs") / "run"
    recipe = get_recipe("demo", "resnet8").replace({"iterations": 30, "checkpoint_every": 30})
    residual.train(recipe, output=path)
    return path


@pytest.fixture
def shelf(tmp_path, monkeypatch, digits_run):
    """An empty shelf of weights, and a resnet8 that may be put there."""
    monkeypatch.setattr(pretrained, "WEIGHTS", tmp_path / "weights")
    monkeypatch.setattr(publishing, "CIFAR_RECIPES", ("demo, iterations=30",))
    monkeypatch.setitem(publishing.HEADLINES, "resnet8", 95.0)
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


def test_the_models_that_the_readme_names_are_pretrained():
    text = (ROOT / "README.md").read_text()
    named = re.findall(r'create_model\("(\w+)", pretrained=True\)', text)
    assert named
    assert set(named) <= set(NAMES)


@pytest.mark.parametrize(
    "name", [name if name == "resnet20" else pytest.param(name, marks=pytest.mark.slow) for name in NAMES]
)
def test_each_has_the_error_that_is_stated(name, cifar10_root, cli):
    code, out, _ = cli("evaluate", name, "--data-dir", cifar10_root, "--device", "cpu", "--json")
    assert code == 0
    stated = pretrained.measured(name)
    assert json.loads(out)["images"] == stated["images"] == 10_000
    assert json.loads(out)["error"] == pytest.approx(stated["error"], abs=0.02), "other CPUs round otherwise"


@pytest.mark.parametrize("name", NAMES)
def test_each_is_small_and_says_how_it_came_about(name):
    folder = pretrained.WEIGHTS / name
    stated = pretrained.measured(name)
    assert (folder / "model.safetensors").stat().st_size < 2.2 * stated["parameters"] + 50_000
    assert f"{stated['error']:.2f} %" in (folder / "README.md").read_text()
    assert stated["seed"] == 0
    assert stated["recipe"] == recipe_label(from_dict(stated["recipe_in_full"])), (
        "a recipe's name means another now"
    )
    assert stated["error"] <= publishing.aim(name)


def test_all_weights_together_are_under_10_megabytes():
    files = [path for path in pretrained.WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6


def test_publishing_stores_half_precision_and_what_it_then_measures(shelf, digits_run, cli):
    folder = publish(Run.open(digits_run), weights=shelf)
    stored = residual.create_model("resnet8", pretrained=True)
    trained = residual.load_model(digits_run)
    for key, value in trained.state_dict().items():
        assert torch.equal(stored.state_dict()[key], value.half().float()) or key.endswith("tracked"), key
    assert not stored.training
    assert stored.config.class_names == trained.config.class_names
    stated = pretrained.measured("resnet8")
    assert stated["error"] == residual.evaluate(stored).error == residual.evaluate("resnet8").error
    assert str(digits_run) not in json.dumps(stated)
    code, out, _ = cli("models", "--pretrained")
    assert code == 0
    assert f"{stated['error']:.2f} %" in out
    assert json.loads(cli("models", "--pretrained", "--json")[1])[0]["name"] == "resnet8"
    assert folder == shelf / "resnet8"


def test_publishing_refuses_what_did_not_reach_its_aim(shelf, digits_run, monkeypatch):
    monkeypatch.setitem(publishing.HEADLINES, "resnet8", 0.01)
    with pytest.raises(RunError, match=r"above 0\.01 %"):
        publish(Run.open(digits_run), weights=shelf)
    assert not list(shelf.iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"validation": 9},
        {"iterations": 99},
        {"data": "cifar10"},
        {"batch_size": 65},
        {"shortcut": "B"},
    ],
)
def test_publishing_refuses_other_runs(shelf, digits_run, tmp_path, change):
    shutil.copytree(digits_run, tmp_path / "run")
    path = tmp_path / "run" / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "stop_after": 30, **change}))
    with pytest.raises(RunError, match="not published"):
        publish(Run.open(tmp_path / "run"), weights=shelf)
    assert not list(shelf.iterdir())


def test_publishing_refuses_a_second_one_and_a_network_without_an_aim(shelf, digits_run, monkeypatch):
    publish(Run.open(digits_run), weights=shelf)
    with pytest.raises(RunError, match="published already"):
        publish(Run.open(digits_run), weights=shelf)
    monkeypatch.delitem(publishing.HEADLINES, "resnet8")
    with pytest.raises(RunError, match="no error is set"):
        publish(Run.open(digits_run), weights=shelf)


def test_a_folder_that_is_not_whole_does_not_count(shelf, digits_run):
    publish(Run.open(digits_run), weights=shelf)
    (shelf / "resnet8" / "measured.json").unlink()
    assert residual.list_pretrained() == []
    with pytest.raises(UsageError, match="pretrained models: none"):
        pretrained.find_model("resnet8")


def test_a_name_that_is_not_pretrained_is_refused_with_those_that_are(shelf, digits_run, cli):
    publish(Run.open(digits_run), weights=shelf)
    with pytest.raises(UsageError, match="pretrained models: resnet8"):
        residual.create_model("resnet14", pretrained=True)
    with pytest.raises(UsageError, match="option A, not B"):
        residual.create_model("resnet8", pretrained=True, shortcut="B")
    code, _, err = cli("evaluate", "resnet14")
    assert code == 2
    assert "pretrained models: resnet8" in err


def test_a_folder_goes_before_a_name(shelf, digits_run, tmp_path, monkeypatch):
    publish(Run.open(digits_run), weights=shelf)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits_run, tmp_path / "resnet8")
    assert pretrained.find_model("resnet8").resolve() == tmp_path / "resnet8"


def test_other_classes_get_a_fresh_last_layer(shelf, digits_run):
    publish(Run.open(digits_run), weights=shelf)
    whole = residual.create_model("resnet8", pretrained=True)
    other = residual.create_model("resnet8", pretrained=True, num_classes=3)
    assert other.fc.weight.shape == (3, 64)
    assert torch.equal(other.layer3[0].conv1.weight, whole.layer3[0].conv1.weight)
    assert len(other.config.class_names) == 3
    assert other.config.normalization is not None


def test_the_script_says_how_it_is_used_and_why_it_refuses(monkeypatch, tmp_path):
    for arguments, word in (([], "RUN_FOLDER"), ([str(tmp_path)], str(tmp_path))):
        monkeypatch.setattr("sys.argv", ["publish.py", *arguments])
        with pytest.raises(SystemExit, match=re.escape(word)):
            publishing.main()
