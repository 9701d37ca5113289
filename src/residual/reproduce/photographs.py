"""Imagenette's photographs: whether a folder holds them, and what a result file says of them."""

from pathlib import Path
from typing import Any

from ..data.folder import load_folder
from ..data.layouts import has_train_and_test, listed
from ..data.photos import PhotoDataset
from ..errors import DataError, UsageError
from ..training.run_folder import Run

CLASSES = (
    *("n01440764", "n02102040", "n02979186", "n03000684", "n03028079"),
    *("n03394916", "n03417042", "n03425413", "n03445777", "n03888257"),
)
MEASURED = 100  # images of each set whose sizes are looked at


def load_imagenette(data_dir: Path | None) -> PhotoDataset:
    """Load Imagenette from a folder with `train/` and `val/`, so that results are always of this data.

    Raises:
        UsageError: no folder is given.
        DataError: there is none, it has other classes, or no test set of its own.
    """
    if data_dir is None:
        raise UsageError("imagenette trains on photographs: give their folder, with --data-dir FOLDER")
    dataset = load_folder(data_dir)
    if dataset.class_names != CLASSES:
        raise DataError(
            f"{data_dir} is not Imagenette, whose ten classes are {CLASSES[0]} to {CLASSES[-1]}: "
            f"it has {listed(dataset.class_names)}"
        )
    if has_train_and_test(data_dir) is None:
        raise DataError(f"{data_dir} has no train/ and val/, the two sets in which Imagenette is given")
    return dataset


def image_facts(run: Run, data_dir: Path | None = None) -> dict[str, Any]:
    """Return what a result file says of a finished run's photographs.

    Their number, the fingerprint of paths, sizes and labels, width and height (None if these vary), and on
    how many the training error was measured: those of the last window that was logged.

    Raises:
        DataError: the photographs are gone, or others than it was trained on.
    """
    environment = run.environment
    root = data_dir or Path(environment["data_dir"])
    dataset = load_imagenette(root)
    if dataset.fingerprint != environment["images_sha256"]:
        raise DataError(f"{root} holds other images than {run.path} was trained on: bring them back")
    logged = [0, *(record["step"] for record in run.metrics("train"))]
    return {
        "images_sha256": dataset.fingerprint,
        "training_images": len(dataset.train),
        "image_size": _common_size(dataset),
        "training_error_images": (logged[-1] - logged[-2]) * run.recipe.batch_size,
    }


def _common_size(dataset: PhotoDataset) -> list[int] | None:
    """Return width and height if a sample of the images has them all alike, else None."""
    sizes = set()
    for photos in (dataset.train, dataset.test):
        for index in range(0, len(photos), -(-len(photos) // MEASURED)):
            height, width = photos.size(index)
            sizes.add((width, height))
    return list(sizes.pop()) if len(sizes) == 1 else None
