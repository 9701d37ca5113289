"""Signals at any time, output that cannot be written, and what a killed process leaves behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest

import residual
from residual.cli import main as command_line
from residual.data import cifar
from residual.errors import InterruptedRunError, RunError
from residual.runtime import signals
from residual.runtime.signals import Interrupted, stop_signals
from residual.training import prepare, run_folder
from residual.training.checkpoint import find_checkpoint, load_checkpoint
from residual.training.run_folder import Run
from residual.training.trainer import Trainer

SIGNALS = pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
TINY = {"iterations": 3, "batch_size": 16, "log_every": 2, "checkpoint_every": 2, "curve": "none"}


def tiny():
    return residual.get_recipe("demo", "resnet8").replace(TINY)


def interrupt(number, *_, **__):
    signal.raise_signal(number)


@pytest.fixture(autouse=True)
def outlive_signals():
    """A signal that the program leaves to the system fails one test instead of ending them all."""

    def fail(number, _frame):
        pytest.fail(f"signal {number} was not handled")

    before = {number: signal.signal(number, fail) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@SIGNALS
def test_a_signal_while_data_are_loaded_is_one_line(cli, monkeypatch, tmp_path, number, code):
    monkeypatch.setattr(prepare, "load_dataset", partial(interrupt, number))
    found = cli("train", "resnet8", "--data", "digits", "--output", tmp_path / "run")
    assert found == (code, "", "residual: interrupted\n")
    assert not (tmp_path / "run").exists()


IMPORTS = """
import os, signal, sys
from residual.cli.main import main
assert "torch" not in sys.modules
class Interrupting:
    def find_spec(self, name, *_):
        if name == "torch":
            signal.raise_signal(int(os.environ["SIGNAL"]))
