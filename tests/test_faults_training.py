"""Faults of a training run, injected many times over: stops at any step, bad checkpoints, bad losses.

Numbers are those of docs/reliability.md, which is made from what these tests record.
"""

import dataclasses
import random
import shutil
import signal
from functools import partial

import pytest
import torch

import residual
from conftest import comparable
from faults import record
from residual.data.dataset import Dataset
from residual.data.load import load_dataset
from residual.data.loader import TrainBatches
from residual.errors import CheckpointError, InterruptedRunError, NonFiniteLossError
from residual.runtime import signals
from residual.runtime.device import cpu_threads
from residual.training import curves, experiment, finish, prepare, trainer
from residual.training.checkpoint import find_checkpoint, find_checkpoints, load_checkpoint, load_newest
from residual.training.run_folder import Run
from residual.training.trainer import Trainer
from test_train_photographs import small as small_photographs

pytestmark = pytest.mark.faults
IN_MEMORY = {"iterations": 14, "batch_size": 16, "log_every": 1, "checkpoint_every": 4, "evaluate_every": 5}
TINY = {"iterations": 8, "batch_size": 8, "log_every": 1, "checkpoint_every": 2, "curve": "none"}


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Draw nothing, which takes longer than all the rest of these runs."""
    monkeypatch.setattr(curves, "plot_runs", lambda _runs, path: path.write_bytes(b""))


def in_memory(**changes):
    return residual.get_recipe("demo", "resnet8").replace({**IN_MEMORY, "curve": "none", **changes})


def few_digits() -> Dataset:
    """Give 96 training images, so that an epoch has six batches, and 40 test images."""
    digits = load_dataset("digits")
    train, test = digits.train.take(torch.arange(96)), digits.test.take(torch.arange(40))
    return dataclasses.replace(digits, train=train, test=test)


def assert_equal_to_the_bit(one, other):
    """Compare two finished runs: figures, metrics, and all that their last checkpoints hold."""
    assert comparable(one) == comparable(other)
    states = [load_checkpoint(find_checkpoint(run / "checkpoints")) for run in (one, other)]
    for state in states:
        for timed in ("seconds", "cpu_time", "spent"):
            state.pop(timed, None)
    _assert_same(*states, "state")


def _assert_same(one, other, where):
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            _assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            _assert_same(*pair, f"{where}[{number}]")
    else:
        assert one == other, where


def stopped_at(steps, stop_at, begin, go_on):
    """Begin a run, stop it at each of the steps, and let it end."""
    for number, step in enumerate(steps):
        restore = stop_at(step, lambda _: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            (go_on if number else begin)()
        restore()
    go_on()


# 2. stops at any step

# batch 16 of 96 images: an epoch ends at steps 6 and 12; checkpoints at 4, 8, 12
STOPS = [(1,), (4,), (6,), (9,), (12,), (13,), (3, 5), (6, 7), (2, 6, 11)]


@pytest.mark.parametrize("threads", [1, 2])
def test_2_a_stop_in_memory_changes_no_bit(tmp_path, stop_at, threads):
    data, recipe = few_digits(), in_memory(validation=20, batch_size=16)
    stops = STOPS if threads == 1 else STOPS[2::3]
    with cpu_threads(threads):
        residual.train(recipe, dataset=data, output=tmp_path / "whole")
        for number, steps in enumerate(stops):
            run = tmp_path / f"cut{number}"
            begin = partial(residual.train, recipe, dataset=data, output=run)
            stopped_at(steps, stop_at, begin, partial(residual.resume, run, dataset=data))
            assert_equal_to_the_bit(run, tmp_path / "whole")
    times = sum(map(len, stops))
    record(
        2,
        f"in memory, {threads} thread{'s' * (threads > 1)}: in mid-epoch, at its end, up to three times over",
        times,
        "weights, optimizer, BN statistics and metrics equal to the bit",
    )


@pytest.mark.parametrize(("threads", "workers"), [(1, 0), (1, 2), (2, 0), (2, 2)])
def test_2_a_stop_with_streamed_photographs_changes_no_bit(tmp_path, photographs, stop_at, threads, workers):
    recipe = small_photographs("imagenet-modern", log_every=1, **{"ema.every": 3})
    stops = [(5,), (6,), (2, 7)] if (threads, workers) == (1, 0) else [(5, 6)]
    with cpu_threads(threads):
        begin = partial(residual.train, recipe, data_dir=photographs, workers=workers)
        begin(output=tmp_path / "whole")
        for number, steps in enumerate(stops):
            run = tmp_path / f"cut{number}"
            stopped_at(
                steps, stop_at, partial(begin, output=run), partial(residual.resume, run, workers=workers)
            )
            assert_equal_to_the_bit(run, tmp_path / "whole")
    record(
        2,
        f"photographs, {threads} thread{'s' * (threads > 1)}, {workers} workers: mid-epoch, its end, twice",
        sum(map(len, stops)),
        "weights, optimizer, BN statistics, the average of the weights and metrics equal to the bit",
    )


# 3. signals in every phase; those in the imports and the second one at once are in test_interruptions.py too

PHASES = {
    "load": (prepare, "load_dataset"),
    "train": (Trainer, "train_one"),
    "evaluate": (prepare, "evaluate_split"),
    "save": (trainer, "save_checkpoint"),
    "plot": (curves, "plot_runs"),
    "model": (finish, "save_model"),
    "finish": (Run, "write_result"),
}


@pytest.mark.parametrize(("when", "twice"), [("before", False), ("after", False), ("before", True)])
def test_3_signals_in_every_phase(tmp_path, cli, monkeypatch, when, twice):
    changes = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
    arguments = [
        "train",
        "resnet8",
        "--data",
        "digits",
        *changes,
        "--set",
        "validation=20",
        "--set",
        "evaluate_every=3",
    ]
    cli(*arguments, "--output", tmp_path / "whole")
    monkeypatch.setattr(signals, "SAME", 0)
    tries = 0
    for phase, (owner, name) in PHASES.items():
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            run, real, calls = tmp_path / f"{phase}-{code}", getattr(owner, name), []

            def hit(*given, real=real, calls=calls, number=number, **options):
                calls.append(given)
                now = len(calls) == (3 if phase in ("train", "save") else 1)  # noqa: B023, called within
                for _ in range((1 + twice) * (now and when == "before")):
                    signal.raise_signal(number)
                found = real(*given, **options)
                for _ in range((1 + twice) * (now and when == "after")):
                    signal.raise_signal(number)
                return found

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, hit)
                found, out, err = cli(*arguments, "--output", run)
            said = err.splitlines()[-1]
            assert (found, out, "Traceback" in err) == (code, "", False), (phase, err)
            tries += 1
            if phase == "load":
                assert said == "residual: interrupted"
                assert not run.exists()
                continue
            assert said.startswith("residual: stopped at step ")
            assert f"'residual train --resume {run}' resumes it" in said
            assert not list(run.rglob("*.tmp"))
            assert cli("train", "--resume", run)[0] == 0
            assert comparable(run) == comparable(tmp_path / "whole")
    record(
        3,
        f"SIGTERM or SIGINT {'twice' if twice else 'once'}, {when} each phase: {', '.join(PHASES)}",
        tries,
        "exit 143 or 130 and one line; resumed, the same run to the bit",
        "the steps since the last checkpoint are taken again" if twice else "nothing",
    )


# 5. the last checkpoint is bad


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Train once whole, and once up to step 7; give both run folders."""
    folder, real = tmp_path_factory.mktemp("interrupted"), Trainer.train_one
    recipe = residual.get_recipe("demo", "resnet8").replace(TINY)

    def train_one(self):
        real(self)
        if self.step == 7 and self.run.path.name == "cut":
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_one", train_one)
        residual.train(recipe, output=folder / "whole")
        with pytest.raises(InterruptedRunError):
            residual.train(recipe, output=folder / "cut")
    return folder


