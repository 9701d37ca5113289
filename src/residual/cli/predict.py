"""The command `predict`: what a model says of images, as text, JSON or CSV, and their features."""

import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DataError, UsageError
from . import answers
from .completion import one_of
from .output import Device, Engine, Json, Model, print_note, printable

if TYPE_CHECKING:
    from ..inference.classifier import Classifier
    from ..inference.engines import EngineName
    from ..inference.many import Answer
    from ..runtime.progress import Reporter


Images = Annotated[
    list[str] | None,
    typer.Argument(help="Files, folders, patterns, shards, or - for a list of paths on standard input."),
]
Top = Annotated[int, typer.Option(min=1, help="How many classes to name.")]
Csv = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the answers as CSV.")]
Unsure = Annotated[
    float | None,
    typer.Option(metavar="P", help="Say 'unsure' where the best class has a probability below P."),
]
Features = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Write what the last layer takes of each image: a file .npy or .parquet."
    ),
]
Calibration = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="With --engine int8: images that calibrate it.")
]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that decode images; by default what suits the machine."),
]

On = Annotated[
    str | None,
    typer.Option(
        metavar="ray",
        help="Ray Data predicts, on all CPUs or GPUs of this machine or of a cluster; needs the extra ray.",
        autocompletion=one_of(("ray",)),
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="With --on ray: where what is done is kept; the same command goes on by it."
    ),
]


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(predict)


def predict(
    model: Model,
    images: Images = None,
    top: Top = 5,
    as_json: Json = False,
    csv: Csv = None,
    unsure: Unsure = None,
    features: Features = None,
    engine: Engine = "torch",
    calibration: Calibration = None,
    workers: Workers = None,
    device: Device = None,
    on: On = None,
    output: Output = None,
) -> None:
    """Name what images show, with probabilities."""
    _check(as_json, csv, unsure, features, engine, calibration)
    _check_ray(on, output, engine)
    from ..inference.inputs import find_images, standard_input

    paths = find_images(images or [], standard_input())
    from ..runtime.progress import Reporter

    classifier = _open(model, device if output is None else "cpu", engine, calibration)
    top = min(top, len(classifier.class_names))
    print_note(_about_probabilities(classifier.config.temperature))
    with ExitStack() as stack:
        if csv is not None:
            shown = answers.as_csv(csv, top, unsure)
        else:
            shown = answers.as_json(unsure) if as_json else answers.as_text(len(paths), unsure)
        shows = [stack.enter_context(shown)]
        if features is not None:
            shows.append(stack.enter_context(answers.as_features(features, classifier)))
        reporter = stack.enter_context(Reporter())
        progress: Callable[[int], None] = lambda _done: None  # noqa: E731
        if len(paths) > 1 and (csv is not None or not sys.stdout.isatty()):  # else the answers show it
            progress = stack.enter_context(reporter.working("images", len(paths)))
        found = _how(output, device)(
            classifier, paths, top=top, features=features is not None, workers=workers, progress=progress
        )
        files = csv is not None or features is not None
        bad = _show(stack.enter_context(closing(found)), shows, reporter, files)
    if bad:
        raise DataError(f"{bad:,} of {len(paths):,} images cannot be decoded")


def _how(output: Path | None, device: str | None) -> Callable[..., Generator["Answer"]]:
    """Return what classifies files: this process with its workers, or Ray with the folder `output`."""
    from ..inference.many import classify_files

    if output is None:
        return classify_files
    from ..inference.on_ray import classify_on_ray

    return partial(classify_on_ray, folder=output, device=device)


def _show(found: Iterable["Answer"], shows: list[answers.Show], reporter: "Reporter", files: bool) -> int:
    """Show answers in all ways, and return how many images are bad; `files` go on without a reader."""
    bad = 0
    for answer in found:
        for show in shows:
            show(answer)
        if answer.error is not None:
            bad += 1
            reporter.complain(f"cannot decode {printable(answer.path)}: {answer.error}")
        if not files and getattr(sys.stdout, "error", None):
            return 0  # nobody reads on
    return bad


def _check(
    as_json: bool,
    csv: Path | None,
    unsure: float | None,
    features: Path | None,
    engine: str,
    calibration: Path | None,
) -> None:
    """Check options before anything is loaded."""
    if as_json and csv is not None:
        raise UsageError("--json and --csv both say how to give the answers: give one of them")
    if unsure is not None and not 0 <= unsure <= 1:
        raise UsageError(f"--unsure takes a probability from 0 to 1, not {unsure}")
    if features is not None and engine != "torch":
        raise UsageError("features are computed by torch: leave --engine out")
    if (engine == "int8") != (calibration is not None):
        raise UsageError(
            "--engine int8 goes with --calibration FOLDER, which has images of the kind to classify"
        )


def _check_ray(on: str | None, output: Path | None, engine: str) -> None:
    """Check what belongs to --on before anything is loaded."""
    if on not in (None, "ray"):
        raise UsageError(f"--on takes ray, not '{on}'")
    if (on is None) != (output is None):
        raise UsageError("--on ray goes with --output FOLDER, where what is done is kept")
    if on is None:
        return
    if engine != "torch":
        raise UsageError("--on ray computes with torch: leave --engine out")
    from ..inference.on_ray import check_installed

    check_installed()


def _open(model: str, device: str | None, engine: str, calibration: Path | None) -> "Classifier":
    from ..inference.classifier import Classifier
    from ..runtime.device import prepare, resolve_device

    prepare(resolve_device(device if engine == "torch" else "cpu"))  # the process is the command's own
    name: EngineName = engine  # type: ignore[assignment]  # checked when it is opened
    return Classifier(model, device=device, engine=name, calibration=calibration)


def _about_probabilities(temperature: float) -> str:
    if temperature == 1:
        return "probabilities are not calibrated: no temperature was fitted for this model"
    return f"probabilities are calibrated, at temperature {temperature:.3g}"
