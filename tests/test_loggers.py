"""Loggers: what reaches them, what a resume does, and that none of them changes or stops training."""

import json
import struct
import sys
import types
from pathlib import Path
from typing import Any

import pytest

import residual
from residual.errors import InterruptedRunError, RunError, UsageError
from residual.runtime.progress import Reporter
from residual.runtime.signals import stop_signals
from residual.training.loggers import tracker as tracking
from residual.training.loggers.logger import LOGGERS
from residual.training.loggers.tracker import Tracker
from residual.training.run_folder import Run

RECIPE = residual.get_recipe("demo", "resnet8").replace(
    {
        "iterations": 10,
        "batch_size": 8,
        "validation": 40,
        "curve": "none",
        "log_every": 2,
        "evaluate_every": 4,
        "checkpoint_every": 2,
        "deterministic": True,
    }
)


class Heard(Reporter):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(False)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


class Kept:
    """A logger that keeps everything, and cannot take anything back."""

    remote_id, place = "the-id", "Kept: here"

    def __init__(self) -> None:
        self.points: list[tuple[int, dict[str, float]]] = []
        self.finished: dict[str, Any] = {}
        self.closed: list[bool] = []
        self.fails_at = ""
        self.opened: list[str | None] = []

    @property
    def sent(self) -> int:
        return self.before

    def open(self, name: str, run: Run, remote_id: str | None) -> "Kept":
        self.before = len(self.points)
        self.opened.append(remote_id)
        self.fail("open")
        return self

    def fail(self, where: str) -> None:
        if where == self.fails_at:
            raise OSError("the server\nis away")

    def scalars(self, step, values) -> None:
        self.fail(f"scalars {step}")
        self.points.append((step, dict(values)))

    def finish(self, step, figures, pictures) -> None:
        self.fail("finish")
        self.finished = {"step": step, "figures": figures, "pictures": pictures}

    def close(self, ended) -> None:
        self.closed.append(ended)
        self.fail("close")