@pytest.mark.parametrize("how", ["truncated", "one bit flipped"])
def test_5_a_bad_last_checkpoint_is_found_and_the_one_before_is_used(interrupted, tmp_path, how, capsys):
    tries, draw = 200, random.Random(how)
    run = shutil.copytree(interrupted / "cut", tmp_path / "cut")
    newest, older = find_checkpoints(run / "checkpoints")
    content = newest.read_bytes()
    for _ in range(tries):
        damaged = bytearray(content[: draw.randrange(len(content))] if how == "truncated" else content)
        if how != "truncated":
            damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        newest.write_bytes(damaged)
        path, state, found = load_newest(run / "checkpoints")
        assert (path, state["step"], len(found)) == (older, 6, 1)
        assert newest.name in found[0]
        with pytest.raises(CheckpointError, match="truncated or corrupted"):
            load_checkpoint(newest)
    residual.resume(run, quiet=False)
    assert f"going back to {older}" in capsys.readouterr().err
    assert_equal_to_the_bit(run, interrupted / "whole")
    record(
        5,
        f"the last checkpoint {how}, at random",
        tries,
        "named in a warning; resumed from the one before, the same run to the bit",
        "the steps between the two are taken again",
    )


# 7. a loss that is not finite


@pytest.fixture
def poisoned(monkeypatch):
    """Make the images of certain steps NaN or infinite."""
    real, bad = TrainBatches.__getitem__, {}

    def batch(self, step):
        images, labels = real(self, step)
        return images * bad.get(step, 1.0), labels

    monkeypatch.setattr(TrainBatches, "__getitem__", batch)
    return bad


