"""`docs/troubleshooting.md` has every error message of the code, and none that the code no longer has.

A pattern of the page has `...` for what varies. Of all patterns that fit a message, the one with most letters
stands for it. Not looked at: why an image cannot be decoded, and other reasons that a message passes on.
"""

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
MOST = 8  # messages that one pattern of the page may stand for
LEAST = 4  # letters of a pattern
REFUSED = "Refused"  # the server's answers; the message is the second argument

# messages that are put together elsewhere: the patterns of the page that stand for them
MADE = {
    "recipes/section.py: explain(error, type(self), self._prefix)": ["... must be ..., not ..."],
    "recipes/schema.py: unknown_key(key, known)": ["unknown recipe key '...'... The keys are: ..."],
    "training/time_fit.py: self._too_short(step, state)": ["... s are too short to train: ..."],
    "zoo/hub.py: \0 \0": [
        "... is gated: accept its terms on its page and log in with `hf auth login`",
        "... has no revision '...'",
        "... is not on the hub, or is private: check the name, or log in with `hf auth login`",
    ],
}
# what passes the message of another error on
PASSED_ON = {
    "serving/explanation.py: str(error)",
    "serving/images.py: str(error)",
    "zoo/convert/plan.py: \0\0",
}
# what no user has to act on
INTERNAL = {
    "reproduce/campaign.py: exit code \0",  # of one run of several, beside its name
    "serving/app.py: stopping",  # /ready
    "serving/app.py: starting",
    "serving/app.py: the client is gone",  # nobody reads it
    "serving/upload.py: the connection was closed before the body was complete",
}


def error_classes(trees: dict[Path, ast.Module]) -> set[str]:
    """Names of the classes of errors that are shown in one line."""
    classes = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    found = {"ResidualError", REFUSED}
    for _ in range(3):  # levels of inheritance
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


def made(tree: ast.Module, classes: set[str]) -> Iterator[ast.expr]:
    """The message of every error that is made; of errors with arguments of their own, as the class has it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name in classes:
            inner = [call for call in ast.walk(node) if isinstance(call, ast.Call)]
            own = [call.args[0] for call in inner if ast.unparse(call.func) == "super().__init__"]
            yield from (message for message in own if isinstance(message, ast.JoinedStr))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in classes - {"BadImageError"}:  # whose arguments are a path and a reason
                yield node.args[1 if name == REFUSED else 0]


def find_messages() -> dict[str, str]:
    """Every message by where it is and what it says; those that are no literal are under their code."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(SOURCE.rglob("*.py"))}
    classes, found = error_classes(trees), {}
    for path, tree in trees.items():
        where, constants = path.relative_to(SOURCE).as_posix(), constants_of(tree)
        for message in made(tree, classes):
            for text in texts(message, constants) or [ast.unparse(message)]:
                found[f"{where}: {text}"] = text
    return found


def find_patterns() -> list[str]:
    """The code in the first paragraph of each entry of the page's lists."""
    entries = re.findall(r"^- (.+?)\n\n", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [a or b for entry in entries for a, b in re.findall(r"``\s(.+?)\s``|`(.+?)`", entry)]


def letters(pattern: str) -> int:
    return len(re.findall(r"\w", pattern))


def fits(pattern: str, message: str) -> bool:
    parts = map(re.escape, pattern.split("..."))
    return re.fullmatch(".*".join(parts), message, re.DOTALL) is not None


@pytest.fixture(scope="module")
def standing_for() -> dict[str, list[str]]:
    """The messages that each pattern of the page stands for; under "" those that none fits."""
    patterns, found = sorted(find_patterns(), key=letters, reverse=True), defaultdict(list)
    for key, message in find_messages().items():
        if key not in MADE.keys() | PASSED_ON | INTERNAL:
            found[next((one for one in patterns if fits(one, message)), "")].append(key)
    for key, its in MADE.items():
        for pattern in its:
            found[pattern].append(key)
    return found


def test_every_message_is_on_the_page(standing_for):
    assert len(find_messages()) > 300, "the messages are no longer found"
    assert standing_for[""] == [], "put these into docs/troubleshooting.md"
    assert [pattern for its in MADE.values() for pattern in its if pattern not in find_patterns()] == []


def test_every_message_of_the_page_is_in_the_code(standing_for):
    patterns = find_patterns()
    assert len(patterns) == len(set(patterns))
    assert [pattern for pattern in patterns if not standing_for.get(pattern)] == [], "these are in no code"
    assert (MADE.keys() | PASSED_ON | INTERNAL) - find_messages().keys() == set()


def test_no_pattern_stands_for_too_much(standing_for):
    assert {pattern: keys for pattern, keys in standing_for.items() if len(keys) > MOST} == {}
    assert [pattern for pattern in find_patterns() if letters(pattern) < LEAST] == []
