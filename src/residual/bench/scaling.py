"""A simulation of data-parallel training in which no two steps take the same time: who waits for what."""

from dataclasses import replace

import numpy as np

from .cost import Machine, Run, Step, step_on

PREFETCH = 4  # batches that are loaded ahead
STEPS = 300


def simulate(
    run: Run, machine: Machine, ranks: int, jitter: float, *, steps: int = STEPS, seed: int = 0
) -> Step:
    """Simulate steps and return the mean of their parts; without jitter it is what `step_on` calculates.

    Each rank's computation, and the loading of each of its batches, takes its mean time multiplied by a
    log-normal number of mean 1. A rank starts a step when the all-reduce before it has ended and its images
    are there; batches are loaded one after the other, up to `PREFETCH` of them ahead of the step. The
    all-reduce ends a fixed time after the slowest rank has computed.

    Args:
        run, machine, ranks: as for `step_on`.
        jitter: standard deviation of the logarithm of a time.
        steps: that are simulated, from full buffers on; the mean is over the second half.
        seed: of the random numbers.
    """
    ranks = min(ranks, run.batch_size)
    mean = step_on(run, machine, ranks)
    compute, load = mean.arithmetic + mean.small_batch, machine.load(run.local(ranks), ranks)
    random = np.random.default_rng(seed)
    ahead = PREFETCH if machine.cores else 0
    started = np.zeros((ahead + 1, ranks))  # of the last steps, for the room in the buffer
    loaded, end, parts = np.zeros(ranks), 0.0, []
    for step in range(steps):
        computing, loading = random.lognormal(-(jitter**2) / 2, jitter, (2, ranks))
        if ahead and step < ahead:
            loaded = np.zeros(ranks)  # the buffer is full at the start
        else:
            room = started[(step - ahead) % (ahead + 1)] if ahead else np.full(ranks, end)
            loaded = np.maximum(loaded, room) + load * loading
        start = np.maximum(loaded, end)
        ready = start + compute * computing
        started[step % (ahead + 1)] = start
        slowest = int(np.argmax(ready))  # all others wait for it, so what it did is what the step took
        parts.append((start[slowest] - end, computing[slowest]))
        end = ready[slowest] + mean.all_reduce
    waiting, factor = np.mean(parts[steps // 2 :], axis=0).tolist()
    return replace(mean, loading=waiting, stragglers=compute * max(0.0, factor - 1))
