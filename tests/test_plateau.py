"""The plateau schedule: when the rate drops, what a checkpoint keeps, exact resume; cosine with warm-up."""

import math
import signal

import pytest

import residual
from residual import get_recipe
from residual.errors import CheckpointError, InterruptedRunError, UsageError
from residual.evaluation.classification import Evaluation
from residual.recipes.catalog import recipe_label
from residual.recipes.schema import Recipe, Schedule
from residual.runtime.progress import Reporter
from residual.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from residual.training.prepare import Prepared
from residual.training.run_folder import Run
from residual.training.schedule import ScheduleState, after_evaluation, learning_rate
from residual.training.trainer import Trainer

PLATEAU = {"schedule.shape": "plateau", "schedule.patience": 2, "validation": 20, "curve": "none"}
TINY = {"iterations": 12, "batch_size": 8, "log_every": 1, "evaluate_every": 1, "checkpoint_every": 5}
#            lowest       1   2: drop  lowest     1   2: drop          1  2: no third drop
ERRORS = [50.0, 40.0, 40.0, 41.0, 39.0, 60.0, 39.0, 60.0, 60.0, 60.0, 60.0, 60.0]
DROPS = [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2, 2]  # after each evaluation


def tiny(**changes):
    return get_recipe("demo", "resnet8").replace({**TINY, **PLATEAU, "schedule.max_drops": 2, **changes})


# the function


def states_after(recipe, errors):
    states = [ScheduleState()]
    for error in errors:
        states.append(after_evaluation(recipe, states[-1], error))
    return states[1:]


def test_the_rate_is_divided_when_there_was_no_new_minimum_for_as_long_as_the_patience():
    states = states_after(tiny(), ERRORS)
    assert [state.drops for state in states] == DROPS
    rates = [learning_rate(tiny(), 5, state) for state in states]
    assert rates == pytest.approx([0.1 * 0.1**drops for drops in DROPS])
    assert states[-1].lowest_error == 39.0


