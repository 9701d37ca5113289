"""Which recipe `residual train` trains by: the one asked for or the data's usual one, with all changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.names import is_folder, is_url
from ..errors import UsageError
from ..models.names import for_small_images, parse_name
from ..recipes.catalog import get_recipe
from ..recipes.own_images import LENGTHS, fit_to_images
from ..recipes.schema import DATASETS, FOLDER, Recipe
from .output import print_note

DEFAULT_RECIPES = {"cifar10": "paper", "cifar100": "paper", "digits": "demo"}
NONE = ("none", "null", "")  # as recipes read them


def find_data(data: str | None, data_dir: Path | None) -> tuple[str | None, str | Path | None]:
    """Return what `--data` names, a known data set or photographs, and where its files are."""
    if data is None or data in DATASETS:
        return data, data_dir
    if not is_folder(data):
        raise UsageError(
            f"unknown data set '{data}': take {', '.join(DATASETS)}, or a folder or CSV file that exists"
        )
    if data_dir is not None:
        raise UsageError("--data FOLDER says where the photographs are: leave --data-dir out")
    return FOLDER, data if is_url(data) else Path(data)


@dataclass(frozen=True)
class Wanted:
    """What the command line says of the recipe; `data` as in recipes, and `data_dir` where its files are."""

    model: str | None
    recipe: str | None
    data: str | None
    data_dir: str | Path | None
    changes: Mapping[str, Any]
    image_size: int | None
    epochs: float | None
    continued: Path | None
    group: str | None


def choose(wanted: Wanted) -> Recipe:
    """Return the recipe that is asked for, else the usual one, with all changes and sized by the images."""
    _check_length(wanted)
    by_images = wanted.recipe is None or wanted.recipe in LENGTHS
    images = None
    if wanted.data == FOLDER and wanted.data_dir is not None and (by_images or wanted.epochs is not None):
        images = _count_photographs(wanted.data_dir, wanted.group)  # first of all, for there may be none
    if wanted.continued is not None:
        chosen, notes = _continued(wanted, wanted.continued), list[str]()
    elif wanted.model is not None:
        parse_name(wanted.model)
        chosen, notes = _usual(wanted, wanted.model)
    else:
        raise UsageError("which network? For example: residual train resnet20; 'residual models' lists them")
    if wanted.image_size is not None:
        chosen = chosen.replace(_in_proportion(chosen, wanted.image_size))
    if wanted.changes.get("fit", "crop") != "crop":
        chosen = chosen.replace({"test_resize": 0})  # of a crop; what was set by the user comes last
    chosen = chosen.replace({key: value for key, value in wanted.changes.items() if key != "weights"})
    chosen, reasons = _sized(chosen, wanted, images)
    for note in (*notes, *_note_on_size(chosen), *reasons):
        print_note(note)
    return chosen


def _check_length(wanted: Wanted) -> None:
    if wanted.epochs is None:
        return
    if "iterations" in wanted.changes:
        raise UsageError("--epochs and --iterations both set the length of the schedule: give one of them")
    if not 0 < wanted.epochs < float("inf"):
        raise UsageError(f"--epochs must be above 0, not {wanted.epochs}")


def _continued(wanted: Wanted, run: Path) -> Recipe:
    """Return the recipe to go on with from a run."""
    from ..training.continued import continued_recipe

    if wanted.data != FOLDER:
        raise UsageError("--from goes on with photographs: say where they are with --data FOLDER")
    for option, value in (("--recipe", wanted.recipe), ("--weights", wanted.changes.get("weights"))):
        if value is not None:
            raise UsageError(f"--from decides on recipe and weights: leave {option} out")
    chosen = continued_recipe(run)
    if wanted.model not in (None, chosen.network):
        raise UsageError(f"{run} has {chosen.network}, not {wanted.model}: leave the network's name out")
    return chosen


def _usual(wanted: Wanted, model: str) -> tuple[Recipe, list[str]]:
    """Return the recipe by its name, for photographs `finetune` where there are weights; and why."""
    by_weights = wanted.recipe is None and wanted.data == FOLDER
    weights = wanted.changes.get("weights", "auto" if by_weights or wanted.recipe == "finetune" else None)
    if weights in NONE:
        weights = None
    reason = "--weights none was given" if weights is None else str(weights)
    if weights == "auto":
        weights, reason = _find_weights(wanted, model)
    if wanted.recipe == "finetune" and weights is None:
        raise UsageError(
            f"finetune needs weights, but {reason}: give --weights PATH, or take --recipe scratch"
        )
    name = wanted.recipe or DEFAULT_RECIPES.get(wanted.data or "", "paper")
    notes = []
    if by_weights:
        name = "finetune" if weights else "scratch"
        why = f"starting from {reason}" if weights else f"starting from scratch, since {reason}"
        notes.append(f"{why} (recipe {name})")
    chosen = get_recipe(name, model)
    if weights or "weights" in wanted.changes:
        chosen = chosen.replace({"weights": weights})
    return chosen, notes


def _find_weights(wanted: Wanted, model: str) -> tuple[str | None, str]:
    """Look for ImageNet weights; return their name, or None, and the reason."""
    from ..training.starting_weights import find_imagenet_weights

    options = {key: wanted.changes[key] for key in ("shortcut", "variant") if key in wanted.changes}
    return find_imagenet_weights(Recipe(network=model).replace(options))


def _in_proportion(recipe: Recipe, image_size: int) -> dict[str, int]:
    """Return a crop's size with the sizes of test crops and early batches, which keep their ratio to it."""
    sizes = {"test_size": recipe.test_size, "test_resize": recipe.test_resize}
    if recipe.augment.early_size:
        sizes["augment.early_size"] = recipe.augment.early_size
    scale = image_size / (recipe.image_size or image_size)
    return {"image_size": image_size, **{key: round(size * scale) for key, size in sizes.items()}}


