"""Commands on data sets: fetch, verify, describe; shards of photographs."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..data.names import is_folder
from ..errors import UsageError
from ..recipes.schema import DATASETS
from ..runtime.progress import display
from .commands import Commands
from .completion import one_of
from .output import DataDir, Json, print_json, print_line, program
from .train_options import Group, parse_size

if TYPE_CHECKING:
    from ..data.cifar import Release
    from ..data.shards.index import Index

app = Commands(help="Fetch, verify or describe a data set.")
WITH_FILES = ("cifar10", "cifar100")
WithFiles = Annotated[str, typer.Argument(help=" or ".join(WITH_FILES), autocompletion=one_of(WITH_FILES))]


def add_to(program: typer.Typer) -> None:
    """Add the commands."""
    program.add_typer(app, name="data")


@app.command()
def fetch(name: WithFiles, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Find or download a data set and print its folder."""
    release = _release(name)
    from ..data import cifar

    folder = str(cifar.fetch(release, data_dir))
    if as_json:
        print_json({"folder": folder})
        return
    print_line(folder)


@app.command()
def verify(
    name: Annotated[
        str,
        typer.Argument(
            help=f"{', '.join(WITH_FILES)}, or shards: a folder or an address.",
            autocompletion=one_of(WITH_FILES),
        ),
    ],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Check every file of a data set that is found, or all shards against their index."""
    if is_folder(name):
        from ..data.shards.verify import verify_shards

        _print_verdicts(((shard, "verified") for shard in verify_shards(name)), as_json)
        return
    release = _release(name)
    from ..data import cifar

    _print_verdicts(cifar.verify(release, data_dir), as_json)


def _print_verdicts(found: Iterable[tuple[str | Path, str]], as_json: bool) -> None:
    if as_json:
        print_json([{"file": str(path), "verdict": verdict} for path, verdict in found])
        return
    for path, verdict in found:
        print_line(f"{path}: {verdict}")


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help=", ".join(DATASETS), autocompletion=one_of(DATASETS))],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Print a data set's sizes and classes."""
    if name not in DATASETS:
        raise UsageError(f"unknown data set '{name}': the data sets are {', '.join(DATASETS)}")
    from ..data.load import load_dataset

    dataset = load_dataset(name, data_dir)
    values = {
        "name": dataset.name,
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "size": list(dataset.train.images.shape[1:]),
        "class_names": list(dataset.class_names),
    }
    if as_json:
        print_json(values)
        return
    for key, value in values.items():
        print_line(f"{key:13} {', '.join(map(str, value)) if isinstance(value, list) else value}")


@app.command()
def shard(
    folder: Annotated[Path, typer.Argument(help="Photographs, as 'residual train --data' takes them.")],
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    size: Annotated[str, typer.Option(help="Of a shard at most, such as 256M or 1G.")] = "256M",
    group: Group = None,
    as_json: Json = False,
) -> None:
    """Write photographs as tar files in WebDataset format, with an index; an interrupted call goes on."""
    from ..data.shards.write import write_shards
    from ..runtime.progress import Reporter

    with (
        Reporter() as reporter,
        reporter.working("looking for near-duplicates, images") as compared,
        reporter.working("writing shards, images") as progress,
    ):
        limit = parse_size(size)
        index = write_shards(folder, out, size=limit, group=group, progress=progress, compared=compared)
    _print_shards(out, index, as_json)


@app.command()
def index(
    folder: Annotated[Path, typer.Argument(help="A folder of .tar files in WebDataset format.")],
    classes: Annotated[
        Path | None, typer.Option(help="A text file that names the classes, a line for each label from 0.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make an index of tar files that another program wrote, so that they can be trained on."""
    from ..data.shards.foreign import index_shards
    from ..runtime.progress import Reporter

    with Reporter() as reporter, reporter.working("reading shards, images") as progress:
        found = index_shards(folder, classes=classes, progress=progress)
    _print_shards(folder, found, as_json)


def _print_shards(folder: Path, index: "Index", as_json: bool) -> None:
    if as_json:
        images = {part: len(samples) for part, samples in index.sets.items()}
        found = {"folder": str(folder), "images": images, "classes": list(index.class_names)}
        print_json({**found, "shards": len(index.shards)})
        return
    counts = " and ".join(f"{len(samples):,} {part}" for part, samples in index.sets.items())
    classes, shards = len(index.class_names), len(index.shards)
    print_line(f"{folder}: {counts} images of {classes:,} classes in {shards:,} shards")
    if not display.quiet:
        print_line(f"next:\n  {program()} train resnet50 --data {folder}")


def _release(name: str) -> "Release":
    if name not in WITH_FILES:
        raise UsageError(f"'{name}' has no files: the data sets with files are {', '.join(WITH_FILES)}")
    from ..data import cifar

    return cifar.RELEASES[name]
