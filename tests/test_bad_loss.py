"""A loss that is not finite: the run stops or, with `retries`, goes on as if without that batch."""

import signal
from functools import partial

import pytest
import torch

import residual
from conftest import comparable, make_engine
from residual.data.loader import TrainBatches
from residual.errors import InterruptedRunError, NonFiniteLossError
from residual.training import curves
from residual.training.checkpoint import find_checkpoint, load_checkpoint
from residual.training.run_folder import Run

SMALL = {"iterations": 10, "batch_size": 8, "log_every": 1, "checkpoint_every": 4, "curve": "none"}


def small(**changes):
    return residual.get_recipe("demo", "resnet8").replace({**SMALL, **changes})


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Draw nothing, which takes as long as all the rest of these runs."""
    monkeypatch.setattr(curves, "plot_runs", lambda _runs, path: path.write_bytes(b""))


@pytest.fixture
def poisoned(monkeypatch):
    """Make the images of certain steps NaN."""
    real, bad = TrainBatches.__getitem__, set()

    def batch(self, step):
        images, labels = real(self, step)
        return (images * float("nan") if step in bad else images), labels

    monkeypatch.setattr(TrainBatches, "__getitem__", batch)
    return bad


def without(recipe, left_out):
    """Train without certain steps, in the plainest way."""
    engine = make_engine(recipe)
    while engine.step < recipe.iterations:
        if engine.step in left_out:
            engine.step += 1
        else:
            engine.take_step()
    return engine


def assert_the_same(found, engine):
    """Compare weights, BN statistics and momenta to the bit."""
    expected = engine.state()
    for name, value in expected["network"].items():
        assert torch.equal(found["network"][name], value), name
    for number, values in expected["optimizer"]["state"].items():
        assert torch.equal(found["optimizer"]["state"][number]["momentum_buffer"], values["momentum_buffer"])


def test_a_run_goes_back_and_on_as_if_the_batch_had_not_been_there(tmp_path, poisoned, capsys):
    poisoned |= {2, 6}  # before the first checkpoint, and after it
    residual.train(small(retries=2), output=tmp_path / "run", quiet=False)
    run = Run.open(tmp_path / "run")
    assert_the_same(load_checkpoint(find_checkpoint(run.checkpoints)), without(small(), poisoned))
    first, second = run.environment["went_back"]
    assert "the loss of step 2 is not finite: back to step 0, to go on without the batch of step 2" in first
    assert "back to step 4, to go on without the batch of step 6 (2 of at most 2 times)" in second
    assert first in capsys.readouterr().err
    # a record of no step is left out too, and none is there twice
    assert [record["step"] for record in run.metrics("train")] == [1, 2, 4, 5, 6, 8, 9, 10]


def test_a_run_that_is_stopped_in_between_leaves_out_the_same(tmp_path, poisoned, stop_at):
    poisoned |= {2, 6}
    residual.train(small(retries=3), output=tmp_path / "whole")
    for step in (3, 5, 7):
        restore = stop_at(step, lambda _: signal.raise_signal(signal.SIGTERM))
        begin = partial(residual.train, small(retries=3), output=tmp_path / "cut")
        with pytest.raises(InterruptedRunError):
            begin() if step == 3 else residual.resume(tmp_path / "cut")
        restore()
    residual.resume(tmp_path / "cut")
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


def test_more_bad_batches_than_retries_stop_the_run(tmp_path, poisoned):
    poisoned |= {5, 6, 7}
    begin = partial(residual.train, small(retries=2), output=tmp_path / "run")
    for go_on in (begin, partial(residual.resume, tmp_path / "run")):  # the resume finds the same
        with pytest.raises(NonFiniteLossError, match=r"step 7 is not finite: .*; the run has gone back 2 "):
            go_on()
    state = load_checkpoint(find_checkpoint(tmp_path / "run" / "checkpoints"))
    assert state["step"] == 4
    assert all(bool(torch.isfinite(value).all()) for value in state["network"].values())


def test_the_step_that_spoilt_the_weights_is_left_out_and_not_the_next_one(tmp_path, monkeypatch):
    real = torch.optim.SGD.step
    steps = []

    def step(self, *arguments, **options):
        real(self, *arguments, **options)
        steps.append(self)
        if len(steps) == 7:  # once, as by a fault of the memory
            with torch.no_grad():
                self.param_groups[0]["params"][0][0, 0, 0, 0] = float("inf")

    monkeypatch.setattr(torch.optim.SGD, "step", step)
    residual.train(small(retries=1), output=tmp_path / "run")
    monkeypatch.undo()
    run = Run.open(tmp_path / "run")
    assert (
        "step 7 is not finite: back to step 4, to go on without the batch of step 6"
        in run.environment["went_back"][0]
    )
    assert_the_same(load_checkpoint(find_checkpoint(run.checkpoints)), without(small(), {6}))


def test_bn_statistics_that_are_not_finite_are_not_saved(tmp_path, stop_at):
    stop_at(4, lambda trainer: trainer.engine.network.bn1.running_var.fill_(float("inf")))
    with pytest.raises(NonFiniteLossError, match="weights of step 4 are not finite: not saved"):
        residual.train(small(), output=tmp_path / "run")
    assert find_checkpoint(tmp_path / "run" / "checkpoints") is None


def test_steps_by_tables_are_left_out_too():
    engines = [make_engine(small(), captured) for captured in (True, False)]
    for engine in engines:
        engine.left_out |= {3, 4}
        for _ in range(8):
            engine.take_step()
        engine.wait()
    assert_the_same(engines[0].state(), engines[1])
