"""Faults around a training run: a full disk, a folder that turns read-only, odd surroundings."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import residual
from conftest import comparable
from faults import record
from residual.errors import ResidualError
from residual.training import curves, finish, trainer
from residual.training.checkpoint import find_checkpoint, find_checkpoints, load_checkpoint
from residual.training.run_folder import Run
from residual.training.trainer import Trainer

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="mounts file systems")]
NOBODY = 65_534
TINY = {"iterations": 8, "batch_size": 8, "log_every": 1, "checkpoint_every": 2, "curve": "none"}
CHANGES = [word for key, value in TINY.items() for word in ("--set", f"{key}={value}")]
TRAIN = ["train", "resnet8", "--data", "digits", *CHANGES]


def tiny(**changes):
    return residual.get_recipe("demo", "resnet8").replace({**TINY, **changes})


@pytest.fixture
def disk(tmp_path):
    """Mount a file system of 4 MiB in memory."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(path)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Train without a fault."""
    return residual.train(tiny(), output=tmp_path_factory.mktemp("whole") / "run").path


def fill(disk, room=0):
    """Fill the disk up to so many bytes."""
    with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    with (disk / "filler").open("r+b") as file:
        file.truncate(max(0, (disk / "filler").stat().st_size - room))


WRITES = {
    "saving": (trainer, "save_checkpoint", 3),  # the third time
    "logging": (Run, "log", 5),
    "noting a resume": (Run, "note_resume", 1),
    "plotting": (curves, "plot_runs", 1),
    "writing the model": (finish, "save_model", 1),
    "writing the result": (Run, "write_result", 1),
}


def stops(cli, arguments):
    """Run a command that must stop with one clear line; return that line."""
    code, out, err = cli(*arguments)
    assert (code in (4, 5), out, "Traceback" in err) == (True, "", False), (code, err)
    said = err.splitlines()[-1]
    assert said.startswith("residual: cannot ")
    return said


def assert_whole(run):
    """Check what a fault must leave: good checkpoints, of steps that were taken, and no temporary file."""
    assert not list(run.rglob("*.tmp"))
    for path in find_checkpoints(run / "checkpoints"):
        assert load_checkpoint(path)["step"] <= TINY["iterations"]


def test_4_a_disk_that_is_full_at_each_write(disk, cli, monkeypatch, whole):
    tries, draw = 0, random.Random(4)
    for what, (owner, name, time_of_fault) in WRITES.items():
        for room in (0, draw.randrange(4096, 16_000)):  # with some room the write fails half-way
            if room and what not in ("saving", "plotting", "writing the model"):
                continue
            run, real, calls = disk / "run", getattr(owner, name), []
            begin = [*TRAIN, "--output", run]
            if what == "noting a resume":
                with monkeypatch.context() as patch:
                    patch.setattr(Trainer, "save", lambda *_: (_ for _ in ()).throw(ResidualError("stop")))
                    cli(*begin)
                begin = ["train", "--resume", run]

            def full(*given, real=real, calls=calls, room=room, time_of_fault=time_of_fault, **options):
                calls.append(given)
                if len(calls) == time_of_fault:
                    fill(disk, room)
                return real(*given, **options)

            with monkeypatch.context() as patch:
                patch.setattr(owner, name, full)
                said = stops(cli, begin)
            assert "No space left on device" in said, said
            assert_whole(run)
            if what == "saving":
                assert load_checkpoint(find_checkpoint(run / "checkpoints"))["step"] == 4
            (disk / "filler").unlink()
            assert cli("train", "--resume", run)[0] == 0
            assert comparable(run) == comparable(whole)
            shutil.rmtree(run)
            tries += 1
    record(
        4,
        f"the disk full while {', '.join(WRITES)}",
        tries,
        "exit 4 or 5 and one line; the checkpoint before intact, no temporary file; with room again, the "
        "resume was the same run to the bit",
    )


def test_4_a_disk_that_fills_up_at_any_step(disk, cli, stop_at, whole):
    draw, tries, stopped = random.Random(44), 8, 0
    for number in range(tries):
        run = disk / f"run{number}"
        restore = stop_at(draw.randrange(1, 9), lambda _: fill(disk, draw.randrange(400_000)))
        code, _, err = cli(*TRAIN, "--output", run)
        restore()
        assert "Traceback" not in err
        assert code in (0, 4, 5)
        stopped += code != 0
        assert_whole(run)
        (disk / "filler").unlink()
        assert cli("train", "--resume", run)[0] == 0
        assert comparable(run) == comparable(whole)
        shutil.rmtree(run)
    assert stopped
    record(
        4,
        "the disk filled at a random step, up to a random rest",
        tries,
        f"{stopped} of the runs stopped with one line (others had room enough); with room again, "
        "each resume was the same run to the bit",
    )


