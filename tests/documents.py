"""The code blocks of the documents: finds them, and compares what they print with what the page says.

A block that is run is fenced and says `bash` or `python`; a `text` block right after it is its output, in
which `...` stands for anything. `<!-- not run: REASON -->` on the line before a fence leaves a block out.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import typer

from residual.cli.main import app

RUN = ("bash", "python")
SHOWN = ("text", "json", "yaml", "toml", "dockerfile", "console", "csv", "html", "mermaid", "bibtex")
COMMANDS = "|".join(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
COMMAND = re.compile(
    rf"(\$ ?)?(residual ({COMMANDS}|-.*)\b|python3? (-m|\w+/)|pip install|make [a-z-]+$|curl -|docker )"
)
FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,}|~{3,}) *(?P<info>[^`]*)")
LEFT_OUT = re.compile(r"<!-- *not run(?P<reason>.*?)-->")


class DocumentError(AssertionError):
    """A page is written otherwise than the conventions say, or does not do what it says."""


@dataclass(frozen=True)
class Block:
    """A code block that is run, or would be: where it is, its text, and what it is said to print.

    `expected` is None where the page shows no output, `not_run` where the block is run.
    """

    where: str
    line: int
    language: str
    text: str
    expected: str | None = None
    not_run: str | None = None

    @property
    def place(self) -> str:
        """The page and the line of the fence, for messages."""
        return f"{self.where}:{self.line}"


@dataclass
class _Fence:
    line: int
    indent: int
    ticks: str
    language: str
    before: str  # the line before it
    text: list[str]
    last: int = 0  # the line that closes it


def find_blocks(page: str, text: str) -> list[Block]:
    """Find the blocks of a page that are run or left out, in order.

    Raises:
        DocumentError: a fence has no end or no language that is known here, a command stands outside of a
            fence, or a block is left out without a reason.
    """
    fences = _fences(page, text.splitlines())
    blocks = []
    for number, fence in enumerate(fences):
        if fence.language not in RUN:
            continue
        following = fences[number + 1] if number + 1 < len(fences) else None
        between = text.splitlines()[fence.last : following.line - 1] if following else []
        shown = following is not None and following.language == "text" and not any(map(str.strip, between))
        expected = "\n".join(following.text) if following is not None and shown else None
        reason = _reason(page, fence)
        block = Block(page, fence.line, fence.language, "\n".join(fence.text), expected, reason)
        if not block.text.strip():
            raise DocumentError(f"{block.place}: the block is empty")
        blocks.append(block)
    return blocks


def _reason(page: str, fence: _Fence) -> str | None:
    left_out = LEFT_OUT.search(fence.before)
    if left_out is None:
        return None
    reason = left_out["reason"].strip().removeprefix(":").strip()
    if len(reason) < 5:
        raise DocumentError(f"{page}:{fence.line}: not run, but why? <!-- not run: REASON -->")
    return reason


def _fences(page: str, lines: list[str]) -> list[_Fence]:
    found: list[_Fence] = []
    inside: _Fence | None = None
    for number, line in enumerate(lines, start=1):
        match = FENCE.fullmatch(line.rstrip())
        if inside is not None:
            if match and match["ticks"].startswith(inside.ticks) and not match["info"]:
                inside.last, inside = number, None
            else:
                inside.text.append(line[inside.indent :] if not line[: inside.indent].strip() else line)
        elif match:
            before = lines[number - 2] if number > 1 else ""
            language = re.split(r"[ {]", match["info"].strip(), maxsplit=1)[0]
            if language not in (*RUN, *SHOWN):
                raise DocumentError(
                    f"{page}:{number}: a fence of '{language}': take {', '.join((*RUN, *SHOWN))}"
                )
            inside = _Fence(number, len(match["indent"]), match["ticks"], language, before, [])
            found.append(inside)
        elif re.match(r" {4}|\t", line) and COMMAND.match(line.strip()):
            raise DocumentError(f"{page}:{number}: a command outside of a fence: {line.strip()}")
    if inside is not None:
        raise DocumentError(f"{page}:{inside.line}: the fence has no end")
    return found


def check_output(block: Block, *printed: str) -> None:
    """Compare what a block is said to print with what it printed, in one of several readings.

    Trailing spaces do not count. A line `...` stands for any lines, or none; `...` in a line for anything.

    Raises:
        DocumentError: none of them agrees.
    """
    if block.expected is None:
        return
    wanted = [line.rstrip() for line in block.expected.strip("\n").splitlines()]
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else ".*?".join(map(re.escape, line.split("..."))) + r"\n"
        for line in wanted
    )
    for text in printed:
        lines = [line.rstrip() for line in text.strip("\n").splitlines()]
        if re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)):
            return
    raise DocumentError(f"{block.place} prints other than it says:\n{printed[-1]}\nsaid:\n{block.expected}")


def pages_of(root: Path) -> list[str]:
    """Return the README and all pages of the documents, by their paths relative to the repository."""
    return ["README.md", *sorted(path.relative_to(root).as_posix() for path in root.glob("docs/**/*.md"))]
