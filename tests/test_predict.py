"""`residual predict`: which images, in which form the answers come, and what happens to the bad ones."""

import csv
import errno
import io
import json
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import residual
from odd_files import bad_files, encode, picture, picture_folder
from residual.data.photos import SourceError
from residual.data.shards.write import write_shards
from residual.inference.inputs import find_images
from residual.inference.many import classify_files
from residual.runtime.progress import Reporter
from small_models import NAMES, small_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("predict") / "model", temperature=1.5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return picture_folder(tmp_path_factory.mktemp("predict") / "photos")


def found(*given):
    return list(find_images([str(name) for name in given]))


def read_csv(path):
    # names that are not UTF-8 keep their bytes
    with path.open(encoding="utf-8", errors=sys.getfilesystemencodeerrors(), newline="") as file:
        return list(csv.DictReader(file))


def test_one_image_is_a_table_and_several_are_lines(cli, model, folder):
    code, out, err = cli("predict", model, folder / "a.png", "--top", 3)
    assert code == 0
    assert err == "note: probabilities are calibrated, at temperature 1.5\n"
    first, *rows = out.splitlines()
    best = residual.Classifier(model)(folder / "a.png", top=3)
    assert first == str(folder / "a.png")
    assert [row.split() for row in rows] == [[f"{100 * p:.2f}", "%", name] for name, p in best]
    code, out, _ = cli("predict", model, folder, "--top", 1)
    paths = [line.partition(": ")[0] for line in out.splitlines()]
    assert paths == found(folder)
    assert f"{folder / 'a.png'}: {best[0].class_name} {100 * best[0].probability:.2f} %" in out


def test_shipped_networks_say_that_they_are_not_calibrated(cli, folder):
    code, out, err = cli("predict", "resnet20", folder / "b.jpg")
    assert (code, len(out.splitlines())) == (0, 6)
    assert err == "note: probabilities are not calibrated: no temperature was fitted for this model\n"


def test_unsure_answers_are_marked_in_every_form(cli, model, folder, tmp_path):
    best = [answer[0].probability for answer in residual.Classifier(model)(found(folder))]
    limit = (sorted(best)[1] + sorted(best)[2]) / 2
    unsure = [probability < limit for probability in best]
    assert 0 < sum(unsure) < len(unsure)
    _, out, _ = cli("predict", model, folder, "--unsure", limit)
    assert [": unsure (" in line for line in out.splitlines()] == unsure
    _, out, _ = cli("predict", model, folder, "--unsure", limit, "--json")
    assert [answer.get("unsure", False) for answer in json.loads(out)] == unsure
    cli("predict", model, folder, "--unsure", limit, "--csv", tmp_path / "a.csv")
    rows = read_csv(tmp_path / "a.csv")
    assert [row["unsure"] == "yes" for row in rows] == unsure
    _, out, _ = cli("predict", model, found(folder)[unsure.index(True)], "--unsure", limit)
    assert out.splitlines()[0].endswith(": unsure")