def _note_on_size(recipe: Recipe) -> list[str]:
    """Say that an ImageNet network, perhaps named for its depth, is made for larger images."""
    if not parse_name(recipe.network).imagenet or recipe.data not in DATASETS:
        return []
    others = " and ".join(for_small_images(recipe.network))
    return [
        f"{recipe.network} is the network for ImageNet, and leaves 1x1 of the 32x32 pixels of "
        f"{recipe.data}; networks for such images are {others}"
    ]


def _sized(recipe: Recipe, wanted: Wanted, images: int | None) -> tuple[Recipe, tuple[str, ...]]:
    """Give the schedule the steps that so many passes over the training images take, or that suit them.

    Args:
        recipe: with all changes.
        wanted: where the epochs are.
        images: photographs for training, those for validation included; None: they were not counted.
    """
    if wanted.epochs is not None and images is None:
        images = _count_in_memory(recipe, wanted.data_dir)
    if images is None:
        return recipe, ()
    images -= recipe.validation_images(images)
    if recipe.name in LENGTHS and images > 0:
        return fit_to_images(recipe, images, wanted.changes.keys(), wanted.epochs)
    if wanted.epochs is None:
        return recipe, ()
    return recipe.replace({"iterations": max(1, round(wanted.epochs * images / recipe.batch_size))}), ()


def _count_photographs(data_dir: str | Path, group: str | None) -> int:
    from ..data.folder import load_folder
    from ..runtime.progress import Reporter

    with (
        Reporter() as reporter,
        reporter.working("reading the folder, files") as progress,
        reporter.working("looking for near-duplicates, images") as compared,
    ):
        dataset = load_folder(data_dir, group=group, progress=progress, compared=compared)
    if dataset.changed:  # said here, for the next reading finds no change
        print_note(dataset.changed)
    return len(dataset.train)


def _count_in_memory(recipe: Recipe, data_dir: str | Path | None) -> int:
    if recipe.data == FOLDER:
        raise UsageError("--epochs needs the number of images: say where they are with --data FOLDER")
    from ..data.load import load_dataset

    return len(load_dataset(recipe.data, data_dir).train)
