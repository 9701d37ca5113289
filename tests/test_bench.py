"""The bench: contestants take turns in processes of their own, counts are right, pages come from files."""

import ctypes
import json
import subprocess
import sys
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from PIL import Image

import residual
from residual.bench import baseline, contest, ours, photographs, roofline
from residual.bench.contest import Outcome, Spread, compare
from residual.bench.page import table_of
from residual.bench.suites import run_suites
from residual.data.folder import load_photos
from residual.data.shards.write import write_shards
from residual.reproduce import pages

ROOT = Path(__file__).resolve().parent.parent


def note(path, who):
    """A contestant that writes down each of its steps."""
    for _ in count():
        with Path(path).open("a") as file:
            file.write(who)
        yield


def test_contestants_take_turns_after_a_warm_up(tmp_path):
    path = tmp_path / "steps"
    found = compare({who: (note, {"path": str(path), "who": who}) for who in "ab"}, {"a": 4, "b": 4}, 3, 10)
    assert path.read_text() == "aabb" + 3 * "aaaabbbb"
    assert all(len(found[who].repeats) == 3 and found[who].peak_mib > 10 for who in "ab")


def broken():
    """A contestant that dies at its second step."""
    yield
    raise MemoryError


def test_a_contestant_that_dies_is_left_out(tmp_path, capfd):
    path = str(tmp_path / "steps")
    contestants = {"good": (note, {"path": path, "who": "a"}), "broken": (broken, {})}
    found = compare(contestants, dict.fromkeys(contestants, 2), 2, 10)
    assert list(found) == ["good"]
    assert "MemoryError" in capfd.readouterr().err


def test_ratios_are_taken_round_by_round():
    slow, fast = (Outcome(Spread.of(rates), 1, rates) for rates in ([10.0, 1.0, 10.0], [20.0, 3.0, 30.0]))
    assert fast.ratio_to(slow) == Spread(3, 2, 3)


def test_a_steps_operations_and_bytes():
    assert roofline.step_operations("resnet20", 128) == 2 * 128 * (3 * 40_551_040 - 3 * 9 * 16 * 1024)
    maps = 7 * 16 * 32 * 32 + 6 * 32 * 16 * 16 + 6 * 64 * 8 * 8  # the output of each 3x3 convolution
    assert roofline.step_bytes("resnet20", 128) == 10 * maps * 128 * 4


@pytest.mark.slow
def test_bench_data_on_the_command_line(cli, tmp_path):
    code, out, err = cli("bench", "data", "--repeats", "1", "--save", str(tmp_path), "--json")
    assert (code, err) == (0, "")
    printed = json.loads(out)
    (saved,) = tmp_path.iterdir()
    assert json.loads(saved.read_text()) == printed
    assert {"hardware", "versions", "commit", "command"} <= printed.keys()
    rates = printed["records"][0]["images_per_second"]
    assert all(rate["images_per_second"]["median"] > 0 for rate in rates.values())


@pytest.mark.parametrize(
    "steps",
    [
        partial(ours.train, "resnet8", 16, "cpu"),
        partial(ours.train, "resnet8", 16, "cpu", checkpoint_activations=True),
        partial(ours.infer, "resnet8", 16, "folded"),
        partial(ours.fitted, "resnet8", 16, fit=False),
        partial(baseline.train, "resnet8", 16, 0, "cpu"),
        partial(baseline.infer, "resnet8", 16, channels_last=True),
        partial(baseline.infer, "resnet18", 1, channels_last=False),
        partial(ours.infer, "resnet18", 1, "folded"),
    ],
    ids=lambda work: f"{work.func.__module__}.{work.func.__name__}",
)
def test_every_contestant_works(steps):
    work = steps()
    for _ in range(3):
        next(work)


@pytest.fixture
def pictures(tmp_path):
    """Make three photographs of two classes, and two to train on."""
    for name in ("val/a/1.jpg", "val/a/2.jpg", "val/b/1.jpg", "train/a/0.jpg", "train/b/0.jpg"):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.linear_gradient("L").convert("RGB").resize((320, 240)).save(path)
    return tmp_path / "pictures"


