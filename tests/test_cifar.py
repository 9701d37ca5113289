"""CIFAR-10 and CIFAR-100: records, checks of the files, where they are looked for, the official data."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from residual.data import cifar
from residual.data.cifar import PIXELS
from residual.data.load import load_dataset
from residual.data.normalization import Normalization
from residual.errors import DataError, UsageError


def one_record(labels: bytes, **pixels: int) -> bytes:
    """Make a record that is black but for the pixels named `c<channel>_<row>_<column>`."""
    values = bytearray(PIXELS)
    for place, value in pixels.items():
        channel, row, column = map(int, place[1:].split("_"))
        values[channel * 1024 + row * 32 + column] = value
    return labels + bytes(values)


def release_of(official: cifar.Release, name: str, count: int) -> cifar.Release:
    return dataclasses.replace(official, files={name: ""}, records={name: count})


# records


def test_a_pixel_lands_in_its_place(tmp_path):
    path = tmp_path / "data_batch_1.bin"
    records = (
        one_record(b"\x03", c0_0_0=11),
        one_record(b"\x09", c0_3_7=201, c1_31_0=202, c2_0_31=203),
        one_record(b"\x00", c2_31_31=255),
    )
    path.write_bytes(b"".join(records))
    split = cifar.read_records(release_of(cifar.CIFAR10, path.name, 3), path)
    expected = np.zeros((3, 32, 32, 3), np.uint8)
    expected[0, 0, 0, 0] = 11
    expected[1, 3, 7, 0] = 201
    expected[1, 31, 0, 1] = 202
    expected[1, 0, 31, 2] = 203
    expected[2, 31, 31, 2] = 255
    assert split.images.dtype == torch.uint8
    assert split.images.numpy().tolist() == expected.tolist()
    assert split.images.is_contiguous()
    assert split.labels.dtype == torch.int64
    assert split.labels.tolist() == [3, 9, 0]


def test_cifar100_takes_the_fine_label(tmp_path):
    path = tmp_path / "train.bin"
    path.write_bytes(one_record(b"\x13\x63", c0_1_2=5) + one_record(b"\x02\x00", c1_1_2=6))
    split = cifar.read_records(release_of(cifar.CIFAR100, path.name, 2), path)
    assert split.labels.tolist() == [99, 0]
    assert split.images[:, 1, 2].tolist() == [[5, 0, 0], [0, 6, 0]]
    assert int(split.images.sum()) == 11


@pytest.mark.parametrize(
    ("official", "labels"),
    [(cifar.CIFAR10, b"\x0a"), (cifar.CIFAR100, b"\x00\x64"), (cifar.CIFAR10, b"\xff")],
)
def test_a_label_out_of_range_is_refused(tmp_path, official, labels):
    path = tmp_path / "train.bin"
    path.write_bytes(one_record(bytes(len(labels))) + one_record(labels))
    with pytest.raises(DataError, match=f"train.bin is corrupted: it holds the label {labels[-1]}"):
        cifar.read_records(release_of(official, path.name, 2), path)


def test_the_parts_are_put_together_in_order(tmp_path, fake_cifar10):
    fake_cifar10.put_folder(tmp_path)
    dataset = load_dataset("cifar10", tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (60, 20)
    assert dataset.class_names[:2] == ("airplane", "automobile")
    assert len(dataset.class_names) == 10
    names = [f"data_batch_{number}.bin" for number in range(1, 6)]
    for split, files in ((dataset.train, names), (dataset.test, ["test_batch.bin"])):
        content = b"".join(fake_cifar10.files[name] for name in files)
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + PIXELS)
        assert split.labels.tolist() == records[:, 0].tolist()
        planes = records[:, 1:].reshape(-1, 3, 32, 32)
        for channel in range(3):
            assert np.array_equal(split.images[..., channel].numpy(), planes[:, channel])


def test_cifar100_names_its_classes_from_its_file(tmp_path, fake_cifar100):
    fake_cifar100.put_folder(tmp_path)
    dataset = load_dataset("cifar100", tmp_path)
    assert (len(dataset.train), len(dataset.test)) == (110, 20)
    assert dataset.train.labels.tolist() == [*range(100), *range(10)]
    assert dataset.class_names == tuple(f"thing_{label}" for label in range(100))


@pytest.mark.parametrize("content", [None, b"", b"a\nb\n", b"thing\n" * 101, b"\xff\xfe" * 100])
def test_names_that_are_missing_or_altered_are_refused(tmp_path, fake_cifar100, content):
    path = fake_cifar100.put_folder(tmp_path) / "fine_label_names.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"fine_label_names\.txt"):
        load_dataset("cifar100", tmp_path)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(
        UsageError, match="unknown data set 'mnist': the data sets are cifar10, cifar100, digits"
    ):
        load_dataset("mnist")


# damage


def _flip(content: bytes) -> bytes:
    return content[:5_000] + bytes([content[5_000] ^ 1]) + content[5_001:]


DAMAGE = {
    "missing": (None, "is missing"),
    "empty": (lambda content: b"", "truncated or corrupted: 0 bytes"),
    "short by a byte": (lambda content: content[:-1], "truncated or corrupted"),
    "short by a record": (lambda content: content[: -1 - PIXELS], "truncated or corrupted"),
    "too long": (lambda content: content + b"\0", "truncated or corrupted"),
    "one bit altered": (_flip, "truncated or corrupted: its MD5"),
}


@pytest.mark.parametrize("name", ["data_batch_1.bin", "data_batch_4.bin", "test_batch.bin"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named(tmp_path, fake_cifar10, cli, damage, name):
    change, words = DAMAGE[damage]
    path = fake_cifar10.put_folder(tmp_path) / name
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=words) as caught:
        load_dataset("cifar10", tmp_path)
    assert str(path) in str(caught.value)

    code, out, err = cli("data", "verify", "cifar10", "--data-dir", tmp_path)
    assert code == 3
    assert err == f"residual: {caught.value}\n"
    good = list(fake_cifar10.files)[: list(fake_cifar10.files).index(name)]
    assert [line.split(": ")[0] for line in out.splitlines()] == [str(path.parent / file) for file in good]


@pytest.mark.parametrize("name", ["train.bin", "test.bin"])
def test_a_damaged_file_of_cifar100_is_named(tmp_path, fake_cifar100, name):
    path = fake_cifar100.put_folder(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match="truncated or corrupted") as caught:
        load_dataset("cifar100", tmp_path)
    assert str(path) in str(caught.value)


# where the data is looked for


def test_data_dir_comes_before_the_environment(tmp_path, fake_cifar10, monkeypatch):
    given, environment = tmp_path / "given", tmp_path / "environment"
    monkeypatch.setenv("RESIDUAL_DATA", str(environment))
    folder = fake_cifar10.put_folder(environment)
    assert cifar.find(fake_cifar10.release) == cifar.fetch(fake_cifar10.release) == folder
    assert cifar.find(fake_cifar10.release, given) is None
    mine = fake_cifar10.put_folder(given)
    assert cifar.fetch(fake_cifar10.release, given) == mine
    assert cifar.fetch(fake_cifar10.release) == folder


def test_the_cache_is_where_data_goes_by_default(tmp_path, fake_cifar10, monkeypatch):
    monkeypatch.delenv("RESIDUAL_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = fake_cifar10.put_folder(tmp_path / "cache" / "residual")
    assert cifar.fetch(fake_cifar10.release) == folder
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cifar.default_root() == tmp_path / "home" / ".cache" / "residual"


@pytest.mark.parametrize("name", ["RESIDUAL_DATA", "XDG_CACHE_HOME"])
def test_an_empty_variable_counts_as_unset(tmp_path, monkeypatch, name):
    monkeypatch.delenv("RESIDUAL_DATA")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(name, "")
    assert cifar.default_root() == tmp_path / ".cache" / "residual"


def test_the_folder_itself_may_be_named(tmp_path, fake_cifar10, monkeypatch):
    folder = fake_cifar10.put_folder(tmp_path)
    assert cifar.fetch(fake_cifar10.release, folder) == folder
    assert len(load_dataset("cifar10", str(folder)).train) == 60
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("cifar10", ".").train) == 60


def test_the_folder_itself_may_be_where_one_stands(tmp_path, fake_cifar10, monkeypatch):
    monkeypatch.chdir(fake_cifar10.put_folder(tmp_path))
    assert len(load_dataset("cifar10", ".").train) == 60


def test_an_archive_is_extracted_once(tmp_path, fake_cifar10):
    archive = fake_cifar10.put_archive(tmp_path)
    assert len(load_dataset("cifar10", tmp_path).train) == 60
    folder = tmp_path / fake_cifar10.release.folder
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, folder.name}
    archive.write_bytes(b"no longer needed")
    assert cifar.fetch(fake_cifar10.release, tmp_path) == folder


@pytest.mark.parametrize("change", [_flip, lambda content: content[:-100], lambda content: b""])
def test_a_damaged_archive_is_named_and_nothing_extracted(tmp_path, fake_cifar10, change):
    archive = fake_cifar10.put_archive(tmp_path)
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(DataError, match="is truncated or corrupted: its MD5") as caught:
        load_dataset("cifar10", tmp_path)
    assert str(archive) in str(caught.value)
    assert list(tmp_path.iterdir()) == [archive]


def test_without_data_and_network_it_says_what_to_put_where(tmp_path, fake_cifar10, cli, monkeypatch):
    monkeypatch.setenv("RESIDUAL_DATA", str(tmp_path / "empty"))
    for arguments in (["describe", "cifar10"], ["fetch", "cifar10"]):
        code, out, err = cli("data", *arguments)
        assert (code, out, err.count("\n")) == (3, "", 1)
        assert f"put {fake_cifar10.release.archive} or the folder {fake_cifar10.release.folder}" in err
        assert f"into {tmp_path / 'empty'} (--data-dir or RESIDUAL_DATA)" in err
        assert "http://127.0.0.1:1/cifar-10-binary.tar.gz" in err
    assert list((tmp_path / "empty").glob("*")) == []


# the data commands


@pytest.mark.parametrize("slash", ["", "/"])
def test_fetch_downloads_from_the_mirror(tmp_path, fake_cifar10, server, cli, monkeypatch, slash):
    monkeypatch.setenv("RESIDUAL_MIRROR", f"{server.url}/mirror{slash}")
    path = f"/mirror/{fake_cifar10.release.archive}"
    server.files[path] = fake_cifar10.archive
    server.cut = len(fake_cifar10.archive) // 3
    code, out, err = cli("data", "fetch", "cifar10", "--data-dir", tmp_path)
    assert code == 3
    assert "try again" in err
    assert [entry.name for entry in tmp_path.iterdir()] == [fake_cifar10.release.archive + ".part"]

    server.cut = None
    folder = tmp_path / fake_cifar10.release.folder
    code, out, err = cli("data", "fetch", "cifar10", "--data-dir", tmp_path)
    assert code == 0
    assert out == f"{folder}\n"  # a script reads this: no progress bar in it
    rest = len(fake_cifar10.archive) - len(fake_cifar10.archive) // 3
    assert server.seen[1:] == [(path, f"bytes={len(fake_cifar10.archive) // 3}-", rest)]

    code, out, err = cli("data", "verify", "cifar10", "--data-dir", tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines() == [f"{folder / name}: as in the official release" for name in fake_cifar10.files]

    code, out, err = cli("data", "fetch", "cifar10", "--data-dir", tmp_path)
    assert (code, out, err) == (0, f"{folder}\n", "")
    assert len(server.seen) == 2


def test_fetch_refuses_an_altered_download(tmp_path, fake_cifar100, server, cli, monkeypatch):
    monkeypatch.setenv("RESIDUAL_MIRROR", server.url)
    server.files[f"/{fake_cifar100.release.archive}"] = fake_cifar100.archive[:-1] + b"?"
    code, _, err = cli("data", "fetch", "cifar100", "--data-dir", tmp_path)
    assert code == 3
    assert "corrupted" in err
    assert list(tmp_path.iterdir()) == []


def test_verify_downloads_nothing(tmp_path, server, cli, monkeypatch):
    monkeypatch.setenv("RESIDUAL_MIRROR", server.url)
    code, out, err = cli("data", "verify", "cifar10", "--data-dir", tmp_path)
    assert (code, out, err) == (3, "", f"residual: no cifar10 in {tmp_path}\n")
    assert server.seen == []


@pytest.mark.parametrize("command", ["fetch", "verify"])
def test_digits_have_no_files(cli, command):
    code, out, err = cli("data", command, "digits")
    assert (code, out) == (2, "")
    assert err == "residual: 'digits' has no files: the data sets with files are cifar10, cifar100\n"


def test_describe(tmp_path, fake_cifar10, cli):
    fake_cifar10.put_folder(tmp_path)
    code, out, err = cli("data", "describe", "cifar10", "--data-dir", tmp_path, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == {
        "name": "cifar10",
        "train_images": 60,
        "test_images": 20,
        "size": [32, 32, 3],
        "class_names": list(cifar.CIFAR10.class_names),
    }
    code, out, err = cli("data", "describe", "cifar10", "--data-dir", tmp_path)
    assert (code, err) == (0, "")
    values = {key: value.strip() for key, _, value in (line.partition(" ") for line in out.splitlines())}
    assert (values["train_images"], values["test_images"], values["size"]) == ("60", "20", "32, 32, 3")
    assert values["class_names"].startswith("airplane, automobile, bird")


def test_describe_digits_needs_no_files(cli):
    code, out, err = cli("data", "describe", "digits", "--json")
    assert (code, err) == (0, "")
    values = json.loads(out)
    assert (values["train_images"], values["test_images"]) == (1437, 360)
    assert values["class_names"] == list("0123456789")


# the official data


@pytest.fixture(scope="module")
def official(cifar10_root):
    return load_dataset("cifar10", cifar10_root)


def test_the_official_data_is_whole(official, cifar10_root, cli):
    assert official.train.images.shape == (50_000, 32, 32, 3)
    assert official.test.images.shape == (10_000, 32, 32, 3)
    assert torch.bincount(official.train.labels).tolist() == [5_000] * 10
    assert torch.bincount(official.test.labels).tolist() == [1_000] * 10
    assert official.class_names[official.train.labels[0]] == "frog"
    assert official.class_names[official.test.labels[0]] == "cat"
    code, out, err = cli("data", "verify", "cifar10", "--data-dir", cifar10_root)
    assert (code, err, len(out.splitlines())) == (0, "", 6)


def test_the_official_data_has_the_known_mean_and_deviation(official):
    levels = np.arange(256) / 255
    channels = official.train.images.numpy().reshape(-1, 3)
    counts = np.stack(
        [sum(np.bincount(part, minlength=256) for part in np.array_split(c, 50)) for c in channels.T]
    )
    share = counts / counts.sum(1, keepdims=True)
    mean = share @ levels
    deviation = np.sqrt(share @ levels**2 - mean**2)
    assert mean == pytest.approx([0.49140, 0.48216, 0.44653], abs=5e-5)
    assert deviation == pytest.approx([0.24703, 0.24349, 0.26159], abs=5e-5)
    measured = Normalization.of(official.train)
    assert measured.mean.shape == (32, 32, 3)
    assert measured.mean.double().mean((0, 1)).numpy() / 255 == pytest.approx(mean, abs=1e-6)
    assert measured.std.numpy() / 255 == pytest.approx(deviation, abs=1e-6)


def test_one_altered_bit_in_the_official_data_is_found(official, cifar10_root, tmp_path, cli):
    folder = tmp_path / "cifar-10-batches-bin"
    shutil.copytree(cifar10_root / folder.name, folder)
    batch = folder / "data_batch_3.bin"
    content = bytearray(batch.read_bytes())
    content[12_345_678] ^= 1
    batch.write_bytes(content)
    code, _, err = cli("data", "describe", "cifar10", "--data-dir", folder)
    assert code == 3
    assert err.startswith(f"residual: {batch} is truncated or corrupted: its MD5")
