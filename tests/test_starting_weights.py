"""The weights that a run starts from: what is taken over, what a resume needs, what is refused."""

import json
import shutil
import signal

import pytest
import torch

import residual
from conftest import comparable
from residual import get_recipe
from residual.errors import CheckpointError, InterruptedRunError, RunError, UsageError
from residual.models.build import build_model
from residual.training.checkpoint import load_checkpoint
from residual.training.prepare import prepare
from residual.training.run_folder import Run
from residual.training.starting_weights import find_imagenet_weights

TINY = {"iterations": 6, "image_size": 32, "test_size": 32, "test_resize": 36, "batch_size": 4}
TINY |= {"optimizer.frozen": 2, "checkpoint_every": 100}


def recipe(network="resnet8", **changes):
    return get_recipe("finetune", network).replace({**TINY, **changes})


@pytest.fixture(scope="module")
def source(photographs, tmp_path_factory):
    """A run on two of the classes, whose mean is measured, and so its own."""
    folder = tmp_path_factory.mktemp("source")
    for part in ("train", "val"):
        for name in ("cat", "ant"):
            shutil.copytree(photographs / part / name, folder / "two" / part / name)
    scratch = get_recipe("scratch", "resnet8").replace(
        {**TINY, "normalization": "measured", "augment.early_size": 0}
    )
    residual.train(scratch, data_dir=folder / "two", output=folder / "run", workers=0, quiet=True)
    return folder / "run"


def test_rows_of_known_classes_and_the_normalization_are_taken_over(photographs, source):
    old = residual.load_model(source)
    assert old.config.class_names == ("ant", "cat")
    prepared = prepare(recipe(weights=str(source)), data_dir=photographs)
    new = prepared.network.state_dict()
    fresh = prepare(recipe(), data_dir=photographs).network.state_dict()
    for key in ("fc.weight", "fc.bias"):
        given = old.state_dict()[key]
        assert torch.equal(new[key][0], given[0])
        assert torch.equal(new[key][1], fresh[key][1]), "bee is new, and follows from the seed"
        assert torch.equal(new[key][2], given[1])
    body = [key for key in new if not key.startswith("fc.") and "batches" not in key]
    assert all(torch.equal(new[key], old.state_dict()[key]) for key in body)
    mean = old.config.normalization.of_any_size().mean
    assert torch.equal(prepared.data.preprocessing.normalization.mean, mean)
    assert not torch.equal(
        mean, prepare(recipe(), data_dir=photographs).data.preprocessing.normalization.mean
    )


def test_a_resume_needs_no_weights_but_one_without_a_checkpoint_does(photographs, source, tmp_path, stop_at):
    shutil.copytree(source, tmp_path / "source")
    own = recipe(weights=str(tmp_path / "source"))
    residual.train(own, data_dir=photographs, output=tmp_path / "whole", workers=0)
    restore = stop_at(1, lambda _: signal.raise_signal(signal.SIGTERM))
    for name in ("cut", "bare"):
        with pytest.raises(InterruptedRunError):
            residual.train(own, data_dir=photographs, output=tmp_path / name, workers=0)
    restore()
    first = load_checkpoint(tmp_path / "cut" / "checkpoints" / "last-00000000.pt")
    key = "layer1.0.conv1.weight"
    assert torch.equal(first["network"][key], residual.load_model(source).state_dict()[key])
    (tmp_path / "cut" / "checkpoints" / "last-00000001.pt").unlink()
    shutil.rmtree(tmp_path / "source")
    residual.resume(tmp_path / "cut", workers=0)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")
    normalization = residual.load_model(tmp_path / "cut").config.normalization
    assert torch.equal(normalization.std, residual.load_model(source).config.normalization.std)
    shutil.rmtree(tmp_path / "bare" / "checkpoints")
    with pytest.raises(CheckpointError, match="source"):
        residual.resume(tmp_path / "bare", workers=0)


