"""Photographs that cannot be trained on: from the command line, each fault is one line with its exit code."""

import errno

import pytest

from residual.data import decoded, hashes
from residual.data.decoded import keep_decoded
from residual.data.folder import load_folder, load_photos
from residual.data.region import whole
from residual.errors import DataError
from test_folders import put

OPTIONS = ["--recipe", "imagenet-epochs", "--image-size", 32, "--batch-size", 8, "--iterations", 2]
OPTIONS += ["--workers", 0, "--device", "cpu"]


@pytest.fixture
def refused(tmp_path, cli, monkeypatch):
    """Train on data in vain, and return exit code and line."""
    monkeypatch.setattr(decoded, "cache_folder", lambda: tmp_path / "cache")

    def call(data, *options):
        run = tmp_path / "run"
        code, out, err = cli("train", "resnet20", "--data", data, *OPTIONS, *options, "--output", run)
        assert (out, run.exists()) == ("", False)
        lines = [line for line in err.splitlines() if not line.startswith("note: ")]
        assert len(lines) == 1, err
        return code, lines[0]

    return call


def pictures(root, count=12):
    """Write two classes of images."""
    return put(root, *(f"{name}/{number}.png" for name in "ab" for number in range(count)), size=40)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["a/0.png", "a/1.png", "a/2.png"], "images of one class only, a: at least two are needed"),
        ([], "holds no image: put the images of each class into a folder of its own"),
        (["a/0.png", "a/1.png", "b/0.png"], "at least two classes need two images or more"),
        (["a/0.png", "b/0.png", "c/0.png"], "of a, b, c there is one only"),
    ],
)
def test_too_few_images(tmp_path, refused, files, words):
    (tmp_path / "data").mkdir()
    code, line = refused(put(tmp_path / "data", *files))
    assert (code, words in line) == (3, True), line


@pytest.mark.parametrize(
    ("text", "options", "code", "words"),
    [
        ("path,label\na/0.png,a\nno.png,b", [], 3, "lists 1 images that do not exist, for example no.png"),
        ("path,label\na/0.png,\nb/0.png,b", [], 3, "line 2, has no label"),
        ("path,colour\na/0.png,a", [], 3, "needs the columns path and label"),
        ("path,label\na/0.png,a|b\nb/0.png,b", [], 3, "line 2, has several labels, a|b"),
        ("path,labels\na/0.png,a", [], 3, "has a column 'labels': an image must have one label"),
        ("path,label,who\n{rows}", ["--group", "who"], 3, "puts all images of a, b on one side"),
        ("path,label,who\n{rows}", ["--group", "plant"], 2, "is none of its columns, path, label, who"),
    ],
)
def test_a_csv_file(tmp_path, refused, text, options, code, words):
    root = pictures(tmp_path / "data")
    rows = "\n".join(f"{name}/{n}.png,{name},me" for name in "ab" for n in range(12))
    file = root / "list.csv"
    file.write_text(text.replace("{rows}", rows))
    found, line = refused(file, *options)
    assert (found, words in line) == (code, True), line


def test_a_column_without_a_name_is_no_split(tmp_path):
    root = pictures(tmp_path / "data")
    rows = [f"{number},{name}/{number}.png,{name}" for name in "ab" for number in range(4)]
    (root / "list.csv").write_text("\n".join([",path,label", *rows]))  # as pandas writes it, with its index
    photos = load_folder(root / "list.csv")
    assert len(photos.train) + len(photos.test) == 8


def test_groups_and_lengths(tmp_path, refused):
    root = pictures(tmp_path / "data")
    for options, code, words in (
        (["--group", "("], 2, "is no regular expression"),
        (["--group", "who=(.)"], 2, "matches no path"),
        (["--group", "^."], 3, "puts all images of a, b on one side"),
        (["--cache", "10K"], 3, "MiB, but 0.01 MiB are allowed"),
        (["--batch-size", 99], 2, "batch_size must be at most the training set's 20, not 99: lower it"),
        (["--validation", 20], 2, "validation must be smaller than the training set of 20"),
    ):
        found, line = refused(root, *options)
        assert (found, words in line) == (code, True), line


def test_a_folder_that_changes_while_it_is_read(tmp_path, refused, monkeypatch):
    root, real = pictures(tmp_path / "data"), hashes.decode

    def decode(path, choose):
        path.unlink(missing_ok=True)
        return real(path, choose)

    monkeypatch.setattr(hashes, "decode", decode)
    code, line = refused(root, "--cache", "1G")
    assert (code, "No such file" in line) == (3, True), line


def test_an_image_that_was_missing_is_decoded_once_it_is_back(tmp_path):
    root = pictures(tmp_path / "data")
    photos, away = load_photos(root), tmp_path / "away.png"
    (root / "a/3.png").rename(away)
    with pytest.raises(DataError, match="No such file"):
        keep_decoded(photos, 32, 1 << 20, tmp_path / "kept").region(5, whole)
    away.rename(root / "a/3.png")
    assert keep_decoded(photos, 32, 1 << 20, tmp_path / "kept").region(5, whole).shape == (40, 40, 3)


def test_a_full_disk_in_the_cache(tmp_path, refused, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hashes, "write_atomically", full)  # hashes are computed again the next time
    monkeypatch.setattr(decoded, "_write", full)
    code, line = refused(pictures(tmp_path / "data"), "--cache", "1G")
    assert (code, "cannot keep decoded images in" in line, "the disk is full" in line) == (3, True, True), (
        line
    )
