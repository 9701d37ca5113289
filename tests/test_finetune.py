"""The recipes for one's own photographs, their length, and how the body of a network is held back."""

import signal

import pytest
import torch
from torch import nn

import residual
from conftest import comparable, make_engine
from residual import get_recipe
from residual.data.normalization import IMAGENET_MEAN
from residual.errors import InterruptedRunError, UsageError
from residual.recipes.own_images import LENGTHS, fit_to_images
from residual.recipes.schema import Optimizer
from residual.training.optim import make_optimizer
from residual.training.run_folder import Run

TINY = {"iterations": 8, "image_size": 32, "test_size": 32, "test_resize": 36, "batch_size": 4}
DEMO = get_recipe("demo", "resnet8").replace({"iterations": 8, "batch_size": 16})


def parts(network):
    """Copies of the body's parameters and of the last layer's."""
    named = {name: value.detach().clone() for name, value in network.named_parameters()}
    return [{n: v for n, v in named.items() if n.startswith("fc.") == last} for last in (False, True)]


def same(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("decay_all", [True, False])
def test_without_a_rate_of_the_body_the_optimizer_is_what_it_was(decay_all):
    network = residual.create_model("resnet8")
    groups = make_optimizer(network, Optimizer(decay_all=decay_all)).param_groups
    assert not any("scale" in group for group in groups)
    parameters = list(network.parameters())
    expected = (
        [parameters]
        if decay_all
        else [[p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() == 1]]
    )
    assert [list(map(id, group["params"])) for group in groups] == [list(map(id, e)) for e in expected]


@pytest.mark.parametrize("muon", [0.0, 0.05])
def test_the_body_takes_steps_of_its_share_of_the_rate(muon):
    moved = []
    for body_rate in (1.0, 0.01):
        engine = make_engine(DEMO.replace({"optimizer.body_rate": body_rate, "optimizer.muon": muon}))
        before = parts(engine.network)
        engine.take_step()
        assert engine.last_learning_rate == pytest.approx(0.1)
        after = parts(engine.network)
        moved.append([{n: new[n] - old[n] for n in old} for old, new in zip(before, after, strict=True)])
    (whole, last), (held_back, same_last) = moved
    assert same(last, same_last)
    for name, step in held_back.items():
        full = float(whole[name].norm())
        assert float((step - 0.01 * whole[name]).norm()) <= 0.05 * 0.01 * full + 1e-5, name
    assert sum(float(step.norm()) for step in held_back.values()) > 0


def test_while_the_body_is_frozen_only_the_last_layer_and_the_statistics_change():
    engine = make_engine(DEMO.replace({"optimizer.frozen": 2, "optimizer.muon": 0.02}))
    start, statistics = parts(engine.network), engine.network.bn1.running_mean.clone()
    for _ in range(2):
        engine.take_step()
    body, last = parts(engine.network)
    assert same(body, start[0])
    assert not same(last, start[1])
    assert not torch.equal(engine.network.bn1.running_mean, statistics)
    engine.take_step()
    now = parts(engine.network)[0]
    assert not any(torch.equal(now[name], body[name]) for name in body if name.endswith("conv1.weight"))


def test_a_graph_has_one_rate_for_all(monkeypatch):
    monkeypatch.setattr("residual.training.engine.can_capture", lambda _: True)
    for changes, captured in (({}, True), ({"body_rate": 0.5}, False), ({"frozen": 1}, False)):
        recipe = DEMO.replace({f"optimizer.{key}": value for key, value in changes.items()})
        engine = residual.training.engine.Engine(
            recipe, residual.create_model("resnet8"), make_engine(DEMO).batches
        )
        assert engine.captured == captured


@pytest.mark.parametrize("body_rate", [1, 0.1])
def test_after_the_frozen_steps_all_layers_have_momentum(body_rate):
    engine = make_engine(DEMO.replace({"optimizer.frozen": 2, "optimizer.body_rate": body_rate}))
    for _ in range(4):
        engine.take_step()
    assert len(engine.optimizer.state) == len(list(engine.network.parameters()))


@pytest.mark.parametrize("stop", [2, 6])
def test_a_resume_within_and_after_the_frozen_steps_is_exact(stop, photographs, tmp_path, stop_at):
    recipe = get_recipe("finetune", "resnet8").replace({**TINY, "optimizer.frozen": 4})
    residual.train(recipe, data_dir=photographs, output=tmp_path / "whole", workers=0)
    restore = stop_at(stop, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(InterruptedRunError):
        residual.train(recipe, data_dir=photographs, output=tmp_path / "cut", workers=0)
    restore()
    residual.resume(tmp_path / "cut", workers=0)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


@pytest.mark.parametrize(("key", "value"), [("optimizer.body_rate", 0.5), ("optimizer.frozen", 3)])
def test_a_network_of_the_callers_own_has_no_body(key, value):
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    with pytest.raises(UsageError, match=f"^{key} is for networks of this package"):
        residual.train(DEMO.replace({key: value}), network=network)


@pytest.mark.parametrize("name", ["scratch", "finetune"])
@pytest.mark.parametrize("images", [1, 3, 20, 100, 700, 1_500, 9_469, 100_000])
def test_the_length_follows_from_the_number_of_images(name, images):
    recipe, reasons = fit_to_images(get_recipe(name, "resnet18"), images)
    length, epochs = LENGTHS[name], recipe.iterations * recipe.batch_size / images
    assert 1 <= recipe.batch_size <= min(images, 64)
    assert length.least - 0.5 <= epochs <= length.most + 0.5
    if length.least + 1 < epochs < length.most - 1:
        assert recipe.iterations * recipe.batch_size == pytest.approx(length.views, rel=0.1)
    assert sum("epochs" in reason for reason in reasons) == 1
    assert all("\n" not in reason for reason in reasons)
    if name == "finetune":
        per_epoch = images / recipe.batch_size
        assert recipe.optimizer.frozen == max(1, round(per_epoch))
        assert recipe.optimizer.frozen < recipe.iterations


def test_what_the_user_set_stays():
    chosen = get_recipe("finetune", "resnet18").replace({"batch_size": 8, "optimizer.frozen": 3})
    recipe, reasons = fit_to_images(chosen, 100, {"batch_size", "optimizer.frozen"}, epochs=4)
    assert (recipe.batch_size, recipe.optimizer.frozen, recipe.iterations) == (8, 3, 50)
    assert reasons == ()
    recipe, _ = fit_to_images(chosen.replace({"iterations": 7}), 100, {"iterations"})
    assert (recipe.iterations, recipe.optimizer.frozen) == (7, 1)
    paper = get_recipe("imagenet-paper", "resnet18")
    assert fit_to_images(paper, 100) == (paper, ())


def test_the_command_sizes_and_explains(photographs, tmp_path, cli):
    options = ["--data", photographs, "--weights", "none", "--workers", 0, "--image-size", 32]
    run = tmp_path / "run"
    code, out, err = cli(
        "train", "resnet8", *options, "--set", "stop_after=1", "--validation", 4, "--output", run
    )
    assert code == 0, err
    recipe = Run.open(run).recipe
    assert (recipe.name, recipe.weights, recipe.batch_size) == ("scratch", None, 20)
    assert (recipe.iterations, recipe.augment.early_size, recipe.test_resize) == (100, 24, 36)
    assert "note: starting from scratch, since --weights none was given (recipe scratch)\n" in err
    assert "note: batches of 20, since 20 images are few\n" in err
    assert "note: 100 epochs, since 20 images are few: no more than that\n" in err
    config = residual.load_model(run).config
    assert config.normalization.mean.tolist() == pytest.approx([255 * value for value in IMAGENET_MEAN])
    code, _, err = cli(
        "train", "resnet8", *options, "--fit", "pad", "--set", "stop_after=1", "--output", tmp_path / "pad"
    )
    assert code == 0, err
    assert Run.open(tmp_path / "pad").recipe.test_resize == 0
    code, out, err = cli("train", "resnet8", *options, "--recipe", "finetune")
    assert (code, out) == (2, "")
    assert "finetune needs weights, but --weights none was given: give --weights PATH" in err
