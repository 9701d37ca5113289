"""Networks and datasets of the caller's own: trained, resumed bit-exactly and evaluated."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import residual
from residual.data.dataset import Dataset, Split
from residual.data.load import load_dataset
from residual.data.normalization import Normalization
from residual.errors import CheckpointError, InterruptedRunError, RunError, UsageError
from residual.evaluation.classification import evaluate_split
from residual.training.curves import labels
from residual.training.run_folder import Run
from residual.training.trainer import Trainer

SETTINGS = {"iterations": 6, "batch_size": 16, "log_every": 2, "checkpoint_every": 4, "curve": "none"}


def recipe(**changes):
    return residual.get_recipe("demo", "resnet8").replace({**SETTINGS, **changes})


def plain(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 10)
    )


def with_batchnorm(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    )


class Tied(nn.Module):
    """Tied weights, a buffer of whole numbers and a frozen parameter, all of which a state dict may hold."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.one = nn.Conv2d(3, 3, 3, padding=1)
        self.two = nn.Conv2d(3, 3, 3, padding=1)
        self.two.weight = self.one.weight
        self.fc = nn.Linear(3, 10)
        self.fc.bias.requires_grad_(False)
        self.register_buffer("order", torch.tensor([2, 0, 1]))

    def forward(self, images):
        return self.fc(self.two(self.one(images)[:, self.order]).relu().mean((2, 3)))


NETWORKS = pytest.mark.parametrize("make", [plain, with_batchnorm, Tied])


@pytest.fixture
def stop(monkeypatch):
    """Make training stop just after a step: by a signal, or by a fault that saves nothing."""

    def arrange(at, saved=True):
        real = Trainer.train_one

        def train_one(self):
            real(self)
            if self.step == at and saved:
                signal.raise_signal(signal.SIGTERM)
            elif self.step == at:
                raise RuntimeError("power cut")

        monkeypatch.setattr(Trainer, "train_one", train_one)

    return arrange


@NETWORKS
@pytest.mark.parametrize("saved", [True, False])
def test_it_trains_and_resumes_bit_exactly(tmp_path, monkeypatch, stop, make, saved):
    whole = residual.train(recipe(validation=50), network=make(), output=tmp_path / "whole")
    stop(5 if saved else 2, saved)
    with pytest.raises(InterruptedRunError if saved else RuntimeError):
        residual.train(recipe(validation=50), network=make(), output=tmp_path / "cut")
    monkeypatch.undo()
    resumed = residual.resume(tmp_path / "cut", network=make(seed=9))  # its own initial weights do not count
    contents = [(tmp_path / name / "model/model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert contents[0] == contents[1]
    for key in ("error", "loss", "model_sha256", "validation_best", "training_error"):
        assert resumed.figures[key] == whole.figures[key]


@NETWORKS
def test_its_error_is_that_of_the_weights_in_its_folder(tmp_path, make):
    network = make()
    result = residual.train(recipe(), network=network, output=tmp_path / "run")
    loaded = make(seed=9)
    loaded.load_state_dict(load_file(tmp_path / "run/model/model.safetensors"))
    dataset = load_dataset("digits")
    normalization = Normalization.of(dataset.train)
    found = evaluate_split(loaded, dataset.test, normalization, torch.device("cpu"))
    assert (found.error, found.loss) == pytest.approx((result.error, result.figures["loss"]), rel=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), loaded.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(make().parameters(), loaded.parameters(), strict=True))


def test_its_class_is_recorded_and_it_is_never_taken_for_ours(tmp_path):
    result = residual.train(recipe(), network=plain(), output=tmp_path / "run")
    path = "torch.nn.modules.container.Sequential"
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    environment = json.loads((tmp_path / "run/environment.json").read_text())
    assert result.figures["network"] == config["network"] == environment["own_network"] == path
    assert result.figures["shortcut"] is None
    assert environment["bn_relu"] == "plain"
    assert "Residual" not in (tmp_path / "run/model/README.md").read_text()
    assert labels([Run.open(tmp_path / "run")]) == [f"{path}, seed 0"]
    for use in (residual.load_model, residual.evaluate):
        for folder in (tmp_path / "run", tmp_path / "run/model"):
            with pytest.raises(UsageError, match=r"a network of your own, .*Sequential'.*load_state_dict"):
                use(folder)


def test_what_a_resume_lacks_is_named(tmp_path, stop):
    stop(3)
    with pytest.raises(InterruptedRunError, match=r"residual\.resume\('.*run', network=\.\.\.\) resumes it"):
        residual.train(recipe(), network=plain(), output=tmp_path / "run")
    with pytest.raises(RunError, match=r"network of your own, .*resume\(\.\.\., network=\.\.\.\)"):
        residual.resume(tmp_path / "run")
    with pytest.raises(CheckpointError, match="another network"):
        residual.resume(tmp_path / "run", network=with_batchnorm())
    with pytest.raises(InterruptedRunError, match=r"'residual train --resume .*ours' resumes it"):
        residual.train(recipe(), output=tmp_path / "ours")
    with pytest.raises(RunError, match="trains resnet8: leave network= out"):
        residual.resume(tmp_path / "ours", network=plain())


class Failing(nn.Linear):
    def forward(self, _images):
        raise ValueError("first line\nsecond line")


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 7)),
            r"logits \[2, 10\] for 2 images, not \[2, 7\]",
        ),
        (Failing(1, 1), r"fails on images \[2, 3, 8, 8\]: ValueError: first line$"),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), r"not \[2, 3\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 10).requires_grad_(False)), "no parameters to train"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, network, words):
    with pytest.raises(UsageError, match=words):
        residual.train(recipe(), network=network, dataset=kitchen(10), output=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert network.training


def kitchen(classes=3):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (40, 8, 8, 3), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.arange(40) % classes)
    return Dataset("kitchen", split, split.take(torch.arange(9)), tuple(map(str, range(classes))))


