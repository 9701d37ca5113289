"""Training: exact resume after every kind of stop, bad losses, warm-up, hold-out, determinism."""

import json
import os
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch

import residual
from residual import get_recipe
from residual.checkpoint import find_checkpoint, load_checkpoint
from residual.data.batches import TrainBatches
from residual.data.load import load_dataset
from residual.data.normalization import Normalization
from residual.errors import CheckpointError, InterruptedRunError, NonFiniteLossError, RunError
from residual.metrics import Window
from residual.optim import Guard, make_optimizer
from residual.recipe import Augment, Optimizer
from residual.run import Run
from residual.step import train_step
from residual.trainer import Trainer

SMALL = {"iterations": 24, "batch_size": 32, "log_every": 5, "checkpoint_every": 7, "evaluate_every": 12}


def small(**changes):
    return get_recipe("demo", "resnet8").replace({**SMALL, **changes})


@pytest.fixture
def stop_at(monkeypatch):
    """Make training meet a fault just after a given step."""

    def arrange(step, fault):
        real = Trainer.train_one

        def train_one(self):
            real(self)
            if self.step == step:
                fault(self)

        monkeypatch.setattr(Trainer, "train_one", train_one)
        return lambda: monkeypatch.setattr(Trainer, "train_one", real)

    return arrange


def comparable(path):
    """Everything of a finished run that must not depend on having been stopped."""
    run = Run.open(path)
    untimed = {"seconds", "images_per_second", "cpu_seconds", "others_share", "disturbed"}
    result = {key: value for key, value in run.result.items() if key not in untimed}
    metrics = [{key: value for key, value in r.items() if key not in untimed} for r in run.metrics()]
    return result, metrics


