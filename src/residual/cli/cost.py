"""The command `cost`: time and money of a run on many GPUs."""

from dataclasses import replace
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ..errors import UsageError
from ..models.names import parse_name
from ..recipes.catalog import RECIPES, get_recipe
from .completion import networks, one_of
from .output import Json, Override, print_json, print_line

if TYPE_CHECKING:
    from ..bench.cost import Link, Machine

Section = TypeVar("Section", "Link", "Machine")

MOST = 100_000
PRECISIONS = ("float32", "tf32", "bfloat16")


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(cost)


def cost(
    model: Annotated[
        str, typer.Argument(help="A network for ImageNet.", autocompletion=networks)
    ] = "resnet50",
    recipe: Annotated[
        str, typer.Option(help="A recipe for ImageNet.", autocompletion=one_of(RECIPES))
    ] = "imagenet-paper",
    gpus: Annotated[str, typer.Option(help="Numbers of GPUs, separated by commas.")] = "1,8,64",
    per_gpu: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images for each GPU in a step, so that the batch grows with the GPUs and the steps get "
            "fewer; by default the recipe's batch is divided.",
        ),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Whose rate to take; by default the recipe's.", autocompletion=one_of(PRECISIONS)),
    ] = None,
    images_per_second: Annotated[
        float | None, typer.Option(help="What one GPU trains in large batches.")
    ] = None,
    step_times: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES=SECONDS,...",
            help="Steps of one GPU as you measured them: 256=0.27,32=0.04,4=0.03.",
        ),
    ] = None,
    decode_rate: Annotated[
        float | None, typer.Option(help="Images per second that one core decodes: `residual bench decode`.")
    ] = None,
    cores: Annotated[int | None, typer.Option(min=1, help="Cores that decode for each GPU.")] = None,
    per_machine: Annotated[int | None, typer.Option(min=1, help="GPUs in a machine.")] = None,
    near_bandwidth: Annotated[
        float | None, typer.Option(help="GB/s of a GPU to others in its machine.")
    ] = None,
    bandwidth: Annotated[float | None, typer.Option(help="GB/s of a machine to others.")] = None,
    latency: Annotated[float | None, typer.Option(help="Microseconds of a message between machines.")] = None,
    store: Annotated[
        float | None,
        typer.Option(help="GB/s of one store that all GPUs read; by default each machine has a copy."),
    ] = None,
    jitter: Annotated[
        float | None,
        typer.Option(max=1, help="Simulate steps whose times vary by so much: 0.05 is about 5 %."),
    ] = None,
    price: Annotated[float | None, typer.Option(help="Of a GPU for an hour.")] = None,
    override: Override = None,
    as_json: Json = False,
) -> None:
    """Estimate time and money of training on ImageNet with many GPUs, by the figures of docs/cost.md."""
    counts = _counts(gpus)
    measured = _steps(step_times) if step_times else None
    given = {
        "images-per-second": images_per_second,
        "decode-rate": decode_rate,
        "near-bandwidth": near_bandwidth,
        "bandwidth": bandwidth,
        "latency": latency,
        "store": store,
        "jitter": jitter,
        "price": price,
    }
    for name, value in given.items():
        if value is not None and not 0 < value < inf:
            raise UsageError(f"--{name} must be above 0, not {value:g}")
    from ..bench import cluster
    from ..bench.cost import estimate, step_on
    from ..bench.page import cost_table
    from ..bench.scaling import simulate
    from ..recipes.overrides import parse_overrides

    chosen = get_recipe(recipe, model).replace(parse_overrides(override or []))
    if not chosen.name.startswith("imagenet-"):
        raise UsageError(f"`residual cost` is for recipes for ImageNet, such as imagenet-paper, not {recipe}")
    rate = images_per_second or cluster.rate_of(chosen, precision)
    machine = cluster.machine(measured or cluster.step_seconds(rate, parse_name(model).layers))
    near, far = machine.near, machine.far
    machine = _with(
        machine,
        decode_rate=decode_rate,
        cores=cores,
        ranks=per_machine,
        near=_with(near, bandwidth=near_bandwidth and near_bandwidth * 1e9),
        far=_with(far, bandwidth=bandwidth and bandwidth * 1e9, latency=latency and latency * 1e-6),
        read_rate=store and store * 1e9 / cluster.IMAGE_BYTES,
        price=price,
    )
    step_of = partial(simulate, jitter=jitter) if jitter else step_on
    run = cluster.run_of(chosen)
    estimates = [estimate(run, machine, ranks, per_gpu, step_of) for ranks in counts]
    if as_json:
        print_json([one.as_dict() for one in estimates])
        return
    for line in cost_table(f"{model} by {recipe}", estimates).as_lines():
        print_line(line)


def _with(section: Section, **changes: Any) -> Section:
    """Return it with the changes that were given."""
    return replace(section, **{name: value for name, value in changes.items() if value is not None})


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or min(counts) < 1 or max(counts) > MOST:
        raise UsageError(f"--gpus must be whole numbers up to {MOST:,} such as 1,8,64, not {text}")
    return counts


def _steps(text: str) -> tuple[tuple[int, float], ...]:
    pairs: dict[int, float] = {}
    try:
        for part in text.split(","):
            images, seconds = part.split("=")
            pairs[int(images)] = float(seconds)
    except ValueError:
        pairs = {}
    if not pairs or min(pairs) < 1 or not all(0 < seconds < float("inf") for seconds in pairs.values()):
        raise UsageError(f"--step-times must be like 256=0.27,32=0.04, not {text}")
    return tuple(sorted(pairs.items()))
