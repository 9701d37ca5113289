"""The command `export`: a trained network as a file of another format, and what was compared."""

from pathlib import Path
from typing import Annotated

import typer

from ..exporters.formats import FORMATS, check_options
from .completion import one_of
from .output import Json, Model, print_json, print_line


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(export)


def export(
    model: Model,
    format: Annotated[str, typer.Option(help=f"{', '.join(FORMATS)}.", autocompletion=one_of(FORMATS))],
    output: Annotated[Path, typer.Option(help="The file or folder to write; it must not exist.")],
    int8: Annotated[bool, typer.Option("--int8", help="Quantise to 8 bits: onnx, openvino, triton.")] = False,
    half: Annotated[
        bool, typer.Option("--half", help="Weights as float16: all but torch-export and executorch.")
    ] = False,
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing",
            help="The file takes uint8 images [N, H, W, 3] of any size and gives probabilities: onnx, "
            "openvino, torch-export, triton.",
        ),
    ] = False,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="Images to compare on and to calibrate INT8 with: a folder of photographs, or the folder of "
            "the CIFAR release; by default drawn ones."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a network in another format, once it gives the same answers as the original there."""
    check_options(format, int8=int8, half=half, preprocessing=with_preprocessing)
    from ..exporters.export import export as run

    found = run(
        model,
        format,
        output,
        int8=int8,
        half=half,
        with_preprocessing=with_preprocessing,
        data_dir=data_dir,
    )
    if as_json:
        print_json(found.as_dict())
        return
    what = ", INT8" if int8 else ", float16 weights" if half else ""
    print_line(f"wrote    {found.path}: {FORMATS[format].title}{what}, {found.size:,} bytes")
    for note in found.notes:
        print_line(f"note     {note}")
    if found.checks:
        print_line(f"{'batches':16} {'images':>7} {'largest difference':>19} {'same top-1':>11}")
    for check in found.checks:
        print_line(
            f"{check.batches:16} {check.images:7,} {check.largest_difference:19.2g} "
            f"{100 * check.agreement:9.2f} %"
        )
