"""`--batch-size auto`: the parts that fit, found by trying or by measuring; the limits of containers."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from residual import get_recipe
from residual.errors import RunError
from residual.models.build import build_model
from residual.runtime import ranks
from residual.runtime.memory import free_memory, group_room
from residual.runtime.progress import Reporter
from residual.training import fit_memory
from residual.training.fit_memory import Fit, parts_that_fit
from residual.training.run_folder import Run

GIB = 2**30
CAPTURED = {"capture_output": True, "text": True, "timeout": 300, "check": False}
CPU = torch.device("cpu")


@dataclasses.dataclass
class Images:
    """One batch for every step."""

    images: torch.Tensor
    targets: torch.Tensor
    device: torch.device = CPU
    class_weights: None = None

    def __getitem__(self, step):
        return self.images, self.targets


def batch_of(count, size=16):
    images = torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)
    return Images(images, torch.arange(count) % 10)


class Said(Reporter):
    """Keeps what is said."""

    def __init__(self):
        super().__init__(enabled=False)
        self.lines = []

    def say(self, line):
        self.lines.append(line)


def find(monkeypatch, free, batch=64, **changes):
    """What is found where so many bytes are free."""
    monkeypatch.setattr(fit_memory, "free_memory", lambda _device: free)
    recipe = get_recipe("paper", "resnet8").replace({"batch_size": batch, **changes})
    said, network = Said(), build_model("resnet8")
    found = parts_that_fit(recipe, network, batch_of(batch), "float32", said)
    return found, said.lines


@pytest.fixture
def trials(monkeypatch):
    """Let steps of more than 24 images at a time run out of memory, as on a GPU; gives the sizes tried."""
    sizes = []

    def step(self, size, groups=1):
        sizes.append((size, groups))
        if size > 24:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    monkeypatch.setattr(fit_memory._Trials, "step", step)
    monkeypatch.setattr(fit_memory._Trials, "measured", fit_memory._Trials.tried)
    return sizes


def test_parts_double_until_one_and_the_next_fit(monkeypatch, trials):
    found, (line,) = find(monkeypatch, 6.1 * GIB, batch=100)
    assert found.bn_groups == 8  # 100, 50 and 25 images do not fit
    assert trials == [(100, 1), (50, 2), (25, 2), (13, 2), (13, 2)]
    assert line.startswith("batch 100 in 8 parts of 13: the whole needs about ")
    assert line.endswith(" GiB, 6.1 are free")


def test_the_recipe_changes_in_nothing_but_the_parts(monkeypatch, trials):
    found, _ = find(monkeypatch, GIB)
    before = get_recipe("paper", "resnet8").replace({"batch_size": 64})
    assert found == before.replace({"bn_groups": 4})


def test_parts_that_the_user_sets_are_the_fewest(monkeypatch, trials):
    assert find(monkeypatch, GIB, bn_groups=3)[0].bn_groups == 3
    assert trials[0] == (22, 2)


@pytest.fixture
def two_ranks(monkeypatch):
    """Two ranks on this machine, of which the other needs six parts."""
    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "gathered", lambda parts: [parts, 6])
    monkeypatch.setattr(fit_memory, "on_this_machine", lambda: (0, 2))


def test_ranks_take_as_many_parts_as_the_one_with_least_room(monkeypatch, trials, two_ranks):
    found, (line,) = find(monkeypatch, GIB, bn_groups=4)
    assert trials == [(32, 2), (16, 2), (16, 2)], "a half of the groups is this rank's"
    assert found.bn_groups == 12
    assert "in 6 parts of 11" in line


def test_ranks_whose_shares_fit_keep_the_recipe(monkeypatch, trials, two_ranks):
    monkeypatch.setattr(ranks, "gathered", lambda parts: [parts, 1])
    assert find(monkeypatch, GIB, batch=24)[0].bn_groups == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory(monkeypatch):
    def step(self, size, groups=1):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(fit_memory._Trials, "step", step)
    monkeypatch.setattr(fit_memory._Trials, "measured", fit_memory._Trials.tried)
    with pytest.raises(RuntimeError, match="shapes"):
        find(monkeypatch, GIB)


def test_where_one_image_does_not_fit_the_line_says_what_to_lower(monkeypatch, trials):
    def step(self, size, groups=1):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fit_memory._Trials, "step", step)
    with pytest.raises(RunError, match=r"a single image of 16x16 pixels does not fit.*lower --image-size"):
        find(monkeypatch, GIB, batch=4)


def test_on_a_cpu_the_network_and_its_gradients_stay_as_they_are(monkeypatch):
    monkeypatch.setattr(fit_memory, "free_memory", lambda _device: GIB)
    network = build_model("resnet8")
    before = {name: value.clone() for name, value in network.state_dict().items()}
    recipe, batches, random = get_recipe("paper", "resnet8"), batch_of(16), torch.get_rng_state()
    parts_that_fit(recipe.replace({"batch_size": 16}), network, batches, "float32", Said())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(random, torch.get_rng_state())


def test_a_cpu_s_parts_follow_from_what_small_ones_take(monkeypatch):
    taken = {8: 180, 16: 260}  # 10 an image, and 100 for whatever else
    monkeypatch.setattr(fit_memory._Trials, "_grown", lambda self, size: taken[size] * GIB)
    monkeypatch.setattr(fit_memory._Trials, "step", lambda self, size, groups=1: None)
    found, (line,) = find(monkeypatch, 1000 * GIB)
    assert line == "batch 64 in one part: the whole needs about 740.0 GiB, 1000.0 are free"
    assert found.bn_groups == 1
    assert find(monkeypatch, 925 * GIB)[0].bn_groups == 1
    assert find(monkeypatch, 924 * GIB)[0].bn_groups == 2  # 740 are more than 80 % of it
    monkeypatch.setattr(fit_memory, "on_this_machine", lambda: (0, 4))  # processes that share it
    assert find(monkeypatch, 4 * 924 * GIB)[0].bn_groups == 2
    monkeypatch.undo()
    monkeypatch.setattr(fit_memory._Trials, "_grown", lambda self, size: taken[size] * GIB)
    monkeypatch.setattr(fit_memory._Trials, "step", lambda self, size, groups=1: None)
    assert find(monkeypatch, 180 * GIB)[0].bn_groups == 16  # 140 for 4 images
    with pytest.raises(RunError, match=r"it needs about 110\.0 GiB, 100\.0 GiB are free"):
        find(monkeypatch, 100 * GIB)


MEASURE = """
import torch
from residual.runtime import device as devices
from test_fit_memory import CPU, batch_of, build_model, fit_memory, get_recipe

