"""The recipes by name; each is a function of the network that gives a complete recipe."""

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from .cifar import best, demo, fast, faster, paper, strong
from .imagenet import imagenet_epochs, imagenet_modern, imagenet_paper
from .imagenette import imagenette
from .own_images import finetune, scratch
from .schema import Recipe, load_recipe

RECIPES: dict[str, Callable[[str], Recipe]] = {
    "paper": paper,
    "fast": fast,
    "faster": faster,
    "strong": strong,
    "best": best,
    "demo": demo,
    "imagenet-paper": imagenet_paper,
    "imagenet-epochs": imagenet_epochs,
    "imagenet-modern": imagenet_modern,
    "imagenette": imagenette,
    "finetune": finetune,
    "scratch": scratch,
}
CIFAR_RECIPES = ("paper", "fast", "faster", "strong", "best")  # whose figures stand beside the paper's

# keys that do not change what is learnt, only what is shown, kept or how it is launched
NEUTRAL = {
    "name",
    "network",
    "seed",
    "curve",
    "stop_after",
    "log_every",
    "evaluate_every",
    "checkpoint_every",
    "keep_checkpoints",
}
NEUTRAL |= {"capture", "checkpoint_activations", "deterministic"}


def get_recipe(name_or_file: str, network: str) -> Recipe:
    """Return a recipe by its name, or read it from a `.json` or `.toml` file, for a network.

    Raises:
        UsageError: there is no such recipe or file, or the file does not hold a recipe.
    """
    if name_or_file in RECIPES:
        return RECIPES[name_or_file](network)
    path = Path(name_or_file)
    if path.suffix not in (".json", ".toml"):
        raise UsageError(f"no recipe '{name_or_file}': take {', '.join(RECIPES)}, or a .json or .toml file")
    return load_recipe(path, network)


def recipe_label(recipe: Recipe) -> str:
    """Name a recipe with whatever was changed in it, so that a changed one never passes for the paper's."""
    known = recipe.name in RECIPES
    base = RECIPES[recipe.name](recipe.network) if known else Recipe(network=recipe.network)
    usual, own = base.flat(), recipe.flat()
    if usual["precision"] == "auto":  # both precisions are the recipe's own
        own["precision"] = "auto"
    neutral = NEUTRAL - {"evaluate_every"} if own["schedule.shape"] == "plateau" else NEUTRAL
    changed = [f"{key}={own[key]}" for key in own if own[key] != usual.get(key) and key not in neutral]
    return ", ".join([recipe.name, *changed])


__all__ = ["CIFAR_RECIPES", "RECIPES", "get_recipe", "recipe_label"]
