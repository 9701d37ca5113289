"""`docs/troubleshooting.md` has every error message of the code, and no message that the code no longer has."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "residual"
PAGE = ROOT / "docs" / "troubleshooting.md"
VALUE = "\0"  # stands for what is put into a message
MOST = 9  # messages that one pattern of the page may stand for
REFUSED = "Refused"  # the server's answers; its first argument is the status

# messages that a function makes: where, and a pattern of the page that covers what it gives
MADE = {
    ("recipes/section.py", "explain(error, type(self), self._prefix)"): "... must be ..., not ...",
    ("recipes/schema.py", "unknown_key(key, known)"): "unknown recipe key '...'... The keys are: ...",
    ("serving/explanation.py", "str(error)"): "unknown stage '...': this network has ...",
    ("training/time_fit.py", "self._too_short(step, state)"): "... s are too short to train: ...",
}
# answers of the server that pass an image's own fault on
PASSED_ON = {("serving/images.py", "str(error)")}
# what no user meets: shown by another message, or seen in the log of a server
INTERNAL = {
    "exit code \0",  # of one run of several, beside its name
    "stopping",  # /ready
    "starting",
    "the client is gone",
    "the connection was closed before the body was complete",
}


def error_classes(trees: dict[Path, ast.Module]) -> set[str]:
    """Names of the classes of errors that are shown in one line."""
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {"ResidualError", REFUSED}
    for _ in classes:
        found |= {node.name for node in classes if found & {ast.unparse(base) for base in node.bases}}
    return found


def texts(node: ast.expr, constants: dict[str, ast.expr]) -> list[str]:
    """What a literal message can be, with a mark for each value in it; nothing if it is no literal."""
    match node:
        case ast.Constant(str(text)):
            return [text]
        case ast.JoinedStr(values):
            return ["".join(v.value if isinstance(v, ast.Constant) else VALUE for v in values)]
        case ast.IfExp(body=one, orelse=other):
            return texts(one, constants) + texts(other, constants)
        case ast.Name(name) if name in constants:
            return texts(constants[name], {})
    return []


def constants_of(tree: ast.Module) -> dict[str, ast.expr]:
    return {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def calls(tree: ast.Module, classes: set[str]) -> Iterator[tuple[str, ast.expr]]:
    """The class and the message of every error that is made."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            for call in ast.walk(node):
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "super().__init__":
                    yield node.name, call.args[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in classes:
            place = 1 if ast.unparse(node.func) == REFUSED else 0
            yield ast.unparse(node.func), node.args[place]


@pytest.fixture(scope="module")
def messages() -> dict[str, list[str]]:
    """Every message, with the files that have it."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
    classes = error_classes(trees)
    found = defaultdict(list)
    for path, tree in trees.items():
        where, constants = path.relative_to(SOURCE).as_posix(), constants_of(tree)
        for name, message in calls(tree, classes - {"BadImageError"} if False else classes):
            if name == "BadImageError" and isinstance(message, ast.Constant | ast.Name | ast.Call):
                continue  # the name of an image: the class makes the message
            literal = texts(message, constants)
            for text in literal or [f"{where}: {ast.unparse(message)}"]:
                found[text].append(where)
    return found