@pytest.mark.parametrize("crop", ["scale", "area"])
@pytest.mark.parametrize("shards", [False, True])
def test_both_ways_to_decode_make_batches_of_one_size(shards, pictures, tmp_path, crop, monkeypatch):
    if shards:
        write_shards(pictures, tmp_path / "shards")
    files, made = load_photos(tmp_path / "shards" if shards else pictures), []
    stack, from_numpy = torch.stack, torch.from_numpy
    monkeypatch.setattr(photographs.torch, "stack", lambda images: made.append(stack(images)))
    next(photographs.ours(files, crop, 4))
    monkeypatch.undo()
    monkeypatch.setattr(photographs.torch, "from_numpy", lambda images: made.append(from_numpy(images)))
    next(photographs.baseline(files, crop, 4))
    assert [(each.shape, each.dtype) for each in made] == [((4, 224, 224, 3), torch.uint8)] * 2
    means = [each.float().mean(dim=(1, 2, 3)) for each in made]
    assert (means[0] - means[1]).abs().max() < 4  # the same draws, so nearly the same regions


@pytest.mark.slow
def test_bench_decode_on_the_command_line(cli, pictures):
    code, out, _ = cli("bench", "decode", "--data", str(pictures), "--repeats", "1")
    assert code == 0
    assert out.count("ours / Pillow: ") == 3


def test_bench_decode_needs_photographs(cli, tmp_path):
    assert cli("bench", "decode")[0] == 2
    assert cli("bench", "data", "--data", str(tmp_path))[0] == 2
    code, _, err = cli("bench", "decode", "--data", str(tmp_path / "none"))
    assert (code, err.count("\n")) == (3, 1)


def test_the_fitted_nets_gradients_underflow():
    """Without flushing, the case that is timed would hold denormals: its loss is far below 1e-30."""
    work = ours.fitted("resnet8", 16, fit=True)
    next(work)
    local = work.gi_frame.f_locals
    with torch.no_grad():
        logits = local["network"](local["images"]).topk(2).values
    assert float((logits[:, 0] - logits[:, 1]).median()) > 80


def test_a_summary_shows_rates_ratios_and_shares():
    outcome = Outcome(Spread(1000, 900, 1100), 500, [1000.0])
    record = {"kind": "train", "network": "resnet20", "batch_size": 128}
    record |= {
        "images_per_second": {"ours": outcome.as_dict()},
        "ratios": {"a / b": vars(Spread(1.5, 1.4, 1.6))},
    }
    record |= {"matrix_rate": 2e11, "copy_rate": 4e10, "step_operations": 31e9, "step_bytes": 1e9}
    table = table_of({**record, "share_of_matrix_rate": 0.5, "share_of_copy_rate": 0.25})
    lines, markdown = table.as_lines(), table.as_markdown()
    assert lines[:2] == [
        "train resnet20, batch 128",
        "        images/s              ms per step  peak memory, MiB",
    ]
    assert lines[2] == "  ours  1,000 (900 to 1,100)  128.00       500"
    assert lines[3:5] == [
        "  a / b: 1.50 (1.40 to 1.60)",
        "  a step's 31.0 GFLOP reach 50% of the 200 GFLOP/s measured for a matrix product",
    ]
    assert markdown[:3] == [
        "### train resnet20, batch 128",
        "",
        "| | images/s | ms per step | peak memory, MiB |",
    ]
    assert markdown[3:6] == ["|---|---|---|---|", "| ours | 1,000 (900 to 1,100) | 128.00 | 500 |", ""]
    assert markdown[6] == "- a / b: **1.50** (1.40 to 1.60)"
    sentences = ["- " + line.strip() for line in lines[3:]]
    assert [line.replace("**", "") for line in markdown[6:]] == sentences, "both say the same"


def test_runs_at_once_and_errors_are_tables_too():
    record = {"kind": "jobs", "network": "resnet20", "batch_size": 128, "images_per_second": {}, "ratios": {}}
    rates = {"1": vars(Spread(10, 9, 11)), "8": vars(Spread(200, 100, 300))}
    lines = table_of({**record, "steps_per_second": rates}).as_lines()
    assert lines[1:] == [
        "  runs at once  steps/s in all",
        "  1             10.00 (9.00 to 11.00)",
        "  8             200 (100 to 300)",
    ]
    errors = {"float32": {"resnet20": 8.47, "resnet44": 7.5}, "int8": {"resnet20": 8.53, "resnet44": 7.67}}
    record = {"kind": "int8 error", "network": "", "images": 10_000, "errors": errors, "notes": ["so it is"]}
    assert table_of(record).as_markdown()[2:] == [
        "| error in %, 10,000 images | resnet20 | resnet44 |",
        "|---|---|---|",
        "| float32 | 8.47 | 7.50 |",
        "| int8 | 8.53 | 7.67 |",
        "",
        "- so it is",
    ]