sys.meta_path.insert(0, Interrupting())
main()
"""


@SIGNALS
def test_a_signal_while_modules_load_is_one_line(tmp_path, number, code):
    command = [sys.executable, "-c", IMPORTS, "train", "resnet8", "--output", str(tmp_path / "r")]
    environment = {**os.environ, "SIGNAL": str(int(number))}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (code, "residual: interrupted\n")


@SIGNALS
@pytest.mark.parametrize("part", ["finish.save_model", "curves.plot_runs", "prepare.evaluate_split"])
def test_a_signal_in_the_finish_says_that_the_run_is_saved(tmp_path, monkeypatch, part, number, code):
    monkeypatch.setattr(f"residual.training.{part}", partial(interrupt, number))
    with pytest.raises(InterruptedRunError, match=r"stopped at step 3: saved; .*--resume") as caught:
        residual.train(tiny(), output=tmp_path / "run")
    assert caught.value.exit_code == code
    monkeypatch.undo()
    assert residual.resume(tmp_path / "run").figures["iterations"] == 3


def signal_twice(monkeypatch, at):
    real = Trainer.train_one

    def train_one(self):
        real(self)
        if self.step == at:
            interrupt(signal.SIGTERM)
            interrupt(signal.SIGTERM)

    monkeypatch.setattr(Trainer, "train_one", train_one)


def test_a_second_signal_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "SAME", 0)
    signal_twice(monkeypatch, 3)
    with pytest.raises(InterruptedRunError, match="saved up to step 2; ") as caught:
        residual.train(tiny(), output=tmp_path / "run")
    assert caught.value.exit_code == 143
    assert load_checkpoint(find_checkpoint(tmp_path / "run" / "checkpoints"))["step"] == 2


def test_the_same_signal_delivered_twice_is_one(tmp_path, monkeypatch):
    monkeypatch.setattr(signals, "SAME", 60)
    signal_twice(monkeypatch, 1)
    with pytest.raises(InterruptedRunError, match="stopped at step 1: saved; "):
        residual.train(tiny(), output=tmp_path / "run")


def test_a_signal_that_nobody_looked_at_is_not_lost():
    with stop_signals.handled():
        with pytest.raises(Interrupted), stop_signals.deferred():
            interrupt(signal.SIGTERM)
        assert stop_signals.number == signal.SIGTERM
    assert stop_signals.number is None


class Full:
    """A standard stream that takes nothing."""

    encoding = "utf-8"

    def __init__(self, error):
        self.error = error

    def write(self, _):
        raise self.error

    flush = write

    def isatty(self):
        return False


@pytest.mark.parametrize("stream", [Full(OSError(28, "full")), Full(ValueError("closed file")), None])
def test_progress_that_cannot_be_shown_stops_no_run(tmp_path, monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    assert residual.train(tiny(), output=tmp_path / "run", quiet=False).figures["iterations"] == 3


def test_a_result_that_cannot_be_printed_is_on_the_disk_and_the_exit_code_says_so(
    tmp_path, monkeypatch, capsys
):
    arguments = ["train", "resnet8", "--data", "digits", "--output", str(tmp_path / "run")]
    changes = [f"{key}={value}" for key, value in TINY.items()]
    monkeypatch.setattr(sys, "argv", ["residual", *arguments, *(x for c in changes for x in ("--set", c))])
    monkeypatch.setattr(sys, "stdout", Full(OSError(28, "full")))
    with pytest.raises(SystemExit) as caught:
        command_line.main()
    assert caught.value.code == 7
    assert capsys.readouterr().err.splitlines()[-1].startswith("residual: cannot write to standard output")
    assert Run.open(tmp_path / "run").result["iterations"] == 3


@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
@pytest.mark.parametrize(
    ("redirection", "code"),
    [("2>/dev/full >/dev/full", 7), ("2>&-", 0), ("2>&- >&-", 7), ("| head -0", 0)],
)
def test_the_shells_ways_to_take_no_output(redirection, code):
    command = f"set -o pipefail; '{sys.executable}' -m residual models {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (code, "")


def old(path):
    os.utime(path, (time.time() - 7200,) * 2)


def test_what_a_killed_process_left_in_a_run_is_swept_by_the_next(tmp_path):
    run = Run.create(tmp_path / "run", tiny(), {})
    (run.path / "checkpoints").mkdir()
    left = [".metrics.jsonl.17.tmp", "checkpoints/.last-00000002.pt.17.tmp"]
    left += ["checkpoints/last-00000002.pt.sha256"]
    kept = ["checkpoints/last-00000001.pt", "checkpoints/last-00000001.pt.sha256", "notes.tmp"]
    for name in left + kept:
        (run.path / name).write_text("")
    with run.locked():
        pass
    assert [name for name in left + kept if (run.path / name).exists()] == kept


def test_run_folders_that_were_never_finished_are_swept(tmp_path):
    names = [".run.17", ".other.17", ".others-old.17", ".mine.17", ".mine"]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.json").write_text("")
        (tmp_path / name / ".environment.json.17.tmp").write_text("")
    (tmp_path / ".mine.17" / "thesis.txt").write_text("")
    for name in names[2:]:
        old(tmp_path / name)
    Run.create(tmp_path / "run", tiny(), {})
    assert {path.name for path in tmp_path.iterdir()} == {"run", ".other.17", ".mine.17", ".mine"}


def test_a_run_folder_that_is_interrupted_in_the_making_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("residual.training.run_folder.write_json", partial(interrupt, signal.SIGTERM))
    with contextlib.suppress(Interrupted), stop_signals.handled():
        Run.create(tmp_path / "run", tiny(), {})
    assert list(tmp_path.iterdir()) == []


def test_an_extraction_that_was_killed_is_swept(tmp_path, fake_cifar10):
    fake_cifar10.put_archive(tmp_path)
    folder = fake_cifar10.release.folder
    for name in ("killed", "going-on"):
        (tmp_path / f".{folder}-{name}" / folder).mkdir(parents=True)
    old(tmp_path / f".{folder}-killed")
    cifar.fetch(fake_cifar10.release, tmp_path)
    found = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert found == {folder, f".{folder}-going-on"}


@pytest.mark.parametrize("moment", ["environment.json", "recipe.json"])
def test_of_two_processes_that_make_one_run_the_slower_is_refused_and_nothing_is_half_there(
    tmp_path, monkeypatch, moment
):
    """Another process begins the same run at any moment of the making of this one."""
    real = run_folder.write_json

    def meanwhile(path, values):
        real(path, values)
        if path.name == moment:
            run_folder._sweep_unfinished(tmp_path / "run")  # what the other one does first

    monkeypatch.setattr(run_folder, "write_json", meanwhile)
    with pytest.raises(RunError, match="run is being made by another process"):
        Run.create(tmp_path / "run", tiny(), {})
    assert list(tmp_path.iterdir()) == []
