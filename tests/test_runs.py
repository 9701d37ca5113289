"""`residual runs`: what a folder of runs says of each, unfinished and broken ones included."""

import json
import shutil
import subprocess
import sys

import pytest

import residual
from residual.errors import RunError
from residual.training.run_folder import Run
from residual.training.run_list import list_runs

FACTS = {
    "date": "2026-01-02T03:04:05+00:00",
    "command": "residual train",
    "commit": None,
    "versions": {"torch": "2.9"},
    "hardware": {"device": "cpu", "threads": 1},
    "dataset": "digits",
}
RESULT = {
    **{"network": "resnet8", "data": "digits", "recipe": "demo, iterations=12", "seed": 3, "iterations": 12},
    **{"images": 360, "error": 12.5, "training_error": 1, "seconds": 2.5, "images_per_second": 9.0},
    "validation_best": None,
}


def make_run(path, facts=FACTS):
    """Write what a run has after step 12 of 16, where it was killed."""
    recipe = residual.get_recipe("demo", "resnet8").replace({"iterations": 16, "seed": 3})
    run = Run.create(path, recipe, facts)
    for step, error in ((4, 40.0), (8, 20.0), (12, 30.0)):
        run.log({"step": step, "kind": "train", "error": error / 2})
        run.log({"step": step, "kind": "validation", "error": error})
    run.checkpoints.mkdir()
    for step in (8, 12):
        (run.checkpoints / f"last-{step:08d}.pt").touch()
    with run.locked():
        pass
    return path


@pytest.fixture
def stopped(tmp_path):
    """Give the folder of a run that was killed."""
    return make_run(tmp_path / "all" / "deep" / "stopped")


@pytest.fixture
def finished(tmp_path):
    """Give the folder of a finished run, the later one."""
    path = make_run(tmp_path / "all" / "finished", {**FACTS, "date": "2026-02-02T03:04:05+00:00"})
    Run.open(path).write_result(RESULT)
    return path


def snapshot(folder):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def test_a_finished_run(finished):
    (run,) = list_runs(finished.parent)
    assert (run.path, run.state, run.error, run.measured_on) == (finished, "finished", 12.5, "test")
    assert (run.step, run.steps, run.network, run.data, run.seed) == (12, 12, "resnet8", "digits", 3)
    assert (run.recipe, run.date) == (RESULT["recipe"], "2026-02-02T03:04:05+00:00")
    assert list_runs(finished) == [run], "the folder may be a run itself"


def test_an_unfinished_run_is_stopped_or_running(stopped, cli, tmp_path):
    (run,) = list_runs(tmp_path)
    assert (run.state, run.step, run.steps) == ("stopped", 12, 16)
    assert (run.error, run.measured_on) == (20.0, "validation")
    assert (run.data, run.recipe) == ("digits", "demo, iterations=16")
    with Run.open(stopped).locked():
        assert list_runs(tmp_path)[0].state == "running"
        _, out, _ = cli("runs", tmp_path)
        assert "running at step 12 of 16" in out
    assert list_runs(tmp_path)[0].state == "stopped"


def test_without_a_validation_set_the_error_is_the_last_on_the_test_set(stopped):
    metrics = stopped / "metrics.jsonl"
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    kept = [record for record in records if record["kind"] == "train"]
    kept += [{"step": step, "kind": "test", "error": error} for step, error in ((4, 20.0), (8, 30.0))]
    metrics.write_text("".join(json.dumps(record) + "\n" for record in kept))
    (run,) = list_runs(stopped)
    assert (run.error, run.measured_on) == (30.0, "test")
    metrics.unlink()
    assert list_runs(stopped)[0].error is None


def test_broken_folders_are_named_and_the_others_listed(finished, stopped, cli, tmp_path):
    root = tmp_path / "all"
    for name, file, content in (
        ("a", "recipe.json", "{"),
        ("b", "environment.json", "[]"),
        ("c", "result.json", '{"format": 99}'),
        ("d", "metrics.jsonl", "no record\n"),
    ):
        shutil.copytree(stopped, root / name)
        (root / name / file).write_text(content)
    (root / "empty").mkdir()
    (root / "just a recipe").mkdir()
    shutil.copy(finished / "recipe.json", root / "just a recipe")
    (root / ".hidden").mkdir()
    before = snapshot(root)
    code, out, err = cli("runs", root)
    assert code == 0
    assert len(out.splitlines()) == 3, "a header and two runs"
    for name in "abcd":
        assert f"note: {root / name} cannot be read: " in err
    assert len(err.splitlines()) == 4
    code, out, _ = cli("runs", root, "--json")
    listed = json.loads(out)
    assert [run["state"] for run in listed] == ["stopped", "finished", *["broken"] * 4]
    assert all(run["problem"] for run in listed[2:])
    assert snapshot(root) == before, "nothing is written"


def test_no_runs_and_no_folder(cli, tmp_path):
    code, out, err = cli("runs", tmp_path)
    assert (code, out) == (0, "")
    assert "there are no runs in" in err
    assert cli("runs", tmp_path, "--json")[1] == "[]\n"
    assert cli("runs", tmp_path / "none")[0] == 5
    with pytest.raises(RunError, match="there is no folder"):
        list_runs(tmp_path / "none")


def test_listing_does_not_load_torch():
    code = "import sys, residual.cli.runs, residual.training.run_list; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_numbers_that_no_run_has_are_shown_as_broken(stopped, finished):
    (stopped / "metrics.jsonl").write_text('{"step": 1, "kind": "test", "error": %s}\n' % (400 * "9"))
    (finished / "result.json").write_text(json.dumps({**RESULT, "error": 10**400}))
    assert [run.state for run in list_runs(stopped.parent.parent)] == ["broken", "broken"]


def test_a_result_with_a_long_value_is_one_short_line(finished):
    (finished / "result.json").write_text(json.dumps({**RESULT, "error": "9" * 100_000}))
    with pytest.raises(RunError) as caught:
        Run.open(finished).result  # noqa: B018
    assert len(str(caught.value)) < 500
