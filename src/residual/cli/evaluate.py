"""The command `evaluate`: a model's errors on a test set or on photographs, as a table or as JSON."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..data.names import is_folder, whole_place
from .completion import one_of
from .output import (
    DataDir,
    Decoders,
    Device,
    Json,
    Model,
    OnBadImage,
    TestData,
    print_json,
    print_line,
    print_note,
)

if TYPE_CHECKING:
    from ..data.photos import Photos
    from ..evaluation.classification import Evaluation
    from ..evaluation.compare import Comparison

LARGEST_MATRIX = 20  # classes; a larger matrix does not fit a terminal
LONGEST_NAME = 40  # characters
SHOWN_FILES = 5  # of those that cannot be decoded; --json has all


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(evaluate)


def evaluate(
    model: Model,
    data: TestData = None,
    protocol: Annotated[
        str,
        typer.Option(
            help="For a folder of images: one-crop, ten-crop or multi-scale (section 4.1).",
            autocompletion=one_of(("one-crop", "ten-crop", "multi-scale")),
        ),
    ] = "one-crop",
    on_bad_image: OnBadImage = "stop",
    workers: Decoders = None,
    data_dir: DataDir = None,
    device: Device = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise the model to 8 bits; needs the extra onnx.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Evaluate a model on a test set: error, top-5, loss, calibration, per-class error, confusion matrix."""
    from ..zoo.pretrained import find_model

    folder = find_model(model)
    from ..evaluation import evaluate as evaluation
    from ..runtime.device import describe, prepare, resolve_device, short_name
    from ..zoo.model_folder import load_model

    network = load_model(folder)
    chosen: dict[str, Any] = {"protocol": protocol, "on_bad_image": on_bad_image, "workers": workers}
    chosen |= {"data": data, "data_dir": data_dir, "device": device, "int8": int8}
    own = None if data is None or not is_folder(data) else own_test_set(folder, data, on_bad_image)
    if own is not None:
        chosen |= {"data": None, "dataset": own}
    where = resolve_device("cpu" if int8 else device)
    prepare(where)  # the process is the command's own
    started = time.perf_counter()
    found = evaluation.evaluate(network, **chosen)
    seconds = time.perf_counter() - started
    if as_json:
        print_json(found.as_dict())
        return
    config = network.config
    print_line(f"model       {config.network} from {folder}, recipe {config.recipe}")
    print_line(f"data        {_describe_data(data or config.data, own is not None, protocol)}")
    print_line(f"device      {short_name(describe(where))}{', INT8' if int8 else ''}")
    _print_figures(found)
    print_line(f"speed       {found.images / seconds:,.1f} images/s, loading included")
    print_notes(found)
    print_line()
    _print_classes(found, config.class_names)


def _describe_data(data: str, own: bool, protocol: str) -> str:
    if not is_folder(data):
        return f"{data}, the test set"
    return f"{data}, {'the test set of the run, ' if own else ''}{protocol}"


def own_test_set(folder: Path, data: str, on_bad_image: Any) -> "Photos | None":
    """Return the test set that was split off the images of a run, if the data are these images.

    Without it, the images that the run was trained on would be evaluated too.
    """
    from ..data.folder import load_folder
    from ..training.run_folder import Run

    if not (folder / "recipe.json").is_file():
        return None
    began = Run.open(folder).environment
    if began.get("data_dir") != whole_place(data) or "images_sha256" not in began:
        return None
    dataset = load_folder(data, on_bad_image=on_bad_image, group=(began.get("reading") or {}).get("group"))
    if dataset.fingerprint != began["images_sha256"]:
        print_note(
            f"the images in {data} have changed since the run, so some of its training images may be tested"
        )
    return dataset.test


def _print_figures(found: "Evaluation") -> None:
    low, high = found.error_interval
    print_line(f"images      {found.images:,}")
    print_line(f"error       {found.error:.2f} %  (accuracy {100 - found.error:.2f} %)")
    print_line(f"            95 % confidence interval {low:.2f} to {high:.2f} %")
    print_line(f"top-5 error {found.top5_error:.2f} %")
    print_line(f"macro error {found.macro_error:.2f} %, the mean over classes")
    print_line(f"calibration {found.calibration_error:.2f} %, the expected calibration error")
    print_line(f"loss        {found.loss:.4f}")


def print_notes(found: "Evaluation | Comparison") -> None:
    """Print what was skipped and what else should be known."""
    if found.skipped:
        shown = ", ".join(found.skipped[:SHOWN_FILES])
        more = f" and {len(found.skipped) - SHOWN_FILES:,} more" if len(found.skipped) > SHOWN_FILES else ""
        print_line(f"skipped     {len(found.skipped):,} that cannot be decoded: {shown}{more}")
    for note in found.notes:
        print_line(f"note        {note}")


def _print_classes(found: "Evaluation", names: tuple[str, ...]) -> None:
    """Print the error of each class; of many, only those with images, and no confusion matrix."""
    matrix = len(names) <= LARGEST_MATRIX
    rows = [
        (name[:LONGEST_NAME], error, counts)
        for name, error, counts in zip(names, found.per_class_error, found.confusion, strict=True)
        if matrix or error is not None
    ]
    width = max(len("class"), *(len(name) for name, _, _ in rows))
    columns = [max(5, min(len(name), 8)) for name in names]
    heads = " ".join(f"{name[:size]:>{size}}" for name, size in zip(names, columns, strict=True))
    print_line(f"{'class':{width}}    error" + (f"   predicted: {heads}" if matrix else ""))
    for name, error, row in rows:
        shown = "no image" if error is None else f"{error:6.2f} %"
        counts = " ".join(f"{count:{size}}" for count, size in zip(row, columns, strict=True))
        print_line(f"{name:{width}} {shown:>8}" + (f"              {counts}" if matrix else ""))
