"""Commands on data sets: fetch, verify, describe."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..recipes.schema import DATASETS
from .commands import Commands
from .completion import one_of
from .output import DataDir, Json, print_json, print_line

if TYPE_CHECKING:
    from ..data.cifar import Release

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
def verify(name: WithFiles, data_dir: DataDir = None, as_json: Json = False) -> None:
    """Check every file of a data set that is found."""
    release = _release(name)
    from ..data import cifar

    found = cifar.verify(release, data_dir)
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


def _release(name: str) -> "Release":
    if name not in WITH_FILES:
        raise UsageError(f"'{name}' has no files: the data sets with files are {', '.join(WITH_FILES)}")
    from ..data import cifar

    return cifar.RELEASES[name]
