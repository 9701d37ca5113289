"""The command `evaluate`: a model's errors on a test set, as a table or as JSON."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..recipes.schema import DATASETS
from .output import DataDir, Device, Json, print_json, print_line

if TYPE_CHECKING:
    from ..evaluation.classification import Evaluation

LARGEST_MATRIX = 20  # classes; a larger matrix does not fit a terminal


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(evaluate)


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A run folder, a model folder, or the name of a pretrained model.")
    ],
    data: Annotated[
        str | None, typer.Option(help=f"Another data set than the model's own: {', '.join(DATASETS)}.")
    ] = None,
    data_dir: DataDir = None,
    device: Device = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise the model to 8 bits; needs the extra int8.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model on the test set: error, top-5, loss, per-class error, confusion matrix."""
    from ..zoo.pretrained import find_model

    folder = find_model(model)
    from ..evaluation import evaluate as evaluation
    from ..runtime.device import describe, resolve_device, short_name
    from ..zoo.model_folder import load_model

    network = load_model(folder)
    found = evaluation.evaluate(
        network, data=data, data_dir=data_dir, device=device, int8=int8, quiet=as_json
    )
    if as_json:
        print_json(found.as_dict())
        return
    config = network.config
    where = resolve_device("cpu" if int8 else device)
    print_line(f"model       {config.network} from {folder}, recipe {config.recipe}")
    print_line(f"data        {data or config.data}, the test set")
    print_line(f"device      {short_name(describe(where))}{', INT8' if int8 else ''}")
    _print_evaluation(found, config.class_names)


def _print_evaluation(found: "Evaluation", names: tuple[str, ...]) -> None:
    print_line(f"images      {found.images:,}")
    print_line(f"error       {found.error:.2f} %  (accuracy {100 - found.error:.2f} %)")
    print_line(f"top-5 error {found.top5_error:.2f} %")
    print_line(f"loss        {found.loss:.4f}")
    print_line()
    matrix = len(names) <= LARGEST_MATRIX
    width = max(len("class"), *map(len, names))
    columns = [max(5, min(len(name), 8)) for name in names]
    heads = " ".join(f"{name[:size]:>{size}}" for name, size in zip(names, columns, strict=True))
    print_line(f"{'class':{width}}    error" + (f"   predicted: {heads}" if matrix else ""))
    for name, error, row in zip(names, found.per_class_error, found.confusion, strict=True):
        shown = "no image" if error is None else f"{error:6.2f} %"
        counts = " ".join(f"{count:{size}}" for count, size in zip(row, columns, strict=True))
        print_line(f"{name:{width}} {shown:>8}" + (f"              {counts}" if matrix else ""))
