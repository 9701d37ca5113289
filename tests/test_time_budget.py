"""A schedule fitted to a time (`--time`), by a clock that the test sets: nothing here is timed."""

import dataclasses
import itertools
import math

import pytest

import residual
from conftest import make_engine
from residual import get_recipe
from residual.errors import CheckpointError, RunError, UsageError
from residual.runtime.duration import parse_duration
from residual.runtime.progress import Reporter
from residual.training import experiment
from residual.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from residual.training.run_folder import Run
from residual.training.run_state import go_back, state_of
from residual.training.schedule import ScheduleState, after_fit, fitted, is_early, is_evaluated, learning_rate
from residual.training.time_fit import Images, Pace
from residual.training.trainer import Trainer


def recipe_of(time, **changes):
    return get_recipe("fast", "resnet20").replace({"time": time, "batch_size": 50, **changes})


NOTHING = Images()


@dataclasses.dataclass
class Simulation:
    """A run that trains nothing: what each part of it takes is given in seconds."""

    recipe: object
    images: Images = NOTHING
    step_seconds: object = staticmethod(lambda _clock: 0.5)
    image_seconds: float = 0.0  # of an evaluated image
    start: float = 1.0  # before the first step
    first: float = 2.0  # what the first step takes more than others
    writing: float = 2.0

    def __post_init__(self):
        self.clock, self.step, self.state = 100.0, 0, ScheduleState()
        self.rates, self.evaluations, self.lengths, self.early = [], [], [], 0
        self.pace = Pace(self.recipe, self.images, began=self.clock, now=lambda: self.clock)

    def run(self, until=math.inf):
        """Do what `Trainer` does, for all steps or until one."""
        self.clock += self.start
        self.pace.start(self.step)
        begun = self.step
        while self.step < min(until, fitted(self.recipe, self.state).last_step):
            self.rates.append(learning_rate(self.recipe, self.step, self.state))
            early = is_early(self.recipe, self.step, self.state)
            self.early += early
            self.clock += self.step_seconds(self.clock - 100) * (self.images.early_pixels if early else 1)
            self.clock += self.first if self.step == begun else 0
            self.step += 1
            self.pace.took_step(self.step)
            last = self.step == fitted(self.recipe, self.state).last_step
            due = not last and self.pace.is_due(self.step, self.state)
            if self.images.evaluated and (last or is_evaluated(self.recipe, self.step, self.state)):
                self.evaluations.append(self.step)
                self.clock += self.images.evaluated * self.image_seconds
                self.pace.evaluated(self.images.evaluated * self.image_seconds)
            if due:
                iterations = self.pace.fit(self.step, self.state)
                self.state = after_fit(self.recipe, self.state, self.step, iterations)
                self.lengths.append(iterations)
        return self

    def seconds(self):
        """Return how long the run takes with its end."""
        return self.clock - 100 + self.images.at_end * self.image_seconds + self.writing


def steady(_clock):
    return 0.5


def slower(clock):
    return 0.5 if clock < 150 else 1.0


def faster(clock):
    return 0.5 if clock < 150 else 0.25


def restless(clock):
    return 0.5 * (1 + 0.5 * math.sin(clock / 7))


SPEEDS = [steady, slower, faster, restless]


@pytest.mark.parametrize("speed", SPEEDS)
@pytest.mark.parametrize("evaluated", [0, 300])
@pytest.mark.parametrize("early", [0.0, 0.6])
def test_the_run_takes_its_time_and_the_rate_keeps_its_shape(speed, evaluated, early):
    changes = {"augment.early_size": 16, "augment.early_share": early} if early else {}
    images = Images(evaluated, 2 * evaluated, early_pixels=0.25 if early else 1.0)
    run = Simulation(recipe_of(300, **changes), images, speed, image_seconds=0.01).run()
    assert 0.8 * 300 <= run.seconds() <= 1.2 * 300
    assert (run.early > 0) is bool(early)
    assert len(run.lengths) > 5, "it is fitted again and again"
    assert_rises_then_falls(run.rates, 0.4)
    assert len(run.evaluations) == len(set(run.evaluations)) <= 11
    assert not evaluated or len(run.evaluations) >= 5


def assert_rises_then_falls(rates, peak):
    top = rates.index(max(rates))
    assert max(rates) == pytest.approx(peak, rel=0.1)
    assert 0 < top < 0.5 * len(rates)
    assert all(before <= after for before, after in itertools.pairwise(rates[: top + 1]))
    assert all(before >= after for before, after in itertools.pairwise(rates[top:]))
    assert rates[-1] < 0.05 * peak


@pytest.mark.parametrize("shape", ["triangle", "cosine"])
@pytest.mark.parametrize("time", [60, 1000, 7200])
def test_other_times_and_shapes(shape, time):
    run = Simulation(recipe_of(time, **{"schedule.shape": shape}), step_seconds=restless).run()
    assert 0.8 * time <= run.seconds() <= 1.2 * time
    assert_rises_then_falls(run.rates, 0.4)


def test_frozen_steps_cost_less_and_are_counted_as_such():
    recipe = recipe_of(300, **{"optimizer.frozen": 200})
    run = Simulation(recipe)
    run.step_seconds = lambda _clock: 0.6 if run.step >= 200 else 0.2
    assert 0.8 * 300 <= run.run().seconds() <= 1.2 * 300


