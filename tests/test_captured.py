"""The captured step: on the CPU its parts and its arithmetic, on CUDA the graph itself."""

import shutil
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import residual
from residual import get_recipe
from residual.data.dataset import Split
from residual.data.load import load_dataset
from residual.data.loader import TrainBatches
from residual.data.normalization import Normalization
from residual.errors import NonFiniteLossError, UsageError
from residual.runtime.device import describe
from residual.runtime.environment import environment_facts
from residual.runtime.progress import Reporter
from residual.training.checkpoint import find_checkpoint, load_checkpoint
from residual.training.cuda_graph import WARMUP_STEPS, DeviceSteps
from residual.training.engine import Engine
from residual.training.optim import make_optimizer
from residual.training.run_folder import Run
from residual.training.run_state import go_back
from residual.training.trainer import Trainer

SETTINGS = {"iterations": 24, "batch_size": 32, "log_every": 5, "checkpoint_every": 7, "curve": "none"}
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Steps this small are not worth a second thread, which on a busy machine makes them far slower."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small(**changes):
    return get_recipe("demo", "resnet8").replace({**SETTINGS, **changes})


@pytest.fixture
def by_tables(monkeypatch):
    """Let the engine take the captured path's step on the CPU, where it runs uncaptured."""
    real = Engine.__init__

    def init(self, *arguments, **options):
        real(self, *arguments, **options)
        self.captured = True

    monkeypatch.setattr(Engine, "__init__", init)
    return monkeypatch


def weights(path):
    return residual.load_model(path).state_dict()


@pytest.mark.parametrize(("warmup", "muon"), [(False, 0.0), (True, 0.0), (False, 0.01)])
def test_steps_by_tables_compute_what_the_eager_ones_do(tmp_path, monkeypatch, warmup, muon, request):
    changes = {"optimizer.learning_rate": 0.01, "optimizer.muon": muon}
    if warmup:
        changes |= {
            "schedule.warmup_learning_rate": 0.001,
            "schedule.warmup_window": 4,
            "schedule.warmup_error": 88,
        }
    residual.train(small(**changes), output=tmp_path / "eager", device="cpu")
    request.getfixturevalue("by_tables")
    monkeypatch.setattr("residual.training.engine.STRETCH", 3)  # tables are refilled
    residual.train(small(**changes), output=tmp_path / "tables", device="cpu")
    eager, tables = Run.open(tmp_path / "eager"), Run.open(tmp_path / "tables")
    assert eager.result["warmup_end"] == tables.result["warmup_end"]
    assert (eager.result["warmup_end"] is not None) == warmup
    for one, other in zip(eager.metrics("train"), tables.metrics("train"), strict=True):
        assert one["learning_rate"] == pytest.approx(other["learning_rate"])
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
    for (key, a), b in zip(weights(eager.path).items(), weights(tables.path).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=key)


def test_the_tables_hold_the_streams_batches_across_an_epochs_end():
    train = load_dataset("digits").train
    recipe = small()
    batches = TrainBatches(train, Normalization.of(train), 32, recipe.augment, seed=5)
    last = len(train) // 32
    seen = []

    class Spy(DeviceSteps):
        def _step(self, _compute):
            places = self.counter * 32 + self._within
            seen.append(batches.make(self.order[places], self.offsets[places], self.flips[places]))
            self.counter += 1

    optimizer = make_optimizer(residual.create_model("resnet8"), recipe.optimizer)
    steps = Spy(optimizer, batches, [], capacity=4)
    steps.load(last - 2, [0.1] * 4)
    for _ in range(4):
        steps.run(None)
    for step, (images, labels) in enumerate(seen, start=last - 2):
        assert torch.equal(images, batches[step][0])
        assert torch.equal(labels, batches[step][1])
    steps.check(last + 2)
    assert steps.needs(last + 2)
    with pytest.raises(AssertionError, match="4 steps"):
        steps.check(last + 1)


def test_a_bad_loss_is_named_by_its_step(tmp_path, by_tables):
    real = TrainBatches.make

    def poisoned(self, order, offsets, flips):
        images, labels = real(self, order, offsets, flips)
        return torch.where((poisoned.calls.add_(1) == 9), torch.nan, images), labels

    poisoned.calls = torch.zeros((), dtype=torch.int64)
    by_tables.setattr(TrainBatches, "make", poisoned)
    with pytest.raises(NonFiniteLossError, match="step 8 "):
        residual.train(small(), output=tmp_path / "run", device="cpu")


