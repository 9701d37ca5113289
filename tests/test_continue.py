"""Going on from a finished run with more classes: what is kept, what is refused, the change that is shown."""

import dataclasses
import json
import shutil
import signal

import pytest
import torch

import residual
from conftest import comparable
from residual import get_recipe
from residual.errors import DataError, InterruptedRunError, RunError, UsageError
from residual.evaluation.metrics import wilson_interval
from residual.training.continued import Continued, continued_recipe
from residual.training.run_folder import Run

SIZES = {"image_size": 36, "test_size": 40, "test_resize": 44}
LENGTH = {"iterations": 6, "batch_size": 4, "checkpoint_every": 2}


@pytest.fixture(scope="module")
def source(photographs, tmp_path_factory):
    """A run on two of the three classes."""
    folder = tmp_path_factory.mktemp("source")
    for part in ("train", "val"):
        for name in ("bee", "cat"):
            shutil.copytree(photographs / part / name, folder / "two" / part / name)
    recipe = get_recipe("scratch", "resnet8").replace({**SIZES, **LENGTH, "normalization": "measured"})
    recipe = recipe.replace({"augment.early_size": 0, "shortcut": "B"})
    residual.train(recipe, data_dir=folder / "two", output=folder / "run", workers=0, quiet=True)
    return folder / "run"


def on_classes(model, photos, names):
    """Images of these classes, and how many of them a model gets wrong."""
    images = [index for index, label in enumerate(photos.labels) if photos.class_names[label] in names]
    part = photos.take(torch.tensor(images))
    labels = torch.tensor([names.index(photos.class_names[label]) for label in part.labels])
    part = dataclasses.replace(part, labels=labels, class_names=names)
    found = residual.evaluate(model, dataset=part, workers=0, quiet=True)
    return found.images, round(found.error * found.images / 100)


def test_the_former_classes_are_measured_before_and_after(photographs, source, tmp_path, cli):
    run = tmp_path / "run"
    options = ["--iterations", 6, "--batch-size", 4, "--workers", 0, "--output", run]
    code, out, err = cli("train", "--from", source, "--data", photographs, "--add-classes", *options)
    assert code == 0, err
    recipe, old = Run.open(run).recipe, Run.open(source).recipe
    assert (recipe.network, recipe.shortcut, recipe.fit) == (old.network, "B", old.fit)
    assert {key: recipe.flat()[key] for key in SIZES} == SIZES
    model, former = residual.load_model(run), residual.load_model(source)
    assert model.config.class_names == ("ant", "bee", "cat")
    mean = former.config.normalization.of_any_size().mean
    assert torch.equal(model.config.normalization.mean, mean)
    test = residual.load_folder(photographs).test
    figures = Run.open(run).result["continued"]
    for key, network in (("before", former), ("after", model)):
        images, wrong = on_classes(network, test, ("bee", "cat"))
        found = figures[key]
        assert (images, found["images"]) == (8, 8)
        assert found["error"] == pytest.approx(100 * wrong / images)
        assert tuple(found["error_interval"]) == pytest.approx(wilson_interval(wrong, images))
    before, after = (figures[key]["error"] for key in ("before", "after"))
    assert f"the 2 former classes: test error {before:.2f} % [" in out
    assert f" -> {after:.2f} % [" in out
    assert "all but 1 of the last layer's 3 classes" in err


def test_a_resume_needs_the_former_run_no_more(photographs, source, tmp_path, stop_at):
    shutil.copytree(source, tmp_path / "source")
    recipe = continued_recipe(tmp_path / "source").replace(LENGTH)
    arguments = {"data_dir": photographs, "workers": 0, "continued": tmp_path / "source"}
    arguments |= {"add_classes": True, "quiet": True}
    residual.train(recipe, output=tmp_path / "whole", **arguments)
    restore = stop_at(3, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(InterruptedRunError):
        residual.train(recipe, output=tmp_path / "cut", **arguments)
    restore()
    shutil.rmtree(tmp_path / "source")
    residual.resume(tmp_path / "cut", workers=0, quiet=True)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")
    assert "continued" in Run.open(tmp_path / "cut").result


def test_new_classes_only_if_asked_for_and_no_class_may_be_gone(photographs, source, tmp_path):
    recipe = continued_recipe(source).replace(LENGTH)
    arguments = {"workers": 0, "output": tmp_path / "run", "continued": source}
    with pytest.raises(UsageError, match=r"^the images have classes that the run has not: ant; give --add"):
        residual.train(recipe, data_dir=photographs, **arguments)
    for part in ("train", "val"):
        for name in ("ant", "cat"):
            shutil.copytree(photographs / part / name, tmp_path / "others" / part / name)
    with pytest.raises(DataError, match=r"^the images lack classes of the run: bee;"):
        residual.train(recipe, data_dir=tmp_path / "others", add_classes=True, **arguments)
    assert not (tmp_path / "run").exists()


def test_the_same_classes_keep_the_whole_last_layer(photographs, source, tmp_path):
    recipe = continued_recipe(source).replace({**LENGTH, "iterations": 1, "optimizer.learning_rate": 1e-9})
    result = residual.train(
        recipe,
        data_dir=source.parent / "two",
        output=tmp_path / "run",
        workers=0,
        continued=source,
    )
    fc = residual.load_model(result.path).fc.weight
    assert torch.allclose(fc, residual.load_model(source).fc.weight, atol=1e-6)
    assert result.figures["continued"]["before"]["images"] == result.figures["images"]


def test_what_does_not_fit_is_refused_in_one_line(photographs, source, tmp_path, cli):
    unfinished, digits = tmp_path / "unfinished", tmp_path / "digits"
    shutil.copytree(source, unfinished)
    (unfinished / "result.json").unlink()
    demo = get_recipe("demo", "resnet8").replace({"iterations": 1})
    residual.train(demo, output=digits, quiet=True)
    go_on, data = ["train", "--from", source], ["--data", photographs]
    for arguments, code, message in (
        (go_on, 2, "say where they are with --data FOLDER"),
        ([*go_on, "--data", "digits"], 2, "say where they are with --data FOLDER"),
        (["train", "--from", unfinished, *data], 5, f"'residual train --resume {unfinished}' resumes it"),
        (["train", "--from", tmp_path / "nosuch", *data], 5, "is not a run folder"),
        (["train", "--from", digits, *data], 2, f"give --weights {digits}"),
        (["train", "resnet14", "--from", source, *data], 2, "has resnet8, not resnet14"),
        ([*go_on, *data, "--recipe", "scratch"], 2, "leave --recipe out"),
        ([*go_on, *data, "--weights", "none"], 2, "leave --weights out"),
        ([*go_on, *data, "--seeds", 2], 2, "leave --seeds out"),
        (["train", "--resume", source, "--from", source], 2, "leave --from out"),
        (["train", "resnet8", *data, "--add-classes"], 2, "--add-classes goes with --from RUN"),
        ([*go_on, *data], 2, "give --add-classes"),
    ):
        found, out, err = cli(*arguments)
        *notes, line = err.splitlines()
        assert (found, out) == (code, ""), line
        assert message in line
        assert all(note.startswith("note: ") for note in notes)


def test_a_damaged_record_is_refused(tmp_path):
    good = {"class_names": ["a"], "before": {"error": 1.0, "error_interval": [0, 2], "images": 4}}
    assert Continued.of_run(json.loads(json.dumps(good))).before.images == 4
    for damaged in ({}, {**good, "before": {"error": 1}}, {**good, "class_names": None}, None):
        with pytest.raises(RunError, match="'continued' in environment"):
            Continued.of_run(damaged)