def test_steps_slower_than_the_time_end_the_run_soon_after_it():
    run = Simulation(recipe_of(100), step_seconds=lambda clock: 0.5 if clock < 50 else 30.0).run()
    assert run.seconds() < 100 + 3 * 30


@pytest.mark.parametrize("stop", [10, 100, 400, 540])
def test_a_resume_counts_the_time_before(stop):
    before = Simulation(recipe_of(300)).run(until=stop)
    after = Simulation(recipe_of(300))
    after.step, after.rates = before.step, before.rates
    after.state = ScheduleState.from_dict(before.state.as_dict())
    after.pace.earlier = before.pace.spent()
    after.run()
    taken = before.pace.spent() + after.seconds()
    assert 0.8 * 300 <= taken <= 1.2 * 300
    assert_rises_then_falls(after.rates, 0.4)


def test_a_resume_after_the_time_is_over_takes_few_steps():
    before = Simulation(recipe_of(300)).run(until=300)
    after = Simulation(recipe_of(300))
    after.step, after.state, after.pace.earlier = 300, before.state, 400.0
    after.run()
    assert after.step <= 302


@pytest.mark.parametrize(("time", "needed"), [(5, 20), (8, 20)])
def test_a_time_that_is_too_short_is_refused_with_what_is_needed(time, needed):
    with pytest.raises(RunError, match="too short to train") as caught:
        Simulation(recipe_of(time), step_seconds=lambda _clock: 1.0).run()
    message = str(caught.value)
    assert "\n" not in message
    assert f"about {needed} s" in message


def test_without_a_time_nothing_is_fitted_and_the_state_is_as_it_was():
    recipe = recipe_of(0)
    state, pace = ScheduleState(), Pace(recipe)
    assert state.as_dict() == {"warmup_end": None, "drops": 0, "lowest_error": None, "waited": 0}
    assert not pace.is_due(50, state)
    assert fitted(recipe, state) is recipe


def test_the_time_left_is_estimated_without_a_time():
    run = Simulation(recipe_of(0, iterations=200))
    run.run(until=50)
    assert run.pace.left(50, run.state) == pytest.approx(150 * 0.5 + 4, rel=0.02)


@pytest.mark.parametrize(
    "values",
    [{"iterations": 0}, {"iterations": 5, "fitted_at": 5}, {"iterations": 5.0}, {"done": 1.0}, {"done": "1"}],
)
def test_a_damaged_state_is_refused(values):
    with pytest.raises(ValueError, match="is"):
        ScheduleState.from_dict(values)


# a whole run, on a clock that a step moves


TINY = {"batch_size": 32, "curve": "none", "log_every": 5, "checkpoint_every": 5, "time": 120.0}


@pytest.fixture
def clock(monkeypatch):
    """Let a step take two seconds, and nothing else any time."""
    moment = [0.0]
    train_one = Trainer.train_one

    def taking_time(self):
        moment[0] += 2.0
        train_one(self)

    monkeypatch.setattr(Trainer, "train_one", taking_time)
    real = experiment.pace_of

    def pace_of(prepared, began=None):
        pace = real(prepared, began)
        return Pace(pace.recipe, pace.images, began=moment[0], now=lambda: moment[0])

    monkeypatch.setattr(experiment, "pace_of", pace_of)
    return moment


@pytest.mark.slow
def test_a_run_and_its_resume_keep_to_the_time(tmp_path, clock, stop_at):
    recipe = get_recipe("demo", "resnet8").replace(TINY)

    def fault(_trainer):
        raise RuntimeError("power cut")

    mended = stop_at(13, fault)
    with pytest.raises(RuntimeError):
        residual.train(recipe, output=tmp_path / "run")
    mended()
    run = Run.open(tmp_path / "run")
    state = load_checkpoint(find_checkpoint(run.checkpoints))
    assert (state["step"], state["spent"]) == (10, 20.0)
    assert state["schedule"]["iterations"]
    figures = residual.resume(tmp_path / "run").figures
    assert 0.8 * 60 <= figures["iterations"] <= 60


def test_a_checkpoint_without_the_time_spent_is_refused(tmp_path):
    run = Run.create(tmp_path / "run", get_recipe("demo", "resnet8").replace(TINY), {})
    trainer = Trainer(make_engine(run.recipe), run, Reporter(enabled=False))
    state = state_of(trainer)
    assert state.pop("spent") > 0
    save_checkpoint(run.checkpoints, "last", 0, state)
    with pytest.raises(CheckpointError, match="spent"):
        go_back(trainer)


# the option


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("25m", 1500), ("2h", 7200), ("0.5h", 1800)])
def test_durations(text, seconds):
    assert parse_duration(text, "--time") == seconds


@pytest.mark.parametrize(
    "text", ["", "5", "m", "5 m", "-5m", "1e3s", "5d", "5mm", "nans", "infh", "1.m", "0s"]
)
def test_bad_durations_are_refused(text, cli):
    if text != "0s":
        with pytest.raises(UsageError, match="--time"):
            parse_duration(text, "--time")
    code, out, err = cli("train", "resnet8", "--data", "digits", f"--time={text}")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--time" in err


@pytest.mark.parametrize("option", [("--epochs", 1), ("--iterations", 5)])
def test_the_time_alone_sets_the_length(option, cli):
    code, out, err = cli("train", "resnet8", "--data", "digits", "--time", "1m", *option)
    assert (code, out) == (2, "")
    assert "leave --epochs and --iterations out" in err