@pytest.fixture
def kept(monkeypatch) -> Kept:
    """Put a logger in wandb's place."""
    found = Kept()
    monkeypatch.setattr(tracking, "open_logger", found.open)
    monkeypatch.setitem(sys.modules, "wandb", types.ModuleType("wandb"))
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A run without a logger, which imports none of them."""
    path = tmp_path_factory.mktemp("loggers") / "plain"
    with pytest.MonkeyPatch.context() as patch:
        for name in LOGGERS:
            patch.setitem(sys.modules, name, None)  # an import would fail
        residual.train(RECIPE, output=path, quiet=True)
    return path


def points_of(run: Run) -> list[tuple[int, dict[str, float]]]:
    """What a logger should have of a run."""
    return [
        (
            record["step"],
            {f"{record['kind']}/{key}": v for key, v in record.items() if key not in ("step", "kind")},
        )
        for record in run.metrics()
    ]


def untimed(points: list[tuple[int, dict[str, float]]]) -> list[tuple[int, dict[str, float]]]:
    return [(step, {k: v for k, v in values.items() if "images_per" not in k}) for step, values in points]


def test_a_logger_sees_exactly_the_records_and_the_result(kept, tmp_path):
    reporter = Heard()
    result = residual.train(RECIPE, output=tmp_path / "run", logger="wandb", reporter=reporter)
    assert kept.points == points_of(Run.open(tmp_path / "run"))
    assert {key for _, values in kept.points for key in values} >= {"train/loss", "validation/error"}
    assert (kept.opened, kept.closed) == ([None], [True])
    figures = kept.finished["figures"]
    assert (kept.finished["step"], figures["error"]) == (10, result.error)
    assert figures["validation_best.step"] == result.figures["validation_best"]["step"]
    pictures = kept.finished["pictures"]
    assert {name: picture.mode for name, picture in pictures.items()} == {"curves": "RGB", "confusion": "RGB"}
    assert "logged to Kept: here" in reporter.lines
    assert json.loads((tmp_path / "run/loggers.json").read_text()) == {"wandb": "the-id"}


def test_a_resume_goes_on_in_the_same_remote_run_without_doubled_points(kept, tmp_path, stop_at):
    def kill(_trainer):
        raise MemoryError("as kill -9 would")

    restore = stop_at(7, kill)
    with pytest.raises(RunError):
        residual.train(RECIPE, output=tmp_path / "run", logger="wandb", quiet=True)
    restore()
    assert [step for step, _ in kept.points] == [2, 4, 4, 6]
    for path in (tmp_path / "run/checkpoints").glob("last-00000006.pt*"):
        path.unlink()  # so that steps 5 and 6 are repeated
    assert not kept.closed[-1]
    residual.resume(tmp_path / "run", quiet=True)
    assert kept.opened == [None, "the-id"]
    assert [step for step, _ in kept.points] == [2, 4, 4, 6, 8, 8, 10, 10]
    assert untimed(kept.points) == untimed(points_of(Run.open(tmp_path / "run")))
    assert kept.closed[-1]


WARNING = "warning: nothing more is logged to wandb: OSError: the server"


def test_one_that_fails_never_stops_training(kept, tmp_path):
    kept.fails_at, reporter = "scalars 4", Heard()
    residual.train(RECIPE, output=tmp_path / "run", logger="wandb", reporter=reporter)
    assert [line for line in reporter.lines if line.startswith("warning")] == [WARNING]
    assert Run.open(tmp_path / "run").result is not None


@pytest.mark.parametrize("fault", ["open", "finish", "close"])
def test_wherever_it_fails_there_is_one_warning(kept, plain, fault):
    kept.fails_at, reporter, run = fault, Heard(), Run.open(plain)
    with Tracker(run, ["wandb"], reporter) as tracker:
        tracker.begin()
        tracker.end(run.result, [[1, 0], [0, 1]], ["a", "b"])
    assert [line for line in reporter.lines if line.startswith("warning")] == [WARNING]


def test_what_is_missing_is_said_before_anything_is_written(tmp_path, monkeypatch, cli):
    with pytest.raises(
        UsageError, match="unknown logger 'comet': the loggers are tensorboard, wandb, mlflow"
    ):
        residual.train(RECIPE, output=tmp_path / "run", logger=["comet"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    code, _, err = cli(
        "train", "resnet8", "--data", "digits", "--logger", "wandb", "--output", tmp_path / "r"
    )
    assert (code, err) == (
        2,
        "residual: the logger wandb needs wandb: pip install -c constraints.txt -e '.[wandb]'\n",
    )
    assert not list(tmp_path.iterdir())


def test_a_damaged_file_of_ids_is_no_fault_and_a_new_logger_gets_all_records(kept, plain):
    (plain / "loggers.json").write_text('["x"')
    with Tracker(Run.open(plain), ["wandb"], Heard()) as tracker:
        tracker.begin()
    assert kept.opened == [None]
    assert kept.points == points_of(Run.open(plain))


def test_names_in_the_confusion_matrix_may_be_anything():
    from residual.training.loggers.pictures import draw_confusion

    names = ["$x", "日本", "a_very_long_name_of_a_class_indeed", "\\frac", "", "<b>"]
    assert draw_confusion([[1] * 6] * 6, names).size > (100, 100)
    assert draw_confusion([[0] * 300] * 300, [str(n) for n in range(300)]).size > (100, 100)


# TensorBoard


def test_tensorboard_has_each_step_once_after_a_resume(tmp_path, stop_at, plain):
    pytest.importorskip("tensorboard")

    def kill(_trainer):
        raise MemoryError("as kill -9 would")

    restore = stop_at(7, kill)
    with pytest.raises(RunError):
        residual.train(RECIPE, output=tmp_path / "run", logger="tensorboard", quiet=True)
    restore()
    for path in (tmp_path / "run/checkpoints").glob("last-00000006.pt*"):
        path.unlink()
    result = residual.resume(tmp_path / "run", quiet=True)
    assert result.figures["model_sha256"] == Run.open(plain).result["model_sha256"], (
        "the same weights as without"
    )
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(tmp_path / "run/tensorboard")).Reload()
    for kind in ("train", "validation"):
        for key in ("loss", "error"):
            shown = [(event.step, event.value) for event in found.Scalars(f"{kind}/{key}")]
            records = Run.open(tmp_path / "run").metrics(kind)
            assert shown == [(record["step"], pytest.approx(record[key])) for record in records]
    assert found.Scalars("result/error")[0].value == pytest.approx(result.error)
    assert {"curves", "confusion"} <= set(found.Tags()["images"])
    assert "recipe/text_summary" in found.Tags()["tensors"]


# Weights & Biases and MLflow, where they are installed


@pytest.mark.slow
def test_wandb_offline(wandb, tmp_path, stop_at, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    reporter = Heard()
    restore = stop_at(5, lambda _: setattr(stop_signals, "number", 15))
    with pytest.raises(InterruptedRunError):
        residual.train(RECIPE, output=tmp_path / "run", logger="wandb", reporter=reporter)
    restore()
    assert not [line for line in reporter.lines if line.startswith("warning")]
    name = json.loads((tmp_path / "run/loggers.json").read_text())["wandb"]
    residual.resume(tmp_path / "run", reporter=reporter)
    assert not [line for line in reporter.lines if line.startswith("warning")]
    wandb.teardown()  # waits until files are written
    parts = sorted((tmp_path / "run/wandb").glob(f"offline-run-*-{name}/run-{name}.wandb"))
    assert len(parts) == 2, "two parts of one run"
    rows = [row for part in parts for row in read_rows(part)]
    steps = [row["step"] for row in rows if "train/loss" in row or "validation/loss" in row]
    assert steps == [record["step"] for record in Run.open(tmp_path / "run").metrics()]
    assert any(key.startswith("curves") for key in rows[-1])
    assert any(key.startswith("confusion") for key in rows[-1])


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file of wandb's: 7 bytes, then records in LevelDB's log format."""
    from wandb.proto import wandb_internal_pb2

    content, place, part, rows = path.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:  # the rest of a block that has no room for a header
            place += 32768 - place % 32768
        size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        part, place = part + content[place + 7 : place + 7 + size], place + 7 + size
        if kind in (1, 4):  # whole, or the last part
            record, part = wandb_internal_pb2.Record.FromString(part), b""
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """Weights & Biases without an account and without settings of before."""
    library = pytest.importorskip("wandb", reason="needs wandb, which is in no extra that tests install")
    for key in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    library.teardown()
    yield library
    library.teardown()


