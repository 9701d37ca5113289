"""Training on photographs: every recipe for them, exact resume with any number of workers, bad options."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

import residual
from conftest import comparable
from residual import get_recipe
from residual.errors import InterruptedRunError, RunError, UsageError
from residual.training.run_folder import Run

SMALL = {"iterations": 10, "batch_size": 4, "image_size": 32, "checkpoint_every": 4, "evaluate_every": 5}
IMAGENET = ("imagenet-paper", "imagenet-epochs", "imagenet-modern")


def small(name="imagenet-paper", **changes):
    """A recipe for photographs, cut to ten steps of four crops; 24 images make six batches an epoch."""
    recipe = get_recipe(name, "resnet8")
    sizes = {"test_size": 40, "test_resize": 44} if recipe.test_size else {}
    validation = {"validation": 6} if recipe.validation else {}
    return recipe.replace({**SMALL, **sizes, **validation, **changes})


@pytest.mark.parametrize("name", IMAGENET)
def test_each_recipe_trains_and_its_model_evaluates_alone(name, photographs, tmp_path):
    recipe = small(name)
    result = residual.train(recipe, data_dir=photographs, output=tmp_path / "run", workers=0)
    assert (result.figures["images"], result.figures["data"]) == (12, "animals")
    model = residual.load_model(tmp_path / "run")
    assert model.config.class_names == ("ant", "bee", "cat")
    size = 40 if name == "imagenet-modern" else 32
    assert model.config.preprocessing.image_size == (size, size)
    found = residual.evaluate(model, data=str(photographs), workers=0)
    assert (found.images, found.error, found.loss) == (12, result.error, result.figures["loss"])


@pytest.mark.parametrize("name", ["imagenet-paper", "imagenet-modern"])
def test_a_stop_and_a_resume_give_the_same_run(name, photographs, tmp_path, stop_at):
    recipe = small(name, **({"schedule.patience": 1} if name == "imagenet-paper" else {"ema.every": 3}))
    residual.train(recipe, data_dir=photographs, output=tmp_path / "whole", workers=0)
    restore = stop_at(7, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(InterruptedRunError):
        residual.train(recipe, data_dir=photographs, output=tmp_path / "cut", workers=0)
    restore()
    residual.resume(tmp_path / "cut", workers=1)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


KILLED = """
import json, sys
import psutil
import residual
from residual.recipes.schema import from_dict
from residual.training.trainer import Trainer
real = Trainer.train_one
def train_one(self):
    real(self)
    if self.step == 6:
        psutil.Process().kill()
