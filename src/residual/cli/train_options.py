"""The options of the command `train`."""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import UsageError
from ..recipes.catalog import RECIPES
from ..recipes.schema import DATASETS
from ..training.loggers.logger import LOGGERS
from .completion import one_of

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
Data = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(DATASETS)}, photographs in a folder or in shards, or a CSV file of their paths.",
        autocompletion=one_of(DATASETS),
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        help=f"{', '.join(RECIPES)}, or a file; by default the data set's.", autocompletion=one_of(RECIPES)
    ),
]
Shortcut = Annotated[
    str | None,
    typer.Option(help="A, B or C (section 3.3); by default A for CIFAR nets, B for ImageNet."),
]
Iterations = Annotated[int | None, typer.Option(help="Scale the schedule to this many steps.")]
Epochs = Annotated[float | None, typer.Option(help="Scale the schedule to this many passes over the images.")]
AUTO = "auto"  # the batch stays the recipe's, and is computed in parts that fit into the memory
BatchSize = Annotated[
    str | None,
    typer.Option(
        metavar="N|auto",
        help="Images per step; the learning rate is left as it is. auto: the recipe's batch, in as few equal "
        "parts as fit into the memory; BN sees each part apart.",
    ),
]
Rate = Annotated[float | None, typer.Option(help="Peak learning rate, the recipe's optimizer.learning_rate.")]
Precision = Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")]
Seed = Annotated[int | None, typer.Option(help="Determines weights, order, crops and flips.")]
Validation = Annotated[
    float | None,
    typer.Option(
        "--validation", "--holdout", help="Training images to set apart for validation; below 1: their share."
    ),
]
ImageSize = Annotated[
    int | None, typer.Option(min=1, help="Photographs: pixels of a crop; test sizes change in proportion.")
]
Workers = Annotated[int | None, typer.Option(min=0, help="Photographs: processes that decode them.")]
Cache = Annotated[
    str | None, typer.Option(help="Photographs: keep them decoded on the disk in at most this, such as 8G.")
]
BadImage = Annotated[
    Literal["stop", "skip"], typer.Option(help="At a photograph that cannot be decoded: stop, or skip it.")
]
Weights = Annotated[
    str | None,
    typer.Option(help="Where to begin: auto, none, a file, a run, a model folder or hf-hub:USER/NAME."),
]
From = Annotated[
    Path | None, typer.Option("--from", help="Go on from this finished run, with more images or classes.")
]
AddClasses = Annotated[
    bool, typer.Option("--add-classes", help="With --from: the images may have classes that are new.")
]
Fit = Annotated[
    str | None,
    typer.Option(help="How a photograph that is not square becomes one: crop (default), pad or squish."),
]
Group = Annotated[
    str | None,
    typer.Option(
        help="Keep images of one person, plant or video on one side of the split: a regular expression for "
        "paths, whose first group tells them apart, or a column of the CSV file."
    ),
]
Balance = Annotated[
    str | None,
    typer.Option(help="Few images of a class count more: weights (in the loss) or sampler (drawn more)."),
]
Time = Annotated[str | None, typer.Option(help="Fit the schedule to this time, such as 30m or 2h.")]
FindRate = Annotated[
    bool, typer.Option("--find-lr", help="Try rising learning rates first, and train with the one found.")
]
EarlyStop = Annotated[
    int | None,
    typer.Option(min=1, help="End after N evaluations in a row without a lower validation error."),
]
LoggerName = Annotated[
    list[str] | None,
    typer.Option(help=f"Log the run there too: {', '.join(LOGGERS)}; may be given several times."),
]
Curve = Annotated[str | None, typer.Option(help="'test' draws the test error too, as Figure 6 does.")]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="Train with seeds 0 to N-1, each in a folder in --output.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="With --seeds: this many runs at once.")]
AutoResume = Annotated[
    bool, typer.Option("--auto-resume", help="With --output RUN: resume RUN if it is there, else begin it.")
]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Train on this many processes of this machine, on its CPU.")
]
Gpus = Annotated[int | None, typer.Option(min=1, help="Train on this many GPUs of this machine.")]
Resume = Annotated[Path | None, typer.Option(help="Resume this run, as if it had never stopped.")]


def parse_size(text: str) -> int:
    """Return the bytes of a size such as "500M" or "8G", in powers of 1,024.

    Raises:
        UsageError: it is something else.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise UsageError(f"'{text}' is no size: give it as 500M or 8G")
    return int(float(match[1]) * UNITS[match[2].upper()])