@pytest.mark.parametrize(
    ("changes", "drops"),
    [
        ({"schedule.patience": 1}, [0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9]),
        ({"schedule.patience": 4}, [0] * 8 + [1] * 4),
        ({"schedule.max_drops": 1}, [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        ({"schedule.max_drops": 0}, [0] * 12),
    ],
)
def test_patience_and_the_number_of_drops(changes, drops):
    recipe = tiny(**{"schedule.max_drops": 99, **changes})
    assert [state.drops for state in states_after(recipe, ERRORS)] == drops
    factor = recipe.replace({"schedule.factor": 0.5})
    assert learning_rate(factor, 0, ScheduleState(drops=3)) == pytest.approx(0.1 / 8)


def test_errors_during_the_warm_up_do_not_count():
    recipe = tiny(**{"schedule.warmup_learning_rate": 0.01})
    assert set(states_after(recipe, ERRORS)) == {ScheduleState()}
    warm = ScheduleState(warmup_end=3)
    assert after_evaluation(recipe, warm, 50.0) == ScheduleState(warmup_end=3, lowest_error=50.0)


@pytest.mark.parametrize("shape", ["steps", "triangle", "cosine"])
def test_other_schedules_heed_no_error(shape):
    recipe = tiny(**{"schedule.shape": shape})
    assert set(states_after(recipe, ERRORS)) == {ScheduleState()}
    before, after = ScheduleState(), ScheduleState(drops=2)
    for step in range(12):
        assert learning_rate(recipe, step, after) == learning_rate(recipe, step, before)


def test_it_needs_a_validation_set():
    with pytest.raises(
        UsageError, match=r"schedule\.shape = plateau needs a validation set: set --validation"
    ):
        Recipe(schedule=Schedule(shape="plateau"))
    with pytest.raises(UsageError, match="needs a validation set"):
        get_recipe("imagenet-paper", "resnet50").replace({"validation": 0})


def test_what_decides_on_the_rate_is_named_in_the_label_and_not_changed_by_an_early_stop():
    recipe = get_recipe("imagenet-paper", "resnet50")
    assert recipe_label(recipe.replace({"evaluate_every": 1000})) == "imagenet-paper, evaluate_every=1000"
    assert recipe.replace({"stop_after": 3000}).evaluation_period == recipe.evaluation_period == 5000
    epochs = get_recipe("imagenet-epochs", "resnet50").replace({"evaluate_every": 1000})
    assert recipe_label(epochs) == "imagenet-epochs"


@pytest.mark.parametrize(
    "values",
    [
        {"drops": -1},
        {"drops": True},
        {"drops": 1.5},
        {"waited": None},
        {"waited": -3},
        {"warmup_end": -1},
        {"lowest_error": "low"},
        {"lowest_error": math.nan},
        {"lowest_error": 101},
        {"lowest_error": True},
    ],
)
def test_a_damaged_state_is_refused(values):
    good = {"warmup_end": 3, "drops": 1, "lowest_error": 12.5, "waited": 2}
    assert ScheduleState.from_dict(good).as_dict() == good
    assert ScheduleState.from_dict({"warmup_end": None}) == ScheduleState()  # a checkpoint of before
    with pytest.raises(ValueError, match=next(iter(values))):
        ScheduleState.from_dict(good | values)


# in a run


class Notes(Reporter):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__(enabled=False)
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def with_errors(monkeypatch, errors):
    """Make every validation give the next error."""
    left = iter(errors)
    evaluations = {
        "validation": lambda _network: Evaluation(20, next(left), (0.0, 1.0), 0.0, 0.0, 0.0, 1.0, [], [])
    }
    monkeypatch.setattr(Prepared, "evaluations", lambda *_: evaluations)


def rates_of(path):
    return [record["learning_rate"] for record in Run.open(path).metrics("train")]


def test_a_run_drops_its_rate_and_says_so(tmp_path, monkeypatch):
    with_errors(monkeypatch, ERRORS)
    notes = Notes()
    residual.train(tiny(), output=tmp_path / "run", reporter=notes)
    used = [0, *DROPS[:-1]]  # by the steps after each evaluation
    assert rates_of(tmp_path / "run") == pytest.approx([0.1 * 0.1**drops for drops in used])
    said = [line for line in notes.lines if "learning rate" in line]
    assert [line.split(":")[0] for line in said] == ["step 4", "step 7"]
    assert [line.split()[-1] for line in said] == ["0.01", "0.001"]


@pytest.mark.parametrize("stop", [3, 6])  # while it waits: before the first drop, and between the two
def test_a_resume_has_the_same_rates(tmp_path, monkeypatch, stop):
    with_errors(monkeypatch, ERRORS)
    residual.train(tiny(), output=tmp_path / "whole")
    real = Trainer.train_one

    def train_one(self):
        real(self)
        if self.step == stop:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_one", train_one)
    with_errors(monkeypatch, ERRORS)
    with pytest.raises(InterruptedRunError):
        residual.train(tiny(), output=tmp_path / "cut")
    monkeypatch.setattr(Trainer, "train_one", real)
    with_errors(monkeypatch, ERRORS[stop:])
    result = residual.resume(tmp_path / "cut")
    assert rates_of(tmp_path / "cut") == rates_of(tmp_path / "whole")
    assert result.figures["model_sha256"] == Run.open(tmp_path / "whole").result["model_sha256"]
    path = find_checkpoint(tmp_path / "cut" / "checkpoints")
    assert load_checkpoint(path)["schedule"] == states_after(tiny(), ERRORS)[-1].as_dict()


def test_a_checkpoint_with_a_damaged_state_is_refused(tmp_path, monkeypatch):
    with_errors(monkeypatch, ERRORS)
    residual.train(tiny(), output=tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    state = load_checkpoint(find_checkpoint(tmp_path / "run" / "checkpoints"))
    state["schedule"]["waited"] = "x"
    save_checkpoint(tmp_path / "run" / "checkpoints", "last", 12, state)
    with pytest.raises(CheckpointError, match="does not fit: waited is 'x'"):
        residual.resume(tmp_path / "run")


# cosine with a linear warm-up


def test_cosine_rises_linearly_and_falls_by_a_cosine():
    recipe = get_recipe("imagenet-modern", "resnet50").replace({"iterations": 1200})
    rise = 1200 * 5 // 600
    for step in range(1200):
        rate = learning_rate(recipe, step, ScheduleState())
        if step < rise:
            assert rate == pytest.approx(0.5 * (step + 1) / rise)
        else:
            done = (step - rise) / (1200 - rise)
            assert rate == pytest.approx(0.25 * (1 + math.cos(math.pi * done)), rel=1e-9)
