"""Runs that are stopped from outside, in processes forked from one that has loaded everything.

`python forked_runs.py WHAT FOLDER TRIES` prints a line of JSON for each try; the tests of faults start it.
A process that has computed nothing yet can be forked safely, and a child is ready in a moment.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import residual.training.finish  # noqa: F401
from residual.cli.main import main
from residual.data.load import load_dataset
from residual.errors import CheckpointError
from residual.runtime.signals import Interrupted, stop_signals
from residual.training import curves, experiment, trainer  # noqa: F401
from residual.training.checkpoint import load_checkpoint, save_checkpoint

SMALL = {"iterations": 70, "batch_size": 8, "checkpoint_every": 1, "log_every": 10, "curve": "none"}
PATIENCE = 300  # seconds; far beyond what anything here takes


def begin(folder: Path, **changes: object) -> list[str]:
    """Give the arguments that begin a small run, or resume it where it has begun."""
    if (folder / "recipe.json").exists():
        return ["train", "--resume", str(folder)]
    values = [f"{key}={value}" for key, value in {**SMALL, **changes}.items()]
    options = [word for value in values for word in ("--set", value)]
    return ["train", "resnet8", "--data", "digits", "--output", str(folder), *options]


def fork(
    arguments: list[str], errors: Path, hook: Callable[[int], None] = lambda _pipe: None
) -> tuple[int, int]:
    """Start the program in a child that handles signals; give its number and a pipe that it writes to."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    code = 1
    try:
        sys.argv = ["residual", *arguments]
        with (
            Path(os.devnull).open("w") as sys.stdout,
            errors.open("w") as sys.stderr,
            stop_signals.handled(),
        ):
            hook(writer)
            main()
    except SystemExit as error:
        code = int(error.code or 0)
    except Interrupted as error:  # before or after the program's own handling
        code = 128 + error.number
    except BaseException:
        errors.write_text(traceback.format_exc())
    os._exit(code)


def ended(pid: int, reader: int) -> int:
    """Wait for a child; return its exit code, negative if a signal killed it."""
    os.close(reader)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"process {pid} did not end")


def left_by(folder: Path) -> dict[str, object]:
    """Tell what a stopped process left: partial files, and final names that do not hold what they should."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    broken = []
    for path in folder.glob("checkpoints/*.pt"):
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            broken.append(str(error))
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    steps = sorted(int(path.stem.rpartition("-")[2]) for path in folder.glob("checkpoints/last-*.pt"))
    partial = [path.name for path in files if path.name.endswith(".tmp")]
    return {"broken": broken, "steps": steps, "partial": partial}


def kill_while_saving(folder: Path, tries: int) -> Iterator[dict[str, object]]:
    """Kill a run in the middle of a save, let it go on, and so forth; at last let it end."""
    run, draw, longest, started = folder / "cut", random.Random(16), 0.01, 0.0

    def announce(pipe: int) -> None:
        def save(*arguments: object) -> Path:
            os.write(pipe, b"s")
            path = save_checkpoint(*arguments)  # type: ignore[arg-type]
            os.write(pipe, b"e")
            return path

        trainer.save_checkpoint = save  # type: ignore[attr-defined]

    for _ in range(tries):
        pid, reader = fork(begin(run), folder / "errors", announce)
        wanted = draw.choice((1, 1, 2))  # so that it gets on
        while wanted and (said := os.read(reader, 1)):
            if said == b"s":
                started, wanted = time.monotonic(), wanted - 1
            else:  # a save has ended
                longest = 0.7 * longest + 0.3 * (time.monotonic() - started)
        time.sleep(draw.uniform(0, 1.2 * longest))
        os.kill(pid, signal.SIGKILL)
        yield {"code": ended(pid, reader), **left_by(run)}
    yield {"code": ended(*fork(begin(run), folder / "errors")), **left_by(run)}
    yield {"code": ended(*fork(begin(folder / "whole"), folder / "errors"))}


def signal_at_any_time(folder: Path, tries: int) -> Iterator[dict[str, object]]:
    """Send SIGTERM or SIGINT at a random moment between start and end, then let the run go on."""
    short, draw = SMALL | {"iterations": 30, "checkpoint_every": 7, "validation": 50}, random.Random(3)
    started = time.monotonic()
    yield {"code": ended(*fork(begin(folder / "whole", **short), folder / "errors"))}
    longest = time.monotonic() - started
    for number in range(tries):
        run, asked = folder / f"cut{number}", draw.choice((signal.SIGTERM, signal.SIGINT))
        pid, reader = fork(begin(run, **short), folder / "errors", lambda pipe: os.write(pipe, b"r") and None)
        os.read(reader, 1)
        time.sleep(draw.uniform(0, 1.1 * longest))
        os.kill(pid, asked)
        found = {"code": ended(pid, reader), "expected": 128 + asked, "said": (folder / "errors").read_text()}
        found |= left_by(run) | {"ended": (run / "result.json").exists()}
        yield {**found, "resumed": ended(*fork(begin(run, **short), folder / "errors")), "run": run.name}


def two_at_once(folder: Path, tries: int) -> Iterator[dict[str, object]]:
    """Start two processes on one folder at the same moment: to make it, then to resume it."""
    train_one = trainer.Trainer.train_one
    for number in range(tries):
        run = folder / f"run{number}"
        for _ in ("made", "resumed"):
            held, holder = os.pipe()

            def hold(_pipe: int, held: int = held) -> None:
                def train(self: trainer.Trainer) -> None:
                    os.read(held, 1)  # with the lock, until the other one has ended
                    train_one(self)

                trainer.Trainer.train_one = train  # type: ignore[method-assign]

            pair = [fork(begin(run, iterations=20), folder / f"errors{one}", hold) for one in (0, 1)]
            first = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # and leave it to `ended`
            os.kill(next(pid for pid, _ in pair if pid != first.si_pid), signal.SIGTERM)
            os.write(holder, b"go")
            codes = [ended(*one) for one in pair]
            yield {"codes": codes, "said": [(folder / f"errors{one}").read_text() for one in (0, 1)]}
        yield {"codes": [ended(*fork(begin(run), folder / "errors0"))], "said": [""]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    load_dataset("digits")
    what = {each.__name__: each for each in (kill_while_saving, signal_at_any_time, two_at_once)}[sys.argv[1]]
    for found in what(Path(sys.argv[2]), int(sys.argv[3])):
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()  # before the next fork