def test_two_runs_are_the_same_and_another_seed_is_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        residual.train(small(seed=seed, iterations=5), output=tmp_path / name)
    a, b, c = (comparable(tmp_path / name) for name in "abc")
    assert a == b
    assert a[0]["model_sha256"] != c[0]["model_sha256"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_the_resume_is_exact(tmp_path, stop_at, number, code):
    recipe = small(holdout=100)
    residual.train(recipe, output=tmp_path / "whole")
    restore = stop_at(10, lambda _: os.kill(os.getpid(), number))
    with pytest.raises(InterruptedRunError) as caught:
        residual.train(recipe, output=tmp_path / "cut")
    assert caught.value.exit_code == code
    assert load_checkpoint(find_checkpoint(tmp_path / "cut" / "checkpoints"))["step"] == 10
    assert signal.getsignal(number) is not None
    restore()
    residual.resume(tmp_path / "cut")
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")
    resumed = json.loads((tmp_path / "cut" / "environment.json").read_text())["resumed"]
    assert [entry["step"] for entry in resumed] == [10]


def test_a_resume_of_a_resume_is_exact(tmp_path, stop_at):
    recipe = small(**{"schedule.warmup_learning_rate": 0.01, "schedule.warmup_window": 4})
    residual.train(recipe, output=tmp_path / "whole")
    for step in (3, 11, 19):
        restore = stop_at(step, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        go_on = partial(residual.train, recipe, output=tmp_path / "cut")
        if step > 3:
            go_on = partial(residual.resume, tmp_path / "cut")
        with pytest.raises(InterruptedRunError):
            go_on()
        restore()
    residual.resume(tmp_path / "cut")
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


KILLED = """
import json, os, signal, sys
import residual
from residual.recipe import from_dict
from residual.trainer import Trainer
real = Trainer.train_one
def train_one(self):
    real(self)
    if self.step == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
Trainer.train_one = train_one
residual.train(from_dict(json.loads(sys.argv[2])), output=sys.argv[1])
"""


@pytest.mark.parametrize("step", [4, 17])  # before the first checkpoint; in mid-epoch, three steps after one
def test_a_kill_in_mid_epoch_and_a_resume_give_the_same_weights(tmp_path, step):
    recipe = small()
    residual.train(recipe, output=tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cut"), json.dumps(recipe.as_dict()), str(step)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (find_checkpoint(tmp_path / "cut" / "checkpoints") is None) == (step == 4)
    residual.resume(tmp_path / "cut")
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = residual.train(small(iterations=3), output=tmp_path / "run")
    before = (tmp_path / "run" / "result.json").read_bytes()
    assert residual.resume(tmp_path / "run").figures == first.figures
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_a_changed_recipe_is_refused_with_the_difference(tmp_path, stop_at):
    stop_at(9, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(InterruptedRunError):
        residual.train(small(), output=tmp_path / "run")
    changed = small(**{"optimizer.learning_rate": 0.05})
    with pytest.raises(RunError, match=r"optimizer\.learning_rate: 0\.1 -> 0\.05"):
        residual.resume(tmp_path / "run", recipe=changed)
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(changed.as_dict()))  # edited by hand
    with pytest.raises(RunError, match=r"optimizer\.learning_rate: 0\.1 -> 0\.05"):
        residual.resume(tmp_path / "run")


@pytest.mark.parametrize("damage", ["cut", "flip", "no checksum"])
def test_a_damaged_checkpoint_is_refused(tmp_path, stop_at, damage):
    stop_at(9, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(InterruptedRunError):
        residual.train(small(), output=tmp_path / "run")
    path = find_checkpoint(tmp_path / "run" / "checkpoints")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        path.with_name(path.name + ".sha256").unlink()
    with pytest.raises(CheckpointError, match=path.name):
        residual.resume(tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run_and_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    real = TrainBatches.__getitem__

    def poisoned(self, step):
        images, labels = real(self, step)
        return (images * float("nan") if step == 9 else images), labels

    monkeypatch.setattr(TrainBatches, "__getitem__", poisoned)
    with pytest.raises(NonFiniteLossError, match="step 9 "):
        residual.train(small(), output=tmp_path / "run")
    state = load_checkpoint(find_checkpoint(tmp_path / "run" / "checkpoints"))
    assert state["step"] == 7
    assert all(bool(torch.isfinite(value).all()) for value in state["network"].values())
    assert Run.open(tmp_path / "run").result is None


def test_the_guard_masks_every_update_from_the_bad_step_on():
    torch.manual_seed(0)
    network = residual.create_model("resnet8")
    optimizer = make_optimizer(network, Optimizer())
    guard = Guard(optimizer, torch.device("cpu"))
    guard.deferred = True  # as on CUDA, where nobody looks before the next log
    good = torch.randn(8, 3, 32, 32), torch.arange(8)
    bad = torch.full_like(good[0], float("inf")), good[1]
    train_step(network, optimizer, guard, good, 0)
    before = [p.clone() for p in network.parameters()]
    momenta = [optimizer.state[p]["momentum_buffer"].clone() for p in network.parameters()]
    for step, batch in ((1, bad), (2, good), (3, bad)):
        train_step(network, optimizer, guard, batch, step)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True))
    after = [optimizer.state[p]["momentum_buffer"] for p in network.parameters()]
    assert all(torch.equal(p, q) for p, q in zip(after, momenta, strict=True))
    with pytest.raises(NonFiniteLossError, match="step 1 "):
        guard.check()


def test_weights_that_are_not_finite_are_never_saved(tmp_path, stop_at):
    def spoil(trainer):
        with torch.no_grad():
            trainer.network.fc.bias[0] = float("nan")

    stop_at(14, spoil)
    with pytest.raises(NonFiniteLossError, match="step 14"):
        residual.train(small(), output=tmp_path / "run")
    assert load_checkpoint(find_checkpoint(tmp_path / "run" / "checkpoints"))["step"] == 7


def test_warmup_ends_when_the_error_of_a_window_is_low_enough(tmp_path):
    settings = {
        "schedule.warmup_learning_rate": 0.01,
        "schedule.warmup_window": 4,
        "schedule.warmup_error": 78,
        "log_every": 1,
        "curve": "none",
    }
    residual.train(small(**settings), output=tmp_path / "run")
    run = Run.open(tmp_path / "run")
    end = run.result["warmup_end"]
    records = run.metrics("train")
    errors = [record["error"] for record in records]
    means = [sum(errors[k : k + 4]) / 4 for k in range(0, 24, 4)]
    assert end == 4 * (next(index for index, mean in enumerate(means) if mean < 78) + 1)
    assert 4 < end < 24, "the case is too easy or too hard to show anything"
    rates = [record["learning_rate"] for record in records]
    assert rates[:end] == [0.01] * end
    assert rates[end : end + 1] == [0.1 if end < 12 else 0.1 * 0.1 ** (1 + (end >= 18))]


def test_the_test_set_is_not_looked_at_on_the_way_unless_asked_for(tmp_path):
    residual.train(small(holdout=100, curve="none"), output=tmp_path / "held")
    residual.train(small(curve="none", iterations=12), output=tmp_path / "none")
    held, none = Run.open(tmp_path / "held"), Run.open(tmp_path / "none")
    assert held.metrics("test") == none.metrics("test") == none.metrics("holdout") == []
    found = held.metrics("holdout")
    assert [record["step"] for record in found] == [12, 24]
    best = min(found, key=lambda record: record["error"])
    kept = load_checkpoint(find_checkpoint(held.checkpoints, "best"))
    assert kept["step"] == best["step"] == held.result["holdout_best"]["step"]
    assert held.result["holdout_best"]["error"] == best["error"]
    assert 0 <= held.result["holdout_best"]["test_error"] <= 100
    environment = json.loads((held.path / "environment.json").read_text())
    assert len(environment["holdout_sha256"]) == 64


def test_a_signal_during_an_evaluation_is_saved_too(tmp_path, monkeypatch):
    real = Trainer._evaluate

    def interrupted(self):
        real(self)
        os.kill(os.getpid(), signal.SIGTERM)

    residual.train(small(), output=tmp_path / "whole")
    monkeypatch.setattr(Trainer, "_evaluate", interrupted)
    with pytest.raises(InterruptedRunError):
        residual.train(small(), output=tmp_path / "cut")
    monkeypatch.undo()
    assert load_checkpoint(find_checkpoint(tmp_path / "cut" / "checkpoints"))["step"] == 12
    residual.resume(tmp_path / "cut")
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


def test_a_holdout_and_the_test_curve_go_together(tmp_path):
    residual.train(small(holdout=100, curve="test", iterations=12), output=tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert [r["step"] for r in run.metrics("holdout")] == [r["step"] for r in run.metrics("test")] == [12]


def test_two_processes_never_train_one_run(tmp_path, stop_at):
    def resume_meanwhile(trainer):
        with pytest.raises(RunError, match="another process"):
            residual.resume(trainer.run.path)

    stop_at(5, resume_meanwhile)
    residual.train(small(iterations=6), output=tmp_path / "run")


def test_the_callers_settings_come_back(tmp_path):
    torch.use_deterministic_algorithms(True)
    try:
        residual.train(small(iterations=2), output=tmp_path / "run")
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_stop_after_ends_sooner_on_the_same_course(tmp_path):
    residual.train(small(), output=tmp_path / "whole")
    residual.train(small(stop_after=10), output=tmp_path / "part")
    whole, part = Run.open(tmp_path / "whole"), Run.open(tmp_path / "part")
    pick = [("loss", "error", "learning_rate")] * 2
    first = [[record[key] for key in pick[0]] for record in whole.metrics("train")[:2]]
    assert [[record[key] for key in pick[1]] for record in part.metrics("train")] == first
    assert part.result["iterations"] == 10


def test_batchnorm_is_recomputed_as_a_true_average(tmp_path):
    recipe = small(recompute_batchnorm=True, iterations=4, **{"augment.padding": 0})
    residual.train(recipe, output=tmp_path / "run")
    network = residual.load_model(tmp_path / "run")
    train = load_dataset("digits").train
    batches = TrainBatches(train, Normalization.of(train), 32, Augment(0, False), 0)
    with torch.no_grad():
        means = [network.conv1(batches[step][0]).mean((0, 2, 3)) for step in range(-(-len(train) // 32))]
    torch.testing.assert_close(network.bn1.running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)


def test_bfloat16_trains_to_about_the_same_loss(tmp_path):
    losses = []
    for precision in ("float32", "bfloat16"):
        residual.train(small(precision=precision, log_every=24), output=tmp_path / precision)
        losses.append(Run.open(tmp_path / precision).metrics("train")[0]["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def test_memory_layout_does_not_change_the_function(tmp_path):
    losses = []
    for channels_last in (True, False):
        changes = {"channels_last": channels_last, "log_every": 4, "optimizer.learning_rate": 0.01}
        recipe = small(iterations=4, **changes)
        residual.train(recipe, output=tmp_path / str(channels_last))
        losses.append(Run.open(tmp_path / str(channels_last)).metrics("train")[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_window_means():
    window = Window(torch.device("cpu"))
    scores = torch.eye(4)
    window.add(torch.tensor(1.0), scores, torch.tensor([0, 1, 2, 0]))
    window.add(torch.tensor(4.0), scores[:2], torch.tensor([1, 0]))
    loss, error = window.read()
    assert loss == pytest.approx((4 * 1 + 2 * 4) / 6)
    assert error == pytest.approx(50)
    assert window.read() == (0, 0)
