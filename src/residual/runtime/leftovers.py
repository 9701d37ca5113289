"""Processes that would outlive this one when it is killed: found by a mark in their environment, and ended.

This file is also the program that does it: it waits until its standard input ends, as it does when the
process that started it ends in any way.
"""

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

MARK = "RESIDUAL_STARTED_BY"
PASSES = 20  # at most; a process that is being ended may have just started another


@contextmanager
def no_leftovers() -> Iterator[None]:
    """End all processes that are started in the block, by whatever library, when it or this process ends."""
    mark = uuid.uuid4().hex
    watcher = subprocess.Popen(
        [sys.executable, __file__, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C is for its parent
    )
    os.environ[MARK] = mark
    try:
        yield
    finally:
        del os.environ[MARK]
        watcher.communicate()


def end_marked(mark: str) -> int:
    """End the processes that have the mark; return how many there were."""
    ended = 0
    for _ in range(PASSES):
        marked = [process for process in psutil.process_iter() if _has(process, mark)]
        if not marked:
            break
        for process in marked:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(marked, timeout=1)
        ended += len(marked)
    return ended


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        return bool(process.environ().get(MARK) == mark) and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # it has ended, or is another user's
        return False


if __name__ == "__main__":
    sys.stdin.read()
    end_marked(sys.argv[1])