@pytest.mark.slow
def test_wandb_without_a_login_is_given_up(wandb, tmp_path):
    reporter = Heard()
    residual.train(RECIPE, output=tmp_path / "run", logger="wandb", reporter=reporter)
    (warning,) = [line for line in reporter.lines if line.startswith("warning")]
    assert warning.startswith("warning: nothing more is logged to wandb: there is no login: `wandb login`")


@pytest.mark.slow
def test_mlflow_in_a_local_store(tmp_path, stop_at, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow, which is in no extra that tests install")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    reporter = Heard()

    def kill(_trainer):
        raise MemoryError("as kill -9 would")

    restore = stop_at(7, kill)
    with pytest.raises(RunError):
        residual.train(RECIPE, output=tmp_path / "run", logger="mlflow", reporter=reporter)
    restore()
    for path in (tmp_path / "run/checkpoints").glob("last-00000006.pt*"):
        path.unlink()
    result = residual.resume(tmp_path / "run", reporter=reporter)
    assert not [line for line in reporter.lines if line.startswith("warning")]
    name = json.loads((tmp_path / "run/loggers.json").read_text())["mlflow"]
    client = mlflow.MlflowClient()
    for kind in ("train", "validation"):
        history = client.get_metric_history(name, f"{kind}/error")
        records = Run.open(tmp_path / "run").metrics(kind)
        assert [(point.step, point.value) for point in history] == [(r["step"], r["error"]) for r in records]
    found = client.get_run(name)
    assert found.info.status == "FINISHED"
    assert found.data.metrics["result/error"] == result.error
    assert found.data.params["optimizer.learning_rate"] == str(RECIPE.optimizer.learning_rate)
    assert {file.path for file in client.list_artifacts(name)} >= {"curves.png", "confusion.png"}


@pytest.mark.slow
def test_mlflow_without_a_server_is_given_up(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs mlflow, which is in no extra that tests install")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    for key in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(key, "1")
    reporter = Heard()
    residual.train(RECIPE, output=tmp_path / "run", logger="mlflow", reporter=reporter)
    (warning,) = [line for line in reporter.lines if line.startswith("warning")]
    assert warning.startswith("warning: nothing more is logged to mlflow: MlflowException: ")
