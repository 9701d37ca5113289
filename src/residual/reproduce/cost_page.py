"""The page `docs/cost.md`: what the paper's run on ImageNet costs, and what it was checked by."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

from ..bench import cluster
from ..bench.cost import BUCKET, FORWARD, Estimate, Machine, Run, estimate
from ..bench.page import LIMITS, cost_table, table_of
from ..bench.scaling import PREFETCH, simulate
from ..models.names import parse_name
from ..recipes.catalog import get_recipe
from ..runtime.device import short_name

NETWORK, RECIPE, FASTEST = "resnet50", "imagenet-paper", "bfloat16"
GPUS = (1, 8, 64)
JITTER = 0.05  # deviation of the logarithm of a step's time on a GPU: an assumption
RANKS = tuple(2**power for power in range(11))
STORE = 20e9  # bytes per second of a store that all machines share, an example
SLOW = 10e9 / 8  # bytes per second between machines, an example
PICTURE = "scaling.png"
# images per second of 8 GPUs in large batches, by NVIDIA's table that has the rates of one
PUBLISHED_8 = {"float32": 2855, "tf32": 7248, "bfloat16": 16621}
Benches = Mapping[str, Mapping[str, Any]]

HEAD = """\
# Time and money

Made by `residual reproduce pages`: what the paper's run on ImageNet takes, `resnet50` by the recipe
`imagenet-paper`, 600,000 steps of 256 images, on 1, 8 and 64 GPUs. **It is a calculation: nothing on this
page ran on a GPU.** It starts from published speeds of one GPU and of its connections, and from this
project's own decoding speed; each figure has [its source](#where-the-figures-are-from) and an option of the
command, so put in what you measured. What was measured is how the calculation compares with [two processes
that train](#checked-against-two-processes).

```bash
residual cost                                                   # 1, 8 and 64 GPUs, float32 as in the paper
residual cost --precision bfloat16 --gpus 8,16 --price 1.84
residual cost resnet152 --step-times 32=0.09,64=0.17,256=0.66   # seconds of your own GPU's steps
residual cost --per-gpu 256 --gpus 8,64 --jitter 0.05           # the batch grows; steps vary: a simulation
```"""

COSTS = """\
## The paper's run

Dollars are {price:.2f} for a GPU and hour, an example: prices differ much between sellers. A
row is the same training, step by step: the batch of 256 is divided. The parts of a step are in
milliseconds; "small batch" is what few images take longer than as many in a large batch, since a GPU has
nothing to do while the processor starts the next kernel; "limit" is the largest of them, or arithmetic if
that is more than all of them."""

STORY = """\
Eight GPUs cost about as much as one in float32 and finish {faster:.1f} times sooner. With 64, each has four
images, a step is as short as a step can be, and most of the money is for GPUs that wait. So the batch of
256 is what ends the scaling, not the network between the machines: the gradients of {gradients:.1f} MB take
{reduce:.1f} ms to reduce over 64 GPUs, and all but {exposed:.1f} ms of it is hidden behind the backward
pass."""

SCALING = """\
## Where it stops scaling

![Images per second and the parts of a step against the number of GPUs](scaling.png)

A simulation up to 1,024 GPUs in {precision}, the fastest, which meets its limits first. The times of steps
vary log-normally by {jitter:.0%}, which is an assumption, and a step waits for its slowest GPU; each GPU
loads {prefetch} batches ahead. With "256 on each" the batch grows with the GPUs and the steps get fewer; the
learning rate must then grow too, and whether the error stays is another question, which this project has
not tested. Two scenarios are examples of what else can be the limit: machines connected by
{gigabit:g} Gbit/s (`--bandwidth {slow:g}`), and one store that gives all images at {store:.0f} GB/s
(`--store {store:.0f}`) instead of a copy on each machine. Images per second, and what limits them:

{table}

How much is lost to waiting for the slowest depends on how much steps vary: with 256 images on each, 1,024
GPUs train as much as so many that wait for none: {spread}."""
MEASURED_JITTER = """\
, which is what steps of two processes varied by in the quietest round of the measurement below"""

MODEL = """\
## The calculation

- A step is `max(compute + exposed, load)`. `compute` is the time of a GPU's images, on a straight line
  between the batches whose times are known; `load` is `images / (decode rate x cores)`.
- A ring of N ranks reduces S bytes in `2 (N - 1) / N x S / bandwidth + 2 (N - 1) x latency`, a tree in
  `2 S / bandwidth + 2 log2 N x latency`; the faster is taken. First each machine's GPUs reduce among
  themselves, then the machines, each with its one bandwidth.
- Gradients are float32, in buckets of 25 MiB as DistributedDataParallel has them, ready evenly over the
  backward pass, two thirds of `compute`; `exposed` is what remains after it.
- An evaluation takes a third of a training step's time for each image. A checkpoint stops all GPUs.
- A GPU is paid from the first step to the last; starting, repeating what a lost machine had done since its
  last checkpoint, and storing the images are not included.

With the figures of 8 GPUs in float32: a step has 256 / 8 = {local} images, which take {compute:.2f} ms. Of
{size:.1f} MB in {buckets} buckets, the last bucket remains after the backward pass: 2 x 7 / 8 x
{bucket:.1f} MB / {near:.0f} GB/s + 14 x {latency:.1f} µs = {ring:.3f} ms by the ring, {tree:.3f} ms by the
tree, so {exposed:.3f} ms. {iterations:,} x {step:.2f} ms = {training:,.0f} s, {evaluations} evaluations x
{evaluated:,} / 8 images x {forward:.2f} ms = {evaluating:,.0f} s, {checkpoints} checkpoints x {saving:g} s:
together {total:,.0f} s = {days:.2f} days, and x 8 GPUs x {price:.2f} dollars = {dollars:,.0f} dollars."""

CHECKED = "## Checked against two processes"
CHECK = """\
`{command}` on {hardware}{busy} (`results/bench/{name}`): two ranks train with gloo, one thread each. In
each round the steps of both without an all-reduce, the loading of their images, and all-reduces of other
sizes than theirs are measured apart. From these the calculation says how many images per second the two
should train together, gradients being reduced after the backward pass; then they do. The three cases are
one in which the all-reduce is a small part of a step, one in which it counts, and one in which it is the
most of it. **Prediction and measurement are at most {worst:.0%} apart** in the median of the rounds."""

QUIET = 3.0  # load average up to which the two ranks had their cores for themselves
BUSY = ", while other programs ran (load average {load:.0f})"
OTHERS = """\
Networks other than ResNet-50 are taken to be as much faster or slower as they have fewer or more
multiply-adds, with a shortest step in proportion to their layers. That small batches lose on other GPUs
what they lose on a V100, and that the shortest step is the same, is an assumption: measure a few batches of
your own GPU and give them as `--step-times`."""
GPU_CHECK = """\
NVIDIA's table also has 8 GPUs, each with as many images as the one. They train {published} times as much as
one, in float32, TF32 and mixed precision; the calculation, in which nothing varies, says {calculated}. So
it does not explain what is lost in mixed precision; take the time of a fast step as a lower limit."""


def cost_page(benches: Benches) -> str:
    """Return the page, in Markdown.

    Args:
        benches: name and content of the files in `results/bench/`.
    """
    sections = [
        HEAD,
        *_costs(),
        _scaling(jitter_of(benches)),
        _model(),
        _sources(),
        *_check(benches),
        _published(),
    ]
    return "\n\n".join(sections) + "\n"


def scenarios() -> dict[str, list[Estimate]]:
    """Simulate 1 to 1,024 GPUs: a batch that is divided or grows, a slow network, one store for all."""
    run, machine = _run(), _machine(FASTEST)
    shared = replace(machine, read_rate=STORE / cluster.IMAGE_BYTES)
    slow = replace(machine, far=replace(machine.far, bandwidth=SLOW))
    chosen: dict[str, tuple[Machine, int | None]] = {
        "a batch of 256": (machine, None),
        f"a batch of 256, {8 * SLOW / 1e9:g} Gbit/s": (slow, None),
        "256 on each": (machine, cluster.LARGEST),
        "256 on each, one store": (shared, cluster.LARGEST),
    }
    step_of = partial(simulate, jitter=JITTER)
    return {
        name: [estimate(run, on, ranks, local, step_of) for ranks in RANKS]
        for name, (on, local) in chosen.items()
    }


def jitter_of(benches: Benches) -> float | None:
    """Return how much steps varied in the quietest round of the newest measurement of two ranks."""
    _, bench = _newest(benches)
    return min((r["jitter"]["low"] for r in bench.get("records", ()) if r["kind"] == "ranks"), default=None)


def _newest(benches: Benches) -> tuple[str, Mapping[str, Any]]:
    """Return name and content of the newest file with a measurement of ranks."""
    for name, bench in reversed(list(benches.items())):
        if any(record["kind"] == "ranks" for record in bench["records"]):
            return name, bench
    return "", {}


@cache
def _run() -> Run:
    return cluster.run_of(get_recipe(RECIPE, NETWORK))


@cache
def _machine(precision: str) -> Machine:
    rate = cluster.rate_of(get_recipe(RECIPE, NETWORK), precision)
    return cluster.machine(cluster.step_seconds(rate, parse_name(NETWORK).layers))


def _costs() -> Iterable[str]:
    found = {p: [estimate(_run(), _machine(p), ranks) for ranks in GPUS] for p in cluster.RATES}
    yield COSTS.format(price=cluster.PRICE)
    for precision, estimates in found.items():
        yield "\n".join(cost_table(precision, estimates).as_markdown())
    one, eight, many = found["float32"]
    yield STORY.format(
        faster=one.seconds / eight.seconds,
        gradients=_run().gradients / 1e6,
        reduce=1e3 * _machine("float32").all_reduce(_run().gradients, GPUS[-1]),
        exposed=1e3 * many.step.all_reduce,
    )


def _scaling(measured: float | None) -> str:
    found = scenarios()
    lines = [f"| GPUs | {' | '.join(found)} |", "|--:|" + "---|" * len(found)]
    for row in zip(*found.values(), strict=True):
        cells = (f"{one.images_per_second:,.0f}, {LIMITS[one.step.limit]}" for one in row)
        lines.append(f"| {row[0].ranks:,} | {' | '.join(cells)} |")
    return SCALING.format(
        precision=FASTEST,
        jitter=JITTER,
        prefetch=PREFETCH,
        gigabit=8 * SLOW / 1e9,
        slow=SLOW / 1e9,
        store=STORE / 1e9,
        table="\n".join(lines),
        spread=_spread(measured),
    )


def _spread(measured: float | None) -> str:
    """Say how many times one GPU the most GPUs train, for several jitters."""
    parts = []
    for deviation in (0.01, JITTER, *([measured] if measured else [])):
        step_of = partial(simulate, jitter=deviation)
        found = estimate(_run(), _machine(FASTEST), RANKS[-1], cluster.LARGEST, step_of)
        parts.append(f"{found.efficiency * found.ranks:,.0f} if by {deviation:.1%}")
    return ", ".join(parts) + (MEASURED_JITTER if measured else "")


def _model() -> str:
    """Work the example out with the functions of the model, one by one."""
    run, machine = _run(), _machine("float32")
    found = estimate(run, machine, 8)
    buckets = math.ceil(run.gradients / BUCKET)
    bucket = run.gradients / buckets
    evaluations = run.iterations // run.evaluate_every
    forward = machine.image_seconds * FORWARD
    return MODEL.format(
        local=found.local,
        compute=1e3 * machine.compute(found.local),
        size=run.gradients / 1e6,
        buckets=buckets,
        bucket=bucket / 1e6,
        near=machine.near.bandwidth / 1e9,
        latency=1e6 * machine.near.latency,
        ring=1e3 * machine.near.ring(bucket, 8),
        tree=1e3 * machine.near.tree(bucket, 8),
        exposed=1e3 * found.step.all_reduce,
        iterations=run.iterations,
        step=1e3 * found.step.seconds,
        training=run.iterations * found.step.seconds,
        evaluations=evaluations,
        evaluated=run.evaluated,
        forward=1e3 * forward,
        evaluating=evaluations * math.ceil(run.evaluated / 8) * forward,
        checkpoints=run.iterations // run.checkpoint_every,
        saving=machine.checkpoint_seconds,
        total=found.seconds,
        days=found.days,
        price=machine.price,
        dollars=found.price,
    )


def _sources() -> str:
    lines = ["## Where the figures are from", "", "| figure | value | source | option |", "|---|--:|---|---|"]
    lines += [
        f"| {f.what} | {f.value} | {f.source} | {f.option and f'`{f.option}`'} |" for f in cluster.FIGURES
    ]
    links = [f"[{name}]: {address}" for name, address in cluster.LINKS.items()]
    return "\n".join([*lines, "", OTHERS, "", *links])


def _check(benches: Benches) -> Iterable[str]:
    name, bench = _newest(benches)
    if not bench:
        yield f"{CHECKED}\n\nNot measured yet: `residual bench ranks --save results/bench`."
        return
    yield CHECKED
    records = bench["records"]
    load = max(record.get("load_average", 0.0) for record in records)
    yield CHECK.format(
        command=bench["command"],
        hardware=short_name(bench["hardware"]),
        busy=BUSY.format(load=load) if load > QUIET else "",
        name=name,
        worst=max(abs(record["ratio"]["median"] - 1) for record in records if record["kind"] == "ranks"),
    )
    for record in records:
        yield "\n".join(table_of(record).as_markdown())


def _published() -> str:
    """Set the speed-up of 8 GPUs beside NVIDIA's."""
    steps = (estimate(_run(), _machine(p), 8, cluster.LARGEST) for p in cluster.RATES)
    calculated = [8 * one.efficiency for one in steps]
    published = [PUBLISHED_8[p] / rate for p, (rate, _) in cluster.RATES.items()]
    texts = (", ".join(f"{ratio:.2f}" for ratio in ratios) for ratios in (published, calculated))
    return GPU_CHECK.format(**dict(zip(("published", "calculated"), texts, strict=True)))