@pytest.fixture
def as_nobody(whole):
    """Give a folder to the user "nobody", and be that user: to root nothing is read-only.

    Beside it comes what a run without a fault gives, which only root can read.
    """
    expected = comparable(whole)
    place = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        os.chown(place, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    except PermissionError:
        pytest.skip("needs root, to be another user")
    yield place, expected
    os.seteuid(0)
    shutil.rmtree(place)


def test_13_a_folder_that_turns_read_only(as_nobody, cli, stop_at):
    place, expected = as_nobody

    def allow(run, what):
        for path in (run, *run.rglob("*")):
            path.chmod(path.stat().st_mode & 0o555 | what)

    for step in (1, 2, 5, 8):
        run = place / f"run{step}"
        restore = stop_at(step, lambda _, run=run: allow(run, 0))
        said = stops(cli, [*TRAIN, "--output", run])
        restore()
        assert "Permission denied" in said
        assert "Permission denied" in stops(cli, ["train", "--resume", run])
        allow(run, 0o200)
        assert_whole(run)
        assert cli("train", "--resume", run)[0] == 0
        assert comparable(run) == expected
        shutil.rmtree(run)
    os.seteuid(0)  # who may write the result file
    record(
        13,
        "the folder read-only in mid-run, also for a resume",
        4,
        "exit 4 or 5 and one line; writable again, the resume was the same run to the bit",
    )


def test_13_a_clock_that_is_set_back(tmp_path, cli, stop_at, monkeypatch, whole):
    real = time.time
    for step in (1, 3, 8):
        back = [0]
        monkeypatch.setattr(time, "time", lambda back=back: real() - back[0])
        restore = stop_at(step, lambda _, back=back: back.__setitem__(0, 400 * 86_400))
        run = tmp_path / f"run{step}"
        assert cli(*TRAIN, "--output", run)[0] == 0
        restore()
        assert comparable(run) == comparable(whole)
        # files from the future, for a process that resumes before them
        (run / "result.json").unlink()
        for path in run.rglob("*"):
            os.utime(path, (real(),) * 2)
        assert cli("train", "--resume", run)[0] == 0
        assert comparable(run) == comparable(whole)
    record(13, "the clock set back by 400 days, in mid-run and before a resume", 6, "the same run to the bit")


def test_13_metrics_that_are_deleted_in_mid_run(tmp_path, cli, stop_at, whole):
    for step in range(1, 9):
        run = tmp_path / f"run{step}"
        restore = stop_at(
            step, lambda trainer: Path(trainer.run.path / "metrics.jsonl").unlink(missing_ok=True)
        )
        code, _, err = cli(*TRAIN, "--output", run)
        restore()
        assert (code, "Traceback" in err) == (0, False)
        assert Run.open(run).result["model_sha256"] == Run.open(whole).result["model_sha256"]
        assert [r["step"] for r in Run.open(run).metrics("train")] == list(range(step, 9))
    (run / "metrics.jsonl").unlink()
    (run / "result.json").unlink()
    assert cli("train", "--resume", run)[0] == 0
    assert json.loads((run / "result.json").read_text())["iterations"] == 8
    record(
        13,
        "metrics.jsonl deleted in mid-run, and before the last resume",
        9,
        "the run went on and ended with the same model",
        "the records in the deleted file",
    )


HIDDEN = """
set -e
umount --lazy /dev/shm
for folder in /tmp /var/tmp; do mount --bind "$folder" "$folder" && mount -o remount,ro,bind "$folder"; done
mkdir -p "$DISK"/{home,shm}
cd "$DISK"
export HOME=/proc TMPDIR=/proc
exec "$@"
"""


@pytest.mark.parametrize("jobs", [0, 2])
def test_13_no_shared_memory_and_no_temporary_folder(disk, whole, jobs):
    place = Path("/var/lib") / f"residual-{os.getpid()}"  # pytest's own folder is below /tmp
    place.mkdir()
    options = ["--seeds", "2", "--jobs", "2", *CHANGES] if jobs else CHANGES
    train = [sys.executable, "-m", "residual", "train", "resnet8", "--data", "digits", *options]
    command = ["unshare", "--mount", "bash", "-c", HIDDEN, "bash", *train, "--output", str(place / "run")]
    try:
        environment = {**os.environ, "DISK": str(place)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        run = place / "run" / ("resnet8-seed0" if jobs else "")
        assert Run.open(run).result["error"] == pytest.approx(Run.open(whole).result["error"], abs=5)
    finally:
        shutil.rmtree(place)
    record(
        13,
        f"no /dev/shm, and TMPDIR, /tmp and HOME not writable{', with --jobs 2' if jobs else ''}",
        1,
        "trained to the end",
    )


@pytest.mark.parametrize(
    ("closed", "which", "code"),
    [(">&-", "output", 7), ("2>&-", "error", 0), ("<&- >&- 2>&-", "input, output and error", 7)],
)
def test_13_streams_that_are_closed(tmp_path, whole, closed, which, code):
    command = f"'{sys.executable}' -m residual {' '.join(TRAIN)} --output '{tmp_path / 'run'}' {closed}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert comparable(tmp_path / "run") == comparable(whole)
    record(
        13,
        f"closed: standard {which}",
        1,
        f"trained to the end, exit {code}" + (": the result could not be printed" if code else ""),
    )
