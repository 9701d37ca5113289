"""Which recipe `residual train` trains by: the one asked for or the data's usual one, with all changes."""

from pathlib import Path
from typing import Any

from ..data.names import is_folder
from ..errors import UsageError
from ..models.names import for_small_images, parse_name
from ..recipes.catalog import get_recipe
from ..recipes.schema import DATASETS, FOLDER, Recipe
from .output import print_note

DEFAULT_RECIPES = {"cifar10": "paper", "cifar100": "paper", "digits": "demo", FOLDER: "imagenet-paper"}


def find_data(data: str | None, data_dir: Path | None) -> tuple[str | None, Path | None]:
    """Return what `--data` names, a known data set or photographs, and where its files are."""
    if data is None or data in DATASETS:
        return data, data_dir
    if not is_folder(data):
        raise UsageError(
            f"unknown data set '{data}': take {', '.join(DATASETS)}, or a folder or CSV file that exists"
        )
    if data_dir is not None:
        raise UsageError("--data FOLDER says where the photographs are: leave --data-dir out")
    return FOLDER, Path(data)


def choose(
    model: str, recipe: str | None, data: str | None, changes: dict[str, Any], image_size: int | None
) -> Recipe:
    """Return the recipe that is asked for, else the usual one of the data, with all changes."""
    parse_name(model)
    chosen = get_recipe(recipe or DEFAULT_RECIPES.get(data or "", "paper"), model)
    if image_size is not None:
        chosen = chosen.replace(_in_proportion(chosen, image_size))
    chosen = chosen.replace(changes)
    _note_on_size(chosen)
    return chosen


def _in_proportion(recipe: Recipe, image_size: int) -> dict[str, int]:
    """Return a crop's size with the sizes of test crops, which keep their ratio to it."""
    sizes = {"test_size": recipe.test_size, "test_resize": recipe.test_resize}
    scale = image_size / (recipe.image_size or image_size)
    return {"image_size": image_size, **{key: round(size * scale) for key, size in sizes.items()}}


def _note_on_size(recipe: Recipe) -> None:
    """Say that an ImageNet network, perhaps named for its depth, is made for larger images."""
    if parse_name(recipe.network).imagenet and recipe.data in DATASETS:
        others = " and ".join(for_small_images(recipe.network))
        print_note(
            f"{recipe.network} is the network for ImageNet, and leaves 1x1 of the 32x32 pixels of "
            f"{recipe.data}; networks for such images are {others}"
        )


def scale_to_epochs(recipe: Recipe, epochs: float, iterations: int | None, data_dir: Path | None) -> Recipe:
    """Give the schedule the steps that so many passes over the training images take."""
    if iterations is not None:
        raise UsageError("--epochs and --iterations both set the length of the schedule: give one of them")
    if not 0 < epochs < float("inf"):
        raise UsageError(f"--epochs must be above 0, not {epochs}")
    if recipe.data == FOLDER:
        from ..data.folder import load_folder

        if data_dir is None:
            raise UsageError("--epochs needs the number of images: say where they are with --data FOLDER")
        dataset = load_folder(data_dir)
        if dataset.changed:  # said here, for the next reading finds no change
            print_note(dataset.changed)
        images = len(dataset.train)
    else:
        from ..data.load import load_dataset

        images = len(load_dataset(recipe.data, data_dir).train)
    images -= recipe.validation_images(images)
    return recipe.replace({"iterations": max(1, round(epochs * images / recipe.batch_size))})
