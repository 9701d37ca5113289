"""The paper's errors on ImageNet, and what the pages of results, of models and of the paper need."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from ..models.complexity import Complexity, complexity
from ..recipes.catalog import CIFAR_RECIPES

Result = dict[str, Any]

# Tables 2 and 3: top-1 error in percent on the validation set of ILSVRC 2012, ten crops; with the shortcut
# option that is the default here (B), except for ResNet-18, of which the paper gives option A alone
IMAGENET_ERRORS = {
    **{"plain18": 27.94, "plain34": 28.54, "resnet18": 27.88, "resnet34": 24.52},
    **{"resnet50": 22.85, "resnet101": 21.75, "resnet152": 21.43},
}
TABLE_2 = {"plain": (27.94, 28.54), "resnet": (27.88, 25.03)}  # of 18 and 34 layers, with option A


# the paper does not say in which precision it computed; this is its recipe in that of the other recipes
PAPER_IN_BFLOAT16 = "paper, precision=bfloat16"
WHOLE = (*CIFAR_RECIPES, PAPER_IN_BFLOAT16)  # by which a full run has a row in the tables


@cache
def cost(network: str, shortcut: str | None = None, variant: str | None = None) -> Complexity:
    """Count as `complexity` does, once in a process: deep networks take seconds."""
    return complexity(network, shortcut=shortcut, variant=variant)


def full_runs(
    runs: Sequence[Result], network: str, recipes: Sequence[str] = WHOLE
) -> dict[str, list[Result]]:
    """Return a network's full runs of these recipes, unchanged, by recipe."""
    found: dict[str, list[Result]] = {}
    for run in runs:
        whole = run["iterations"] == run["schedule_iterations"]
        if run["network"] == network and run["recipe"] in recipes and whole:
            found.setdefault(run["recipe"], []).append(run)
    return found


def imagenette_runs(runs: Sequence[Result], network: str) -> list[Result]:
    """Return a network's full runs on Imagenette by its recipe, which has five epochs."""
    return full_runs(runs, network, ("imagenette",)).get("imagenette", [])
