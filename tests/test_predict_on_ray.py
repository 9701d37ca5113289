"""`residual predict --on ray`: answers as without, kept in parts, and gone on with after any kind of end.

What needs Ray itself is slow, and skipped where Ray is not installed.
"""

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import psutil
import pytest
import torch
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import faults
import residual
from odd_files import bad_files, encode, picture
from residual.errors import DataError, RunError, UsageError
from residual.inference import on_ray, parts
from residual.inference.classifier import Prediction
from residual.inference.many import Answer, Load, classify_files
from residual.inference.parts import ASKED, Content, Parts, open_parts
from residual.inference.shards import ShardImages
from residual.runtime.signals import Interrupted
from small_models import small_model

BATCH, PART = 3, 6  # images, in the quick tests
IMAGES = 20


@pytest.fixture(autouse=True)
def threads():
    """Give this process its threads back: one that predicts for Ray takes a single one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("ray") / "model", temperature=1.5)


def write_photos(folder, count):
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:04}.jpg").write_bytes(encode(picture(30 + number % 20, 60, number), "JPEG"))
    bad_files(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", IMAGES)


@pytest.fixture
def paths(photos):
    return sorted(map(str, photos.iterdir()))


@pytest.fixture
def classifier(model, monkeypatch):
    monkeypatch.setattr(residual.Classifier, "images_at_once", BATCH)
    monkeypatch.setattr(parts, "IMAGES", PART + 1)
    return residual.Classifier(model)


def opened(folder, classifier, paths, **options):
    return open_parts(folder, classifier, paths, **{"top": 2, "features": False, **options})


def fill(found, classifier, numbers, features=False):
    """Do what Ray does, in this process."""
    for number in numbers:
        answers = classify_files(classifier, found.block(number), top=2, features=features, workers=0)
        found.write(number, Content.of(list(answers)))


@pytest.mark.parametrize("features", [False, True])
def test_the_parts_in_order_are_the_answers_of_all_images_in_a_row(classifier, paths, tmp_path, features):
    wanted = list(classify_files(classifier, paths, top=2, features=features, workers=0))
    with opened(tmp_path / "out", classifier, paths, features=features) as found:
        assert found.size == PART
        assert found.missing() == list(range(-(-len(paths) // PART)))
        fill(found, classifier, [3, 0], features)
    with opened(tmp_path / "out", classifier, paths, features=features) as found:
        assert found.missing() == [number for number in range(len(found)) if number not in (0, 3)]
        fill(found, classifier, found.missing(), features)
        read = list(found.read())
    assert sum(answer.error is not None for answer in read) == len(paths) - IMAGES > 0
    assert [answer.as_dict() for answer in read] == [answer.as_dict() for answer in wanted]
    for one, other in zip(read, wanted, strict=True):
        assert (one.features is None) == (other.features is None)
        assert one.features is None or torch.equal(one.features, other.features)


text = st.text(st.characters(exclude_categories=())).map(lambda name: name.replace("\0", "x"))
shares = st.integers(0, 10**17).map(lambda count: count / 10**17)
predictions = st.lists(st.builds(Prediction, text, shares), min_size=1, max_size=3).map(tuple)


@given(st.lists(st.builds(Answer, text, predictions) | st.builds(Answer, text, error=text), min_size=1))
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_answer_comes_back(tmp_path_factory, answers):
    found = Parts(tmp_path_factory.mktemp("any"), [answer.path for answer in answers], len(answers), 0)
    found.write(0, Content.of(answers))
    assert list(found.read()) == answers


@given(st.binary(max_size=300), st.integers(0, 2000))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_damaged_files_are_named(tmp_path_factory, content, cut):
    folder = tmp_path_factory.mktemp("damaged")
    answers = [Answer("a.jpg", (Prediction("ant", 0.5),), None, torch.zeros(3)), Answer("b.jpg", error="no")]
    found = Parts(folder, ["a.jpg", "b.jpg"], 2, 3)
    found.write(0, Content.of(answers))
    assert len(list(found.read())) == 2
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        others = (
            content[:11],
            whole[: cut % (len(whole) - 1)],
            whole.replace(b"r", b"s") + b"s",
            b"[" * 10_000,
        )
        for other in others:
            path.write_bytes(other)
            with pytest.raises(DataError, match=r"part-00000000\.jsonl is damaged: remove it"):
                list(found.read())
        path.write_bytes(whole)
    (folder / "part-00000000.features").unlink()
    with pytest.raises(DataError, match="is damaged"):
        list(found.read())


def test_a_folder_of_other_answers_is_refused(classifier, model, paths, tmp_path):
    out = tmp_path / "out"
    with opened(out, classifier, paths) as found:
        fill(found, classifier, [0])
    other = residual.Classifier(small_model(tmp_path / "other", temperature=1.5, seed=1))
    cooler = residual.Classifier(small_model(tmp_path / "cooler", temperature=1.6))
    for options, words in (
        ({"classifier": other}, "another model"),
        ({"classifier": cooler}, "another model"),
        ({"paths": paths[1:]}, "other images"),
        ({"paths": paths[::-1]}, "other images"),
        ({"top": 3}, "another --top"),
        ({"top": 3, "features": True}, "another --top, another choice of --features"),
    ):
        with (
            pytest.raises(RunError, match=f"answers to something else \\({words}\\)"),
            opened(out, **{"classifier": classifier, "paths": paths, **options}),
        ):
            pass
    os.utime(paths[4], ns=(1, 1))
    with pytest.raises(RunError, match="other images"), opened(out, classifier, paths):
        pass
    for content in (b"", b"[]", b"{}", b"\xff", b"[" * 10_000, b'{"format": 1}'):
        (out / ASKED).write_bytes(content)
        with pytest.raises(RunError, match=r"asked\.json is damaged"), opened(out, classifier, paths):
            pass
    (out / ASKED).unlink()
    with pytest.raises(RunError, match="other files"), opened(out, classifier, paths):
        pass
    assert sorted(path.name for path in out.glob("[!.]*")) == ["part-00000000.jsonl"]


def test_a_folder_has_one_writer_and_no_leftovers(classifier, paths, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with opened(out, classifier, paths) as found:
        with pytest.raises(RunError, match="another process writes to"), opened(out, classifier, paths):
            pass
        fill(found, classifier, [0])
    (out / ".part-00000001.jsonl.77.tmp").write_bytes(b"half")
    with opened(out, classifier, paths) as found:
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
        with pytest.raises(RunError, match=r"cannot keep answers in .*: No space left"):
            fill(found, classifier, [1])
    names = {path.name for path in out.iterdir()} - {".lock"}
    assert names == {ASKED, "part-00000000.jsonl"}
    FileLock(out / ".lock", timeout=0).acquire()


@pytest.fixture
def here(monkeypatch, classifier):
    """Blocks are predicted in this process, the last one first; `stop_after` blocks a signal arrives."""
    state = types.SimpleNamespace(stop_after=None, done=[])

    def predicted(job):
        for number in reversed(job.numbers):
            if len(state.done) == state.stop_after:
                raise Interrupted(signal.SIGTERM)
            state.done.append(number)
            block = job.blocks.parts.block(number)
            answers = classify_files(classifier, block, workers=0, **job.options)
            yield number, Content.of(list(answers))

    monkeypatch.setattr(on_ray, "check_installed", lambda: None)
    monkeypatch.setattr(on_ray, "_predicted", predicted)
    return state


def test_a_stopped_command_goes_on_and_shows_what_plain_predict_shows(cli, here, model, photos, tmp_path):
    def ray(*options):
        return cli("predict", model, photos, *options, "--on", "ray", "--output", tmp_path / "out")

    here.stop_after = 2
    code, out, err = ray("--json")
    assert (code, out) == (143, "")
    assert err.splitlines()[-1] == (
        "residual: stopped by SIGTERM: 8 of 26 images are done; the same command goes on with the rest"
    )
    here.stop_after = None
    assert ray("--json") == cli("predict", model, photos, "--json", "--workers", 0)
    assert here.done == [4, 3, 2, 1, 0], "a part is predicted once"
    for options in ((), ("--unsure", 0.5), ("--quiet",)):
        assert ray(*options) == cli("predict", model, photos, *options, "--workers", 0)
    plain, its = tmp_path / "plain.csv", tmp_path / "ray.csv"
    cli("predict", model, photos, "--csv", plain, "--workers", 0)
    assert ray("--csv", its)[0] == 3
    assert its.read_bytes() == plain.read_bytes()
    assert len(here.done) == 5


def test_features_by_parts(cli, here, model, photos, tmp_path):
    options = ("--csv", tmp_path / "a.csv", "--features", tmp_path / "f.npy")
    cli("predict", model, photos, *options, "--workers", 0)
    wanted = [(tmp_path / name).read_bytes() for name in ("a.csv", "f.npy", "f.paths.json")]
    cli("predict", model, photos, *options, "--on", "ray", "--output", tmp_path / "out")
    assert [(tmp_path / name).read_bytes() for name in ("a.csv", "f.npy", "f.paths.json")] == wanted


def test_the_process_that_predicts_decodes_or_takes_what_others_decoded(classifier, paths, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(get=lambda value: value))
    found = Parts(None, paths, PART, 0)
    blocks = on_ray._Blocks(found, Load(classifier.config.preprocessing), str(Path.cwd()))
    predict = on_ray._Predictor(classifier.network, blocks, "cpu", {"top": 2, "features": True})
    wanted = [answer.as_dict() for answer in classify_files(classifier, paths, top=2, workers=0)]
    answered = []
    for number in range(len(found)):
        row = predict({"number": number})
        assert predict(on_ray._decoded({"number": number}, blocks)) == row
        answered += map(json.loads, row["answers"].splitlines())
    assert answered == wanted


def test_options_that_do_not_fit(cli, model, photos, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    ray = ("--on", "ray", "--output", tmp_path / "out")
    for options, words in (
        (("--on", "spark"), "--on takes ray, not 'spark'"),
        (("--on", "ray"), "--output FOLDER"),
        (("--output", tmp_path / "out"), "--on ray goes with --output"),
        ((*ray, "--engine", "onnx"), "leave --engine out"),
        (ray, "--on ray needs Ray: pip install"),
    ):
        code, out, err = cli("predict", model, photos, *options)
        assert (code, out) == (2, "")
        assert words in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    assert cli("predict", model, photos / "0000.jpg")[0] == 0, "without --on, Ray is not looked for"


FAMILY = """
import subprocess, sys, time
from residual.runtime.leftovers import no_leftovers
with no_leftovers():
    start = "import subprocess, time; child = subprocess.Popen(['sleep', '100'], start_new_session=True)"
    start += "; print(child.pid, flush=True); time.sleep(100)"
    child = subprocess.Popen([sys.executable, "-c", start])
    sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals and sleep")
