"""`docs/recipes.md`: its tables are the recipes of the code, its errors those of the result files."""

import json
import re
from pathlib import Path

import pytest

from residual.recipes.catalog import NEUTRAL, RECIPES

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "recipes.md").read_text()
CIFAR = ("paper", "fast", "faster", "strong", "best", "demo")
PHOTOGRAPHS = ("imagenet-paper", "imagenet-epochs", "imagenet-modern", "imagenette", "scratch", "finetune")


def table(names: tuple[str, ...], network: str) -> str:
    """The keys in which the recipes differ, a column for each."""
    values = {name: RECIPES[name](network).flat() for name in names}
    keys = list(dict.fromkeys(key for recipe in values.values() for key in recipe))
    for recipe in values.values():  # what its schedule does not use
        unused = {"steps": ["peak"], "plateau": ["peak", "drops"]}.get(recipe["schedule.shape"], ["drops"])
        recipe.update((f"schedule.{key}", None) for key in unused)
    lines = [f"| key | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (len(names) + 1) + "|"]
    for key in keys:
        row = [values[name].get(key) for name in names]
        if key not in NEUTRAL and any(value != row[0] for value in row):
            lines.append(f"| `{key}` | {' | '.join(map(written, row))} |")
    return "\n".join(lines)


def written(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.3g}"
        case list():
            return ", ".join(map(written, value))
    return str(value)


@pytest.mark.parametrize(("names", "network"), [(CIFAR, "resnet20"), (PHOTOGRAPHS, "resnet50")])
def test_the_tables_are_those_of_the_code(names, network):
    assert table(names, network) in PAGE, f"put this table into docs/recipes.md:\n{table(names, network)}"


def test_every_recipe_has_its_line():
    described = re.findall(r"^\| `([\w-]+)` \| [A-Z]", PAGE, re.MULTILINE)
    assert sorted(described) == sorted(RECIPES)


RESULTS = re.compile(r"^\| `([\w-]+)` \| (\w+) \| (\w+) \| ([\d, ]+) \| ([\d.]+) % \|$", re.MULTILINE)


def test_measured_errors_are_those_of_the_result_files():
    rows = RESULTS.findall(PAGE)
    assert len(rows) >= 6
    for recipe, folder, network, seeds, error in rows:
        found = []
        for seed in seeds.split(", "):
            path = ROOT / "results" / folder / f"{network}-{recipe}-seed{seed}.json"
            found.append(json.loads(path.read_text())["error"])
        assert f"{sum(found) / len(found):.2f}" == error, (recipe, network)
