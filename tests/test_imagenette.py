"""Imagenette: its recipe and runs, folders that are refused, and what its page claims from result files."""

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import residual
from residual.errors import DataError, UsageError
from residual.recipes.catalog import get_recipe, recipe_label
from residual.recipes.schema import from_dict
from residual.reproduce.depth import Difference, claim, difference
from residual.reproduce.imagenette_page import imagenette_page, in_figure
from residual.reproduce.pages import write_pages
from residual.reproduce.photographs import CLASSES, load_imagenette
from residual.reproduce.plan import IMAGENETTE, plan
from residual.reproduce.results import load_results, result_path, save_result
from residual.training.run_folder import Run

ROOT = Path(__file__).resolve().parent.parent
STORED = ROOT / "results" / "imagenette"
TINY = {
    "iterations": 2,
    "batch_size": 4,
    "image_size": 32,
    "test_size": 32,
    "test_resize": 36,
    "augment.early_size": 24,
    "checkpoint_every": 5,
    "precision": "float32",
}


def make_folder(root, classes=CLASSES, parts=("train", "val"), size=(40, 40)):
    random = np.random.default_rng(3)
    for part in parts:
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            pixels = random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "0.jpg")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("imagenette") / "data")


def test_the_plan_is_the_four_networks_by_the_recipe_of_the_data():
    planned = plan("imagenette")
    assert [recipe.network for recipe in planned] == ["plain18", "resnet18", "plain34", "resnet34"]
    assert {(recipe.seed, recipe.curve, recipe_label(recipe)) for recipe in planned} == {
        (0, "test", "imagenette")
    }
    assert [(r.network, r.seed) for r in plan("imagenette", None, ["resnet18"], 2)] == [
        ("resnet18", 0),
        ("resnet18", 1),
    ]
    with pytest.raises(UsageError, match="recipe of its own: leave --recipe out"):
        plan("imagenette", "fast")
    with pytest.raises(UsageError, match="does not compare 'resnet50': choose plain18, plain34"):
        plan("imagenette", None, ["resnet50"])
    assert {recipe.name for recipe in plan("headlines")} == {"paper"}


def test_the_test_set_is_looked_at_once_an_epoch_at_most():
    recipe = plan("imagenette")[0]
    assert recipe.iterations == 740
    assert recipe.evaluation_period * recipe.batch_size >= 9_469
    longer = recipe.replace({"iterations": "2959"})
    assert longer.evaluation_period == recipe.evaluation_period
    assert recipe_label(longer) == "imagenette, iterations=2959"
    assert result_path(STORED, longer) != result_path(STORED, recipe)
    validated = recipe.replace({"validation": 0.1})  # what may decide is measured as often as elsewhere
    assert validated.evaluation_period == 50


