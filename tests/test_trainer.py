"""Training: exact resume after every kind of stop, bad losses, warm-up, validation set, determinism."""

import json
import shutil
import signal
import subprocess
import sys
from functools import partial

import pytest
import torch

import residual
from conftest import comparable
from residual import get_recipe
from residual.data.load import load_dataset
from residual.data.loader import TrainBatches
from residual.data.normalization import Normalization
from residual.errors import CheckpointError, InterruptedRunError, NonFiniteLossError, RunError
from residual.evaluation.classification import Evaluation
from residual.recipes.augment import PadCrop
from residual.recipes.catalog import recipe_label
from residual.recipes.schema import Optimizer
from residual.runtime.device import cpu_threads
from residual.runtime.files import write_atomically
from residual.training.checkpoint import find_checkpoint, find_checkpoints, load_checkpoint
from residual.training.guard import Guard
from residual.training.metrics import Window
from residual.training.optim import make_optimizer
from residual.training.prepare import Prepared
from residual.training.run_folder import Run
from residual.training.step import train_step
from residual.training.trainer import Trainer

SMALL = {"iterations": 24, "batch_size": 32, "log_every": 5, "checkpoint_every": 7, "evaluate_every": 12}


def small(**changes):
    return get_recipe("demo", "resnet8").replace({**SMALL, **changes})


