"""Runs on two processes from the command line: against one process, stopped, resumed, started by torchrun."""

import json
import signal

import pytest
import torch

from launched import finish, start_residual, wait_for

TRAIN = ("train", "resnet8", "--data", "digits", "--set", "iterations=40", "--set", "checkpoint_every=10")
TRAIN = (*TRAIN, "--set", "log_every=5")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def run(*arguments, **options):
    """Run the command line to its end; return exit code, output and errors."""
    return finish([start_residual(*arguments, **options)])[0]


def trained(*arguments, **options):
    code, output, errors = run(*arguments, **options)
    assert code == 0, output + errors
    return output + errors


def weights(folder):
    return torch.load(folder / "checkpoints" / "last-00000040.pt", weights_only=True)


def metrics(folder):
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key != "images_per_second"} for record in records]


def assert_same(found, expected):
    """Compare two runs to the bit: weights, BN statistics, momenta and metrics."""
    first, second = weights(found), weights(expected)
    for part in ("network", "optimizer"):
        torch.testing.assert_close(first[part], second[part], rtol=0, atol=0)
    assert torch.equal(first["window"], second["window"])
    assert metrics(found) == metrics(expected)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run on two processes that was never stopped."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    said = trained(*TRAIN, "--processes", "2", "--output", folder)
    return folder, said


@pytest.mark.slow
def test_two_processes_train_as_one_with_two_groups(two, tmp_path):
    folder, said = two
    trained(*TRAIN, "--set", "bn_groups=2", "--output", tmp_path / "one")
    for found, expected in zip(metrics(folder), metrics(tmp_path / "one"), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=2e-3)
        assert found["step"] == expected["step"]
    figures = json.loads((folder / "result.json").read_text())
    evaluated = json.loads(trained("evaluate", folder, "--json"))
    assert (figures["error"], figures["images"]) == (evaluated["error"], evaluated["images"])
    assert said.count("macro error") == 1  # the first rank alone reports
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_is_resumed_to_the_bit(two, tmp_path, number):
    folder = tmp_path / "run"
    process = start_residual(*TRAIN, "--processes", "2", "--output", folder)
    wait_for(lambda: (folder / "metrics.jsonl").is_file())
    process.send_signal(number)
    [(code, _, errors)] = finish([process])
    assert code == 128 + number, errors
    assert "saved" in errors
    assert "Traceback" not in errors
    trained("train", "--resume", folder, "--processes", "2")
    assert_same(folder, two[0])


@pytest.mark.slow
def test_a_run_goes_on_on_another_number_of_processes(two, tmp_path):
    folder, half = tmp_path / "run", ("--set", "stop_after=40", "--set", "bn_groups=2")
    process = start_residual(*TRAIN, *half, "--processes", "2", "--output", folder)
    wait_for(lambda: any((folder / "checkpoints").glob("last-*.pt")))
    process.terminate()
    assert finish([process])[0][0] == 143
    said = trained("train", "--resume", folder)
    assert "the run began on 2 processes, and goes on on 1: the same images in the same order" in said
    for found, expected in zip(metrics(folder), metrics(two[0]), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=2e-3)


@pytest.mark.slow
def test_torchrun_begins_a_run_and_goes_on_with_it(two, tmp_path):
    folder = tmp_path / "run"
    command = (*TRAIN, "--output", folder, "--auto-resume")
    process = start_residual(*command, launcher=TORCHRUN)
    wait_for(lambda: any((folder / "checkpoints").glob("last-*.pt")))
    process.terminate()
    finish([process])
    trained(*command, launcher=TORCHRUN)
    assert_same(folder, two[0])
    assert "test error" in trained(*command, launcher=TORCHRUN)  # it has ended: nothing is trained again


def test_what_several_processes_cannot_do_is_refused(cli):
    for options, message in (
        (("--processes", "2", "--gpus", "2"), "exclude each other"),
        (("--gpus", "99"), "there are 0 GPUs here, not 99"),
        (("--auto-resume",), "--auto-resume needs --output RUN"),
    ):
        code, _, errors = cli(*TRAIN, *options)
        assert code == 2
        assert message in errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--find-lr",), "--find-lr is for one process"),
        (("--seeds", "2", "--output", "x"), "--seeds trains runs of one process each"),
        (("--processes", "2"), "torchrun has started several processes already"),
    ],
)
def test_what_ranks_cannot_do_is_refused(cli, monkeypatch, options, message):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    code, _, errors = cli(*TRAIN, *options)
    assert code == 2
    assert message in errors
