"""A model of data-parallel training: the time of a step on N ranks from what was measured on one, and money.

A step takes as long as the computation of a rank's images and the part of the all-reduce that is not hidden
behind the backward pass, or as long as the loading of these images, whichever is more. `docs/cost.md` says
where each figure is from; `scaling.py` adds chance, and `ranks.py` compares with two ranks that train.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

FLOAT32 = 4  # bytes of a gradient
BUCKET = 25 << 20  # bytes that DistributedDataParallel reduces at a time
FORWARD = 1 / 3  # share of the forward pass; the backward pass has two gradients for each of its products
DAY, HOUR = 24 * 3600, 3600


@dataclass(frozen=True)
class Link:
    """What connects ranks: `bandwidth` in bytes per second, `latency` of one message in seconds."""

    bandwidth: float
    latency: float

    def ring(self, size: float, ranks: int) -> float:
        """Seconds to reduce `size` bytes around a ring: 2 (N - 1) messages of size / N, one by one."""
        return 2 * (ranks - 1) * (size / ranks / self.bandwidth + self.latency)

    def tree(self, size: float, ranks: int) -> float:
        """Seconds to reduce `size` bytes up a binary tree and hand the sum down, in pieces that follow up."""
        return 2 * (size / self.bandwidth + math.ceil(math.log2(ranks)) * self.latency) if ranks > 1 else 0.0

    def reduce(self, size: float, ranks: int) -> float:
        """Seconds of the faster of the two: the ring for much data, the tree for many ranks."""
        return min(self.ring(size, ranks), self.tree(size, ranks))


@dataclass(frozen=True)
class Machine:
    """Ranks and what connects and feeds them.

    Attributes:
        step_seconds: images and the seconds of a training step on them on one rank, ascending.
        decode_rate: images per second that one core decodes and augments.
        cores: cores that decode for each rank; 0 if the rank does it itself, between its steps.
        ranks: ranks in one machine.
        near: between the ranks of a machine; each rank has its bandwidth.
        far: between machines; all ranks of a machine share its bandwidth.
        overlap: whether gradients are reduced in buckets, while the backward pass goes on.
        checkpoint_seconds: that all ranks wait while one saves.
        read_rate: images per second that a store can give to all ranks; None if each machine has a copy.
        price: of one rank for an hour.
    """

    step_seconds: tuple[tuple[int, float], ...]
    decode_rate: float
    cores: int
    ranks: int
    near: Link
    far: Link
    overlap: bool = True
    checkpoint_seconds: float = 0.0
    read_rate: float | None = None
    price: float = 0.0

    def compute(self, images: int) -> float:
        """Seconds of a step: between two measured sizes on a straight line, below the smallest as for it."""
        sizes, seconds = zip(*self.step_seconds, strict=True)
        if images > sizes[-1]:
            return float(images * self.image_seconds)
        return float(np.interp(images, sizes, seconds))

    @property
    def image_seconds(self) -> float:
        """Seconds of an image in the largest batch that was measured."""
        images, seconds = self.step_seconds[-1]
        return seconds / images

    def load(self, images: int, ranks: int) -> float:
        """Seconds to load a rank's images while each of the others loads as many."""
        decoded = images / (self.decode_rate * max(1, self.cores))
        return max(decoded, images * ranks / self.read_rate) if self.read_rate else decoded

    def all_reduce(self, size: float, ranks: int) -> float:
        """Seconds to reduce `size` bytes: within each machine, then, if there are several, between them."""
        within = self.near.reduce(size, min(ranks, self.ranks))
        return within + self.far.reduce(size, math.ceil(ranks / self.ranks))

    def exposed(self, size: float, ranks: int, compute: float) -> float:
        """Seconds of the all-reduce that remain after the backward pass.

        With `overlap`, each bucket starts once its gradients are there and the one before it is done; they
        are taken to get ready evenly over the backward pass.
        """
        if not self.overlap:
            return self.all_reduce(size, ranks)
        buckets, done = max(1, math.ceil(size / BUCKET)), 0.0
        for number in range(1, buckets + 1):
            ready = compute * (FORWARD + (1 - FORWARD) * number / buckets)
            done = max(done, ready) + self.all_reduce(size / buckets, ranks)
        return done - compute


