"""Curves: what is logged, how runs in one figure are told apart, that a single point can be seen."""

import pytest
from matplotlib.figure import Figure

import residual
from residual.training import curves as plot
from residual.training.run_folder import Run


def run(tmp_path, name, **changes):
    recipe = residual.get_recipe("demo", "resnet8").replace(changes)
    made = Run.create(tmp_path / name, recipe, {})
    made.log({"step": 5, "kind": "train", "loss": 1.0, "error": 50.0})
    return made


def test_labels_say_what_differs(tmp_path):
    runs = [
        run(tmp_path, "a", **{"optimizer.muon": 0.02}),
        run(tmp_path, "b", **{"optimizer.muon": 0.04, "seed": 1}),
        run(tmp_path, "c", **{"optimizer.muon": 0.04, "shortcut": "B"}),
    ]
    assert plot.labels(runs) == [
        "resnet8, muon 0.02, seed 0",
        "resnet8, muon 0.04, seed 1",
        "resnet8 (B), muon 0.04, seed 0",
    ]


def test_runs_of_several_recipes_are_named_by_them(tmp_path):
    """All the keys in which two recipes differ would leave no room for the curves."""
    recipes = [residual.get_recipe(name, "resnet8").replace({"iterations": 8}) for name in ("paper", "fast")]
    runs = [Run.create(tmp_path / recipe.name, recipe, {}) for recipe in recipes]
    for one in runs:
        one.log({"step": 1, "kind": "train", "loss": 1.0, "error": 50.0})
    names = ["resnet8, paper, iterations=8, seed 0", "resnet8, fast, iterations=8, seed 0"]
    assert plot.labels(runs) == names
    plot.plot_runs(runs, tmp_path / "curves.png")


def test_runs_of_one_recipe_are_told_apart_by_their_folders(tmp_path):
    both = [run(tmp_path, "a"), run(tmp_path, "b")]
    assert plot.labels(both) == ["resnet8, seed 0, a", "resnet8, seed 0, b"]
    assert plot.labels([run(tmp_path, "c")]) == ["resnet8, seed 0"]


def test_few_points_have_markers_and_many_do_not(tmp_path):
    one = run(tmp_path, "one")
    axes = Figure().add_subplot()
    plot._draw(axes, one, "one", "k")
    for step in range(6, 30):
        one.log({"step": step, "kind": "train", "loss": 1.0, "error": 50.0})
    plot._draw(axes, one, "many", "k")
    assert [line.get_marker() for line in axes.get_lines()] == ["o", ""]
    assert axes.get_lines()[0].get_label() == "one, training: 50.0 %"


@pytest.mark.parametrize(
    ("iterations", "logged", "evaluated"),
    [(3, 1, 50), (60, 12, 50), (1056, 100, 50), (5274, 100, 175), (64_000, 100, 400)],
)
def test_intervals_fit_the_length(iterations, logged, evaluated):
    recipe = residual.get_recipe("paper", "resnet20").replace({"iterations": iterations})
    assert (recipe.log_period, recipe.evaluation_period) == (logged, evaluated)
    if iterations >= 1500:
        assert iterations // recipe.evaluation_period >= 30
    shown = recipe.replace({"curve": "test"})
    assert shown.evaluation_period >= 20
    if iterations >= 600:  # a figure of a short run has 30 points too
        assert iterations // shown.evaluation_period >= 30
    assert recipe.replace({"validation": 5000, "curve": "test"}).evaluation_period == evaluated


def test_a_short_run_leaves_five_records(tmp_path):
    short = {"iterations": 11, "curve": "none", "log_every": 100}
    recipe = residual.get_recipe("demo", "resnet8").replace(short)
    residual.train(recipe, output=tmp_path / "run")
    assert len(Run.open(tmp_path / "run").metrics("train")) >= 5