# a capture that fails, on a device that is made up


class FakeCuda:
    """Lets the CPU act as CUDA: recording notes the step, replaying takes it; `fault` is what goes wrong."""

    def __init__(self, monkeypatch, fault=None):
        self.fault, self.recording, self.stream = fault, None, "the usual stream"
        self.steps = 0
        for module in ("residual.training.cuda_graph", "residual.training.engine"):
            monkeypatch.setattr(f"{module}.can_capture", lambda device: True)
        usual = SimpleNamespace(wait_stream=lambda other: None)
        fakes = {"Stream": lambda: usual, "stream": lambda stream: nullcontext(), "graph": self.graph}
        fakes |= {"set_stream": self.set_stream, "synchronize": lambda: None, "CUDAGraph": self.make}
        fakes |= {"current_stream": lambda: usual}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        real = DeviceSteps._step

        def step(steps, compute):
            self.steps += 1
            if self.recording is not None:
                self.recording.take = lambda: real(steps, compute)
                if self.fault == "recording":
                    real(steps, compute)  # what a step leaves behind that did not get to its end
            else:
                real(steps, compute)
            self.fail_at("warm-up" if self.recording is None and self.steps == 2 else "recording")

        monkeypatch.setattr(DeviceSteps, "_step", step)

    def fail_at(self, place):
        if self.fault == place:
            raise RuntimeError(f"CUDA error: {place}\nCompile with TORCH_USE_CUDA_DSA")

    def set_stream(self, stream):
        self.stream = "the usual stream"

    def make(self):
        self.fail_at("making")
        made = SimpleNamespace()

        def replay():
            self.fail_at("replay")
            if self.fault != "replay of nothing":
                made.take()
            self.fail_at("replay, its end")

        made.replay = replay
        return made

    @contextmanager
    def graph(self, made, stream):
        self.stream = "the capture's stream"
        self.fail_at("beginning")
        self.recording = made
        try:
            yield
        finally:
            self.recording = None
        self.fail_at("end")  # torch leaves its stream in place then
        self.stream = "the usual stream"


FAULTS = ["warm-up", "making", "beginning", "recording", "end"]
FAULTS += ["replay", "replay, its end", "replay of nothing"]
KINDS = {
    "sgd": {},
    "muon": {"optimizer.muon": 0.01},
    "early size": {"augment.early_size": 16, "augment.early_share": 0.5},
    "warm-up": {"schedule.warmup_learning_rate": 0.001, "schedule.warmup_window": 2},
}


@pytest.fixture(scope="module")
def few():
    """64 images and their normalization."""
    train = load_dataset("digits").train
    few = Split(train.images[:64], train.labels[:64])
    return few, Normalization.of(few)


def fit(few, path, kind, stop_after=None):
    """Train for ten steps, or resume; return the last checkpoint, and what was logged."""
    settings = {"iterations": 10, "batch_size": 8, "log_every": 2, "checkpoint_every": 3}
    recipe = small(**{**settings, "optimizer.learning_rate": 0.01, **KINDS[kind]})
    torch.manual_seed(0)
    batches = TrainBatches(*few, recipe.batch_size, recipe.augment, seed=5)
    network = residual.create_model("resnet8").to(memory_format=torch.channels_last)
    facts = environment_facts(describe(torch.device("cpu")))
    run = Run(path) if path.exists() else Run.create(path, recipe, facts)
    trainer = Trainer(Engine(recipe, network, batches), run, Reporter())
    if find_checkpoint(run.checkpoints):
        go_back(trainer)
        run.note_resume(trainer.step, {})
    if stop_after is not None:
        network.train()
        for _ in range(stop_after):
            trainer.train_one()
        trainer.save()
    else:
        trainer.fit()
    logged = [(record["step"], record["loss"], record["error"]) for record in run.metrics("train")]
    return {**load_checkpoint(find_checkpoint(run.checkpoints)), "logged": logged}