def command(folder, tmp_path, *options):
    """The command on the made-up images, with its result files and runs in a folder of the test."""
    arguments = ["reproduce", "imagenette", "--device", "cpu", *options]
    arguments += [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
    arguments += ["--results", tmp_path / "results" / "imagenette", "--runs", tmp_path / "runs"]
    return arguments + (["--data-dir", folder] if folder else [])


def in_this_process(jobs, at_once, *, data_dir, finished, **_):
    """Train as `run_jobs` does, without a process for each run."""
    for job in jobs:
        if job.output.exists():
            residual.resume(job.output, recipe=job.recipe, data_dir=data_dir, workers=0, quiet=True)
        else:
            residual.train(job.recipe, output=job.output, data_dir=data_dir, workers=0, quiet=True)
        finished(job, 0)


def test_a_stopped_run_is_resumed_and_leaves_a_result_of_its_images(
    folder, tmp_path, cli, stop_at, monkeypatch
):
    monkeypatch.setattr("residual.reproduce.campaign.run_jobs", in_this_process)
    restore = stop_at(1, lambda _: signal.raise_signal(signal.SIGTERM))
    code, _, err = cli(*command(folder, tmp_path, "--models", "resnet18"))
    assert code == 143, err
    restore()
    code, out, err = cli(*command(folder, tmp_path, "--models", "resnet18"))
    assert (code, err) == (0, "")
    assert out.startswith("0 of 1 runs have a result; 1 to train\nresnet18-imagenette")
    text = next((tmp_path / "results" / "imagenette").iterdir()).read_text()
    record = json.loads(text)
    assert [resume["step"] for resume in record["resumed"]] == [1]
    assert (record["training_images"], record["images"], record["image_size"]) == (10, 10, [40, 40])
    assert record["training_error_images"] == 4
    assert record["images_sha256"] == load_imagenette(folder).fingerprint
    assert record["curve"].keys() == {"train", "test"}
    assert "responses" not in record
    assert str(tmp_path) not in text
    code, out, _ = cli(*command(None, tmp_path, "--models", "resnet18"))
    assert (code, out) == (0, "1 of 1 runs have a result; 0 to train\n")
    assert write_pages(tmp_path / "results", tmp_path) == [tmp_path / "imagenette.md"], "no figure of one"
    other = make_folder(tmp_path / "other", size=(48, 40))
    with pytest.raises(DataError, match="other images than"):
        save_result(tmp_path / "again", Run.open(next((tmp_path / "runs").iterdir())), other)


@pytest.mark.slow
def test_networks_are_trained_in_processes_of_their_own_within_a_budget(folder, tmp_path, cli):
    options = ("--models", "plain18,resnet18", "--jobs", "2")
    code, out, err = cli(*command(folder, tmp_path, *options, "--budget", "0s"))
    assert (code, err) == (0, "")
    assert out.endswith("2 runs are left; the next call resumes them\n")
    code, out, err = cli(*command(folder, tmp_path, *options, "--budget", "1h"))
    assert (code, err) == (0, "")
    files = sorted((tmp_path / "results" / "imagenette").iterdir())
    assert [json.loads(path.read_text())["network"] for path in files] == ["plain18", "resnet18"]


def test_the_size_of_images_is_told_only_where_they_share_it(folder, tmp_path):
    from residual.reproduce.photographs import _common_size

    assert _common_size(load_imagenette(folder)) == [40, 40]
    mixed = make_folder(tmp_path / "data", size=(40, 30))
    assert _common_size(load_imagenette(mixed)) == [40, 30]
    Image.new("RGB", (30, 40)).save(mixed / "val" / CLASSES[3] / "0.jpg")
    assert _common_size(load_imagenette(mixed)) is None


def test_other_folders_than_imagenettes_are_refused_in_one_line(tmp_path, cli):
    train = ("reproduce", "imagenette", "--models", "resnet18", "--results", tmp_path / "results")
    others = make_folder(tmp_path / "animals", ("ant", "bee"))
    nine = make_folder(tmp_path / "nine", CLASSES[:9])
    unsplit = make_folder(tmp_path / "unsplit", parts=("train",)) / "train"
    for name, other in zip(CLASSES, make_folder(tmp_path / "more").glob("val/*/0.jpg"), strict=True):
        (unsplit / name / "1.jpg").write_bytes(other.read_bytes())
    for arguments, exit_code, message in (
        ((), 2, "with --data-dir FOLDER"),
        (
            ("--data-dir", others),
            3,
            "is not Imagenette, whose ten classes are n01440764 to n03888257: it has ant, bee",
        ),
        (("--data-dir", nine), 3, "is not Imagenette"),
        (("--data-dir", unsplit), 3, "has no train/ and val/"),
        (("--data-dir", tmp_path / "nosuch"), 3, "there is no folder"),
        (("--recipe", "fast"), 2, "leave --recipe out"),
    ):
        code, out, err = cli(*train, *arguments)
        assert (code, err.count("\n")) == (exit_code, 1), arguments
        assert message in err
        assert not out.startswith("{")
    assert not (tmp_path / "results").exists()


def test_the_margin_of_a_difference_is_that_of_images_and_seeds():
    def runs(*errors):
        return [
            {"error": e, "images": 1000, "training_error": e / 2, "training_error_images": 500}
            for e in errors
        ]

    one = difference(runs(20.0), runs(25.0), "test")
    assert one.value == 5
    assert one.margin == pytest.approx(3.6536, abs=1e-3)  # 1.96 sqrt(0.2 0.8 / 1000 + 0.25 0.75 / 1000)
    assert one.finding == "higher"
    assert difference(runs(25.0), runs(20.0), "test").finding == "lower"
    assert difference(runs(20.0), runs(23.0), "test").finding == "open"
    training = difference(runs(20.0), runs(25.0), "training")
    assert (training.value, training.finding) == (2.5, "open")
    seeds = difference(runs(17.0, 23.0), runs(25.0, 25.0), "test")  # the same means, with a spread
    assert seeds.margin**2 == pytest.approx(one.margin**2 + 1.959964**2 * 18 / 2, rel=1e-5)
    assert seeds.finding == "open"


@pytest.mark.parametrize(
    ("plain", "residual_", "said"),
    [
        (5, -5, "holds"),
        (5, 0.5, "holds; the residual networks differ within the margin"),
        (0.5, -5, "is open, since the plain networks differ within the margin"),
        (-5, -5, "does not hold"),
        (5, 5, "does not hold"),
        (0.5, 5, "does not hold"),
    ],
)
def test_the_claim_is_read_off_the_differences(plain, residual_, said):
    assert claim(Difference(20, 20 + plain, 1), Difference(20, 20 + residual_, 1)) == said


def result(network, error, training_error, *, seed=0, iterations=740, **changes):
    recipe = get_recipe("imagenette", network).replace({"seed": seed, "iterations": iterations})
    return {
        "network": network,
        "recipe": recipe_label(recipe),
        "recipe_in_full": recipe.as_dict(),
        "seed": seed,
        "iterations": iterations,
        "schedule_iterations": iterations,
        "batch_size": 64,
        "error": error,
        "images": 3925,
        "training_error": training_error,
        "training_error_images": 4736,
        "training_images": 9469,
        "images_sha256": "0123456789abcdef",
        "image_size": [160, 160],
        "seconds": 600.0,
        "cpu_seconds": 1080.0,
        "images_per_second": 80.0,
        "hardware": {"cpu": "a processor", "threads": 2},
        "commit": "abc",
        "curve": {"train": [[74, 80.0], [740, training_error]], "test": [[148, 70.0], [740, error]]},
        **changes,
    }


def four(plain34=(29.0, 38.0), **options):
    errors = {"plain18": (23.0, 31.0), "plain34": plain34, "resnet18": (17.0, 26.0), "resnet34": (16.5, 23.0)}
    return [result(name, *errors[name], **options) for name in IMAGENETTE]


def test_the_page_shows_the_networks_and_computes_the_verdict():
    page = imagenette_page(four())
    row = "| imagenette | 5 | resnet18 | 1 | **17.00** | 15.85 to 18.20 |  | 26.00 | 10.0 | 18.0 |"
    assert f"{row} a processor, 2 threads |" in page
    assert "- `imagenette`, 5 epochs: by training error the claim **holds**." in page
    assert "by test error the claim **holds; the residual networks differ within the margin**." in page
    assert "| `imagenette`, 5 epochs | training | plain | 31.00 | 38.00 | +7.00 +- 1.91 | higher |" in page
    assert "| resnet18 | 5 | 128 | 83.00 | 17.00 | this project's `imagenette` |" in page
    assert "| ResNet-18 | 5 | 128 | 75.7 | 24.30 |" in page
    assert "squashed to 160x160 pixels" in page
    other = imagenette_page(four(plain34=(20.0, 31.5)))
    assert "by test error the claim **does not hold**." in other
    assert (
        "by training error the claim **is open, since the plain networks differ within the margin**" in other
    )


def test_seeds_are_averaged_and_longer_runs_and_other_images_stand_apart():
    runs = [*four(), result("resnet18", 19.0, 26.0, seed=1, disturbed=True)]
    page = imagenette_page([*runs, *four(iterations=2959)])
    assert "| imagenette | 5 | resnet18 | 2 | **18.00** | 16.82 to 19.22 | 1.41 | 26.00 | 10.0 \\* |" in page
    assert "| imagenette, iterations=2959 | 20 | resnet34 | 1 | **16.50** |" in page
    assert "- `imagenette, iterations=2959`, 20 epochs: by test error the claim" in page
    assert list(in_figure([*runs, *four(iterations=2959)])) == ["5 epochs", "20 epochs"]
    apart = [*four()[:3], result("resnet34", 16.5, 23.0, images_sha256="f" * 16, image_size=None)]
    assert in_figure(apart) == {}
    page = imagenette_page(apart)
    assert "the claim **" not in page, "trained on other images, so nothing is compared"
    assert "| test | plain | 23.00 | 29.00 |" in page
    assert "imagenette.png" not in page
    assert "keep their ratio" in page
    assert "no two depths" in imagenette_page(four()[:1])


def test_the_pages_are_written_from_the_files_and_only_where_there_are_any(tmp_path):
    folder = tmp_path / "results" / "imagenette"
    folder.mkdir(parents=True)
    for run in four():
        result_path(folder, from_dict(run["recipe_in_full"])).write_text(json.dumps(run))
    written = write_pages(tmp_path / "results", tmp_path / "docs")
    assert [path.name for path in written] == ["imagenette.md", "imagenette.png"]
    assert (tmp_path / "docs" / "imagenette.png").stat().st_size > 10_000
    assert "](imagenette.png)" in (tmp_path / "docs" / "imagenette.md").read_text()


def test_the_stored_results_are_named_by_their_recipes_and_the_page_is_theirs():
    if not list(STORED.glob("*.json")):
        pytest.skip("no results yet")
    for path in STORED.glob("*.json"):
        assert path == result_path(STORED, from_dict(json.loads(path.read_text())["recipe_in_full"]))
    assert imagenette_page(load_results(STORED)) == (ROOT / "docs" / "imagenette.md").read_text()