def test_two_runs_are_the_same_and_another_seed_is_not(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        residual.train(small(seed=seed, iterations=5), output=tmp_path / name)
    a, b, c = (comparable(tmp_path / name) for name in "abc")
    assert a == b
    assert a[0]["model_sha256"] != c[0]["model_sha256"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_step_saves_and_the_resume_is_exact(tmp_path, stop_at, number, code):
    recipe = small(validation=100)
    residual.train(recipe, output=tmp_path / "whole")
    restore = stop_at(10, lambda _: signal.raise_signal(number))
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
        restore = stop_at(step, lambda _: signal.raise_signal(signal.SIGTERM))
        go_on = partial(residual.train, recipe, output=tmp_path / "cut")
        if step > 3:
            go_on = partial(residual.resume, tmp_path / "cut")
        with pytest.raises(InterruptedRunError):
            go_on()
        restore()
    residual.resume(tmp_path / "cut")
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


KILLED = """
import json, sys
import psutil
import residual
from residual.recipes.schema import from_dict
from residual.training.trainer import Trainer
real = Trainer.train_one
def train_one(self):
    real(self)
    if self.step == int(sys.argv[3]):
        psutil.Process().kill()
Trainer.train_one = train_one
residual.train(from_dict(json.loads(sys.argv[2])), output=sys.argv[1])
"""


@pytest.mark.parametrize("step", [4, 17])  # before the first checkpoint; in mid-epoch, three steps after one
def test_a_kill_in_mid_epoch_and_a_resume_give_the_same_weights(tmp_path, step):
    recipe = small()
    residual.train(recipe, output=tmp_path / "whole")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "cut"), json.dumps(recipe.as_dict()), str(step)]
    assert subprocess.run(command, check=False).returncode != 0
    assert (find_checkpoint(tmp_path / "cut" / "checkpoints") is None) == (step == 4)
    residual.resume(tmp_path / "cut")
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    first = residual.train(small(iterations=3), output=tmp_path / "run")
    before = (tmp_path / "run" / "result.json").read_bytes()
    assert residual.resume(tmp_path / "run").figures == first.figures
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_a_changed_recipe_is_refused_with_the_difference(tmp_path, stop_at):
    stop_at(9, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(InterruptedRunError):
        residual.train(small(), output=tmp_path / "run")
    changed = small(**{"optimizer.learning_rate": 0.05})
    with pytest.raises(RunError, match=r"optimizer\.learning_rate: 0\.1 -> 0\.05"):
        residual.resume(tmp_path / "run", recipe=changed)
    (tmp_path / "run" / "recipe.json").write_text(json.dumps(changed.as_dict()))  # edited by hand
    with pytest.raises(RunError, match=r"optimizer\.learning_rate: 0\.1 -> 0\.05"):
        residual.resume(tmp_path / "run")


TINY = {"iterations": 6, "batch_size": 8, "log_every": 1, "evaluate_every": 2, "checkpoint_every": 2}
TINY |= {"curve": "none", "validation": 20}


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Train with one thread, once whole and once stopped at step 5; give both run folders."""
    folder = tmp_path_factory.mktemp("halves")
    real = Trainer.train_one

    def train_one(self):
        real(self)
        if self.step == 5 and self.run.path.name == "cut":
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch, cpu_threads(1):
        patch.setattr(Trainer, "train_one", train_one)
        residual.train(small(**TINY), output=folder / "whole")
        with pytest.raises(InterruptedRunError):
            residual.train(small(**TINY), output=folder / "cut")
    return folder


@pytest.fixture
def stopped(halves, tmp_path):
    """Copy the run that was stopped at step 5, whose last checkpoints are those of steps 5 and 4."""
    return shutil.copytree(halves / "cut", tmp_path / "cut")


def damage(path, how):
    checksum = path.with_name(path.name + ".sha256")
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif how in ("flipped bit", "flipped bit in the checksum"):
        damaged = path if how == "flipped bit" else checksum
        content = bytearray(damaged.read_bytes())
        content[len(content) // 2] ^= 0x80  # in the checksum: no longer UTF-8
        damaged.write_bytes(content)
    else:
        checksum.unlink()
        if how == "checksum is a folder":
            checksum.mkdir()


DAMAGES = ["truncated", "flipped bit", "flipped bit in the checksum", "no checksum", "checksum is a folder"]


def notes_of(path):
    return Run.open(path).environment["resumed"][-1]["notes"]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(halves, stopped, how, capsys):
    newest, older = find_checkpoints(stopped / "checkpoints")
    damage(newest, how)
    residual.resume(stopped, quiet=False)
    entry = Run.open(stopped).environment["resumed"][-1]
    assert (entry["step"], len(entry["notes"])) == (4, 1)
    assert entry["notes"][0].startswith("warning: ")
    assert newest.name in entry["notes"][0]
    assert older.name in entry["notes"][0]
    assert entry["notes"][0] in capsys.readouterr().err
    assert comparable(stopped) == comparable(halves / "whole")
    names = [path.name for path in find_checkpoints(stopped / "checkpoints")]
    assert names == ["last-00000006.pt", "last-00000004.pt"]
    assert not newest.with_name(newest.name + ".sha256").exists()


@pytest.mark.parametrize("how", DAMAGES)
def test_checkpoints_that_are_all_damaged_are_refused_and_kept(stopped, how):
    paths = find_checkpoints(stopped / "checkpoints")
    for path in paths:
        damage(path, how)
    metrics = (stopped / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=rf"{paths[0].name}.*{paths[1].name}.*delete .*checkpoints"):
        residual.resume(stopped)
    assert find_checkpoints(stopped / "checkpoints") == paths
    assert (stopped / "metrics.jsonl").read_bytes() == metrics


def test_training_begins_anew_and_says_so_if_all_checkpoints_were_deleted(halves, stopped, capsys):
    shutil.rmtree(stopped / "checkpoints")
    residual.resume(stopped, quiet=False)
    assert "begins anew at step 0" in capsys.readouterr().err
    assert ["begins anew at step 0" in note for note in notes_of(stopped)] == [True]
    assert comparable(stopped) == comparable(halves / "whole")


def test_as_many_checkpoints_are_kept_as_the_recipe_says(tmp_path):
    for keep, steps in ((1, [6]), (3, [6, 4, 2])):
        recipe = small(**TINY, keep_checkpoints=keep)
        residual.train(recipe, output=tmp_path / str(keep))
        found = find_checkpoints(tmp_path / str(keep) / "checkpoints")
        assert [load_checkpoint(path)["step"] for path in found] == steps
        assert recipe_label(recipe) == recipe_label(small(**TINY))
    assert len(find_checkpoints(tmp_path / "3" / "checkpoints", "best")) == 1


@pytest.mark.parametrize(("after", "best"), [([60, 70, 80, 90], (3, 60)), ([60, 5, 80, 90], (4, 5))])
def test_the_best_is_paired_with_its_own_weights_after_a_resume_that_is_not_exact(
    tmp_path, stop_at, monkeypatch, after, best
):
    errors = iter([50, 40, 10, *after])  # steps 1 to 3, of which the last is lost; then steps 3 to 6

    def validation(_network):
        return Evaluation(20, next(errors), (0.0, 1.0), 0.0, 0.0, 0.0, 1.0, [], [])

    def power_cut(_):
        raise RuntimeError("power cut")

    monkeypatch.setattr(Prepared, "evaluations", lambda *_: {"validation": validation})
    restore = stop_at(4, power_cut)
    with pytest.raises(RuntimeError, match="power cut"):
        residual.train(small(**TINY | {"evaluate_every": 1}), output=tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in find_checkpoints(folder, "best")] == ["best-00000003.pt"]
    assert [path.name for path in find_checkpoints(folder)] == ["last-00000002.pt"]
    restore()
    found = residual.resume(tmp_path / "run").figures["validation_best"]
    kept = load_checkpoint(find_checkpoint(folder, "best"))
    assert (found["step"], found["error"]) == best
    assert kept["step"] == kept["best"]["step"] == found["step"]
    assert "step 2, is gone" in notes_of(tmp_path / "run")[0]


def test_a_damaged_best_checkpoint_does_not_keep_a_run_from_its_end(stopped, monkeypatch, capsys):
    path = find_checkpoint(stopped / "checkpoints", "best")
    damage(path, "truncated")
    monkeypatch.setattr(Trainer, "_evaluate", lambda _: None)  # so that no later step is better
    assert residual.resume(stopped, quiet=False).figures["validation_best"] is None
    assert path.name in capsys.readouterr().err


def test_a_resume_goes_on_with_as_many_threads_as_the_run_began_with(halves, stopped):
    with cpu_threads(2):
        residual.resume(stopped)
        assert torch.get_num_threads() == 2, "the caller's number is put back"
    assert Run.open(stopped).environment["resumed"][-1]["hardware"]["threads"] == 1
    assert notes_of(stopped) == []
    assert comparable(stopped) == comparable(halves / "whole")


def test_another_version_of_torch_is_said_and_noted(stopped, capsys):
    path = stopped / "environment.json"
    values = json.loads(path.read_text())
    values["versions"]["torch"] = "1.0"
    path.write_text(json.dumps(values))
    residual.resume(stopped, quiet=False)
    assert "began with torch 1.0" in notes_of(stopped)[0]
    assert notes_of(stopped)[0] in capsys.readouterr().err


@pytest.mark.parametrize("fails_at", ["model.safetensors", "config.json", "README.md", "a file in its place"])
def test_a_model_folder_that_cannot_be_written_is_written_by_the_resume(
    halves, stopped, monkeypatch, fails_at
):
    def write(path, *arguments):
        if path.name == fails_at:
            raise OSError(28, "No space left on device")
        return write_atomically(path, *arguments)

    monkeypatch.setattr("residual.zoo.model_folder.write_atomically", write)
    monkeypatch.setattr("residual.runtime.files.write_atomically", write)
    if fails_at == "a file in its place":
        (stopped / "model").write_text("")
    with pytest.raises(RunError, match=r"cannot write the model folder .*residual train --resume"):
        residual.resume(stopped)
    assert Run.open(stopped).result is None
    monkeypatch.undo()
    if fails_at == "a file in its place":
        (stopped / "model").unlink()
    residual.resume(stopped)
    assert comparable(stopped) == comparable(halves / "whole")


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
            trainer.engine.network.fc.bias[0] = float("nan")

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
    residual.train(small(validation=100, curve="none"), output=tmp_path / "held")
    residual.train(small(curve="none", iterations=12), output=tmp_path / "none")
    held, none = Run.open(tmp_path / "held"), Run.open(tmp_path / "none")
    assert held.metrics("test") == none.metrics("test") == none.metrics("validation") == []
    found = held.metrics("validation")
    assert [record["step"] for record in found] == [12, 24]
    best = min(found, key=lambda record: record["error"])
    kept = load_checkpoint(find_checkpoint(held.checkpoints, "best"))
    assert kept["step"] == best["step"] == held.result["validation_best"]["step"]
    assert held.result["validation_best"]["error"] == best["error"]
    assert 0 <= held.result["validation_best"]["test_error"] <= 100
    environment = json.loads((held.path / "environment.json").read_text())
    assert len(environment["validation_sha256"]) == 64


def test_a_signal_during_an_evaluation_is_saved_too(tmp_path, monkeypatch):
    real = Trainer._evaluate

    def interrupted(self):
        real(self)
        signal.raise_signal(signal.SIGTERM)

    residual.train(small(), output=tmp_path / "whole")
    monkeypatch.setattr(Trainer, "_evaluate", interrupted)
    with pytest.raises(InterruptedRunError):
        residual.train(small(), output=tmp_path / "cut")
    monkeypatch.undo()
    assert load_checkpoint(find_checkpoint(tmp_path / "cut" / "checkpoints"))["step"] == 12
    residual.resume(tmp_path / "cut")
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


def test_a_validation_set_and_the_test_curve_go_together(tmp_path):
    residual.train(small(validation=100, curve="test", iterations=12), output=tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert [r["step"] for r in run.metrics("validation")] == [r["step"] for r in run.metrics("test")] == [12]


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
    residual.train(small(log_every=2), output=tmp_path / "whole")
    residual.train(small(log_every=2, stop_after=10), output=tmp_path / "part")
    whole, part = Run.open(tmp_path / "whole"), Run.open(tmp_path / "part")
    pick = [("loss", "error", "learning_rate")] * 2
    first = [[record[key] for key in pick[0]] for record in whole.metrics("train")[:5]]
    assert [[record[key] for key in pick[1]] for record in part.metrics("train")] == first
    assert part.result["iterations"] == 10


def test_batchnorm_is_recomputed_as_a_true_average(tmp_path):
    recipe = small(recompute_batchnorm=True, iterations=4, **{"augment.padding": 0})
    residual.train(recipe, output=tmp_path / "run")
    network = residual.load_model(tmp_path / "run")
    train = load_dataset("digits").train
    batches = TrainBatches(train, Normalization.of(train), 32, PadCrop(padding=0, flip=False), 0)
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
