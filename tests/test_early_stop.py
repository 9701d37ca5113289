"""Early stop: when a run ends, whose weights it keeps, exact resume before and after."""

import json

import pytest
import torch

import residual
from conftest import comparable
from residual import get_recipe
from residual.evaluation.classification import Evaluation
from residual.training import experiment
from residual.training.checkpoint import find_checkpoint, load_checkpoint
from residual.training.run_folder import Run
from residual.zoo.model_folder import load_model

ERRORS = [50.0, 40.0, 40.0, 30.0, 35.0, 30.0, 36.0, 10.0, 9.0, 8.0, 7.0, 6.0]  # 3 in a row after step 4
TINY = {"iterations": 12, "batch_size": 8, "log_every": 5, "evaluate_every": 1, "checkpoint_every": 5}


def tiny(**changes):
    changes = {"validation": 20, "curve": "none", "early_stop": 3, "optimizer.learning_rate": 0.02, **changes}
    return get_recipe("demo", "resnet8").replace({**TINY, **changes})


@pytest.fixture(autouse=True)
def errors(monkeypatch):
    """Evaluate after every step, with made-up errors that depend on the step alone."""
    real = experiment.Trainer

    def trainer(engine, run, reporter, evaluations, pace):
        def made_up(_network):
            return Evaluation(20, ERRORS[engine.step - 1], (0.0, 1.0), 0.0, 0.0, 0.0, 1.0, [], [])

        return real(engine, run, reporter, dict.fromkeys(evaluations, made_up), pace)

    monkeypatch.setattr(experiment, "Trainer", trainer)
    monkeypatch.setattr(residual.recipes.schema.Recipe, "evaluation_period", 1)


def same_weights(run, state):
    kept = load_model(run.model).state_dict()
    return all(torch.equal(kept[n], v) for n, v in state["network"].items() if v.is_floating_point())


def test_the_run_ends_and_keeps_the_best_steps_weights(tmp_path, capsys):
    figures = residual.train(tiny(), output=tmp_path / "run").figures
    assert (figures["stopped_early"], figures["iterations"]) == (7, 7)
    assert figures["validation_best"]["step"] == 4
    assert figures["error"] == figures["validation_best"]["test_error"], "of the weights that are kept"
    assert "training ends with the weights of step 4" in capsys.readouterr().err
    run = Run.open(tmp_path / "run")
    best = load_checkpoint(find_checkpoint(run.checkpoints, "best"))
    last = load_checkpoint(find_checkpoint(run.checkpoints))
    assert (best["step"], last["step"]) == (4, 7)
    assert same_weights(run, best)
    assert not same_weights(run, last)
    assert figures["training_error"] == [r["error"] for r in run.metrics("train")][-1]
    assert [r["step"] for r in run.metrics("train")][-1] == 7


@pytest.mark.parametrize("evaluations", [pytest.param(0, marks=pytest.mark.slow), 4])
def test_a_run_that_is_not_stuck_for_so_long_goes_on_to_its_end(tmp_path, evaluations):
    figures = residual.train(tiny(early_stop=evaluations), output=tmp_path / "run").figures
    assert (figures["stopped_early"], figures["iterations"]) == (None, 12)


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 6])
def test_a_resume_before_the_stop_ends_at_the_same_step(tmp_path, stop_at, step):
    residual.train(tiny(), output=tmp_path / "whole")

    def fault(_trainer):
        raise RuntimeError("power cut")

    mended = stop_at(step, fault)
    with pytest.raises(RuntimeError):
        residual.train(tiny(), output=tmp_path / "run")
    mended()
    residual.resume(tmp_path / "run")
    assert comparable(tmp_path / "run") == comparable(tmp_path / "whole")


def test_a_resume_after_the_stop_takes_no_step_and_gives_the_same(tmp_path, stop_at):
    residual.train(tiny(), output=tmp_path / "run")
    whole = comparable(tmp_path / "run")
    (tmp_path / "run/result.json").unlink()

    def fault(_trainer):
        raise AssertionError("a step was taken")

    stop_at(8, fault)
    residual.resume(tmp_path / "run")
    assert comparable(tmp_path / "run") == whole


def test_a_damaged_best_checkpoint_leaves_the_last_steps_weights_and_says_so(tmp_path, capsys):
    residual.train(tiny(), output=tmp_path / "run")
    run = Run.open(tmp_path / "run")
    (tmp_path / "run/result.json").unlink()
    find_checkpoint(run.checkpoints, "best").write_bytes(b"damaged")
    figures = residual.resume(tmp_path / "run").figures
    assert (figures["stopped_early"], figures["validation_best"]) == (7, None)
    assert "the last weights are kept" in capsys.readouterr().err
    assert same_weights(run, load_checkpoint(find_checkpoint(run.checkpoints)))


def test_the_option_needs_a_validation_set_and_is_a_key_of_the_recipe(cli, tmp_path):
    short = ("train", "resnet8", "--data", "digits", "--iterations", 2, "--early-stop", 2)
    code, out, err = cli(*short, "--output", tmp_path / "run")
    assert (code, out) == (2, "")
    assert "--validation" in err
    assert not (tmp_path / "run").exists()
    code, _out, err = cli(*short, "--validation", 20, "--batch-size", 8, "--output", tmp_path / "run")
    assert code == 0, err
    assert json.loads((tmp_path / "run/recipe.json").read_text())["early_stop"] == 2
