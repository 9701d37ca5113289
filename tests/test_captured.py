"""The captured step: on the CPU its parts and its arithmetic, on CUDA the graph itself."""

import pytest
import torch

import residual
from residual import get_recipe
from residual.data.batches import TrainBatches
from residual.data.load import load_dataset
from residual.data.normalization import Normalization
from residual.errors import NonFiniteLossError
from residual.training.cuda_graph import DeviceSteps
from residual.training.run_folder import Run
from residual.training.trainer import Trainer

SETTINGS = {"iterations": 24, "batch_size": 32, "log_every": 5, "checkpoint_every": 7, "curve": "none"}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def small(**changes):
    return get_recipe("demo", "resnet8").replace({**SETTINGS, **changes})


@pytest.fixture
def by_tables(monkeypatch):
    """Let the trainer take the captured path's step on the CPU, where it runs uncaptured."""
    real = Trainer.__init__

    def init(self, *arguments, **options):
        real(self, *arguments, **options)
        self.captured = True

    monkeypatch.setattr(Trainer, "__init__", init)
    return monkeypatch


def weights(path):
    return residual.load_model(path).state_dict()


@pytest.mark.parametrize(("warmup", "muon"), [(False, 0.0), (True, 0.0), (False, 0.01)])
def test_steps_by_tables_compute_what_the_eager_ones_do(tmp_path, monkeypatch, warmup, muon, request):
    changes = {"optimizer.learning_rate": 0.01, "optimizer.muon": muon}
    if warmup:
        changes |= {
            "schedule.warmup_learning_rate": 0.001,
            "schedule.warmup_window": 4,
            "schedule.warmup_error": 88,
        }
    residual.train(small(**changes), output=tmp_path / "eager", device="cpu")
    request.getfixturevalue("by_tables")
    monkeypatch.setattr("residual.training.trainer.STRETCH", 3)  # tables are refilled
    residual.train(small(**changes), output=tmp_path / "tables", device="cpu")
    eager, tables = Run.open(tmp_path / "eager"), Run.open(tmp_path / "tables")
    assert eager.result["warmup_end"] == tables.result["warmup_end"]
    assert (eager.result["warmup_end"] is not None) == warmup
    for one, other in zip(eager.metrics("train"), tables.metrics("train"), strict=True):
        assert one["learning_rate"] == pytest.approx(other["learning_rate"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    for (key, a), b in zip(weights(eager.path).items(), weights(tables.path).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=key)


def test_the_tables_hold_the_streams_batches_across_an_epochs_end(tmp_path):
    train = load_dataset("digits").train
    recipe = small()
    batches = TrainBatches(train, Normalization.of(train), 32, recipe.augment, seed=5)
    last = len(train) // 32
    seen = []

    class Spy(DeviceSteps):
        def _step(self):
            places = self.counter * 32 + self._within
            seen.append(batches.make(self.order[places], self.offsets[places], self.flips[places]))
            self.counter += 1

    network = residual.create_model("resnet8")
    trainer = Trainer(recipe, network, batches, Run(tmp_path), reporter=None)
    steps = Spy(network, trainer.optimizer, trainer.guard, batches, [], recipe, capacity=4)
    steps.load(last - 2, [0.1] * 4)
    for _ in range(4):
        steps.run()
    for step, (images, labels) in enumerate(seen, start=last - 2):
        assert torch.equal(images, batches[step][0])
        assert torch.equal(labels, batches[step][1])
    steps.check(last + 2)
    assert steps.needs(last + 2)
    with pytest.raises(AssertionError, match="4 steps"):
        steps.check(last + 1)


def test_a_bad_loss_is_named_by_its_step(tmp_path, by_tables):
    real = TrainBatches.make

    def poisoned(self, order, offsets, flips):
        images, labels = real(self, order, offsets, flips)
        return torch.where((poisoned.calls.add_(1) == 9), torch.nan, images), labels

    poisoned.calls = torch.zeros((), dtype=torch.int64)
    by_tables.setattr(TrainBatches, "make", poisoned)
    with pytest.raises(NonFiniteLossError, match="step 8 "):
        residual.train(small(), output=tmp_path / "run", device="cpu")


@needs_cuda
@pytest.mark.parametrize("capture", [True, False])
def test_a_loss_that_overflows_leaves_the_weights_before_it(tmp_path, monkeypatch, capture):
    settings = {"optimizer.learning_rate": 1e12, "capture": capture, "deterministic": True}
    recipe = small(**settings, log_every=24, checkpoint_every=24)
    kept = {}
    real = Trainer._wait

    def wait(self):
        kept.update({key: value.clone() for key, value in self.network.named_parameters()})
        real(self)

    monkeypatch.setattr(Trainer, "_wait", wait)
    with pytest.raises(NonFiniteLossError, match="step"):
        residual.train(recipe, output=tmp_path / "run", device="cuda")
    assert kept
    assert all(bool(torch.isfinite(value).all()) for value in kept.values())


@needs_cuda
@pytest.mark.parametrize("name", ["resnet20", "plain20", "resnet47_bottleneck"])
def test_twenty_captured_steps_equal_the_eager_ones(tmp_path, name):
    found = []
    for capture in (True, False):
        recipe = get_recipe("demo", name).replace(
            {"stop_after": 20, "capture": capture, "curve": "none", "optimizer.learning_rate": 0.01}
            | {"deterministic": True}
        )
        residual.train(recipe, output=tmp_path / str(capture), device="cuda")
        found.append(weights(tmp_path / str(capture)))
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-4, atol=1e-4, msg=key)


@needs_cuda
def test_the_graph_is_what_ran(tmp_path, monkeypatch):
    calls = []
    real = DeviceSteps._step
    monkeypatch.setattr(DeviceSteps, "_step", lambda self: calls.append(1) or real(self))
    residual.train(small(), output=tmp_path / "run", device="cuda")
    assert len(calls) == 4  # three to warm up, one to record, none of the 24 steps


@needs_cuda
@pytest.mark.parametrize("muon", [0.0, 0.02])
def test_a_deterministic_captured_run_resumes_exactly(tmp_path, monkeypatch, muon):
    recipe = small(deterministic=True, **{"optimizer.muon": muon})
    residual.train(recipe, output=tmp_path / "whole", device="cuda")
    real = Trainer.train_one

    def stop(self):
        real(self)
        if self.step == 11:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train_one", stop)
    with pytest.raises(KeyboardInterrupt):
        residual.train(recipe, output=tmp_path / "cut", device="cuda")
    monkeypatch.undo()
    result = residual.resume(tmp_path / "cut").figures
    assert result["model_sha256"] == Run.open(tmp_path / "whole").result["model_sha256"]
