"""The cluster of `residual cost`: machines of eight A100, from published measurements and this project's own.

No figure of a GPU was measured by this project. Each has its source here, and an option of the command.
"""

from dataclasses import dataclass

from ..errors import UsageError
from ..models.complexity import complexity
from ..models.names import parse_name
from ..recipes.imagenet import IMAGES
from ..recipes.schema import Recipe
from .cost import Link, Machine, Run

EXAMPLES = "DeepLearningExamples: PyTorch, resnet50v1.5"
TIMED = "resnet50"  # the network of the rates, in its variant v1.5
# images per second of one GPU that trains it in large batches, by precision, and what was measured
RATES = {
    "float32": (367.0, "V100, float32; an A100 has a little more, as convolutions use no TF32 here"),
    "tf32": (938.0, "A100, TF32, which this package does not use"),
    "bfloat16": (2470.0, "A100, mixed precision"),
}
LARGEST = 256  # images of the batches that the rates are of
# milliseconds of steps in float32 on a V100, eager, by their images: for how they relate to that of 64 images
SHAPE = {1: 89.033, 2: 92.854, 4: 93.676, 8: 105.099, 16: 167.292, 32: 297.315, 64: 561.262}
# what a step takes at least, however few its images, as the processor starts one kernel after the other
SHORTEST = SHAPE[1] / SHAPE[64] * 64 / RATES["float32"][0]
DECODE_RATE = 696.0
CORES = 12
PER_MACHINE = 8
NEAR = Link(200e9, 9.85e-6 / 2)
FAR = Link(0.85 * 400e9 / 8, 19.0e-6 / 2)
CHECKPOINT_SECONDS = 1.0
PRICE = 32.77 / PER_MACHINE
IMAGE_BYTES = 138e9 / IMAGES


@dataclass(frozen=True)
class Figure:
    """A figure of the cluster: what it is, its value with its unit, where it is from, the option for it."""

    what: str
    value: str
    source: str
    option: str


FIGURES = (
    *(
        Figure(f"ResNet-50, {name}", f"{rate:,.0f} images/s", f"{what} ([{EXAMPLES}])", "--images-per-second")
        for name, (rate, what) in RATES.items()
    ),
    Figure(
        "shortest step",
        f"{SHORTEST * 1e3:.0f} ms",
        "V100: 1 image takes 16 % of the time of 64 ([benchmark#706])",
        "--step-times",
    ),
    Figure(
        "decoding, a core",
        f"{DECODE_RATE:.0f} images/s",
        "measured here: `residual bench decode`, in [Speed](speed.md)",
        "--decode-rate",
    ),
    Figure("cores for a GPU", f"{CORES}", "p4d.24xlarge: 96 virtual processors, 8 A100 ([AWS])", "--cores"),
    Figure(
        "within a machine",
        f"{NEAR.bandwidth / 1e9:.0f} GB/s",
        "all-reduce of 8 A100 over NVLink ([nccl-tests#149])",
        "--near-bandwidth",
    ),
    Figure(
        "latency",
        f"{NEAR.latency * 1e6:.1f} µs",
        "8 bytes take two A100 9.85 µs, two messages ([nccl-tests#331])",
        "",
    ),
    Figure(
        "between machines",
        f"{FAR.bandwidth / 1e9:.1f} GB/s",
        "p4d.24xlarge: 400 Gbit/s ([AWS]), of which 85 % arrive, as in [nccl-tests#119]",
        "--bandwidth",
    ),
    Figure(
        "latency",
        f"{FAR.latency * 1e6:.1f} µs",
        "8 bytes take two machines 19 µs, two messages ([nccl-tests#150])",
        "--latency",
    ),
    Figure("a checkpoint", f"{CHECKPOINT_SECONDS:g} s", "assumed; measured below", ""),
    Figure(
        "a GPU for an hour",
        f"{PRICE:.2f} dollars",
        "an example: p4d.24xlarge on demand, 32.77 dollars for 8 in 2024 ([prices])",
        "--price",
    ),
)
LINKS = {
    EXAMPLES: "https://github.com/NVIDIA/DeepLearningExamples/tree/master/PyTorch/Classification/ConvNets/"
    "resnet50v1.5",
    "benchmark#706": "https://github.com/pytorch/benchmark/pull/706",
    **{f"nccl-tests#{n}": f"https://github.com/NVIDIA/nccl-tests/issues/{n}" for n in (119, 149, 150, 331)},
    "AWS": "https://aws.amazon.com/ec2/instance-types/p4/",
    "prices": "https://www.xither.com/compare/gpu-compute-costs-on-prem-vs-cloud-vs-spot-instances",
}


def rate_of(recipe: Recipe, precision: str | None = None) -> float:
    """Return the images per second of a GPU in large batches: ResNet-50's, by the multiply-adds of a network.

    Raises:
        UsageError: there is no rate for the precision.
    """
    chosen = precision or {"auto": "bfloat16"}.get(recipe.precision, recipe.precision)
    if chosen not in RATES:
        raise UsageError(f"there is no rate for the precision {chosen}: choose {', '.join(RATES)}")
    network = complexity(recipe.network, variant=recipe.variant, input_size=recipe.image_size or None)
    return RATES[chosen][0] * complexity(TIMED).multiply_adds / network.multiply_adds


def step_seconds(rate: float, layers: int) -> tuple[tuple[int, float], ...]:
    """Return images and seconds of steps on one GPU, whose rate in large batches is given.

    Small batches are slower as on a V100, but no step is shorter than its layers take to start.
    """
    shortest = SHORTEST * layers / parse_name(TIMED).layers
    small = ((images, max(part / SHAPE[64] * 64 / rate, shortest)) for images, part in SHAPE.items())
    return (*small, (LARGEST, max(LARGEST / rate, shortest)))


def machine(steps: tuple[tuple[int, float], ...]) -> Machine:
    """Return the cluster with the given steps of one GPU."""
    return Machine(
        step_seconds=steps,
        decode_rate=DECODE_RATE,
        cores=CORES,
        ranks=PER_MACHINE,
        near=NEAR,
        far=FAR,
        checkpoint_seconds=CHECKPOINT_SECONDS,
        price=PRICE,
    )


def run_of(recipe: Recipe) -> Run:
    """Return what a recipe trains on the images of ImageNet."""
    return Run(
        parameters=complexity(recipe.network, variant=recipe.variant).parameters,
        iterations=recipe.iterations,
        batch_size=recipe.batch_size,
        evaluate_every=recipe.evaluate_every,
        evaluated=recipe.validation_images(IMAGES),
        checkpoint_every=recipe.checkpoint_every,
    )
