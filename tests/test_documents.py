"""Every command and Python block of the README and the documents runs, and prints what the page says."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from conftest import FakeRelease
from document_runner import ROOT, Page, commands, opened
from documents import Block, DocumentError, check_output, find_blocks, pages_of

PAGES = pages_of(ROOT)
SLOW = {  # pages that take more than a few seconds
    *("README.md", "docs/index.md", "docs/quickstart.md", "docs/paper.md", "docs/commands.md"),
    *("docs/own-images.md", "docs/tasks/train.md", "docs/tasks/evaluate.md", "docs/tasks/export.md"),
    *("docs/cost.md", "docs/tasks/scale.md"),
}
DRAWN = "draw_photos.py photos"  # by a page that makes the photographs itself
ON_HUB = "USER/photos"
ONE_IN = 10  # at most one block in so many is left out
posix = pytest.mark.skipif(sys.platform == "win32", reason="the pages show commands of a POSIX shell")


def blocks_of(page: str) -> list[Block]:
    return find_blocks(page, (ROOT / page).read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw the photographs that the pages speak of."""
    folder = tmp_path_factory.mktemp("drawn") / "photos"
    subprocess.run([sys.executable, ROOT / "scripts/draw_photos.py", folder], check=True, capture_output=True)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give an empty working folder, which is the current one."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in {"COLUMNS": "100", "NO_COLOR": "1", "MPLBACKEND": "Agg", "HOME": tmp_path}.items():
        monkeypatch.setenv(name, str(value))
    return folder


