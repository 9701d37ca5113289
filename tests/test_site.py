"""The documentation: its generated pages, its navigation, and that the reference has every public name."""

import importlib
import json
import re
import tomllib
from pathlib import Path

import residual
from residual.reproduce.models_page import models_page
from residual.reproduce.paper_page import paper_page
from residual.reproduce.results import load_results

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SITE = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]
RUN = {"network": "resnet20", "recipe": "fast", "seed": 0, "iterations": 10, "schedule_iterations": 10}
RUN |= {"error": 8.0, "training_error": 5.0}


def rows(page: str, network: str) -> list[str]:
    return [line for line in page.splitlines() if line.startswith(f"| `{network}` ")]


def test_the_committed_pages_are_what_is_generated():
    runs, photographs = (load_results(ROOT / "results" / name) for name in ("cifar10", "imagenette"))
    benches = {path.name: json.loads(path.read_text()) for path in sorted(ROOT.glob("results/bench/*.json"))}
    assert models_page(runs, photographs, benches) == (DOCS / "models.md").read_text()
    assert paper_page(runs, photographs) == (DOCS / "paper.md").read_text()


def test_the_table_of_models_has_every_network_and_its_figures():
    outcome = {"images_per_second": {"median": 1234.4}}
    record = {
        "kind": "models",
        "network": "for CIFAR",
        "batch_size": 256,
        "images_per_second": {"resnet20": outcome},
    }
    newest = {
        "command": "residual bench models",
        "hardware": {"cpu": "a CPU", "threads": 2},
        "records": [record],
    }
    others = [
        {**RUN, "seed": 1, "error": 9.0},
        {**RUN, "recipe": "fast, seed=1", "error": 1.0},  # a changed recipe
        {**RUN, "iterations": 4, "error": 2.0},  # cut short
    ]
    page = models_page([RUN, *others], [], {"1.json": {"records": []}, "2.json": newest})
    table = page.partition("## For CIFAR")[2]
    assert all(len(rows(table, name)) == 1 for name in residual.list_models())
    assert rows(table, "resnet20") == [
        "| `resnet20` | 0.27 M | 41 M | **8.50** (`fast`, 2 seeds) | 8.75 | 1,234 |"
    ]
    assert rows(table, "plain20") == ["| `plain20` | 0.27 M | 41 M |  |  |  |"]
    assert "`results/bench/2.json`" in page


def test_the_page_of_the_paper_says_what_is_open_and_what_the_runs_show():
    page = paper_page([RUN, {**RUN, "error": 9.0, "seed": 1}], [])
    assert "| `resnet20` | 8.75 | **8.50** | `fast` | 2 |" in page
    assert "| `resnet56` | 6.97 | not run in full |  |  |" in page
    assert "Not run yet." in page
    assert "does not hold" not in page
    photograph = {**RUN, "recipe": "imagenette", "images": 4000, "training_error_images": 4000}
    errors = {"plain18": 20.0, "plain34": 40.0, "resnet18": 15.0, "resnet34": 15.1}
    photographs = [
        {**photograph, "network": name, "error": e, "training_error": e} for name, e in errors.items()
    ]
    page = paper_page([RUN], photographs)
    assert page.count("**holds; the residual networks differ within the margin**") == 2
    assert "| plain, test error | 20.00 | 40.00 | +20.00 +- " in page


def test_every_public_name_is_in_the_reference():
    text = "\n".join(path.read_text() for path in (DOCS / "api").glob("*.md"))
    shown = re.findall(r"^::: residual\.(\S+)$", text, re.MULTILINE)
    assert set(residual.__all__) - {"__version__"} <= set(shown)
    assert len(shown) == len(set(shown))
    for name in shown:
        module, _, last = f"residual.{name}".rpartition(".")
        assert hasattr(importlib.import_module(module), last) or importlib.import_module(f"residual.{name}")


def in_navigation(entries: list[object]) -> list[str]:
    found: list[str] = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += in_navigation(value) if isinstance(value, list) else [str(value)]
    return found


def test_every_page_is_in_the_navigation():
    listed = in_navigation(SITE["nav"])
    assert sorted(listed) == sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))


def test_every_picture_is_there():
    """The strict build checks links, but not pictures."""
    for page in DOCS.rglob("*.md"):
        for target in re.findall(r"!\[[^]]*\]\(([^)\s]+)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name}: {target}"


def test_every_extra_is_explained():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|", (DOCS / "install.md").read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"\w+", row)} == set(extras)


def test_links_of_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).is_file(), target


def test_figures_of_the_first_pages_stand_on_the_pages_that_they_link_to():
    checked = 0
    for page in (ROOT / "README.md", DOCS / "index.md"):
        items = re.split(r"\n(?=[|-] )|\n\n", page.read_text())
        for item in items:
            links = re.findall(r"\]\(([^)#:]+\.md)", item)
            for figure in re.findall(r"\d[\d,]*\.\d+|\d,\d{3}", item) if links else ():
                shown = "".join((page.parent / link).read_text() for link in links)
                assert figure in shown, f"{page.name}: {figure} is not in {links}"
                checked += 1
    assert checked > 10
