"""Which images `predict` is given, and the files that features go to."""

import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from odd_files import picture_folder
from residual.errors import DataError, UsageError
from residual.inference.feature_files import feature_file
from residual.inference.inputs import find_images


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return picture_folder(tmp_path_factory.mktemp("inputs") / "photos")


def found(*given, listed=None):
    return list(find_images([str(name) for name in given], None if listed is None else io.BytesIO(listed)))


def names_of(paths):
    return [Path(path).name for path in paths]


def test_files_folders_patterns_and_lists(folder, monkeypatch):
    monkeypatch.chdir(folder)
    all_below = ["a.png", "b.jpg", "deep/d.webp", "deep/er/c.JPG"]
    assert [os.path.relpath(path) for path in found(folder)] == [os.path.normpath(name) for name in all_below]
    assert found("b.jpg", "a.png", "notes.txt", "missing") == ["b.jpg", "a.png", "notes.txt", "missing"]
    assert found("*.jpg", "*.none") == ["b.jpg", "*.none"]
    assert names_of(found("**/*.[jJw]*")) == ["b.jpg", "d.webp", "c.JPG"]
    assert len(found("**")) == 6, "each file once, though folders match too"
    assert names_of(found("dee*")) == ["d.webp", "c.JPG"]
    lines = b"b.jpg\r\n\n" + os.fsencode(str(folder)) + b"\na b.jpg"
    assert found("a.png", "-", listed=lines)[:2] == ["a.png", "b.jpg"]
    assert len(found("-", listed=lines)) == 6
    assert found("-", listed=b"a\nb.jpg\0c.jpg\0") == ["a\nb.jpg", "c.jpg"]


def test_a_file_whose_name_is_a_pattern_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("[a].jpg", "a.jpg"):
        (tmp_path / name).write_bytes(b"")
    assert found("[a].jpg") == ["[a].jpg"]
    assert found("[a].jp*") == ["a.jpg"]


def test_nothing_to_classify_is_an_error(tmp_path):
    for given in ([], ["-", "-"], ["-"]):
        with pytest.raises(UsageError, match=r"which images|only once|is closed"):
            found(*given)
    for given, listed in (([tmp_path], None), (["-"], b"\n\n")):
        with pytest.raises(DataError, match=r"there are no images in (/|.:|standard input)"):
            found(*given, listed=listed)


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_feature_files_are_complete_or_not_there(tmp_path, suffix, monkeypatch):
    path = tmp_path / f"f{suffix}"
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        monkeypatch.setattr("residual.inference.feature_files.ROWS", 3)
    rows = torch.arange(70.0).reshape(10, 7)
    with pytest.raises(RuntimeError), feature_file(path, 7) as file:
        file.add("a", rows[0] + torch.ones(9))  # a fault in the middle
    assert not list(tmp_path.iterdir())
    with feature_file(path, 7) as file:  # of no image
        pass
    with feature_file(path, 7) as file:
        for number, row in enumerate(rows):
            file.add(f"{number}\udcff\n", row)
    if suffix == ".npy":
        assert np.array_equal(np.load(path), rows.numpy())
        assert json.loads((tmp_path / "f.paths.json").read_text())[3] == "3\udcff\n"
    else:
        from pyarrow import parquet

        table = parquet.read_table(path)
        assert table["features"].to_pylist() == rows.tolist()
        assert table["path"].to_pylist()[3] == "3\\udcff\n"


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    said = r"pip install .*\[parquet\]"
    with pytest.raises(UsageError, match=said), feature_file(tmp_path / "f.parquet", 7):
        pass
    assert not list(tmp_path.iterdir())