def test_a_damaged_record_of_the_start_is_refused(photographs, source, tmp_path, stop_at):
    restore = stop_at(1, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(InterruptedRunError):
        residual.train(recipe(weights=str(source)), data_dir=photographs, output=tmp_path / "run", workers=0)
    restore()
    path = tmp_path / "run" / "environment.json"
    values = json.loads(path.read_text())
    for damaged in (None, {}, {"normalization": {"mean": [1], "std": [2]}, "note": ""}):
        path.write_text(json.dumps({**values, "start": damaged}))
        with pytest.raises(RunError, match="'start' in environment"):
            residual.resume(tmp_path / "run", workers=0)


def test_a_file_of_another_project(photographs, tmp_path):
    torch.manual_seed(3)
    state = build_model("resnet18", num_classes=7).state_dict()
    torch.save(state, tmp_path / "resnet18.pth")
    own = recipe(network="resnet18", weights=str(tmp_path / "resnet18.pth"))
    prepared = prepare(own, data_dir=photographs)
    assert torch.equal(prepared.network.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])
    assert prepared.network.fc.out_features == 3
    assert prepared.start.note == "all but the last layer"


def test_images_in_memory_take_no_weights():
    with pytest.raises(UsageError, match="weights is for photographs"):
        residual.train(get_recipe("demo", "resnet8").replace({"weights": "runs/some"}))


def test_what_cannot_be_started_from(photographs, source, tmp_path, cli):
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    shutil.copytree(source / "model", tmp_path / "altered")
    weights = tmp_path / "altered" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"abcd")
    torch.save({"odd.weight": torch.zeros(3)}, tmp_path / "odd.pth")
    options = ["--data", photographs, "--workers", 0, "--image-size", 32, "--output", tmp_path / "run"]
    for network, path, message in (
        ("resnet8", tmp_path / "nosuch", "cannot read"),
        ("resnet8", tmp_path / "cut.pth", "corrupted"),
        ("resnet8", tmp_path / "altered", "its SHA-256 is not the one"),
        ("resnet8", tmp_path / "odd.pth", "another network"),
        ("resnet14", source, "holds resnet8, not resnet14"),
    ):
        code, out, err = cli("train", network, "--weights", path, *options)
        assert (code, out) == (4, ""), path
        assert message in err.splitlines()[-1]
        assert not (tmp_path / "run").exists()
    code, _, err = cli("train", "resnet8", "--shortcut", "B", "--weights", source, *options)
    assert code == 4
    assert err.splitlines()[-1].endswith("holds resnet8 with shortcut A, not B: give --shortcut A")


def test_without_weights_to_fetch_a_run_starts_from_scratch(photographs, tmp_path, cli):
    options = ["--data", photographs, "--workers", 0, "--image-size", 32, "--iterations", 1]
    code, _, err = cli("train", "resnet8", *options, "--output", tmp_path / "run")
    assert code == 0
    reason = "there are no ImageNet weights of resnet8 to fetch"
    assert f"note: starting from scratch, since {reason} (recipe scratch)\n" in err
    assert Run.open(tmp_path / "run").recipe.weights is None
    for changes, reason in (
        ({"network": "resnet50", "variant": "v1"}, "weights of resnet50 with v1"),
        ({"network": "resnet18", "shortcut": "A"}, "weights of resnet18 with shortcuts A"),
        ({"network": "plain18"}, "weights of plain18 to fetch"),
        ({"network": "resnet18"}, "the hub does not answer"),
    ):
        name, why = find_imagenet_weights(recipe(**changes))
        assert (name, reason in why) == (None, True)


def test_auto_is_resolved_before_the_recipe_is_written(photographs, tmp_path):
    residual.train(recipe(weights="auto", iterations=1), data_dir=photographs, output=tmp_path / "run")
    assert Run.open(tmp_path / "run").recipe.weights is None
