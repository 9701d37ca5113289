"""The runs that a table or figure of the paper needs, and a time budget for them."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..models.names import for_small_images, parse_name
from ..recipes.catalog import CIFAR_RECIPES, get_recipe
from ..recipes.schema import Recipe

FIGURE_6_STEPS = (
    2000  # enough for plain and residual networks to differ, where the full schedule takes too long
)
IMAGENETTE = ("plain18", "plain34", "resnet18", "resnet34")  # those of Figure 4


@dataclass(frozen=True)
class Target:
    """A table or figure: its networks, the number of seeds, and the steps after which to stop (0: all).

    `recipe` is the one by which all its networks are trained, None where one of CIFAR-10's is chosen; `data`
    is the folder of its result files.
    """

    networks: tuple[str, ...]
    seeds: int = 5
    stop_after: int = 0
    recipe: str | None = None
    data: str = "cifar10"


TARGETS = {
    "table6": Target(("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")),
    "figure6": Target(("plain20", "plain56", "resnet20", "resnet56"), seeds=1, stop_after=FIGURE_6_STEPS),
    "figure7": Target(("plain20", "plain56", "resnet20", "resnet56"), seeds=1, stop_after=FIGURE_6_STEPS),
    "headlines": Target(("resnet20", "resnet44", "resnet47_bottleneck"), seeds=1),
    "imagenette": Target(IMAGENETTE, seeds=1, recipe="imagenette", data="imagenette"),
}


class Budget:
    """The time that a call may take, in seconds; None: no limit."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    @classmethod
    def parse(cls, text: str | None) -> "Budget":
        """Parse "90s", "25m" or "2h".

        Raises:
            UsageError: the text is not of this form.
        """
        if text is None:
            return cls(None)
        units = {"s": 1, "m": 60, "h": 3600}
        number, unit = text[:-1], text[-1:]
        if unit not in units or not re.fullmatch(r"\d+(\.\d+)?", number):
            raise UsageError(f"--budget must be a number followed by s, m or h, such as 25m, not '{text}'")
        return cls(float(number) * units[unit])

    def spent(self) -> bool:
        """Tell whether the budget is used up."""
        return self._end is not None and time.monotonic() >= self._end


def plan(
    target: str, recipe: str | None = None, networks: Sequence[str] = (), seeds: int | None = None
) -> list[Recipe]:
    """Return the recipes of every run that a target needs, the cheapest first, seed by seed.

    Seeds are 0, 1, 2, ..., so that none can be selected by its result. The recipe is by default the target's
    own, or `paper`.

    Raises:
        UsageError: there is no such target or network, or the recipe or a network is not for the target.
    """
    if target not in TARGETS:
        raise UsageError(
            f"there is no target '{target}': choose {', '.join(TARGETS)}, table1, figure3, pages"
        )
    wanted = TARGETS[target]
    recipe = _choose_recipe(target, recipe)
    _check_networks(target, networks)
    changes = {"curve": "test"} | ({"stop_after": wanted.stop_after} if wanted.stop_after else {})
    from ..models.complexity import complexity  # loads torch, which a refusal need not wait for

    chosen = sorted(networks or wanted.networks, key=lambda name: complexity(name).multiply_adds)
    return [
        get_recipe(recipe, network).replace({**changes, "seed": seed})
        for seed in range(seeds or wanted.seeds)
        for network in chosen
    ]


def _choose_recipe(target: str, recipe: str | None) -> str:
    own = TARGETS[target].recipe
    if own is not None:
        if recipe not in (None, own):
            raise UsageError(f"{target} has a recipe of its own: leave --recipe out")
        return own
    if recipe is not None and recipe not in CIFAR_RECIPES:
        raise UsageError(f"recipe '{recipe}' is not for CIFAR-10: choose {', '.join(CIFAR_RECIPES)}")
    return recipe or "paper"


def _check_networks(target: str, networks: Sequence[str]) -> None:
    """Refuse networks that the target does not compare: any but its own of photographs, or ImageNet's."""
    own = TARGETS[target]
    for network in networks:
        if own.recipe is not None and network not in own.networks:
            raise UsageError(f"{target} does not compare '{network}': choose {', '.join(own.networks)}")
        if own.recipe is None and parse_name(network).imagenet:
            others = ", ".join(for_small_images(network))
            raise UsageError(
                f"'{network}' is a network for ImageNet, {target} is of CIFAR-10: choose {others}"
            )
