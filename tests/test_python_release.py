"""CIFAR's Python release: the same images as in the binary one, and pickles that would run code."""

import dataclasses
import hashlib
import io
import json
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest
import torch

from conftest import _tar_gz
from residual.data import cifar, python_release
from residual.data.load import load_dataset
from residual.errors import DataError


class Python2(pickle._Pickler):
    """Writes strings as Python 2 did, which wrote the official files."""

    def save_string(self, value):
        content = value.encode() if isinstance(value, str) else value
        self.write(b"T" + struct.pack("<i", len(content)) + content)

    dispatch = pickle._Pickler.dispatch | {bytes: save_string, str: save_string}


def official(values) -> bytes:
    buffer = io.BytesIO()
    Python2(buffer, 2).dump(values)
    return buffer.getvalue().replace(b"numpy._core", b"numpy.core")


WAYS = {"Python 2": official, "Python 3": lambda values: pickle.dumps(values, 2)}


def batch_of(fake, name: str, **changes) -> dict:
    """The dictionary that the Python release holds in place of a record file."""
    release = fake.release
    records = np.frombuffer(fake.files[name], np.uint8).reshape(-1, release.label_bytes + cifar.PIXELS)
    labels = {key.encode(): records[:, n].tolist() for n, key in enumerate(release.python_labels)}
    names = [f"image_{n}.png".encode() for n in range(len(records))]
    values = {b"batch_label": b"some", b"filenames": names, **labels}
    return {**values, b"data": records[:, release.label_bytes :].copy(), **changes}


def python_files(fake, write=official) -> dict[str, bytes]:
    files = {name.removesuffix(".bin"): write(batch_of(fake, name)) for name in fake.release.files}
    if fake.release.class_names_file:
        classes = fake.files[fake.release.class_names_file].split()
        files["meta"] = write({b"fine_label_names": classes, b"coarse_label_names": []})
    return files


def put(fake, root, write=official):
    folder = root / fake.release.python_folder
    folder.mkdir(parents=True)
    for name, content in python_files(fake, write).items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def fake(request):
    return request.getfixturevalue(request.param)


both = pytest.mark.parametrize("fake", ["fake_cifar10", "fake_cifar100"], indirect=True)


@both
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("direct", [False, True])
def test_it_holds_the_same_data_set_as_the_binary_release(tmp_path, fake, way, direct):
    fake.put_folder(tmp_path / "binary")
    folder = put(fake, tmp_path / "python", WAYS[way])
    binary = load_dataset(fake.release.name, tmp_path / "binary")
    python = load_dataset(fake.release.name, folder if direct else folder.parent)
    assert (python.name, python.class_names) == (binary.name, binary.class_names)
    for split in ("train", "test"):
        ours, theirs = getattr(python, split), getattr(binary, split)
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.labels, theirs.labels)
        assert ours.images.dtype == theirs.images.dtype
        assert ours.images.is_contiguous()


def test_an_array_in_fortran_order_is_read_too(tmp_path, fake_cifar10):
    values = batch_of(fake_cifar10, "test_batch.bin")
    expected = values[b"data"]
    (tmp_path / "batch").write_bytes(official({**values, b"data": np.asfortranarray(expected)}))
    found = python_release.read_batch(tmp_path / "batch", 20, cifar.PIXELS, ("labels",))
    assert np.array_equal(found[:, 1:], expected)


def test_the_binary_release_comes_first(tmp_path, fake_cifar10):
    put(fake_cifar10, tmp_path)
    folder = fake_cifar10.put_folder(tmp_path)
    assert cifar.find(fake_cifar10.release, tmp_path) == folder


@both
def test_verify_and_a_training_set_with_other_pixels(tmp_path, fake, cli):
    folder = put(fake, tmp_path)
    code, out, err = cli("data", "verify", fake.release.name, "--data-dir", tmp_path)
    assert (code, err) == (0, "")
    published = fake.release.name == "cifar10"
    verdict = "as in the official release" if published else "size and labels fit; its MD5 was not published"
    names = [name.removesuffix(".bin") for name in fake.release.files]
    assert out.splitlines() == [f"{folder / name}: {verdict}" for name in names]
    if published:
        values = batch_of(fake, "test_batch.bin")
        values[b"data"][3, 4] ^= 1
        (folder / "test_batch").write_bytes(official(values))
        assert "are not those of the official" in cli("data", "verify", "cifar10", "--data-dir", tmp_path)[1]


