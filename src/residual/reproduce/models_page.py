"""The page `docs/models.md`: error, size and speed of every network, from the networks and result files."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..models.names import CIFAR_NETWORKS, IMAGENET_NETWORKS
from ..runtime.device import short_name
from ..zoo.pretrained import WEIGHTS, list_pretrained, measured
from .paper_facts import IMAGENET_ERRORS, Result, cost, full_runs, imagenette_runs
from .published import PAPER_ERRORS

HEAD = """\
# Models

Made by `residual reproduce pages`: parameters and multiply-adds are counted on the networks, errors are
from `results/`, speed is from `results/bench/`. `residual models` prints the counts exactly, and
`residual info NAME` the sizes of one network's stages.

## Pretrained

These weights come with the package, in half precision; the error is that of the weights as stored, on
CIFAR-10's 10,000 test images."""

CIFAR = """\
## For CIFAR

Images of 32x32 pixels, shortcut option A; any other depth 6n+2 is valid too, 9n+2 with bottlenecks. The
error is the mean over the seeds of full runs, at the last step; the paper's is from its Table 6. More in
[Results](results.md)."""

IMAGENET = """\
## For ImageNet

Images of 224x224 pixels, shortcut option B, bottlenecks in the variant v1.5. None was trained on ImageNet
here; the paper's error is for ten crops (Tables 2 and 3; ResNet-18 with option A). Imagenette is ten of
ImageNet's classes: five epochs at 128 pixels, mean over the seeds, more in [Imagenette](imagenette.md).
Weights of others can be [imported](commands.md#weights-from-elsewhere)."""

SPEED = """\
Images per second in inference: float32, BN folded into the convolutions as `evaluate` and `predict` do,
batches of {batches}, the median of the rounds. Measured on {hardware} by
`{command}` (`results/bench/{name}`; the spread is in [Speed](speed.md),
with what training, INT8 and ONNX Runtime reach)."""


def models_page(
    runs: Sequence[Result], photographs: Sequence[Result], benches: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return the page, in Markdown.

    Args:
        runs: result files on CIFAR-10.
        photographs: result files on Imagenette.
        benches: name and content of the files in `results/bench/`.
    """
    speeds, source = _speeds(benches)
    sections = (
        HEAD,
        "\n".join(_pretrained()),
        "```bash\nresidual evaluate resnet20\n```",
        CIFAR,
        "\n".join(_cifar(runs, speeds)),
        IMAGENET,
        "\n".join(_imagenet(photographs, speeds)),
        "## Speed",
        source,
    )
    return "\n\n".join(sections) + "\n"


def _pretrained() -> Iterable[str]:
    yield "| model | parameters | file | test error, % | recipe |"
    yield "|---|--:|--:|--:|---|"
    for name in list_pretrained():
        facts = measured(name)
        size = (WEIGHTS / name / "model.safetensors").stat().st_size / 1e6
        count = f"{facts['parameters']:,} | {size:.1f} MB"
        yield f"| `{name}` | {count} | {facts['error']:.2f} | `{facts['recipe']}` |"


def _cifar(runs: Sequence[Result], speeds: Mapping[str, str]) -> Iterable[str]:
    yield "| network | parameters | multiply-adds | error here, % | in the paper, % | images/s |"
    yield "|---|--:|--:|---|--:|--:|"
    for name in CIFAR_NETWORKS:
        here = "; ".join(
            f"**{statistics.mean(run['error'] for run in found):.2f}** (`{recipe}`, {_seeds(found)})"
            for recipe, found in full_runs(runs, name).items()
        )
        paper = f"{PAPER_ERRORS[name]:.2f}" if name in PAPER_ERRORS else ""
        yield f"| `{name}` | {_counts(name)} | {here} | {paper} | {speeds.get(name, '')} |"


def _imagenet(runs: Sequence[Result], speeds: Mapping[str, str]) -> Iterable[str]:
    yield "| network | parameters | multiply-adds | Imagenette here, % | ImageNet, paper, % | images/s |"
    yield "|---|--:|--:|---|--:|--:|"
    for name in IMAGENET_NETWORKS:
        found = imagenette_runs(runs, name)
        mean = f"**{statistics.mean(run['error'] for run in found):.2f}** ({_seeds(found)})" if found else ""
        paper = f"{IMAGENET_ERRORS[name]:.2f}" if name in IMAGENET_ERRORS else ""
        yield f"| `{name}` | {_counts(name)} | {mean} | {paper} | {speeds.get(name, '')} |"


def _counts(name: str) -> str:
    found = cost(name)
    return f"{found.parameters / 1e6:,.2f} M | {found.multiply_adds / 1e6:,.0f} M"


def _seeds(runs: Sequence[Result]) -> str:
    return f"{len(runs)} seed{'s' if len(runs) > 1 else ''}"


def _rate(images_per_second: float) -> str:
    return f"{images_per_second:,.{1 if images_per_second < 100 else 0}f}"


def _speeds(benches: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, str], str]:
    """Return the rates of the newest file that has them, and how they were measured."""
    for name, bench in reversed(list(benches.items())):
        records = [record for record in bench["records"] if record["kind"] == "models"]
        if records:
            rates = {
                network: _rate(outcome["images_per_second"]["median"])
                for record in records
                for network, outcome in record["images_per_second"].items()
            }
            batches = ", ".join(f"{record['batch_size']} {record['network']}" for record in records)
            hardware = short_name(bench["hardware"])
            return rates, SPEED.format(
                batches=batches, hardware=hardware, command=bench["command"], name=name
            )
    return {}, "Not measured yet: `residual bench models --save results/bench`."
