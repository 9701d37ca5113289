"""The flags that people expect, keys by other names, where models and data are found."""

import json
import subprocess
import sys

import pytest

import residual
from residual.data import cifar
from residual.training.run_folder import Run
from residual.zoo.pretrained import find_model

SHORT = ("train", "resnet8", "--data", "digits", "--json")


def test_flags_set_their_keys(cli, tmp_path):
    flags = ("--epochs", 0.05, "--batch-size", 8, "--lr", 0.02, "--precision", "float32", "--validation", 37)
    code, out, err = cli(*SHORT, *flags, "--output", tmp_path / "run")
    assert code == 0, err
    recipe = Run.open(tmp_path / "run").recipe
    assert (recipe.batch_size, recipe.optimizer.learning_rate, recipe.validation) == (8, 0.02, 37)
    assert recipe.iterations == json.loads(out)["iterations"] == round(0.05 * (1437 - 37) / 8)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--epochs", 1, "--iterations", 5), "give one of them"),
        (("--epochs", 0), "--epochs must be above 0"),
        (("--jobs", 2), "--jobs goes with --seeds"),
        (("--seeds", 2), "--output FOLDER"),
        (("--set", "lr=0.1"), "did you mean 'optimizer.learning_rate'?"),
        (("--set", "muon=0.1"), "did you mean 'optimizer.muon'?"),
        (("--set", "batchsize=1"), "did you mean 'batch_size'?"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_do(cli, flags, words):
    code, out, err = cli(*SHORT, *flags)
    assert (code, out) == (2, "")
    assert words in err


@pytest.mark.slow
def test_several_seeds_as_json_with_each_ones_progress(tmp_path):
    more = map(str, ("--iterations", 4, "--seeds", 2, "--output", tmp_path))
    command = [sys.executable, "-m", "residual", *SHORT, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [figures["seed"] for figures in json.loads(done.stdout)] == [0, 1]
    command.remove("--json")
    for folder in tmp_path.iterdir():
        (folder / "result.json").unlink()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{tmp_path / 'resnet8-seed1'}: done" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("test error ")
    for seed in range(2):
        assert f"resnet8-seed{seed}: run folder" in done.stderr


def test_an_empty_folder_does_not_hide_a_pretrained_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resnet20").mkdir()
    assert find_model("resnet20").name == "resnet20"
    assert (find_model("resnet20") / "measured.json").is_file()
    (tmp_path / "resnet20" / "config.json").write_text("{}")
    assert not (find_model("resnet20") / "measured.json").exists(), "a model of one's own goes before it"


@pytest.mark.parametrize("where", ["RESIDUAL_DATA", "cache"])
def test_a_resume_finds_its_data_wherever_it_came_from(tmp_path, fake_cifar10, monkeypatch, where):
    home = tmp_path / "home"
    if where == "cache":
        monkeypatch.delenv("RESIDUAL_DATA")
        monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    else:
        monkeypatch.setenv("RESIDUAL_DATA", str(home / "residual"))
    fake_cifar10.put_folder(home / "residual")
    recipe = residual.get_recipe("paper", "resnet8").replace({"iterations": 2, "batch_size": 8})
    residual.train(recipe, output=tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    monkeypatch.setenv("RESIDUAL_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.setattr(cifar, "RELEASES", {**cifar.RELEASES, "cifar10": fake_cifar10.release})
    assert residual.resume(tmp_path / "run").figures["data"] == "cifar10"
