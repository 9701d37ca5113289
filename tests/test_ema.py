"""The moving average of the weights: against its formula, exact resume, what is evaluated and kept."""

import io
import itertools
import math

import pytest
import torch
from torch import nn

from conftest import make_engine
from residual import get_recipe
from residual.errors import CheckpointError
from residual.evaluation.classification import Evaluation
from residual.runtime.progress import Reporter
from residual.training import ema
from residual.training.checkpoint import evaluated_weights, find_checkpoint, load_checkpoint
from residual.training.run_folder import Run
from residual.training.trainer import Trainer

TINY = {"iterations": 7, "batch_size": 8, "curve": "none", "optimizer.learning_rate": 0.02}
AVERAGED = {"ema.span": 0.5, "ema.every": 2}


def tiny(**changes):
    return get_recipe("demo", "resnet8").replace({**TINY, **AVERAGED, **changes})


def copied(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


# the formula


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "by tables"])
@pytest.mark.parametrize("stop", [{}, {"stop_after": 5}])
def test_the_average_is_the_sum_of_the_weights_by_its_formula(captured, stop):
    recipe = tiny(**stop)
    engine = make_engine(recipe, captured)
    weights = {}
    for step in range(1, recipe.last_step + 1):
        engine.take_step()
        weights[step] = copied(engine.network)
    updates = [2, 4, 6, 7] if not stop else [2, 4, 5]
    expected = {name: value.double() for name, value in weights[2].items()}
    for before, step in itertools.pairwise(updates):
        decay = math.exp(-(step - before) / (0.5 * 7))  # of the run's iterations, wherever it stops
        for name, value in weights[step].items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    found = engine.average.state_dict()
    for name, value in found.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
            assert not torch.equal(value, weights[updates[-1]][name]), name
        else:
            assert torch.equal(value, weights[updates[-1]][name]), name
    assert {"bn1.running_mean", "bn1.running_var", "bn1.num_batches_tracked"} < found.keys()


def test_the_time_constant_is_a_share_of_the_run():
    recipe = tiny(iterations=1000, **{"ema.span": 0.1, "ema.every": 20})
    assert [ema.steps_to_average(recipe, step) for step in (1, 19, 20, 40, 990, 1000)] == [
        0,
        0,
        20,
        20,
        0,
        20,
    ]
    assert ema.decay_over(recipe, 20) == pytest.approx(math.exp(-0.2))
    longer = recipe.replace({"iterations": 2000})
    assert ema.decay_over(longer, 40) == ema.decay_over(recipe, 20)


def test_tied_weights_are_averaged_once():
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network[1].weight = network[0].weight
    average = ema.copy_for_average(network)
    before = network[0].weight.detach().clone()
    with torch.no_grad():
        network[0].weight += 1
    ema.update_average(average, network, 0.75)
    torch.testing.assert_close(average[1].weight, before + 0.25)
    assert average[1].weight is average[0].weight
    assert not average[0].weight.requires_grad


def test_without_an_average_nothing_is_kept_and_the_network_is_evaluated():
    recipe = tiny(**{"ema.span": 0})
    plain, averaged = make_engine(recipe), make_engine(tiny())
    for _ in range(3):
        plain.take_step()
        averaged.take_step()
    assert plain.average is None
    assert "average" not in plain.state()
    assert plain.evaluated is plain.network
    assert averaged.evaluated is averaged.average
    assert_equal(plain.network.state_dict(), averaged.network.state_dict())  # the average changes no step
    assert evaluated_weights(plain.state()).keys() == plain.network.state_dict().keys()


def test_before_its_first_update_the_network_is_evaluated():
    engine = make_engine(tiny())
    engine.take_step()
    assert engine.evaluated is engine.network
    engine.take_step()
    assert engine.evaluated is not engine.network
    assert_equal(engine.evaluated.state_dict(), engine.network.state_dict())  # a copy, to begin with


# resume


def saved(engine):
    buffer = io.BytesIO()
    torch.save(engine.state(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("stop", [1, 2, 3])  # before the first update, at it and after it
def test_a_restored_engine_continues_the_average_bit_exactly(stop):
    engine, other = make_engine(tiny()), make_engine(tiny(iterations=7, seed=0))
    for _ in range(stop):
        engine.take_step()
    state = saved(engine)
    other.restore(state, "a state")
    for one in (engine, other):
        while one.step < 7:
            one.take_step()
    assert_equal(engine.average.state_dict(), other.average.state_dict())
    assert_equal(engine.network.state_dict(), other.network.state_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("average"), "lacks 'average'"),
        (lambda state: state.update(average="x"), "'average' is not what it should be"),
        (lambda state: state["average"].pop("fc.bias"), "fc.bias"),
        (lambda state: state["average"].update({"fc.bias": torch.zeros(3)}), "fc.bias"),
    ],
)
def test_a_state_whose_average_does_not_fit_is_refused(change, message):
    engine = make_engine(tiny())
    for _ in range(2):
        engine.take_step()
    state = saved(engine)
    change(state)
    with pytest.raises(CheckpointError, match=message) as caught:
        make_engine(tiny()).restore(state, "last-2.pt")
    assert "last-2.pt" in str(caught.value)


# what is evaluated and kept


def test_the_average_is_evaluated_handed_on_and_kept_as_the_best(tmp_path):
    recipe = tiny(evaluate_every=3, checkpoint_every=3, validation=20)
    engine = make_engine(recipe)
    errors, seen = iter([50.0, 30.0, 40.0]), {}

    def validate(network):
        seen[engine.step] = copied(network)
        return Evaluation(20, next(errors), (0.0, 1.0), 0.0, 0.0, 0.0, 1.0, [], [])

    run = Run.create(tmp_path / "run", recipe, {})
    trained = Trainer(engine, run, Reporter(enabled=False), {"validation": validate}).fit()
    assert trained.network is engine.average
    assert list(seen) == [3, 6, 7]
    assert_equal(seen[7], trained.network.state_dict())
    best = load_checkpoint(find_checkpoint(run.checkpoints, "best"))
    assert best["step"] == trained.best["step"] == 6
    assert_equal(evaluated_weights(best), seen[6])
    assert not torch.equal(best["network"]["fc.weight"], seen[6]["fc.weight"])