Trainer.train_one = train_one
recipe = from_dict(json.loads(sys.argv[1]))
residual.train(recipe, data_dir=sys.argv[2], output=sys.argv[3], workers=int(sys.argv[4]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_kill_and_a_resume_with_any_number_of_workers_give_the_same_weights(workers, photographs, tmp_path):
    recipe = small()
    residual.train(recipe, data_dir=photographs, output=tmp_path / "whole", workers=0)
    command = [sys.executable, "-c", KILLED, json.dumps(recipe.as_dict()), str(photographs)]
    killed = subprocess.run([*command, str(tmp_path / "cut"), str(workers)], check=False)
    assert killed.returncode != 0
    residual.resume(tmp_path / "cut", workers=2 - workers)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


def test_a_cache_is_remembered_and_changes_nothing_of_small_images(photographs, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = small("imagenet-epochs", iterations=3, image_size=64)
    for name, cache in (("cached", 10**8), ("read", 0)):
        residual.train(recipe, data_dir=photographs, output=tmp_path / name, workers=0, cache=cache)
    digests = {Run.open(tmp_path / name).result["model_sha256"] for name in ("cached", "read")}
    assert len(digests) == 1
    assert Run.open(tmp_path / "cached").environment["reading"]["cache"] == 10**8


def test_a_resume_refuses_other_images(photographs, tmp_path, stop_at):
    folder = tmp_path / "animals"
    shutil.copytree(photographs, folder)
    restore = stop_at(5, lambda _: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(InterruptedRunError):
        residual.train(small(), data_dir=folder, output=tmp_path / "run", workers=0)
    restore()
    (folder / "train" / "ant" / "0.jpg").unlink()
    with pytest.raises(RunError, match="other images"):
        residual.resume(tmp_path / "run")


def test_a_bad_image_stops_the_run_or_is_skipped_and_named(photographs, tmp_path):
    folder = tmp_path / "animals"
    shutil.copytree(photographs, folder)
    for part in ("train", "val"):
        whole = (folder / part / "bee" / "1.jpg").read_bytes()
        (folder / part / "bee" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(residual.ResidualError, match=r"bee.1\.jpg"):
        residual.train(small("imagenet-epochs"), data_dir=folder, output=tmp_path / "stop", workers=0)
    result = residual.train(
        small("imagenet-epochs"), data_dir=folder, output=tmp_path / "skip", workers=0, on_bad_image="skip"
    )
    assert result.figures["images"] == 11
    assert [name.replace("\\", "/").split("/", 1)[0] for name in result.figures["skipped"]] == [
        "train",
        "val",
    ]


def test_the_variant_belongs_to_the_recipe_and_the_model(photographs, tmp_path):
    recipe = small("imagenet-epochs", network="resnet50", variant="v1", iterations=1)
    residual.train(recipe, data_dir=photographs, output=tmp_path / "run", workers=0)
    assert residual.load_model(tmp_path / "run").config.variant == "v1"


def test_a_recipe_for_photographs_and_one_for_small_images_refuse_each_others_data(photographs, tmp_path):
    with pytest.raises(UsageError, match="say in which folder"):
        residual.train(small(), output=tmp_path / "run")
    with pytest.raises(UsageError, match="for photographs take another"):
        residual.train(get_recipe("paper", "resnet18").replace({"data": "folder"}), data_dir=photographs)
    with pytest.raises(UsageError, match="not for images in memory"):
        residual.train(small().replace({"data": "digits"}))


@pytest.mark.parametrize("key", ["image_size", "test_size", "test_resize"])
def test_keys_of_photographs_are_refused_for_images_in_memory(key):
    with pytest.raises(UsageError, match=f"^{key} is for photographs"):
        residual.train(get_recipe("demo", "resnet8").replace({key: 24}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 1}, "are for photographs"),
        ({"on_bad_image": "skip"}, "are for photographs"),
        ({"cache": 10**9}, "are for photographs"),
        ({"workers": -1}, "whole numbers from 0: -1, 0"),
        ({"cache": 0.5}, "whole numbers from 0: None, 0.5"),
        ({"on_bad_image": "ignore"}, "must be stop or skip, not 'ignore'"),
    ],
)
def test_ways_to_read_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        residual.train(get_recipe("demo", "resnet8"), **options)


def test_a_test_crop_must_fit_into_what_it_is_cut_from(photographs):
    with pytest.raises(UsageError, match="test_resize must be at least the test crop's 32, not 30"):
        residual.train(small("imagenet-epochs", test_resize=30), data_dir=photographs)


def test_the_command_trains_evaluates_and_names_what_is_wrong(photographs, tmp_path, cli):
    run = tmp_path / "run"
    options = ["--image-size", 32, "--batch-size", 4, "--iterations", 3, "--workers", 0]
    code, out, _ = cli(
        "train", "resnet18", "--data", photographs, *options, "--validation", 0.25, "--output", run
    )
    assert code == 0
    assert f" evaluate {run} --data {photographs}\n" in out
    assert Run.open(run).recipe.name == "scratch"
    for arguments, message in (
        (["--data", tmp_path / "nosuch"], "there is no folder"),
        (["--data", photographs, "--data-dir", tmp_path], "leave --data-dir out"),
        (["--data", photographs, "--image-size", 5000], "image_size must be"),
        (["--data", photographs, "--cache", "much"], "is no size"),
        (["--data", photographs, "--batch-size", 1000], "batch_size must be at most"),
    ):
        code, out, err = cli("train", "resnet18", *arguments)
        lines = [line for line in err.splitlines() if not line.startswith("note: ")]
        assert (code in (2, 3), out, len(lines)) == (True, "", 1), arguments
        assert message in err


def test_a_run_is_evaluated_on_the_test_set_that_was_split_off_its_images(photographs, tmp_path, cli):
    images = tmp_path / "images"
    shutil.copytree(photographs / "train", images)
    short = ("--image-size", 32, "--iterations", 1, "--batch-size", 4, "--weights", "none", "--workers", 0)
    code, _, err = cli("train", "resnet18", "--data", images, *short, "--output", tmp_path / "run")
    assert code == 0, err
    result = json.loads((tmp_path / "run/result.json").read_text())
    code, out, err = cli("evaluate", tmp_path / "run", "--data", images, "--json")
    found = json.loads(out)
    assert (code, found["images"], found["error"]) == (0, result["images"], result["error"]), err
    (images / "ant" / "0.jpg").unlink()
    code, out, err = cli("evaluate", tmp_path / "run", "--data", images)
    assert code == 0, err
    assert "the test set of the run" in out
    assert "have changed since the run" in err
    code, out, _ = cli("evaluate", tmp_path / "run/model", "--data", images, "--json")
    assert (code, json.loads(out)["images"]) == (0, 23), "a model alone does not know a run's split"