@dataclass(frozen=True)
class Run:
    """What is trained.

    Attributes:
        parameters: of the network, whose gradients are float32.
        iterations: training steps with `batch_size` images.
        batch_size: images of a step over all ranks together.
        evaluate_every, evaluated: steps between evaluations, and images of one.
        checkpoint_every: steps between checkpoints.
    """

    parameters: int
    iterations: int
    batch_size: int
    evaluate_every: int = 0
    evaluated: int = 0
    checkpoint_every: int = 0

    @property
    def gradients(self) -> int:
        """Bytes that are reduced at every step."""
        return FLOAT32 * self.parameters

    def local(self, ranks: int) -> int:
        """Images of the rank that has most of them."""
        return math.ceil(self.batch_size / ranks)

    def with_local(self, images: int, ranks: int) -> "Run":
        """Return the run over as many images with `images` on each rank (weak scaling)."""
        batch_size = images * ranks
        factor = self.batch_size / batch_size
        evaluate, save = self.evaluate_every * factor, self.checkpoint_every * factor
        return replace(
            self,
            batch_size=batch_size,
            iterations=math.ceil(self.iterations * factor),
            evaluate_every=max(1, round(evaluate)) if evaluate else 0,
            checkpoint_every=max(1, round(save)) if save else 0,
        )


@dataclass(frozen=True)
class Step:
    """Seconds of a training step, in parts that add up to it.

    Attributes:
        arithmetic: of a rank's images, at the rate of a large batch.
        small_batch: what these images take beyond that, since there are few of them.
        loading: waiting for images.
        stragglers: waiting for the slowest rank.
        all_reduce: what of it follows the backward pass.
    """

    arithmetic: float
    small_batch: float
    loading: float
    stragglers: float
    all_reduce: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.arithmetic + self.small_batch + self.loading + self.stragglers + self.all_reduce

    @property
    def limit(self) -> str:
        """What costs most beyond the arithmetic, or the arithmetic if that is more than all else."""
        parts = {name: seconds for name, seconds in vars(self).items() if name != "arithmetic"}
        return "arithmetic" if self.arithmetic >= sum(parts.values()) else max(parts, key=lambda n: parts[n])


def step_on(run: Run, machine: Machine, ranks: int) -> Step:
    """Split the time of a step on so many ranks; ranks beyond the images of a batch have nothing to do."""
    ranks = min(ranks, run.batch_size)
    images = run.local(ranks)
    compute = machine.compute(images)
    arithmetic = min(compute, images * machine.image_seconds)
    exposed = machine.exposed(run.gradients, ranks, compute)
    load = machine.load(images, ranks)
    wait = max(0.0, load - compute - exposed) if machine.cores else load
    return Step(arithmetic, compute - arithmetic, wait, 0.0, exposed)


@dataclass(frozen=True)
class Estimate:
    """Time and money of a run on `ranks` ranks; `step` is one of its steps, the rest is of the whole run."""

    ranks: int
    local: int
    step: Step
    images_per_second: float
    efficiency: float  # of its images per second, against as many times those of one rank
    seconds: float
    price: float

    @property
    def days(self) -> float:
        """Its duration in days."""
        return self.seconds / DAY

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        step = {**asdict(self.step), "seconds": self.step.seconds, "limit": self.step.limit}
        return {**asdict(self), "step": step}


def estimate(
    run: Run,
    machine: Machine,
    ranks: int,
    local: int | None = None,
    step_of: Callable[[Run, Machine, int], Step] = step_on,
) -> Estimate:
    """Estimate a run: with its batch over all ranks, or with `local` images on each of them.

    Args:
        run, machine, ranks: as for `step_on`.
        local: images of each rank, or None; the run then has as many fewer steps as the batch is larger.
        step_of: gives a step; `step_on`, or a simulation.
    """
    chosen, alone = (run, run) if local is None else (run.with_local(local, ranks), run.with_local(local, 1))
    step = step_of(chosen, machine, ranks)
    rate, rate_alone = chosen.batch_size / step.seconds, alone.batch_size / step_of(alone, machine, 1).seconds
    share = math.ceil(chosen.evaluated / ranks)
    forward = share * machine.image_seconds * FORWARD
    load = machine.load(share, ranks)
    evaluation = max(forward, load) if machine.cores else forward + load
    evaluations = chosen.iterations // chosen.evaluate_every if chosen.evaluate_every else 0
    checkpoints = chosen.iterations // chosen.checkpoint_every if chosen.checkpoint_every else 0
    seconds = (
        chosen.iterations * step.seconds + evaluations * evaluation + checkpoints * machine.checkpoint_seconds
    )
    return Estimate(
        ranks=ranks,
        local=chosen.local(ranks),
        step=step,
        images_per_second=rate,
        efficiency=rate / (ranks * rate_alone),
        seconds=seconds,
        price=ranks * seconds / HOUR * machine.price,
    )
