"""Commands on data sets: fetch, verify, describe."""

from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import UsageError
from ..recipes.schema import DATASETS
from .output import DataDir, Json, print_json, print_line

if TYPE_CHECKING:
    from ..data.cifar import Release

app = typer.Typer(help="Fetch, verify or describe a data set.")
WITH_FILES = ("cifar10", "cifar100")
WithFiles = Annotated[str, typer.Argument(help=" or ".join(WITH_FILES))]


def add_to(program: typer.Typer) -> None:
    """Add the commands."""
    program.add_typer(app, name="data")


@app.command()
def fetch(name: WithFiles, data_dir: DataDir = None) -> None:
    """Find or download a data set and print its folder."""
    release = _release(name)
    from ..data import cifar

    print_line(str(cifar.fetch(release, data_dir)))


@app.command()
def verify(name: WithFiles, data_dir: DataDir = None) -> None:
    """Check every file of a data set that is found."""
    release = _release(name)
    from ..data import cifar

    for path, verdict in cifar.verify(release, data_dir):
        print_line(f"{path}: {verdict}")


@app.command()
def describe(
    name: Annotated[str, typer.Argument(help=", ".join(DATASETS))],
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
