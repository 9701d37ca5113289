"""The learning-rate range test (`--find-lr`): the rate it finds, and that it leaves the run as it is."""

import json

import pytest
import torch

import residual
from conftest import make_engine
from residual import get_recipe
from residual.errors import RunError
from residual.training import experiment
from residual.training.find_rate import choose, find_rate

DEMO = {"batch_size": 16, "curve": "none"}


def recipe_of(**changes):
    return get_recipe("demo", "resnet8").replace({**DEMO, **changes})


@pytest.fixture
def few_steps(monkeypatch):
    monkeypatch.setattr(residual.training.find_rate, "STEPS", 12)


@pytest.fixture(scope="module")
def found():
    engine = make_engine(recipe_of())
    return find_rate(engine.recipe, engine.network, engine.batches)


def test_on_digits_the_rate_found_trains_well(found):
    engine = make_engine(recipe_of(**{"optimizer.learning_rate": found.rate}))
    for _ in range(60):
        engine.take_step()
    engine.window.read()
    for _ in range(40):
        engine.take_step()
    engine.wait()
    loss, _ = engine.window.read()
    # 0.99 when written, at 0.022; at 0.001, 0.005, 0.1, 0.5 and 2 it is 2.10, 1.69, 0.70, 2.17 and 2.47
    assert loss < 1.3


@pytest.mark.slow
def test_with_the_recipes_own_batches_the_rate_is_near_the_recipes():
    engine = make_engine(recipe_of(batch_size=64))
    rate = find_rate(engine.recipe, engine.network, engine.batches).rate
    assert 0.1 / 4 <= rate <= 0.1 * 4


def test_the_test_rises_from_low_to_where_the_loss_blows_up(found):
    assert found.rates[0] == 1e-4
    assert list(found.rates) == sorted(found.rates)
    assert len(found.rates) == len(found.losses) <= 100
    assert found.losses[0] > 1.5 * min(found.losses)
    assert found.losses[-1] > min(found.losses)


def test_it_is_deterministic_and_leaves_the_network_alone(few_steps):
    engine = make_engine(recipe_of())
    before = {name: value.clone() for name, value in engine.network.state_dict().items()}
    first, second = (find_rate(engine.recipe, engine.network, engine.batches) for _ in range(2))
    assert first == second
    after = engine.network.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert all(parameter.grad is None for parameter in engine.network.parameters())


@pytest.mark.parametrize("changes", [{"optimizer.muon": 0.02}, {"schedule.warmup_learning_rate": 0.01}])
def test_the_other_kinds_of_optimizer_and_schedule(changes, few_steps):
    engine = make_engine(recipe_of(**changes))
    assert 0.001 <= find_rate(engine.recipe, engine.network, engine.batches).rate < 1


def test_the_choice():
    rates = [0.001, 0.01, 0.1234, 1.0]
    assert choose(rates, [3.0, 2.0, 1.0, 4.0]) == 0.012
    for losses in ([1.0, 2.0, 3.0, 4.0], []):
        with pytest.raises(RunError, match="give --lr"):
            choose(rates[: len(losses)], losses)


def test_the_run_is_that_of_a_recipe_with_this_rate(cli, tmp_path, few_steps):
    short = ("train", "resnet8", "--data", "digits", "--iterations", 3, "--batch-size", 16, "--json")
    code, out, err = cli(*short, "--find-lr", "--output", tmp_path / "found")
    assert code == 0, err
    rate = json.loads((tmp_path / "found/recipe.json").read_text())["optimizer"]["learning_rate"]
    assert f"learning rate {rate:g}, found in a range test" in err
    assert (tmp_path / "found/find-lr.png").read_bytes().startswith(b"\x89PNG")
    code, given, err = cli(*short, "--lr", rate, "--output", tmp_path / "given")
    assert code == 0, err
    assert not (tmp_path / "given/find-lr.png").exists()
    assert json.loads(out)["model_sha256"] == json.loads(given)["model_sha256"]


def test_a_run_whose_loss_falls_nowhere_is_refused_and_nothing_is_written(tmp_path, monkeypatch):
    def rising(*_):
        return choose([0.1, 0.2], [1.0, 2.0])

    monkeypatch.setattr(experiment, "range_test", rising)
    with pytest.raises(RunError, match="--lr"):
        residual.train(recipe_of(), output=tmp_path / "run", find_rate=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--lr", 0.1), "leave --lr out"),
        (("--set", "optimizer.learning_rate=0.1"), "leave --lr out"),
        (("--seeds", 2, "--output", "runs"), "--find-lr is for one run"),
        (("--resume", "run"), "leave --find-lr out"),
    ],
)
def test_what_does_not_go_with_it_is_refused(cli, options, words):
    code, out, err = cli("train", "resnet8", "--data", "digits", "--find-lr", *options)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err