@pytest.mark.parametrize(("name", "batches"), [("resnet50", [1, 32]), ("resnet20", [256])])
def test_inference_is_compared_at_the_sizes_of_its_data_set(monkeypatch, name, batches):
    def compare(contestants, steps, repeats, batch_size):
        assert contestants.keys() == steps.keys()
        assert all(arguments["batch_size"] == batch_size for _, arguments in contestants.values())
        assert all(count >= 1 for count in steps.values())
        rates = {who: [10.0 * number] for number, who in enumerate(contestants, start=1)}
        return {who: Outcome(Spread.of(rate), 1, rate) for who, rate in rates.items()}

    monkeypatch.setattr("residual.bench.suites.compare", compare)
    records = run_suites("infer", [name], torch.device("cpu"), 3)
    assert [record["batch_size"] for record in records] == batches
    for record in records:
        assert record["ratios"]["folded / eager, NCHW"]["median"] == 3
        assert table_of(record).title == f"infer {name}, batch {record['batch_size']}"


def test_bench_knows_what_it_measures(cli):
    assert cli("bench", "nothing")[0] == 2


def test_no_rounds_are_refused_before_anything_is_measured(cli, monkeypatch):
    monkeypatch.setattr("residual.bench.suites.run_suites", lambda *_: pytest.fail("measured"))
    code, _, err = cli("bench", "train", "--repeats", "0")
    assert code == 2
    assert "repeats" in err


def test_commands_start_where_there_is_no_module_resource():
    """As on Windows."""
    code = "import sys; sys.modules['resource'] = None; import residual.cli.main, residual.bench.contest as c"
    subprocess.run([sys.executable, "-c", f"{code}; assert c._peak_mib() > 10"], check=True)


def test_the_speed_of_every_network_is_measured_one_network_at_a_time(monkeypatch):
    asked = []

    def compare(contestants, steps, repeats, batch_size):
        asked.append((*contestants, batch_size))
        return {name: Outcome(Spread(2.0, 1.0, 3.0), 1, [2.0]) for name in contestants}

    monkeypatch.setattr("residual.bench.suites.compare", compare)
    records = run_suites("models", [], torch.device("cpu"), 3)
    assert [name for name, _ in asked] == residual.list_models()
    assert {batch for _, batch in asked[:12]} == {256}
    assert {batch for _, batch in asked[12:]} == {32}
    assert [table_of(record).title for record in records] == [
        "models for CIFAR, batch 256",
        "models for ImageNet, batch 32",
    ]


def test_the_peak_of_memory_on_windows(monkeypatch):
    class Kernel:
        def __init__(self, name):
            self.GetCurrentProcess = lambda: -1
            assert name == "kernel32"

        def K32GetProcessMemoryInfo(self, process, counters, size):  # noqa: N802
            assert size == ctypes.sizeof(counters._obj) == counters._obj.cb
            if ctypes.sizeof(ctypes.c_void_p) == 8:
                assert size == 72
            ctypes.c_size_t.from_address(ctypes.addressof(counters._obj) + 8).value = 300 << 20

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(ctypes, "WinDLL", Kernel, raising=False)
    assert contest._peak_mib() == 300


def test_the_page_of_speed_comes_from_the_files_alone(tmp_path):
    if not list((ROOT / "results" / "bench").glob("*.json")):
        pytest.skip("no figures yet")
    pages.write_pages(ROOT / "results", tmp_path)
    assert (tmp_path / "speed.md").read_text() == (ROOT / "docs" / "speed.md").read_text()


def test_no_figures_no_page(cli, tmp_path):
    code, _, err = cli("reproduce", "pages", "--results", str(tmp_path), "--output", str(tmp_path))
    assert code == 5
    assert "no result files" in err