def test_a_hundred_images_with_bad_ones(cli, model, tmp_path):
    root = tmp_path / "many"
    root.mkdir()
    for number in range(93):
        (root / f"{number:03}.jpg").write_bytes(encode(picture(20 + number, 60, number), "JPEG"))
    bad = set(map(str, bad_files(root).values()))
    inputs = (root, root / "drawing.svg", root / "missing.jpg")
    bad.add(str(root / "missing.jpg"))
    code, out, err = cli("predict", model, *inputs, "--workers", 2, "--json", "--top", 2)
    assert code == 3
    *named, last = err.splitlines()
    answers = json.loads(out)
    assert [answer["path"] for answer in answers] == found(*inputs)
    assert {answer["path"] for answer in answers if "error" in answer} == bad
    assert all(answer.keys() == {"path", "error"} for answer in answers if "error" in answer)
    assert all(len(answer["predictions"]) == 2 for answer in answers if "error" not in answer)
    assert last == f"residual: {len(bad)} of 101 images cannot be decoded"
    assert {line.split(": ")[0] for line in named[1:]} == {f"cannot decode {path}" for path in bad}
    code, lines, _ = cli("predict", model, *inputs, "--workers", 0)
    assert code == 3
    assert len(lines.splitlines()) == 93
    cli("predict", model, *inputs, "--csv", tmp_path / "all.csv", "--top", 50)
    rows = read_csv(tmp_path / "all.csv")
    assert {row["path"] for row in rows if row["error"]} == bad
    best = [row["class"] for row in rows if not row["error"]]
    assert best == [a["predictions"][0]["class"] for a in answers if "error" not in a]
    assert f"class_{len(NAMES)}" in rows[0]
    assert f"class_{len(NAMES) + 1}" not in rows[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--top", 0), "--top"),
        (("--unsure", 1.5), "from 0 to 1"),
        (("--json", "--csv", "a.csv"), "give one of them"),
        (("--features", "a.txt"), ".npy or .parquet"),
        (("--features", "a.npy", "--engine", "onnx"), "leave --engine out"),
        (("--csv", "no-such-folder/a.csv"), "cannot write"),
        (("--engine", "fast"), "unknown engine"),
        (("--engine", "int8"), "--calibration FOLDER"),
        (("--calibration", "."), "--engine int8"),
        (("--workers", -1), "--workers"),
    ],
)
def test_options_that_do_not_fit(cli, model, folder, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = cli("predict", model, folder, *options)
    assert (code, out) == (2, "")
    assert words in err
    assert not list(tmp_path.iterdir()), "nothing is left behind"


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_features_of_the_good_images_in_order(cli, model, folder, tmp_path, suffix):
    path = tmp_path / f"f{suffix}"
    bad = folder / "notes.txt"
    code, out, _ = cli("predict", model, bad, folder, "--features", path, "--json")
    assert code == 3
    assert len(json.loads(out)) == 5
    if suffix == ".npy":
        values, paths = np.load(path), json.loads((tmp_path / "f.paths.json").read_text())
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        table = parquet.read_table(path).to_pydict()
        values, paths = np.array(table["features"], np.float32), table["path"]
    classify = residual.Classifier(model)
    assert paths == found(folder)
    wanted = np.stack([classify.features(classify.load(path)[None])[0].numpy() for path in paths])
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, wanted, atol=1e-5)
    with_features = [answer["predictions"] for answer in json.loads(out) if "error" not in answer]
    for answer, other in zip(with_features, classify(paths), strict=True):
        assert [p["class"] for p in answer] == [p.class_name for p in other]
        assert [p["probability"] for p in answer] == pytest.approx([p.probability for p in other], abs=1e-5)


def test_an_interruption_leaves_no_half_written_file(cli, model, folder, tmp_path, monkeypatch):
    def interrupt(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(residual.Classifier, "best", interrupt)
    files = ("--csv", tmp_path / "a.csv", "--features", tmp_path / "f.npy")
    code, out, err = cli("predict", model, folder, *files)
    assert (code, out) == (130, "")
    assert err.splitlines()[-1] == "residual: interrupted"
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_of_any_bytes(cli, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = encode(picture(30, 40), "PNG")
    names = [
        b":cat:[red].png",
        b"new\nline.png",
        b"not-utf-8-\xff.png",
        "Größe 猫.png".encode(),
        b"-top.png",
        b'a,"b".png',
    ]
    for name in names:
        (tmp_path / os.fsdecode(name)).write_bytes(content)
    code, out, err = cli("predict", model, "--csv", "a.csv", "--", *map(os.fsdecode, names))
    assert code == 0, err
    assert [os.fsencode(row["path"]) for row in read_csv(tmp_path / "a.csv")] == names
    code, out, err = cli("predict", model, ".", "--json")
    assert code == 0, err
    assert {os.fsencode(answer["path"]) for answer in json.loads(out)} == {b"./" + name for name in names}
    assert cli("predict", model, ".", "-no-such-option")[0] == 2
    _, _, err = cli("predict", model, ":cat:[red] missing.png")
    assert "cannot decode :cat:[red] missing.png: No such file" in err
    code, out, err = cli("predict", model, ".", "--top", 1)
    assert code == 0
    assert len(out.splitlines()) == len(names)
    assert "new\\nline.png" in out
    assert "not-utf-8-\\udcff.png" in out
    assert "Größe 猫.png" in out


def test_a_list_on_standard_input_and_a_terminal_that_shows_ascii(cli, model, folder, tmp_path, monkeypatch):
    odd = tmp_path / "Größe 猫.png"
    odd.write_bytes((folder / "a.png").read_bytes())
    listed = b"\n".join(os.fsencode(path) for path in (*found(folder), odd))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(listed)))
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii", write_through=True))
    code, _, err = cli("predict", model, "-", "--top", 1)
    assert code == 0, err
    lines = written.getvalue().decode("ascii").splitlines()
    assert len(lines) == 5
    assert lines[-1].startswith(f"{tmp_path}{os.sep}Gr\\xf6\\xdfe \\u732b.png: ")


