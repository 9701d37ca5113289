"""Denormals are flushed in every thread, from the import on; devices are checked."""

import shutil
import subprocess
import sys

import pytest
import torch

import residual
from residual.errors import UsageError
from residual.runtime.device import available_devices, resolve_device, resolve_precision
from residual.training.run_folder import Run

# 2^24 numbers of which each product is denormal, shared among all threads of the pool
PRODUCT = "print(int((torch.full((1 << 24,), 1e-30) * 1e-10).count_nonzero()), torch.get_num_threads())"


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_a_large_parallel_product_of_denormals_is_zero():
    count, _ = run(f"import torch, residual; {PRODUCT}").split()
    assert int(count) == 0


def test_without_the_package_it_is_not():
    count, _ = run(f"import torch; {PRODUCT}").split()
    assert int(count) == 1 << 24


def test_a_thread_pool_that_was_started_before_is_noticed():
    code = (
        "import torch; torch.set_num_threads(2); (torch.ones(1 << 24) * 2).sum();"
        "from residual.runtime.device import flush_denormals; print(flush_denormals())"
    )
    assert run(code).strip() == "False"


def test_a_training_step_on_a_fitted_batch_makes_no_denormals():
    code = """
import residual, torch
from torch.nn import functional as F
network = residual.create_model("resnet8")
(network(torch.randn(8, 3, 32, 32)).sum() * 1e-38).backward()
tiny = torch.finfo(torch.float32).tiny
print(sum(int(((p.grad != 0) & (p.grad.abs() < tiny)).sum()) for p in network.parameters()))
"""
    assert run(code).strip() == "0"


def test_devices():
    assert "cpu" in available_devices()
    assert str(resolve_device()) in (*available_devices(), "cuda")
    with pytest.raises(UsageError, match=r"there is: .*cpu"):
        resolve_device("cuda:99")


@pytest.mark.parametrize(
    ("abilities", "precision"),
    [
        ({"avx512_bf16": True}, "bfloat16"),
        ({"amx_bf16": True}, "bfloat16"),
        ({"avx512_f": True}, "float32"),
        ({}, "float32"),
    ],
)
def test_auto_precision_follows_the_cpu(monkeypatch, abilities, precision):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: abilities, raising=False)
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == precision
    assert resolve_precision("float32", cpu) == "float32"
    assert resolve_precision("bfloat16", cpu) == "bfloat16"


def test_a_resume_keeps_the_precision_that_the_run_began_with(tmp_path, monkeypatch):
    recipe = residual.get_recipe("demo", "resnet8").replace({"iterations": 6, "precision": "auto"})
    for first, then in (("bfloat16", []), ("float32", ["avx512_bf16"])):
        run, before = tmp_path / first, [] if then else ["avx512_bf16"]
        monkeypatch.setattr("residual.runtime.device.cpu_abilities", lambda found=before: found)
        residual.train(recipe, output=run)
        assert Run.open(run).environment["precision"] == first
        assert Run.open(run).recipe.precision == "auto"
        weights = (run / "model/model.safetensors").read_bytes()
        (run / "result.json").unlink()
        shutil.rmtree(run / "checkpoints")
        monkeypatch.setattr("residual.runtime.device.cpu_abilities", lambda found=then: found)
        residual.resume(run)
        assert (run / "model/model.safetensors").read_bytes() == weights


def test_mps_has_to_be_asked_for(monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert available_devices() == ["mps", "cpu"]
    assert resolve_device() == torch.device("cpu")
    assert resolve_device("mps") == torch.device("mps")
