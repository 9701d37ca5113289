"""The engine alone, without a run folder: steps, state, restore; and what a checkpoint must hold to fit."""

import io
import json
import shutil

import pytest
import torch

import residual
from conftest import make_engine
from residual import get_recipe
from residual.errors import CheckpointError, RunError
from residual.runtime.ranks import any_rank_stops, sum_over_ranks
from residual.training import engine as engine_module
from residual.training.checkpoint import FORMAT, find_checkpoint, load_checkpoint, save_checkpoint, step_of
from residual.training.run_folder import Run
from residual.training.schedule import ScheduleState
from residual.training.trainer import Trainer

WARMUP = {"schedule.warmup_learning_rate": 0.01, "schedule.warmup_window": 2, "schedule.warmup_error": 100}
TINY = {"iterations": 8, "batch_size": 8, "log_every": 2, "checkpoint_every": 2, "curve": "none"}


def tiny(**changes):
    return get_recipe("demo", "resnet8").replace({**TINY, **changes})


def plain(value):
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "by tables"])
@pytest.mark.parametrize("muon", [0.0, 0.01])
def test_a_restored_engine_continues_bit_exactly(captured, muon):
    recipe = tiny(**WARMUP, **{"optimizer.muon": muon})
    engine = make_engine(recipe, captured)
    for _ in range(3):
        engine.take_step()
    saved = torch.load(_in_memory(engine.state()), weights_only=True)
    other = make_engine(recipe.replace({"seed": 0}), captured)
    with torch.no_grad():
        other.network.fc.weight.zero_()
    other.restore(saved, "a state")
    for one in (engine, other):
        one.check_warmup()
        for _ in range(2):
            one.take_step()
        one.wait()
    assert engine.schedule == other.schedule
    assert plain(engine.state()) == plain(other.state())


def _in_memory(state):
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return buffer


def test_a_schedule_that_changes_state_refills_the_tables():
    """Rates already on the device are replaced when the warm-up ends in the middle of a stretch."""
    engine = make_engine(tiny(**WARMUP), captured=True)
    rates = []
    for _ in range(4):
        engine.take_step()
        rates.append(engine.last_learning_rate)
        if engine.step == 2:
            engine.warmup_window.sums[:2] = 0  # an error of 0
            engine.check_warmup()
    assert engine.schedule == ScheduleState(warmup_end=2)
    peak = engine.recipe.optimizer.learning_rate
    assert rates == pytest.approx([0.01, 0.01, peak, peak])


@pytest.mark.parametrize("stretch", [1, 3, 500])
def test_the_stretch_changes_nothing(monkeypatch, stretch):
    monkeypatch.setattr(engine_module, "STRETCH", stretch)
    engine = make_engine(tiny(), captured=True)
    for _ in range(5):
        engine.take_step()
    eager = make_engine(tiny())
    for _ in range(5):
        eager.take_step()
    found, expected = engine.window.read(), eager.window.read()
    assert found == pytest.approx(expected, rel=1e-4)


def test_every_metric_is_read_through_the_sum_over_ranks(monkeypatch):
    engine = make_engine(tiny())
    engine.take_step()
    loss, error = engine.window.peek()
    other_rank = torch.tensor([0.0, 8.0, 8.0], dtype=torch.float64)  # all wrong
    monkeypatch.setattr("residual.runtime.ranks.sum_over_ranks", lambda sums: sums + other_rank)
    assert engine.window.read() == pytest.approx((loss / 2, (error + 100) / 2))
    assert torch.equal(sum_over_ranks(other_rank), other_rank)


def test_a_signal_to_any_rank_stops_this_one(tmp_path, monkeypatch):
    monkeypatch.setattr("residual.runtime.ranks.any_rank_stops", lambda number: 15)
    with pytest.raises(residual.ResidualError, match="stopped at step 1: saved"):
        residual.train(tiny(), output=tmp_path / "run")
    assert any_rank_stops(None) is None


# checkpoints that are whole and do not fit


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """Train two recipes, whole and cut off after step 5; give the folder of these runs."""
    root = tmp_path_factory.mktemp("half")
    real = Trainer.train_one

    def train_one(self):
        real(self)
        if self.step == 5 and self.run.path.name == "half":
            raise RuntimeError("power cut")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_one", train_one)
        for kind, changes in (("sgd", {}), ("warm-up", {**WARMUP, "validation": 20})):
            (root / kind).mkdir()
            residual.train(tiny(**changes), output=root / kind / "whole")
            with pytest.raises(RuntimeError, match="power cut"):
                residual.train(tiny(**changes), output=root / kind / "half")
    return root


def rewrite(run, change):
    """Change the newest checkpoint and give it a valid checksum."""
    path = find_checkpoint(run / "checkpoints")
    state = load_checkpoint(path)
    change(state)
    return save_checkpoint(run / "checkpoints", "last", step_of(path), state, keep=2)