def plain(value):
    """Lists in place of tensors, which then can be compared with ==; times are left out."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in ("seconds", "cpu_time")}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope="module")
def eager(few, tmp_path_factory):
    """What the eager runs come to."""
    root = tmp_path_factory.mktemp("eager")
    return {kind: plain(fit(few, root / kind, kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_where_the_capture_fails_the_run_is_the_eager_one(
    few, tmp_path, monkeypatch, capsys, eager, kind, fault
):
    cuda = FakeCuda(monkeypatch, fault)
    assert plain(fit(few, tmp_path / "run", kind)) == eager[kind]
    assert cuda.stream == "the usual stream"
    reason = "the graph's replay took no step" if fault == "replay of nothing" else f"CUDA error: {fault}"
    assert Run(tmp_path / "run").environment["capture"] == f"failed: RuntimeError: {reason}"
    lines = [line for line in capsys.readouterr().err.splitlines() if "CUDA graph" in line]
    assert lines == [f"warning: no CUDA graph, so training is slower (RuntimeError: {reason})"]


def test_what_is_kept_for_a_failed_capture_has_no_graph(few, tmp_path, monkeypatch):
    FakeCuda(monkeypatch, "recording")
    kept = []
    real = DeviceSteps._put_back
    monkeypatch.setattr(
        DeviceSteps, "_put_back", lambda self, before, **how: kept.extend(before) or real(self, before, **how)
    )
    fit(few, tmp_path / "run", next(iter(KINDS)))
    assert any(tensor.requires_grad for tensor, _ in kept)
    assert not any(value.requires_grad for _, value in kept)


def test_the_reason_is_the_error_that_came_first(few, tmp_path, monkeypatch):
    cuda = FakeCuda(monkeypatch, "recording")

    @contextmanager
    def graph(*given, **options):
        with cuda.graph(*given, **options):
            try:
                yield
            except RuntimeError:
                raise ValueError("operation failed due to a previous error during capture")  # noqa: B904

    monkeypatch.setattr(torch.cuda, "graph", graph)
    fit(few, tmp_path / "run", next(iter(KINDS)))
    noted = Run(tmp_path / "run").environment["capture"]
    assert noted == "failed: RuntimeError: CUDA error: recording"


@pytest.mark.parametrize("fault", ["recording", "replay, its end"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_whose_capture_fails_is_exact_too(few, tmp_path, monkeypatch, eager, kind, fault):
    fit(few, tmp_path / "run", kind, stop_after=1)
    FakeCuda(monkeypatch, fault)
    assert plain(fit(few, tmp_path / "run", kind)) == eager[kind]
    environment = Run(tmp_path / "run").environment
    assert "capture" not in environment
    assert environment["resumed"][0]["capture"] == f"failed: RuntimeError: CUDA error: {fault}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_capture_leaves_no_trace_of_its_warm_up(few, tmp_path, monkeypatch, request, kind):
    with monkeypatch.context() as patch:
        cuda = FakeCuda(patch)
        captured = fit(few, tmp_path / "captured", kind)
    captures = 2 if kind == "early size" else 1  # a graph has one image size
    assert cuda.steps == captures * (WARMUP_STEPS + 1)
    assert "capture" not in Run(tmp_path / "captured").environment
    request.getfixturevalue("by_tables")
    assert plain(captured) == plain(fit(few, tmp_path / "tables", kind))


def test_a_checkpoint_asks_the_device_once_whether_all_is_finite(tmp_path, monkeypatch):
    train = load_dataset("digits").train
    recipe = small()
    batches = TrainBatches(train, Normalization.of(train), 32, recipe.augment, seed=5)
    engine = Engine(recipe, residual.create_model("resnet8"), batches)
    trainer = Trainer(engine, Run(tmp_path), reporter=None)
    monkeypatch.setattr("residual.training.trainer.save_checkpoint", lambda *_: None)
    asked = []
    real = torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda self: asked.append(1) or real(self))
    trainer.save()
    assert len(asked) == 1


GPU_SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "gpu.sh"


@pytest.mark.skipif(sys.platform == "win32" or not shutil.which("timeout"), reason="needs bash and timeout")
@pytest.mark.parametrize("bad", ["nothing", "pytest", "residual bench jobs", "residual train"])
def test_the_gpu_script_judges_by_exit_codes(tmp_path, bad):
    fake = tmp_path / "bin" / "python3"
    fake.parent.mkdir()
    fake.write_text(
        '#!/bin/sh\necho "$@"\necho "3 passed, 1 warning: 2 failed to be quiet"\n'
        f'case "$*" in *"-m {bad}"*) exit 3;; esac\n'
    )
    fake.chmod(0o755)
    command = ["bash", str(GPU_SCRIPT), "data", str(tmp_path / "out")]
    environment = {"PATH": f"{fake.parent}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == (bad != "nothing")
    log = (tmp_path / "out" / "gpu.log").read_text()
    assert log == found.stdout
    assert log.count("exit status 3") == (bad != "nothing")
    assert log.count("-m residual") == 6 + (bad.startswith("residual"))
    assert "-W default" in log
    assert (tmp_path / "out" / "gpu.tar.gz").is_file()


# on CUDA


@needs_cuda
@pytest.mark.parametrize("capture", [True, False])
def test_a_loss_that_overflows_leaves_the_weights_before_it(tmp_path, monkeypatch, capture):
    settings = {"optimizer.learning_rate": 1e12, "capture": capture, "deterministic": True}
    recipe = small(**settings, log_every=24, checkpoint_every=24)
    kept = {}
    real = Engine.wait

    def wait(self):
        kept.update({key: value.clone() for key, value in self.network.named_parameters()})
        real(self)

    monkeypatch.setattr(Engine, "wait", wait)
    with pytest.raises(NonFiniteLossError, match="step"):
        residual.train(recipe, output=tmp_path / "run", device="cuda")
    assert kept
    assert all(bool(torch.isfinite(value).all()) for value in kept.values())


@needs_cuda
@pytest.mark.parametrize("name", ["resnet20", "plain20", "resnet47_bottleneck"])
def test_twenty_captured_steps_equal_the_eager_ones(tmp_path, name):
    found = []
    for capture in (True, False):
        recipe = get_recipe("demo", name).replace(
            {"stop_after": 20, "capture": capture, "curve": "none", "optimizer.learning_rate": 0.01}
            | {"deterministic": True}
        )
        residual.train(recipe, output=tmp_path / str(capture), device="cuda")
        found.append(weights(tmp_path / str(capture)))
    for key, value in found[0].items():
        torch.testing.assert_close(value, found[1][key], rtol=1e-4, atol=1e-4, msg=key)


@needs_cuda
@pytest.mark.parametrize("name", ["resnet8", "resnet20"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_graph_is_what_ran(tmp_path, monkeypatch, name, precision):
    calls = []
    real = DeviceSteps._step
    monkeypatch.setattr(DeviceSteps, "_step", lambda *a: calls.append(1) or real(*a))
    recipe = small(network=name, precision=precision, batch_size=128)
    residual.train(recipe, output=tmp_path / "run", device="cuda")
    assert Run.open(tmp_path / "run").environment.get("capture") is None
    assert len(calls) == 4  # three to warm up, one to record, none of the 24 steps


@needs_cuda
@pytest.mark.parametrize("muon", [0.0, 0.02])
def test_a_deterministic_captured_run_resumes_exactly(tmp_path, monkeypatch, muon):
    recipe = small(deterministic=True, **{"optimizer.muon": muon})
    residual.train(recipe, output=tmp_path / "whole", device="cuda")
    real = Trainer.train_one

    def stop(self):
        real(self)
        if self.step == 11:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train_one", stop)
    with pytest.raises(KeyboardInterrupt):
        residual.train(recipe, output=tmp_path / "cut", device="cuda")
    monkeypatch.undo()
    result = residual.resume(tmp_path / "cut").figures
    assert result["model_sha256"] == Run.open(tmp_path / "whole").result["model_sha256"]


@pytest.mark.parametrize("captured", [False, True], ids=["eager", "by tables"])
def test_early_batches_are_smaller_for_their_part_of_the_run_and_resume_exactly(
    tmp_path, monkeypatch, request, captured
):
    if captured:
        request.getfixturevalue("by_tables")
    sizes = []
    real = Engine._compute

    def compute(self, images, labels, step):
        if compute.power_cuts and self.step == 13:
            compute.power_cuts -= 1
            raise SystemError
        hook = self.network.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[2]))
        real(self, images, labels, step)
        hook.remove()

    compute.power_cuts = 0
    monkeypatch.setattr(Engine, "_compute", compute)
    recipe = small(**{"augment.early_size": 16, "augment.early_share": 0.5})
    residual.train(recipe, output=tmp_path / "whole", device="cpu")
    assert sizes == [16] * 12 + [32] * 12
    compute.power_cuts = 1
    with pytest.raises(SystemError):
        residual.train(recipe, output=tmp_path / "cut", device="cpu")
    sizes.clear()
    residual.resume(tmp_path / "cut")
    assert sizes == [16] * 5 + [32] * 12  # from the checkpoint of step 7 on
    whole, cut = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_an_early_size_that_is_no_smaller_is_refused(tmp_path):
    with pytest.raises(UsageError, match="below the images' 32 pixels"):
        residual.train(small(**{"augment.early_size": 32}), output=tmp_path / "run")
