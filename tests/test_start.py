"""Help, refusals and lists do not load torch; importing the package is light and starts no thread."""

import os
import subprocess
import sys

import pytest

import residual

HEAVY = ("torch", "matplotlib", "sklearn", "scipy", "onnxruntime")
MAIN = """
import sys
from residual.cli.main import main
sys.argv[0] = "residual"
try: main()
except SystemExit: pass
"""
COMMANDS = ("train", "evaluate", "models", "bench", "reproduce", "import", "plot")


def loaded_by(code, *arguments):
    """Run code in a fresh interpreter; return which heavy packages it loaded."""
    tell = f"\nimport sys; sys.stderr.write('LOADED ' + ' '.join(m for m in {HEAVY} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code + tell, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return done.stderr.rpartition("LOADED ")[2].split()


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["--version"],
        *[[name, "--help"] for name in COMMANDS],
        ["train", "resnet21"],
        ["train", "resnet20", "--set", "lr=0.1"],
        ["train", "resnet20", "--data", "nosuch"],
        ["info", "resnet21"],
        ["evaluate", "nosuch"],
        ["bench", "nosuch"],
        ["data", "describe", "nosuch"],
        ["reproduce", "table7"],
        ["reproduce", "pages", "--models", "resnet20"],
        ["report"],
        ["recipes", "fast"],
        ["models", "--pretrained"],
    ],
    ids=" ".join,
)
def test_help_refusals_and_lists_do_without_heavy_packages(command):
    assert loaded_by(MAIN, *command) == []


def test_completion_does_without_heavy_packages(monkeypatch):
    monkeypatch.setenv("_RESIDUAL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "residual evaluate resnet")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert loaded_by(MAIN) == []


def test_the_import_loads_nothing_heavy_and_every_public_name_is_there():
    assert loaded_by("import residual") == []
    assert loaded_by("import residual; residual.train; residual.create_model('resnet20')") == ["torch"]
    assert {name for name in residual.__all__ if getattr(residual, name) is None} == set()
    assert set(residual.__all__) <= set(dir(residual))
    with pytest.raises(AttributeError, match="nosuch"):
        residual.nosuch  # noqa: B018


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fork_after_the_import_can_compute():
    code = """
import os, signal, torch, residual
residual.create_model
pid = os.fork()
if pid == 0:
    signal.alarm(20)
    torch.ones(1 << 24).mul(2)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
