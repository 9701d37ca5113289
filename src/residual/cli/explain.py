"""The command `explain`: a picture of what in an image speaks for its likeliest classes."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import UsageError
from .output import Device, Json, Model, print_json, print_line


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(explain)


def explain(
    model: Model,
    image: Annotated[Path, typer.Argument(help="An image file.")],
    top: Annotated[int, typer.Option(help="How many classes, the likeliest first.")] = 3,
    stage: Annotated[
        str | None, typer.Option(help="The stage whose feature maps are shown, by default the last.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="The PNG; by default IMAGE-explained.png in this folder.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Draw which places of an image speak for its likeliest classes, by Grad-CAM."""
    path = output or Path(f"{image.stem}-explained.png")
    if path.suffix != ".png":
        raise UsageError(f"the picture is written as PNG: give a file name that ends in .png, not {path}")
    if path.resolve() == image.resolve():
        raise UsageError(f"the picture would overwrite {image}: give another --output")
    from ..inference.classifier import Classifier
    from ..inference.explain import explain as find_evidence
    from ..report.explanation import write_explanation
    from ..runtime.device import prepare

    classify = Classifier(model, device=device)
    prepare(classify.device)  # the process is the command's own
    found = find_evidence(classify, image, top, stage)
    write_explanation(path, found)
    if as_json:
        named = [{"class": name, "probability": probability} for name, probability in found.predictions]
        print_json({"predictions": named, "picture": str(path)})
        return
    for class_name, probability in found.predictions:
        print_line(f"{100 * probability:6.2f} %  {class_name}")
    print_line(str(path))