devices.prepare(CPU)
recipe = get_recipe("paper", "resnet20").replace({"batch_size": 128})
trials = fit_memory._Trials(recipe, build_model("resnet20"), batch_of(128, 32), "float32")
print(trials.measured().need, trials._grown(128))
"""


@pytest.mark.slow
def test_the_memory_calculated_is_about_what_the_whole_takes():
    """In a process of its own, whose memory no other test has changed."""
    run = subprocess.run([sys.executable, "-c", MEASURE], cwd=Path(__file__).parent, **CAPTURED)
    assert run.returncode == 0, run.stderr
    calculated, taken = map(float, run.stdout.split())
    assert 0.85 * taken < calculated < 1.6 * taken  # rather too much than too little


def test_free_memory_is_the_computer_s_at_most():
    assert 0 < free_memory(CPU) <= psutil.virtual_memory().total


def group(folder: Path, limit: str, used: int, droppable: int, version: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {1: ("memory.limit_in_bytes", "memory.usage_in_bytes"), 2: ("memory.max", "memory.current")}
    for name, value in zip(names[version], (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    key = "inactive_file" if version == 2 else "total_inactive_file"
    (folder / "memory.stat").write_text(f"anon 5\n{key} {droppable}\n")


def test_a_container_s_limit_counts_with_those_above(tmp_path):
    (tmp_path / "own").write_text("0::/pod/box\n")
    group(tmp_path / "pod" / "box", "1000", 400, 100, version=2)
    group(tmp_path / "pod", "5000", 4800, 0, version=2)
    group(tmp_path, "max", 9000, 0, version=2)
    assert sorted(group_room(tmp_path / "own", tmp_path)) == [200, 700]


def test_control_groups_of_the_first_version(tmp_path):
    (tmp_path / "own").write_text("5:devices:/x\n4:memory:/job\n0::/\n")
    group(tmp_path / "memory" / "job", "1000", 400, 50, version=1)
    group(tmp_path / "devices" / "x", "10", 4, 0, version=1)  # not of memory
    assert list(group_room(tmp_path / "own", tmp_path)) == [650]


def test_a_container_that_sees_its_group_as_the_top(tmp_path):
    (tmp_path / "own").write_text("0::/not/to/be/seen\n")
    group(tmp_path, "1000", 1200, 0, version=2)
    assert list(group_room(tmp_path / "own", tmp_path)) == [0]


def test_a_system_without_control_groups(tmp_path):
    assert list(group_room(tmp_path / "none", tmp_path)) == []


@pytest.mark.slow
def test_the_command_records_the_parts(cli, monkeypatch, tmp_path):
    monkeypatch.setattr(fit_memory, "free_memory", lambda _device: 2**20)
    monkeypatch.setattr(fit_memory._Trials, "_grown", lambda self, size: size * 2**15)
    more = ("--data", "digits", "--iterations", 2, "--output", tmp_path / "run")
    code, _, err = cli("train", "resnet8", "--batch-size", "auto", *more)
    assert code == 0, err
    recipe = Run.open(tmp_path / "run").recipe
    assert (recipe.batch_size, recipe.bn_groups) == (64, 4)  # 16 images take a half, 32 all
    assert "batch 64 in 4 parts of 16: the whole needs about 0.002 GiB, 0.00098 are free" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resume", "RUN"), "--resume keeps the run's batch and its parts: leave --batch-size auto out"),
        (("resnet8", "--seeds", 2, "--output", "x"), "--batch-size auto is for one run"),
    ],
)
def test_what_auto_does_not_go_with(cli, options, message):
    code, _, err = cli("train", *options, "--batch-size", "auto")
    assert code == 2
    assert message in err


def test_a_batch_size_that_is_neither_a_number_nor_auto(cli):
    code, _, err = cli("train", "resnet8", "--batch-size", "many")
    assert (code, err.splitlines()[-1]) == (2, "residual: batch_size must be a whole number, not 'many'")


def test_a_line_of_what_was_found():
    assert str(Fit(256, 4, 9.84 * GIB, 6.1 * GIB)) == (
        "batch 256 in 4 parts of 64: the whole needs about 9.8 GiB, 6.1 are free"
    )