def _momentum(state):
    buffers = state["optimizer"]["state"]
    buffers[0]["momentum_buffer"] = torch.zeros(3)


KEYS = ["step", "network", "optimizer", "window", "warmup_window", "schedule"]
KEYS += ["recipe", "training_error", "best", "seconds"]
BAD = {f"no {key}": lambda state, key=key: state.pop(key) for key in KEYS}
BAD |= {f"{key} is text": lambda state, key=key: state.update({key: "x"}) for key in KEYS}
BAD |= {
    "window of two": lambda state: state.update(window=torch.zeros(2)),
    "window of one": lambda state: state.update(window=torch.zeros(1)),
    "window of no dimension": lambda state: state.update(warmup_window=torch.zeros(())),
    "window of three dimensions": lambda state: state.update(warmup_window=torch.zeros(1, 1, 3)),
    "unknown schedule": lambda state: state.update(schedule={"plateau": 1}),
    "schedule of text": lambda state: state.update(schedule={"warmup_end": "x"}),
    "weights of text": lambda state: state["network"].update({"fc.bias": "x"}),
    "no weights": lambda state: state["network"].clear(),
    "no BN counters": lambda state: state["network"].pop("bn1.num_batches_tracked"),
    "no groups": lambda state: state["optimizer"].pop("param_groups"),
    "groups of text": lambda state: state["optimizer"].update(param_groups="x"),
    "momentum of another shape": _momentum,
    "best without a step": lambda state: state.update(best={"error": 1.0}),
    "unknown time": lambda state: state.update(cpu_time={"x": 1}),
    "time of text": lambda state: state.update(cpu_time="x"),
}


@pytest.mark.parametrize("how", BAD)
def test_a_checkpoint_with_a_valid_checksum_that_does_not_fit_is_refused(half, tmp_path, how):
    run = shutil.copytree(half / "sgd" / "half", tmp_path / "run")
    path = rewrite(run, BAD[how])
    with pytest.raises(CheckpointError) as caught:
        residual.resume(run)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["sgd", "warm-up"])
def test_a_run_folder_of_the_first_formats_resumes_bit_exactly(half, tmp_path, kind):
    run = shutil.copytree(half / kind / "half", tmp_path / "run")
    for path in (run / "checkpoints").glob("*.pt"):
        state = load_checkpoint(path)
        state |= {"format": 1, "warmup_end": state.pop("schedule")["warmup_end"]}
        state["recipe"]["holdout"] = state["recipe"].pop("validation")
        del state["cpu_time"]
        kind_, _, step = path.stem.rpartition("-")
        save_checkpoint(run / "checkpoints", kind_, int(step), state, keep=2)
    for name in ("environment.json", "recipe.json"):
        values = json.loads((run / name).read_text())
        for new in [key for key in ("format", "own_network", "dataset", "precision") if key in values]:
            if not (name == "recipe.json" and new == "precision"):
                del values[new]
        text = json.dumps(values).replace('"validation', '"holdout')
        (run / name).write_text(text)
    log = (run / "metrics.jsonl").read_text().replace('"validation"', '"holdout"')
    (run / "metrics.jsonl").write_text(log)
    assert load_checkpoint(find_checkpoint(run / "checkpoints"))["format"] == 1
    figures = residual.resume(run).figures
    whole = Run.open(half / kind / "whole").result
    assert (whole["warmup_end"] is not None) == (kind == "warm-up")
    for key in ("model_sha256", "warmup_end", "error", "validation_best"):
        assert figures[key] == whole[key]


def test_a_result_of_the_first_format_is_read(half, tmp_path):
    run = shutil.copytree(half / "warm-up" / "whole", tmp_path / "run")
    values = json.loads((run / "result.json").read_text())
    assert values.pop("format") == 2
    values["holdout_best"] = values.pop("validation_best")
    (run / "result.json").write_text(json.dumps(values))
    assert residual.resume(run).figures == Run.open(half / "warm-up" / "whole").result


@pytest.mark.parametrize("found", [3, 0, "2", None, True])
@pytest.mark.parametrize("name", ["environment.json", "result.json"])
def test_a_format_that_is_not_known_is_refused(half, tmp_path, name, found):
    run = shutil.copytree(half / "sgd" / "whole", tmp_path / "run")
    values = json.loads((run / name).read_text())
    assert values["format"] == 2
    (run / name).write_text(json.dumps({**values, "format": found}))
    if name == "environment.json":
        (run / "result.json").unlink()
    with pytest.raises(RunError, match=rf"{name} has format .*upgrade"):
        residual.resume(run)


def test_a_checkpoint_of_a_newer_format_is_refused(tmp_path):
    path = save_checkpoint(tmp_path, "last", 1, {"format": FORMAT + 1})
    with pytest.raises(CheckpointError, match=f"has format {FORMAT + 1}; .*upgrade"):
        load_checkpoint(path)