class Pipe(io.StringIO):
    """Standard output whose reader leaves after so many lines."""

    def __init__(self, lines):
        super().__init__()
        self.lines = lines

    def write(self, text):
        if self.getvalue().count("\n") >= self.lines:
            raise BrokenPipeError(errno.EPIPE, "the reader is gone")
        return super().write(text)


def test_a_reader_that_leaves_ends_the_work_quietly(cli, model, folder, tmp_path, monkeypatch):
    batches, best = [], residual.Classifier.best
    monkeypatch.setattr(residual.Classifier, "best", lambda *given: batches.append(1) or best(*given))
    monkeypatch.setattr(residual.Classifier, "images_at_once", 1)
    monkeypatch.setattr(sys, "stdout", Pipe(2))
    code, _, err = cli("predict", model, folder, folder / "notes.txt", "--top", 1)
    assert (code, len(err.splitlines())) == (0, 1)
    assert len(batches) == 3
    monkeypatch.setattr(sys, "stdout", Pipe(2))
    files = ("--features", tmp_path / "f.npy")
    code, _, _ = cli("predict", model, folder, folder / "notes.txt", *files)
    assert code == 3
    assert len(np.load(tmp_path / "f.npy")) == 4, "a file is written whole all the same"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_leaves_output_that_goes_elsewhere_alone(monkeypatch):
    output, terminal = io.StringIO(), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", output)
    monkeypatch.setenv("TERM", "xterm")
    with Reporter() as reporter, reporter.working("images", 5):
        sys.stdout.write("an answer\n")
    assert output.getvalue() == "an answer\n"
    assert "0/5" in terminal.getvalue()


def test_a_bar_on_the_terminal_takes_nothing_from_the_output(cli, model, folder, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    code, out, _ = cli("predict", model, folder, folder / "notes.txt", "--json")
    assert code == 3
    assert len(json.loads(out)) == 5
    shown = terminal.getvalue()
    assert "0/5" in shown
    assert f"cannot decode {folder / 'notes.txt'}: " in shown


def test_the_batches_do_not_wait_for_all_images(model, folder, monkeypatch):
    """Pixels of a batch at most are in memory: the answers to the first come before the last are decoded."""
    classify = residual.Classifier(model)
    monkeypatch.setattr(type(classify), "images_at_once", 2)
    done = []
    answers = classify_files(classify, found(folder) * 3, workers=0, progress=done.append)
    next(answers)
    assert done == []
    list(answers)
    assert done == [2, 4, 6, 8, 10, 12]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_shards_are_answered_as_in_the_folder_by_their_paths_in_the_index(
    workers, cli, model, photographs, tmp_path
):
    write_shards(photographs, tmp_path / "shards", size=60_000)
    answers = {}
    for place in (photographs, tmp_path / "shards"):
        code, out, err = cli("predict", model, place, "--json", "--workers", workers)
        assert code == 0, err
        answers[place] = json.loads(out)
    for answer in answers[photographs]:
        answer["path"] = str(Path(answer["path"]).relative_to(photographs))
    by_path = sorted(answers[tmp_path / "shards"], key=lambda answer: answer["path"])
    assert by_path == sorted(answers[photographs], key=lambda answer: answer["path"])


def test_shards_that_are_broken_or_not_alone(cli, model, photographs, tmp_path):
    out = tmp_path / "shards"
    write_shards(photographs, out, size=60_000)
    code, _, err = cli("predict", model, out, photographs)
    assert (code, f"{out} holds shards, which are given alone" in err) == (2, True)
    path = out / "train-000000.tar"
    content = bytearray(path.read_bytes())
    content[512:1024] = bytes(512)
    path.write_bytes(content)
    code, _, err = cli("predict", model, out, "--csv", tmp_path / "answers.csv")
    assert (code, err.count("cannot decode train/ant/0.jpg: ")) == (3, 1)
    assert len(read_csv(tmp_path / "answers.csv")) == 36
    path.write_bytes(content[:-1])
    code, _, err = cli("predict", model, out)
    assert (code, "copy it again" in err) == (3, True)


def test_a_shard_that_goes_while_images_are_answered_ends_it_by_name(model, photographs, tmp_path):
    write_shards(photographs, tmp_path / "shards", size=60_000)
    images = find_images([str(tmp_path / "shards")])
    (tmp_path / "shards" / "val-000000.tar").unlink()
    with pytest.raises(SourceError, match=r"cannot read .*val-000000\.tar at byte 512"):
        list(classify_files(residual.Classifier(model), images, workers=0))
