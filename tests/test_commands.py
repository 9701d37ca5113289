"""The command line from end to end on the digits, and the shape of what it writes."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import yaml

import residual
from residual.errors import UsageError
from residual.runtime.environment import environment_facts
from residual.training.run_folder import Run

TRAIN = [
    "train",
    "resnet8",
    "--data",
    "digits",
    "--iterations",
    "12",
    "--set",
    "log_every=4",
    "--set",
    "evaluate_every=6",
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("commands") / "run"
    command = [sys.executable, "-m", "residual", *TRAIN, "--output", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("test error ")
    assert f"residual evaluate {path}" in done.stdout
    assert "step 12/12" in done.stderr, "plain lines where there is no terminal"
    return path


def test_the_run_folder_is_complete(run_folder):
    names = {str(path.relative_to(run_folder)) for path in run_folder.rglob("*") if path.is_file()}
    assert names == {
        ".lock",
        "recipe.json",
        "environment.json",
        "metrics.jsonl",
        "checkpoints/last-00000012.pt",
        "checkpoints/last-00000012.pt.sha256",
        "result.json",
        "curves.png",
        "model/config.json",
        "model/model.safetensors",
        "model/README.md",
    }
    result = json.loads((run_folder / "result.json").read_text())
    assert result["images"] == 360
    assert result["seconds"] > 0
    assert result["images_per_second"] > 0
    environment = json.loads((run_folder / "environment.json").read_text())
    assert {"versions", "hardware", "commit", "command", "seed"} <= environment.keys()
    config = json.loads((run_folder / "model" / "config.json").read_text())
    assert {"format", "network", "class_names", "preprocessing", "recipe"} <= config.keys()
    card = (run_folder / "model" / "README.md").read_text()
    assert f"{result['error']:.2f} %" in card
    (entry,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    assert entry["results"][0]["metrics"][1]["value"] == pytest.approx(result["error"], abs=1e-4)
    assert [r["step"] for r in Run.open(run_folder).metrics("train")] == [2, 4, 6, 8, 10, 12], "at least five"


def test_python_m_residual_is_recorded_as_it_was_typed(monkeypatch):
    module = str(Path(residual.__file__).parent / "__main__.py")
    for program, recorded in ((module, "python -m residual"), ("residual", "residual"), ("x.py", "x.py")):
        monkeypatch.setattr(sys, "argv", [program, "train", "resnet20", "--output", "a b"])
        assert environment_facts({})["command"] == f"{recorded} train resnet20 --output 'a b'"


@pytest.mark.parametrize("folder", ["", "model"])
def test_evaluate_gives_the_runs_error(cli, run_folder, folder):
    code, out, _ = cli("evaluate", str(run_folder / folder), "--json")
    found = json.loads(out)
    result = json.loads((run_folder / "result.json").read_text())
    assert code == 0
    assert {key: found[key] for key in ("images", "error", "top5_error", "loss")} == pytest.approx(
        {key: result[key] for key in ("images", "error", "top5_error", "loss")}
    )
    assert len(found["per_class_error"]) == len(found["confusion"]) == 10


def test_evaluate_prints_a_table(cli, run_folder):
    code, out, _ = cli("evaluate", str(run_folder))
    assert code == 0
    found = json.loads((run_folder / "result.json").read_text())
    lines = out.splitlines()
    assert lines[0].split() == [
        "model",
        "resnet8",
        "from",
        f"{run_folder},",
        "recipe",
        "demo,",
        "iterations=12",
    ]
    assert lines[1].split() == ["data", "digits,", "the", "test", "set"]
    assert lines[2].startswith("device      ")
    assert f"error       {found['error']:.2f} %  (accuracy {100 - found['error']:.2f} %)" in lines
    heads, *rows = lines[-11:]
    assert heads.split() == ["class", "error", "predicted:", *map(str, range(10))]
    for label, row in enumerate(rows):  # each count ends where its class's name ends
        assert row.split()[0] == str(label)
        assert [end.end() for end in re.finditer(r"\d+(?= |$)", row)][-10:] == [
            end.end() for end in re.finditer(r"\d+", heads)
        ]


def test_a_resumed_finished_run_prints_its_result(cli, run_folder):
    code, out, _ = cli("train", "--resume", str(run_folder))
    assert code == 0
    assert out.startswith("test error ")


def test_resume_with_another_recipe_is_refused(cli, run_folder):
    code, _, err = cli("train", "--resume", str(run_folder), "--set", "optimizer.learning_rate=0.05")
    assert code == 5
    assert "optimizer.learning_rate: 0.1 -> 0.05" in err


def test_plot_draws_several_runs(cli, run_folder, tmp_path):
    code, out, _ = cli("plot", str(run_folder), str(run_folder), "--output", str(tmp_path / "both.png"))
    assert code == 0
    assert (tmp_path / "both.png").read_bytes().startswith(b"\x89PNG")
    assert out.strip() == str(tmp_path / "both.png")


def test_models_info_recipes_version(cli):
    assert cli("--version") == (0, f"residual {residual.__version__}\n", "")
    code, out, _ = cli("info", "resnet20", "--shortcut", "B", "--json")
    found = json.loads(out)
    assert (code, found["name"], found["layers"], found["parameters"], found["multiply_adds"]) == (
        *(0, "resnet20", 20),
        *(272474, 40813184),
    )
    code, out, _ = cli("models", "plain*")
    assert [line.split()[0] for line in out.splitlines()[1:]] == residual.list_models("plain*")
    code, out, _ = cli("recipes", "paper", "--model", "resnet110")
    assert json.loads(out)["schedule"]["warmup_learning_rate"] == 0.01
    code, out, _ = cli("recipes")
    names = [line.split()[0] for line in out.splitlines()]
    assert names[:6] == ["paper", "fast", "faster", "strong", "best", "demo"]
    code, out, _ = cli("data", "describe", "digits", "--json")
    assert json.loads(out)["test_images"] == 360


def test_a_printed_recipe_can_be_trained_from_a_file(cli, tmp_path):
    _, out, _ = cli("recipes", "demo", "--model", "resnet8")
    (tmp_path / "mine.json").write_text(out)
    more = [
        "--recipe",
        str(tmp_path / "mine.json"),
        "--iterations",
        "2",
        "--json",
        "--output",
        str(tmp_path / "run"),
    ]
    code, out, _ = cli("train", "plain8", *more)
    assert code == 0
    assert (json.loads(out)["network"], json.loads(out)["recipe"]) == ("plain8", "demo, iterations=2")


def test_the_demo_recipe_learns_the_digits(tmp_path):
    recipe = residual.get_recipe("demo", "resnet8").replace({"iterations": 120, "curve": "none"})
    assert residual.train(recipe, output=tmp_path / "run").error < 10


@pytest.mark.parametrize("verbose", [False, True])
def test_warnings_are_seen_where_they_are_asked_for(cli, monkeypatch, verbose):
    def train(*_, **__):
        warnings.warn("look at this", stacklevel=1)
        raise UsageError("enough")

    monkeypatch.setattr("residual.training.experiment.train", train)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        code, _, err = cli("train", "resnet8", "--data", "digits", *(["--verbose"] if verbose else []))
    assert (code, err) == (2, "residual: enough\n")
    assert [str(warning.message) for warning in seen] == ["look at this"] * verbose