def test_an_archive_is_checked_and_extracted(tmp_path, fake_cifar10, monkeypatch, cli):
    release = fake_cifar10.release
    archive = tmp_path / release.python_archive
    archive.write_bytes(_tar_gz(release.python_folder, python_files(fake_cifar10)))
    with pytest.raises(DataError, match=f"{archive.name} is truncated or corrupted: its MD5"):
        load_dataset("cifar10", tmp_path)
    right = dataclasses.replace(release, python_md5=hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(cifar, "CIFAR10", right)
    monkeypatch.setitem(cifar.RELEASES, "cifar10", right)
    assert (
        cli("data", "verify", "cifar10", "--data-dir", tmp_path)[1]
        == f"{archive}: as in the official release\n"
    )
    assert len(load_dataset("cifar10", tmp_path).train) == 60
    folder = tmp_path / release.python_folder
    assert cifar.find(right, tmp_path) == folder
    assert set(json.loads((folder / cifar.MD5_FILE).read_text())) == {
        name.removesuffix(".bin") for name in release.files
    }
    content = bytearray((folder / "data_batch_2").read_bytes())
    content[2_000] ^= 1
    (folder / "data_batch_2").write_bytes(content)
    with pytest.raises(DataError, match="data_batch_2 is truncated or corrupted: its MD5"):
        load_dataset("cifar10", tmp_path)


# pickles that are hostile or damaged


class Runs:
    """Unpickled without care, makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def refused(tmp_path, fake, content: bytes, match: str) -> None:
    path = put(fake, tmp_path) / "data_batch_3"
    path.write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        load_dataset("cifar10", tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("key", [b"more", b"data", b"labels"])
def test_a_pickle_that_would_run_code_runs_nothing(tmp_path, fake_cifar10, protocol, key):
    evil = tmp_path / "evil"
    content = pickle.dumps(batch_of(fake_cifar10, "data_batch_3.bin") | {key: Runs(evil)}, protocol)
    assert pickle.loads(content)  # as another tool would
    evil.rmdir()
    refused(tmp_path, fake_cifar10, content, r"asks for .*, which is no part of an array: refused, not run")
    assert not evil.exists()


NAMES = [
    "builtins eval",
    "numpy load",
    "numpy.core.multiarray scalar",
    "numpy ndarray.tofile",
    "_codecs decode",
]


@pytest.mark.parametrize("name", NAMES)
def test_what_no_array_needs_is_refused(tmp_path, fake_cifar10, name):
    module, attribute = name.split()
    content = f"c{module}\n{attribute}\n(V1\ntR.".encode()
    refused(tmp_path, fake_cifar10, content, f"asks for {module}.{attribute}, ")


CLAIMS = {
    "a memo of gigabytes": b"\x80\x02Nr\xff\xff\xff\x0f.",
    "bytes of exabytes": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x0f.",
    "bytes of gigabytes": b"\x80\x03B\xff\xff\xff\x7f.",
    "a codec": b"c_codecs\nencode\n(Vx\nVzlib\ntR.",
    "an array of gigabytes": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I999999999\ntVb\ntR.",
    "a number": b"I1\n.",
    "nothing": b"",
    "text": b"<html>",
    "a mark": b"(((.",
    "a key that is none": b"(](.",
}


@pytest.mark.parametrize("claim", CLAIMS)
def test_what_a_file_claims_takes_no_memory(tmp_path, fake_cifar10, claim):
    tracemalloc.start()
    try:
        refused(tmp_path, fake_cifar10, CLAIMS[claim], "corrupted")
        assert tracemalloc.get_traced_memory()[1] < 10 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_is_too_large_is_not_read(tmp_path, fake_cifar10, monkeypatch):
    path = put(fake_cifar10, tmp_path) / "test_batch"
    with path.open("r+b") as file:
        file.truncate(1 << 24)
    monkeypatch.setattr(python_release, "_Unpickler", None)
    with pytest.raises(DataError, match=r"test_batch is corrupted: 16,777,216 bytes"):
        python_release.read_batch(path, 20, cifar.PIXELS, ("labels",))


DAMAGE = {
    "no data": {b"data": None},
    "no labels": {b"labels": None},
    "a label less": {b"labels": [0] * 11},
    "a label that is no number": {b"labels": [0] * 11 + [b"0"]},
    "a label below 0": {b"labels": [0] * 11 + [-1]},
    "a label of two bytes": {b"labels": [0] * 11 + [256]},
    "an image less": {b"data": np.zeros((11, cifar.PIXELS), np.uint8)},
    "another shape": {b"data": np.zeros((12, 3, 32, 32), np.uint8)},
    "another type": {b"data": np.zeros((12, cifar.PIXELS), np.int8)},
    "objects": {b"data": np.array([[b"x"]], object)},
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_other_contents_are_refused(tmp_path, fake_cifar10, damage):
    values = batch_of(fake_cifar10, "data_batch_3.bin") | DAMAGE[damage]
    refused(tmp_path, fake_cifar10, official(values), "should hold data, labels of 12 images as uint8")


def test_a_label_out_of_range_is_refused(tmp_path, fake_cifar10):
    values = batch_of(fake_cifar10, "data_batch_3.bin") | {b"labels": [0] * 11 + [10]}
    refused(tmp_path, fake_cifar10, official(values), "holds the label 10")


def test_a_truncated_or_missing_file_is_named(tmp_path, fake_cifar10):
    whole = python_files(fake_cifar10)["data_batch_3"]
    for size in range(0, len(whole), 997):
        path = tmp_path / "batch"
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"batch is truncated or corrupted"):
            python_release.read_batch(path, 12, cifar.PIXELS, ("labels",))
    (put(fake_cifar10, tmp_path) / "data_batch_3").unlink()
    with pytest.raises(DataError, match=r"data_batch_3 is missing"):
        load_dataset("cifar10", tmp_path)


def test_damage_anywhere_gives_the_data_or_one_clear_error(tmp_path, fake_cifar10):
    whole = python_files(fake_cifar10)["data_batch_3"]
    random = np.random.default_rng(0)
    path = tmp_path / "batch"
    errors = []
    for place in [*random.integers(0, len(whole), 50), *range(200), *range(-200, 0)]:
        content = bytearray(whole)
        content[place] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
        try:
            found = python_release.read_batch(path, 12, cifar.PIXELS, ("labels",))
        except DataError as error:
            errors.append(str(error))
        else:
            assert found.shape == (12, 1 + cifar.PIXELS)
    assert len(errors) > 20
    assert all(str(path) in error for error in errors)


def test_names_that_are_missing_are_refused(tmp_path, fake_cifar100):
    folder = put(fake_cifar100, tmp_path)
    for content in (official({}), official({b"fine_label_names": [b"a", 1]}), official([])):
        (folder / "meta").write_bytes(content)
        with pytest.raises(DataError, match="meta is"):
            load_dataset("cifar100", tmp_path)
