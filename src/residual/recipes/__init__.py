"""The recipes by name; each is a function of the network that gives a complete recipe."""

from collections.abc import Callable
from pathlib import Path

from ..errors import UsageError
from ..recipe import Recipe, load_recipe
from .cifar import best, demo, fast, paper

RECIPES: dict[str, Callable[[str], Recipe]] = {"paper": paper, "fast": fast, "best": best, "demo": demo}


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


__all__ = ["RECIPES", "get_recipe"]