@pytest.fixture
def page(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    """Give a page whose blocks run in an empty folder."""
    with opened(monkeypatch) as found:
        yield found


@pytest.fixture
def prepared(
    here: Path, photos: Path, fake_cifar10: FakeRelease, fake_cifar100: FakeRelease, monkeypatch
) -> None:
    """Put into the working folder what a page may use without having made it."""
    shutil.copytree(photos, here / "photos")
    shutil.copy(next((photos / "val/circle").iterdir()), here / "circle.jpg")
    shutil.copytree(ROOT / "results", here / "results")
    (here / "scripts").symlink_to(ROOT / "scripts")
    data = here.parent / "data"
    fake_cifar10.put_folder(data)
    fake_cifar100.put_folder(data)
    monkeypatch.setenv("RESIDUAL_DATA", str(data))


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """Give the name of a repository, not made yet, on a stand-in of the hub."""
    hub = pytest.importorskip("hub")
    with hub.account(monkeypatch, tmp_path):
        yield hub.NAME.removeprefix("hf-hub:")


@posix
@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # of huggingface_hub
@pytest.mark.parametrize(
    "name", [pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page for page in PAGES]
)
def test_a_page_does_what_it_says(name: str, page: Page, request: pytest.FixtureRequest) -> None:
    blocks = [block for block in blocks_of(name) if block.not_run is None]
    if blocks:
        request.getfixturevalue("prepared")
    if any(DRAWN in block.text for block in blocks):
        shutil.rmtree("photos")
    if any(ON_HUB in block.text for block in blocks):
        page.repositories[ON_HUB] = request.getfixturevalue("repository")
    for block in blocks:
        page.run(block)


def test_few_blocks_are_left_out() -> None:
    blocks = [block for page in PAGES for block in blocks_of(page)]
    left_out = [f"{block.place} ({block.not_run})" for block in blocks if block.not_run is not None]
    assert len(left_out) * ONE_IN <= len(blocks), left_out
    assert set(PAGES) >= SLOW, "a page that is no longer there"


# --- the runner itself -----------------------------------------------------------------------------------


def run(page: Page, text: str) -> None:
    """Run a page that is written here."""
    for block in find_blocks("page.md", text):
        if block.not_run is None:
            page.run(block)


def test_blocks_are_found_in_tabs_and_with_their_output() -> None:
    text = """
=== "Command line"

    <!-- not run: needs an account -->
    ```bash
    residual push runs/photos me/mine
    ```

=== "Python"

    ```python
    for n in (1, 2):
        print(n)
    ```

    ```text
    1
    2
    ```

```python title="later.py"
print(3)
```
A line between, so that this is no output.
```text
3
```
"""
    push, loop, later = find_blocks("page.md", text)
    assert (push.not_run, push.line, push.expected) == ("needs an account", 5, None)
    assert (loop.text, loop.expected) == ("for n in (1, 2):\n    print(n)", "1\n2")
    assert (later.language, later.expected) == ("python", None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```bash\nresidual models\n", "page.md:1: the fence has no end"),
        ("```\nresidual models\n```\n", "page.md:1: a fence of ''"),
        ("```sh\nresidual models\n```\n", "page.md:1: a fence of 'sh'"),
        ("<!-- not run -->\n```bash\nls\n```\n", "page.md:2: not run, but why?"),
        ("<!-- not run: -->\n```bash\nls\n```\n", "page.md:2: not run, but why?"),
        ("Train:\n\n    residual train resnet20\n", "page.md:3: a command outside of a fence"),
        ("- Train:\n\n        $ residual train resnet20\n", "page.md:3: a command outside of a fence"),
        ("```bash\n\n```\n", "page.md:1: the block is empty"),
    ],
)
def test_pages_that_hide_a_block_are_refused(text: str, message: str) -> None:
    with pytest.raises(DocumentError) as refused:
        find_blocks("page.md", text)
    assert message in str(refused.value)


def test_prose_is_no_command() -> None:
    assert find_blocks("page.md", "- Both:\n\n    residual networks of 56 layers, plain ones of 20\n") == []


@pytest.mark.parametrize(
    "said", ["a 1\nb 2\nc 3", "a ...\n...\nc 3", "...", "a 1\n...", "a 1\nb 2\n...\nc ..."]
)
def test_output_that_agrees(said: str) -> None:
    check_output(Block("page.md", 1, "bash", "", said), "other", "a 1  \nb 2\nc 3\n")


@pytest.mark.parametrize(
    "said", ["a 1", "a 1\nb 2", "a ...", "b 2\n...", "a 1\nb ... 2\nc 3", "A 1\nb 2\nc 3"]
)
def test_output_that_does_not_agree(said: str) -> None:
    with pytest.raises(DocumentError, match=r"page.md:1 prints other than it says"):
        check_output(Block("page.md", 1, "bash", "", said), "a 1\nb 2\nc 3\n")


def test_commands_over_several_lines() -> None:
    assert commands("# first\nresidual train \\\n    --epochs 3  # short\n\nls\n") == [
        "residual train --epochs 3  # short",
        "ls",
    ]


RIGHT = """
```bash
residual recipes --schema | head -1
ls   # nothing yet
residual train resnet8 --data digits --epochs 100 --output runs/mine  # two steps
residual train --resume runs/mine > printed.txt
head -c 10 printed.txt
```
```text
{
test error ... % on 360 images, after 2 iterations, ...
...
test error
```
```python
import residual
model = residual.load_model("runs/mine")
```
```python
print(model.config.data, model.config.class_names[:2])
```
```text
digits ('0', '1')
```
```bash
residual info resnet21
```
```text
residual: no network 'resnet21': ...
```
```bash
pip install -c constraints.txt -e '.[serve]'
make demo
```
"""


@posix
def test_a_page_that_is_right(page: Page) -> None:
    run(page, RIGHT)


def bash(text: str, said: str | None = None) -> str:
    return f"```bash\n{text}\n```\n" + (f"```text\n{said}\n```\n" if said is not None else "")


@posix
@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bash("ls\nls --oops"), "page.md:1: 'ls --oops' has exit code 2"),
        (bash("residual recipes --jsom"), "No such option"),
        (bash("residual recipes --jsom | head -1"), "has exit code 2"),
        (bash("residual info resnet20", "residual: no network"), "has exit code 0"),
        (bash("residual info resnet21", "residual: no network 'resnet22'..."), "page.md:1 prints other"),
        (bash("residual recipes", "paper"), "page.md:1 prints other"),
        (bash("pip install '.[server]'"), "page.md:1: there is no extra 'server'"),
        (bash("pip install torchmagic"), "page.md:1: 'torchmagic' is none of this project's"),
        (bash("make coffee"), "page.md:1: .ci/run does not make coffee"),
        (bash("docker compose up"), "page.md:1: 'docker' is not run here"),
        ("```python\nx = 1\n```\n\n```python\nprint(x + y)\n```\n", "page.md:5: NameError"),
        ("```python\nprint(2)\n```\n```text\n3\n```\n", "page.md:1 prints other"),
    ],
)
def test_a_page_that_is_wrong(page: Page, text: str, message: str) -> None:
    with pytest.raises(DocumentError) as found:
        run(page, text)
    assert message in str(found.value)


@posix
def test_a_server_answers_the_requests_of_its_page(page: Page, here: Path) -> None:
    pytest.importorskip("fastapi")
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    Image.new("RGB", (40, 30), "red").save(here / "cat.jpg")
    served = bash("residual serve resnet20", "resnet20 at http://127.0.0.1:8000 (Ctrl-C stops)")
    asked = bash("curl -F file=@cat.jpg 'http://127.0.0.1:8000/predict?top=1'", '{"model":"resnet20",...}')
    run(page, served + asked)
    with pytest.raises(DocumentError, match="has exit code 22"):
        run(page, bash("curl -F file=@cat.jpg http://127.0.0.1:8000/predict?top=0"))