@pytest.mark.parametrize("killed", [True, False])
def test_processes_that_libraries_start_end_with_this_one(killed):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", FAMILY], text=True, **pipes) as process:
        grandchild = psutil.Process(int(process.stdout.readline()))
        child = grandchild.parent()
        process.kill() if killed else process.stdin.write("\n")
        process.stdin.close()
        assert psutil.wait_procs([grandchild, child], timeout=60)[1] == []


# With Ray itself, as users run it.


class Command:
    """`residual predict` in a process of its own."""

    def __init__(self, *arguments):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "residual", "predict", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.children = []

    def end(self):
        """Return exit code and outputs; no process of it may be left."""
        out, err = self.process.communicate(timeout=300)
        _, alive = psutil.wait_procs(self.children, timeout=120)
        assert not alive, [child.cmdline() for child in alive]
        return self.process.returncode, out, err

    def send(self, number):
        """Send a signal, having noted all processes that it started."""
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(number)


def wait_for(condition, process):
    started = time.monotonic()
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - started < 300
        time.sleep(0.05)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Images of several parts."""
    return write_photos(tmp_path_factory.mktemp("ray") / "many", 1000)


@pytest.fixture(scope="module")
def plain(many):
    return Command("resnet20", many, "--json").end()


@needs_ray
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
def test_ray_killed_and_gone_on_with(many, plain, tmp_path, number):
    out = tmp_path / "out"
    ray = ("resnet20", many, "--json", "--on", "ray", "--output", out, "--workers", 1)
    command = Command(*ray)
    wait_for(lambda: list(out.glob("part-*.jsonl")), command.process)
    command.send(number)
    code, shown, err = command.end()
    assert code == (-number if number == signal.SIGKILL else 128 + number), err
    assert command.children
    assert shown == ""
    if number != signal.SIGKILL:
        assert err.splitlines()[-1].startswith(f"residual: stopped by {number.name}: ")
    before = {path: path.stat().st_mtime_ns for path in out.glob("part-*.jsonl")}
    code, shown, err = Command(*ray).end()
    assert (code, shown) == plain[:2]
    assert sorted(err.splitlines()) == sorted(plain[2].splitlines()), "nothing of Ray's own is printed"
    assert {path: path.stat().st_mtime_ns for path in before} == before


@needs_ray
@pytest.mark.faults
def test_ray_killed_at_random_moments(many, plain, tmp_path):
    tries = 10
    for seed in range(tries):
        out = tmp_path / str(seed)
        ray = ("resnet20", many, "--json", "--on", "ray", "--output", out)
        command = Command(*ray)
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.process.wait(1 + 1.5 * seed)
        if command.process.poll() is None:
            command.send(signal.SIGKILL)
            assert command.end()[0] == -signal.SIGKILL
        assert Command(*ray).end()[:2] == plain[:2]
    faults.record(
        1,
        "predict --on ray killed at random moments",
        tries,
        "the same command went on; its output was plain predict's, byte for byte; no process was left",
    )


@needs_ray
@pytest.mark.slow
def test_a_process_of_ray_that_is_killed_is_replaced(many, plain, tmp_path):
    out = tmp_path / "out"
    command = Command("resnet20", many, "--json", "--on", "ray", "--output", out, "--workers", 1)
    wait_for(lambda: list(out.glob("part-*.jsonl")), command.process)
    children = psutil.Process(command.process.pid).children(recursive=True)
    workers = [child for child in children if "MapWorker" in " ".join(child.cmdline())]
    assert workers
    for worker in workers:
        worker.kill()
    assert command.end()[:2] == plain[:2]


@needs_ray
@pytest.mark.slow
def test_a_ray_that_is_killed_is_one_line(many, tmp_path):
    out = tmp_path / "out"
    command = Command("resnet20", many, "--json", "--on", "ray", "--output", out, "--workers", 1)
    wait_for(lambda: list(out.glob("part-*.jsonl")), command.process)
    command.children = psutil.Process(command.process.pid).children(recursive=True)
    for child in command.children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    code, shown, err = command.end()
    assert (code, shown) == (3, "")
    assert err.splitlines()[-1].startswith("residual: Ray gave up: ")


@needs_ray
@pytest.mark.slow
def test_a_ray_that_does_not_start(cli, model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "START", 0)
    code, out, err = cli("predict", model, photos, "--on", "ray", "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].endswith("Ray cannot be started or reached: no answer in 0 s")


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_is_not_there(cli, model, photos, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    code, out, err = cli("predict", model, photos, "--on", "ray", "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert "Ray cannot be started or reached" in err.splitlines()[-1]


def test_shards_are_refused(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(on_ray, "check_installed", lambda: None)
    with pytest.raises(UsageError, match="not those in shards"):
        next(on_ray.classify_on_ray(classifier, ShardImages(()), tmp_path / "out"))
