"""Files under faults: a save that fails leaves what was there, and nothing half-written."""

import os
from pathlib import Path

import pytest
import torch

import residual
from residual.errors import CheckpointError
from residual.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from residual.zoo.model_folder import portable_state, save_model


def test_a_new_checkpoint_takes_the_place_of_the_old(tmp_path):
    save_checkpoint(tmp_path, "best", 3, {"x": 3})
    for step in (5, 10):
        save_checkpoint(tmp_path, "last", step, {"x": torch.full((3,), step)})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-00000003.pt",
        "best-00000003.pt.sha256",
        "last-00000010.pt",
        "last-00000010.pt.sha256",
    ]
    assert load_checkpoint(find_checkpoint(tmp_path))["x"].tolist() == [10, 10, 10]


@pytest.mark.parametrize("fault", ["fsync", "replace"])
@pytest.mark.parametrize("fails_at", [1, 2])
def test_a_save_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch, fault, fails_at):
    save_checkpoint(tmp_path, "last", 5, {"x": 5})
    calls = []

    def fail(real):
        def wrapped(*arguments):
            calls.append(arguments)
            if len(calls) == fails_at:
                raise OSError(28, "No space left on device")
            return real(*arguments)

        return wrapped

    if fault == "fsync":
        monkeypatch.setattr(os, "fsync", fail(os.fsync))
    else:
        monkeypatch.setattr(Path, "replace", fail(Path.replace))
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(tmp_path, "last", 10, {"x": 10})
    monkeypatch.undo()
    assert load_checkpoint(find_checkpoint(tmp_path))["x"] == 5
    assert not list(tmp_path.glob(".*"))
    save_checkpoint(tmp_path, "last", 15, {"x": 15})
    assert load_checkpoint(find_checkpoint(tmp_path))["x"] == 15


def test_every_flipped_bit_is_noticed(tmp_path):
    path = save_checkpoint(tmp_path, "last", 1, {"x": torch.arange(4)})
    content = path.read_bytes()
    for position in range(0, len(content), 97):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x10]) + content[position + 1 :])
        with pytest.raises(CheckpointError, match="corrupted"):
            load_checkpoint(path)


def test_a_flipped_bit_in_a_model_is_noticed(tmp_path):
    file = tmp_path / "weights.pt"
    torch.save(residual.create_model("resnet8").state_dict(), file)
    arguments = {"mean": (0.5,) * 3, "std": (0.25,) * 3}
    residual.import_checkpoint(file, model="resnet8", output=tmp_path / "model", **arguments)
    path = tmp_path / "model" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="altered"):
        residual.load_model(tmp_path / "model")


def test_the_models_bytes_depend_on_the_weights_alone(tmp_path):
    torch.manual_seed(0)
    network = residual.create_model("resnet8")
    file = tmp_path / "weights.pt"
    torch.save(network.state_dict(), file)
    arguments = {"model": "resnet8", "mean": (0.5,) * 3, "std": (0.25,) * 3}
    config = residual.import_checkpoint(file, output=tmp_path / "a", **arguments)
    network.train()(torch.zeros(2, 3, 32, 32))  # moves statistics and counters
    network.load_state_dict({k: v for k, v in torch.load(file).items() if "tracked" not in k}, strict=False)
    network.to(memory_format=torch.channels_last)
    save_model(tmp_path / "b", network, config, "another card")
    a, b = ((tmp_path / name / "model.safetensors").read_bytes() for name in "ab")
    assert a == b
    loaded = residual.load_model(tmp_path / "b")
    assert all(torch.equal(v, portable_state(network)[k]) for k, v in portable_state(loaded).items())
    assert not loaded.training