@pytest.fixture
def converted(monkeypatch):
    """Put a stand-in in the place of `as_dataset`; give the arguments that it is called with."""
    calls = []
    stand_in = lambda train, test=None: calls.append((train, test)) or kitchen()  # noqa: E731
    monkeypatch.setattr("residual.training.experiment.as_dataset", stand_in)
    return calls


def test_any_other_dataset_is_converted_in_train_and_in_resume(tmp_path, stop, monkeypatch, converted):
    train, test = [("image", 0)] * 40, [("image", 0)] * 9
    stop(3)
    with pytest.raises(InterruptedRunError, match=r"dataset=\.\.\.\) resumes it"):
        residual.train(recipe(), dataset=train, test=test, output=tmp_path / "run")
    with pytest.raises(RunError, match="dataset of your own, 'kitchen'"):
        residual.resume(tmp_path / "run")
    monkeypatch.setattr(Trainer, "train_one", lambda self: self.engine.take_step())
    result = residual.resume(tmp_path / "run", dataset=train, test=test)
    assert result.figures["data"] == "kitchen"
    assert converted == [(train, test)] * 2


def test_a_dataset_of_ours_is_used_as_it_is(tmp_path, converted):
    residual.train(recipe(), dataset=kitchen(), output=tmp_path / "run")
    assert converted == []
    for dataset in (kitchen(), None):
        with pytest.raises(UsageError, match=r"test= goes with a dataset="):
            residual.train(recipe(), dataset=dataset, test=[1], output=tmp_path / "other")


def test_torchs_own_kind_of_dataset_is_trained_and_resumed(tmp_path):
    images = kitchen().train.images.permute(0, 3, 1, 2)
    pairs = torch.utils.data.TensorDataset(images, torch.arange(40) % 3)
    result = residual.train(recipe(), dataset=pairs, test=pairs, output=tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    again = residual.resume(tmp_path / "run", dataset=pairs, test=pairs)
    assert again.figures["model_sha256"] == result.figures["model_sha256"]
    assert again.figures["images"] == 40
