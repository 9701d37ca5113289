"""--quiet, --verbose and --json are alike in every command; the shell completes commands and names."""

import json
import subprocess
import sys

import pytest
import torch
import typer
from PIL import Image

import residual
from residual.cli.main import app
from residual.recipes.catalog import get_recipe
from residual.runtime.progress import Reporter
from residual.training.run_folder import Run
from small_models import small_model

# What each command is run with. A new command gets a line here.
COMMANDS = {
    "train": ("resnet8", "--data", "digits", "--iterations", 2, "--output", "NEW"),
    "runs": ("RUNS",),
    "evaluate": ("MODEL", "--data", "PHOTOS", "--workers", 0),
    "compare": ("MODEL", "OTHER", "--data", "PHOTOS", "--workers", 0),
    "predict": ("MODEL", "PHOTOS", "--workers", 0),
    "explain": ("MODEL", "PHOTOS/ant/a.png", "--output", "NEW.png"),
    "export": ("MODEL", "--format", "safetensors", "--output", "NEW.safetensors"),
    "models": ("plain2*",),
    "info": ("resnet20",),
    "recipes": (),
    "cost": ("--gpus", "1,8"),
    "import": (
        "WEIGHTS.pth",
        "--output",
        "NEW",
        "--model",
        "resnet8",
        "--mean",
        *(0.5,) * 3,
        "--std",
        *(0.2,) * 3,
    ),
    "data fetch": ("cifar10", "--data-dir", "CIFAR"),
    "data verify": ("cifar10", "--data-dir", "CIFAR"),
    "data describe": ("digits",),
    "data shard": ("PHOTOS", "NEW"),
    "data index": ("TARS",),
    "reproduce": ("table1",),
    "plot": ("RUNS/one", "--output", "NEW.png"),
}
# their --json is in test_bench.py, test_serve_process.py and test_push.py
ELSEWHERE = {"bench", "serve", "push"}


def leaves(command, path=()):
    """Yield the names and objects of all commands, those of groups included, but none that is hidden."""
    for name, below in command.commands.items():
        if hasattr(below, "commands"):
            yield from leaves(below, (*path, name))
        elif not below.hidden:
            yield " ".join((*path, name)), below


LEAVES = dict(leaves(typer.main.get_command(app)))


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with what the commands work on, under the names above."""
    folder = tmp_path_factory.mktemp("material")
    for seed, name in enumerate(("MODEL", "OTHER")):
        small_model(folder / name, names=("ant", "bee"), seed=seed)
    for number, name in enumerate(("ant", "bee")):
        (folder / "PHOTOS" / name).mkdir(parents=True)
        for shade, file in ((50, "a.png"), (150, "b.png")):
            Image.new("RGB", (40, 32), (90 * number, 99, shade)).save(folder / "PHOTOS" / name / file)
    residual.write_shards(folder / "PHOTOS", folder / "TARS")
    for name in ("shards.json", "shards.npz"):  # as another program leaves them
        (folder / "TARS" / name).unlink()
    torch.save(residual.create_model("resnet8").state_dict(), folder / "WEIGHTS.pth")
    run = Run.create(folder / "RUNS/one", get_recipe("demo", "resnet8"), {})
    run.log({"step": 5, "kind": "train", "loss": 1.0, "error": 50.0})
    return folder


@pytest.mark.parametrize("name", LEAVES)
def test_every_command_has_the_three_options(name):
    options = {flag: option.help for option in LEAVES[name].params for flag in option.opts}
    assert options["--quiet"] == "Show results and errors only."
    assert options["--verbose"].startswith("Show warnings and notes of the libraries")
    assert options["--json"] == "Print the result as one JSON value and nothing else."


def test_every_command_is_tested():
    assert LEAVES.keys() == COMMANDS.keys() | ELSEWHERE


@pytest.mark.parametrize("name", COMMANDS)
def test_json_is_all_on_standard_output_and_quiet_leaves_standard_error_empty(
    cli, material, fake_cifar10, tmp_path, monkeypatch, name
):
    monkeypatch.chdir(material)
    fake_cifar10.put_folder(tmp_path)
    given = (str(word).replace("CIFAR", str(tmp_path)) for word in COMMANDS[name])
    given = (word.replace("NEW", str(tmp_path / "new")) for word in given)
    code, out, err = cli(*name.split(), *given, "--json", "--quiet")
    assert (code, err) == (0, "")
    assert json.loads(out)


def test_quiet_hides_progress_notes_and_advice_but_no_result(cli, tmp_path):
    run = ("train", "resnet8", "--data", "digits", "--iterations", 2, "--output", tmp_path / "run")
    code, out, err = cli(*run, "--quiet")
    assert (code, err) == (0, "")
    assert out.startswith("test error ")
    assert "next:" not in out


def test_quiet_hides_no_error(cli, material):
    (material / "PHOTOS/bad.png").write_bytes(b"no image")
    try:
        code, out, err = cli("predict", material / "MODEL", material / "PHOTOS", "--quiet", "--workers", 0)
    finally:
        (material / "PHOTOS/bad.png").unlink()
    assert (code, len(out.splitlines())) == (3, 4)
    assert [line.partition(":")[0].split("/")[0] for line in err.splitlines()] == [
        "cannot decode ",
        "residual",
    ], "errors are shown"
    assert Reporter().enabled, "the next command is not quiet"


def test_quiet_and_verbose_exclude_each_other(cli):
    code, out, err = cli("models", "--quiet", "--verbose")
    assert (code, out, err) == (
        2,
        "",
        "residual: --quiet and --verbose exclude each other: give one of them\n",
    )


@pytest.mark.parametrize("options", [[], ["--verbose"]])
def test_verbose_shows_what_libraries_note(options):
    code = (
        "import logging; from residual.cli import main, models\n"
        "models.print_line = lambda line: logging.getLogger('library').info('look')\n"
        "main.main()"
    )
    command = [sys.executable, "-c", code, "recipes", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ("INFO:library:look" in done.stderr) == bool(options)


@pytest.fixture
def as_installed(monkeypatch):
    """Let the program have the name that it has when it is installed, not that of pytest."""
    monkeypatch.setattr(sys.modules["__main__"], "__package__", "")


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tra", {"train"}),
        ("data ver", {"verify"}),
        ("evaluate --prot", {"--protocol"}),
        ("predict --qui", {"--quiet"}),
        ("train plain11", {"plain110"}),
        ("evaluate resnet4", {"resnet44", "resnet47_bottleneck"}),
        ("train resnet20 --recipe fa", {"fast", "faster"}),
        ("export resnet20 --format open", {"openvino"}),
        ("evaluate runs/", set()),  # the shell goes on with files
    ],
)
def test_the_shell_completes_commands_options_and_names(cli, monkeypatch, line, expected):
    monkeypatch.setenv("_RESIDUAL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"residual {line}")
    monkeypatch.setenv("COMP_CWORD", str(len(line.split())))
    code, out, err = cli()
    assert (code, set(out.split()), err) == (0, expected, "")


@pytest.mark.usefixtures("as_installed")
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_there_is_a_script_for_each_shell(cli, monkeypatch, shell):
    monkeypatch.setenv("_RESIDUAL_COMPLETE", f"source_{shell}")
    code, out, _ = cli()
    assert (code, "_RESIDUAL_COMPLETE" in out) == (0, True)
