"""The architecture: each folder imports only folders that come before it, and files stay short."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "residual"
# A folder may import from those before it and from itself.
ORDER = (
    *("_version", "errors", "runtime", "models", "recipes", "data", "zoo", "exporters", "inference"),
    *("serving", "evaluation", "report", "training", "bench", "reproduce", "cli", "__init__", "__main__"),
)


def imported(path: Path) -> set[str]:
    """The first part, below the package, of every module that a file imports from the package."""
    depth = len(path.relative_to(SOURCE).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level == depth:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            found |= {name.split(".")[0] for name in names}
        assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("residual"))
    return found


def test_imports_go_one_way():
    for path in SOURCE.rglob("*.py"):
        own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        allowed = set(ORDER[: ORDER.index(own)])
        assert imported(path) <= allowed, f"{path.name} imports {imported(path) - allowed}"


def test_every_file_says_what_it_is_for():
    for path in [*SOURCE.rglob("*.py"), *Path(__file__).parent.glob("*.py")]:
        assert ast.get_docstring(ast.parse(path.read_text())), path


def body_lines(function: ast.FunctionDef) -> int:
    """How many lines a function has, its signature and its docstring not counted."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return 1 + (function.end_lineno or 0) - body[0].lineno if body else 0


def test_files_and_functions_are_short_enough_to_read():
    for path in SOURCE.rglob("*.py"):
        source = path.read_text()
        assert len(source.splitlines()) <= 300, path
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                assert body_lines(node) <= 60, f"{path.name}: {node.name}"