def test_7_a_bad_loss_at_any_step_stops_before_the_update(tmp_path, poisoned):
    recipe = residual.get_recipe("demo", "resnet8").replace(TINY)
    for step in range(recipe.iterations):
        poisoned.clear()
        poisoned[step] = float("nan") if step % 2 else float("inf")
        run = tmp_path / f"run{step}"
        with pytest.raises(NonFiniteLossError, match=f"the loss of step {step} is not finite"):
            residual.train(recipe, output=run)
        for path in find_checkpoints(run / "checkpoints"):
            state = load_checkpoint(path)
            assert state["step"] <= step
            assert all(bool(torch.isfinite(value).all()) for value in state["network"].values())
        poisoned.clear()
        if step in (3, 4):  # once the cause is gone
            residual.train(recipe, output=tmp_path / f"whole{step}")
            residual.resume(run)
            assert_equal_to_the_bit(run, tmp_path / f"whole{step}")
    record(
        7,
        "a batch of NaN or infinity, at each step of a run",
        recipe.iterations,
        "exit 6 before the update, with the step; every checkpoint finite; once the cause was gone, the "
        "resume was the same run to the bit",
        "the steps since the last checkpoint are taken again",
    )


def test_7_with_retries_a_run_goes_back_and_on(tmp_path, poisoned, monkeypatch):
    recipe = residual.get_recipe("demo", "resnet8").replace(TINY).replace({"retries": 3})
    draw, tries = random.Random(7), 0
    for number in range(6):
        bad = sorted(draw.sample(range(recipe.iterations), 1 + number % 3))
        poisoned.clear()
        poisoned.update(dict.fromkeys(bad, float("nan")))
        residual.train(recipe, output=tmp_path / f"run{number}")
        found = load_checkpoint(find_checkpoint(tmp_path / f"run{number}" / "checkpoints"))
        assert found["left_out"] == bad
        poisoned.clear()
        with monkeypatch.context() as patch:  # the same batches left out from the start, without a fault
            real = trainer.Engine.__init__

            def init(self, *given, real=real, bad=bad):
                real(self, *given)
                self.left_out = set(bad)

            patch.setattr(experiment.Engine, "__init__", init)
            residual.train(recipe, output=tmp_path / f"plain{number}")
        assert_equal_to_the_bit(tmp_path / f"run{number}", tmp_path / f"plain{number}")
        assert len(Run.open(tmp_path / f"run{number}").environment["went_back"]) == len(bad)
        tries += len(bad)
    record(
        7,
        "one to three batches of NaN, with retries=3",
        tries,
        "back to the last checkpoint and on; equal to the bit to a run without these batches",
        "the batches of NaN",
    )


def test_7_the_fourth_bad_loss_stops_a_run_with_retries(tmp_path, poisoned):
    recipe = residual.get_recipe("demo", "resnet8").replace(TINY).replace({"retries": 3})
    for first in (0, 1, 3, 4):
        poisoned.clear()
        poisoned.update(dict.fromkeys(range(first, first + 4), float("nan")))
        with pytest.raises(NonFiniteLossError, match=f"step {first + 3} .* the run has gone back 3 times"):
            residual.train(recipe, output=tmp_path / f"run{first}")
    record(7, "four batches of NaN in a row, with retries=3", 4, "exit 6 after going back three times")


# 8. folders


def test_8_a_folder_that_is_moved_or_copied_in_between_still_resumes(tmp_path, stop_at):
    recipe = residual.get_recipe("demo", "resnet8").replace(TINY)
    residual.train(recipe, output=tmp_path / "whole")
    run = tmp_path / "run0"
    for step in range(1, recipe.iterations):
        restore = stop_at(step, lambda _: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(InterruptedRunError):
            residual.train(recipe, output=run) if step == 1 else residual.resume(run)
        restore()
        after = tmp_path / ("deeper" * (step % 2)) / f"run{step}"
        after.parent.mkdir(exist_ok=True)
        run = run.rename(after) if step % 2 else shutil.copytree(run, after)
    residual.resume(run)
    assert_equal_to_the_bit(run, tmp_path / "whole")
    record(
        8,
        "the folder moved, then copied, after each step",
        recipe.iterations - 1,
        "resumed from where it was; the same run to the bit",
    )
