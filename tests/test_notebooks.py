"""The notebooks run from top to bottom in a fresh kernel; what is committed has outputs and no paths."""

import ast
import re
import shutil
from pathlib import Path

import pytest

import residual

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 400_000  # bytes
MACHINE = re.compile(r"(?<![\w.])/(?:home|root|tmp|work|usr|opt|var|Users)/|[A-Z]:\\\\|file://|site-packages")
SECONDS = 600  # for a cell

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook) -> list[tuple[str, str]]:
    """The streams' texts of a notebook, each with the stream's name."""
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    return [(output.name, output.text) for output in outputs if output.output_type == "stream"]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) == 3


@each
def test_a_committed_notebook_was_run_from_top_to_bottom(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = code_of(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    kinds = {output.output_type for cell in cells for output in cell.outputs}
    assert kinds == {"stream", "display_data"}, "no error, and no bare value at the end of a cell"
    assert {name for name, _ in printed(notebook)} == {"stdout"}
    pictures = [
        o for cell in cells for o in cell.outputs if {"image/png", "image/jpeg"} & {*o.get("data", {})}
    ]
    assert pictures
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    assert not MACHINE.search(re.sub(r'"image/\w+": "[^"]*"', "", text)), "a path of one machine"


@each
def test_a_notebook_teaches(path):
    cells = nbformat.read(path, as_version=4).cells
    texts = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert texts[0].startswith("# ")
    assert cells[-1].cell_type == "markdown"
    assert "## Exercises" in texts[-1]
    assert sum(text.startswith(("## ", "**")) for text in texts) >= 4


@each
def test_a_notebook_uses_the_public_interface_alone(path):
    for cell in code_of(nbformat.read(path, as_version=4)):
        source = "\n".join("" if line.startswith(("%", "!")) else line for line in cell.source.splitlines())
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith("residual"), node.module
            elif isinstance(node, ast.Import):
                assert not any(alias.name.startswith("residual.") for alias in node.names)
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "residual":
                assert node.attr in residual.__all__


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the kernel's libraries
@each
def test_a_notebook_runs_and_its_claims_hold(path, tmp_path):
    for needed in ("results", "scripts"):
        shutil.copytree(ROOT / needed, tmp_path / needed)
    folder = tmp_path / "notebooks"
    folder.mkdir()
    notebook = nbformat.read(path, as_version=4)
    settings = {"metadata": {"path": str(folder)}}
    nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=settings).execute()
    assert {name for name, _ in printed(notebook)} == {"stdout"}
