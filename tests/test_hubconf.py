"""The networks for torch.hub, from a clone."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import residual

ROOT = str(Path(__file__).parent.parent)


@pytest.fixture(autouse=True)
def path(monkeypatch):
    """Keep the paths that hubconf.py adds out of other tests."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def test_a_pretrained_network():
    network = torch.hub.load(ROOT, "resnet20", source="local", pretrained=True)
    images = torch.randn(2, 3, 32, 32)
    expected = residual.create_model("resnet20", pretrained=True)
    with torch.no_grad():
        assert torch.equal(network(images), expected(images))
    assert network.config.class_names[0] == "airplane"
    assert torch.hub.load(ROOT, "resnet18", source="local", num_classes=7).fc.out_features == 7
    with pytest.raises(residual.ResidualError, match="no pretrained weights for 'plain20'"):
        torch.hub.load(ROOT, "plain20", source="local", pretrained=True)


def test_what_torch_hub_lists_and_its_help():
    found = runpy.run_path(f"{ROOT}/hubconf.py")  # torch.hub.list and help themselves take no local folder
    entries = {name: value for name, value in found.items() if callable(value) and name[0] != "_"}
    assert sorted(entries) == sorted(residual.list_models()), "and nothing else"
    assert entries["resnet1202"].__doc__.startswith("resnet1202 of ")
    assert "there are none" in entries["resnet1202"].__doc__
    assert "there are some" in entries["resnet20"].__doc__


@pytest.mark.slow
def test_a_clone_needs_no_installation(tmp_path):
    code = (
        "import sys, torch\n"
        f"net = torch.hub.load({ROOT!r}, 'resnet20', source='local', pretrained=True)\n"
        "print(sys.modules['residual'].__file__)"
    )
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=bare, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == Path(ROOT) / "src/residual/__init__.py"
