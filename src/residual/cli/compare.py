"""The command `compare`: two models on the same images, and whether they differ."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..data.names import is_folder
from .completion import pretrained
from .evaluate import own_test_set, print_notes
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


def add_to(program: typer.Typer) -> None:
    """Add the command."""
    program.command()(compare)


def compare(
    first: Model,
    second: Annotated[str, typer.Argument(help="The other model.", autocompletion=pretrained)],
    data: TestData = None,
    on_bad_image: OnBadImage = "stop",
    workers: Decoders = None,
    data_dir: DataDir = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Evaluate two models on the same images and say whether they differ: McNemar's test, an interval."""
    from ..zoo.pretrained import find_model

    folders = [find_model(model) for model in (first, second)]
    from ..evaluation import compare as comparison
    from ..runtime.device import prepare, resolve_device

    own = None if data is None or not is_folder(data) else _own_test_set(folders, data, on_bad_image)
    prepare(resolve_device(device))  # the process is the command's own
    found = comparison.compare(
        first,
        second,
        data=None if own is not None else data,
        data_dir=data_dir,
        dataset=own,
        on_bad_image=on_bad_image,  # type: ignore[arg-type]  # it is checked there
        workers=workers,
        device=device,
    )
    if as_json:
        print_json(found.as_dict())
        return
    width = max(len(name) for name in (*found.models, "images"))
    for name, error, (low, high) in zip(found.models, found.errors, found.error_intervals, strict=True):
        print_line(
            f"{name:{width}}  error {error:.2f} %  (95 % confidence interval {low:.2f} to {high:.2f} %)"
        )
    counts = (found.only_first_wrong, found.only_second_wrong, found.both_wrong)
    wrong = "only the first is wrong on {:,}, only the second on {:,}, both on {:,}".format(*counts)
    print_line(f"{'images':{width}}  {found.images:,}: {wrong}")
    print_notes(found)
    print_line(found.conclusion)


def _own_test_set(folders: list[Path], data: str, on_bad_image: str) -> "Photos | None":
    """Return the test set that was split off the images of either run, if the data are these images."""
    sets = [own_test_set(folder, data, on_bad_image) for folder in folders]
    own = [found for found in sets if found is not None]
    if len(own) == 2 and own[0].fingerprint != own[1].fingerprint:
        print_note(
            "the two runs have different test sets: the images are those of the first, and the second may "
            "have been trained on some of them"
        )
    return own[0] if own else None
