"""Several processes for the command `train`: starting them, and going on with a run that they began."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import UsageError
from ..runtime.files import found
from ..runtime.launch import launch, restarts, started_as


def launch_ranks(processes: int | None, gpus: int | None, device: str | None) -> int:
    """Run this command line in several processes of this machine; return the exit code.

    Raises:
        UsageError: options exclude each other, or there are not so many GPUs.
    """
    import torch

    if processes is not None and gpus is not None:
        raise UsageError("--processes and --gpus exclude each other: give one of them")
    if started_as()[1] > 1:
        raise UsageError("torchrun has started several processes already: leave --processes and --gpus out")
    if gpus is not None and gpus > torch.cuda.device_count():
        raise UsageError(f"there are {torch.cuda.device_count()} GPUs here, not {gpus}")
    if device is not None and gpus is not None:
        raise UsageError("--gpus says which devices to train on: leave --device out")
    count = processes or gpus or 1
    arguments = [*without(sys.argv[1:], ("--processes", "--gpus"))]
    if processes is not None and device is None:
        arguments += ["--device", "cpu"]
    usual = max(1, torch.get_num_threads() // count)
    return launch(count, arguments, int(os.environ.get("OMP_NUM_THREADS", usual)))


def without(arguments: Sequence[str], options: Sequence[str]) -> Iterator[str]:
    """Yield a command line's arguments, but not some options and their values."""
    left = iter(arguments)
    for argument in left:
        if argument in options:
            next(left, None)
        elif argument.partition("=")[0] not in options:
            yield argument


def goes_on(output: Path, auto_resume: bool) -> bool:
    """Tell whether the run folder is to be resumed: it is there, and the user or a restart says so."""
    return (auto_resume or restarts() > 0) and found((output / "recipe.json").is_file)


def refuse_with_ranks(find_lr: bool, seeds: int | None) -> None:
    """Refuse what one process does, or several for themselves."""
    if started_as()[1] == 1:
        return
    if find_lr:
        raise UsageError("--find-lr is for one process: find a rate with it, and give that with --lr")
    if seeds is not None:
        raise UsageError("--seeds trains runs of one process each: leave it out under torchrun")
