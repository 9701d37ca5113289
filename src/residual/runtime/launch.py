"""Several processes on this machine, started by torchrun's own code; what a launcher tells each of them."""

import logging
import os
import sys
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import InterruptedRunError, RunError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

Part = tuple[int, int]  # a rank, and how many there are
ALONE: Part = (0, 1)
LAUNCHED = "RESIDUAL_LAUNCHED_BY"  # the process that started this one by `launch`
SAVING = 60  # seconds that a rank has to save at a signal, before it is killed


def started_as() -> Part:
    """Return this process's rank and the number of ranks, as the launcher's environment says."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return ALONE
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def on_this_machine() -> Part:
    """Return this process's number on its machine, and how many there are on it."""
    rank, ranks = started_as()
    return int(os.environ.get("LOCAL_RANK", rank)), int(os.environ.get("LOCAL_WORLD_SIZE", ranks))


def restarts() -> int:
    """Return how often torchrun has started the processes of this machine again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def launch(processes: int, arguments: Sequence[str], threads: int) -> int:
    """Run `python -m residual ARGUMENTS` in so many processes; return the exit code of the first that failed.

    SIGTERM and SIGINT are passed on to them; if one fails, or this process dies, the others are stopped.

    Args:
        processes: how many.
        arguments: of the command line.
        threads: of each process.

    Raises:
        RunError: the processes cannot be started.
        InterruptedRunError: SIGTERM or SIGINT came; the processes have saved what there is to save.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("torch.distributed", "torch.distributed.elastic"):  # it tells of failures that we tell of
        logging.getLogger(name).setLevel(logging.CRITICAL)
    before = dict(os.environ)
    os.environ |= {LAUNCHED: str(os.getpid()), "OMP_NUM_THREADS": str(threads)}
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # any port that is free
        max_restarts=0,
        signals_to_handle="SIGTERM,SIGINT",
        shutdown_timeout=SAVING,
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "residual", *arguments)
    except ChildFailedError as error:
        return _exit_code(error)
    except SignalException as error:
        raise InterruptedRunError("stopped; the processes have ended", int(error.sigval)) from None
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(f"cannot start {processes} processes: {error}") from error
    finally:
        os.environ.clear()
        os.environ.update(before)
    return 0


def _exit_code(error: "ChildFailedError") -> int:
    """Return the code of the rank that failed first, for signals as in a shell."""
    first = min(error.failures.values(), key=lambda failure: failure.timestamp)
    return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
