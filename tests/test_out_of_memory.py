"""Out of memory, by fault injection: one line that says what to lower."""

import pytest
import torch

import residual
from residual import get_recipe
from residual.errors import RunError
from residual.training.engine import Engine
from residual.training.memory import is_out_of_memory, memory_explained

CPU = "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to"
FAULTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError(CPU),
    RuntimeError("[enforce fail at alloc_cpu.cpp:80] data. DefaultCPUAllocator: not enough memory: you"),
    RuntimeError("MPS backend out of memory (MPS allocated: 18.05 GB)"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    MemoryError(),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: str(fault)[:20] or "MemoryError")
def test_the_line_names_both_options_with_their_values(fault):
    recipe = get_recipe("imagenette", "resnet18").replace({"batch_size": 48, "image_size": 96})
    with pytest.raises(RunError) as caught, memory_explained(recipe):
        raise fault
    message = str(caught.value)
    assert "--batch-size (now 48)" in message
    assert "--image-size (now 96)" in message
    assert "\n" not in message
    assert caught.value.__cause__ is fault


def test_other_errors_stay_what_they_are():
    fault = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    assert not is_out_of_memory(fault)
    assert not is_out_of_memory(OSError("cannot allocate memory"))
    with pytest.raises(RuntimeError) as caught, memory_explained(get_recipe("demo", "resnet8")):
        raise fault
    assert caught.value is fault


def test_a_hint_that_the_recipe_follows_already_is_left_out():
    for key in ("checkpoint_activations", "compile"):
        recipe = get_recipe("imagenette", "resnet18").replace({key: True})
        with pytest.raises(RunError) as caught, memory_explained(recipe):
            raise MemoryError
        assert "checkpoint_activations" not in str(caught.value)


def test_parts_of_the_batch_are_named_as_a_way_with_twice_as_many_of_them():
    hints = {1: "or --batch-size auto, or", 4: "or --set bn_groups=6, or", 2: "or --set bn_groups=4, or"}
    for groups, hint in hints.items():
        recipe = get_recipe("imagenette", "resnet18").replace({"bn_groups": groups, "batch_size": 6})
        with pytest.raises(RunError) as caught, memory_explained(recipe):
            raise MemoryError
        assert hint in str(caught.value)
    for changes in ({"compile": True}, {"bn_groups": 6}):
        recipe = get_recipe("imagenette", "resnet18").replace({"batch_size": 6, **changes})
        with pytest.raises(RunError) as caught, memory_explained(recipe):
            raise MemoryError
        assert "bn_groups" not in str(caught.value)
        assert "auto" not in str(caught.value)


def test_the_command_says_it_in_one_line(cli, monkeypatch, photographs, tmp_path):
    def fail(self):
        raise RuntimeError(CPU)

    monkeypatch.setattr(Engine, "take_step", fail)
    more = ("--image-size", 32, "--batch-size", 4, "--weights", "none", "--epochs", 1, "--workers", 0)
    code, out, err = cli("train", "resnet18", "--data", photographs, *more, "--output", tmp_path / "run")
    assert (code, out) == (5, "")
    line = err.splitlines()[-1]
    assert "out of memory" in line
    assert "--batch-size (now 4)" in line
    assert "--image-size (now 32)" in line
    assert "Traceback" not in err


def test_small_images_in_memory_have_no_size_to_lower(monkeypatch, tmp_path):
    def fail(self):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Engine, "take_step", fail)
    with pytest.raises(RunError, match=r"--batch-size \(now 64\)") as caught:
        residual.train(get_recipe("demo", "resnet8"), output=tmp_path / "run")
    assert "--image-size" not in str(caught.value)
