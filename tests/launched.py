"""Processes started as a launcher starts the ranks of a run, for tests."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import psutil


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def start_ranks(arguments: Sequence[str], count: int = 2, **variables: str) -> list[subprocess.Popen[str]]:
    """Start `python ARGUMENTS` as so many ranks of one machine."""
    shared = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            **pipes,
        )
        for rank in range(count)
    ]


def finish(started: Sequence[subprocess.Popen[str]], timeout: float = 240) -> list[tuple[int, str, str]]:
    """Wait for the ranks; return exit code, output and errors of each."""
    try:
        found = [process.communicate(timeout=timeout) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(started, found, strict=True)]


def start_residual(
    *arguments: object, launcher: Sequence[str] = (), **variables: str
) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, which a launcher may start several times."""
    command = [sys.executable, *launcher, "-m", "residual", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **variables}, **pipes)


def ranks_of(launcher: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """Return the processes that a launcher has started, by their ranks."""
    found = {}
    for process in psutil.Process(launcher.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            rank = process.environ().get("RANK")
            if rank is not None and process.ppid() == launcher.pid:
                found[int(rank)] = process
    return found


def wait_for(condition: Callable[[], bool], seconds: float = 120) -> None:
    """Wait until something is the case."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.02)
