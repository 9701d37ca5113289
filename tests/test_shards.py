"""Photographs in shards: the batches, runs and errors are those of the folder that they were written from."""

import contextlib
import gc
import hashlib
import io
import json
import pickle
import shutil
import tarfile
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import residual
from conftest import comparable
from residual.data.decode import BadImageError
from residual.data.folder import load_folder, load_photos
from residual.data.normalization import IMAGENET_MEAN, IMAGENET_STD, Normalization
from residual.data.photo_batches import PhotoBatches
from residual.data.photos import SourceError
from residual.data.preprocessing import Preprocessing
from residual.data.shards import index as index_module
from residual.data.shards import write
from residual.data.shards.foreign import index_shards
from residual.data.shards.index import HEAD, SAMPLES, read_index
from residual.data.shards.store import open_store
from residual.data.shards.verify import verify_shards
from residual.data.shards.write import write_shards
from residual.errors import DataError, InterruptedRunError, UsageError
from residual.exporters.calibration import calibration_photos
from residual.exporters.material import find_material
from residual.recipes.augment import ResizedCrop
from residual.training.prepare import prepare
from test_train_photographs import small

SIZE = 20_000  # bytes of a shard: two or three images


@pytest.fixture(scope="module")
def shards(photographs, tmp_path_factory):
    """Write the shared photographs as shards."""
    out = tmp_path_factory.mktemp("shards") / "out"
    write_shards(photographs, out, size=SIZE)
    return out


@pytest.fixture
def copied(shards, tmp_path):
    """Give shards that a test may spoil."""
    out = tmp_path / "copied"
    out.mkdir()
    for path in shards.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    return out


def batches(photos, workers=0, order="shuffle"):
    """Return the training batches of two epochs, flattened into bytes."""
    normalization = Normalization.of_channels(IMAGENET_MEAN, IMAGENET_STD)
    augment, cpu = ResizedCrop(), torch.device("cpu")
    made = PhotoBatches(photos, normalization, 32, 7, augment, 3, cpu, workers=workers, order=order)
    found = [
        (images.numpy().tobytes(), labels.tolist()) for images, labels in map(made.__getitem__, range(7))
    ]
    made.close()
    return found


def test_images_and_lists_are_those_of_the_folder(photographs, shards):
    folder, loaded = load_folder(photographs), load_folder(shards)
    assert len(list(shards.glob("train-*.tar"))) > 4
    assert loaded.fingerprint == folder.fingerprint
    assert (loaded.name, loaded.class_names, loaded.findings) == (
        folder.name,
        folder.class_names,
        folder.findings,
    )
    for ours, theirs in ((loaded.train, folder.train), (loaded.test, folder.test)):
        assert list(ours.files) == list(theirs.files)
        assert ours.labels.tolist() == theirs.labels.tolist()
        assert [ours.content(index) for index in range(len(ours))] == [
            theirs.content(index) for index in range(len(theirs))
        ]
    assert load_photos(shards).fingerprint == folder.test.fingerprint


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_folder(workers, photographs, shards):
    assert batches(load_folder(shards).train, workers) == batches(load_folder(photographs).train)


def test_photographs_in_shards_cross_processes(shards):
    photos = load_folder(shards).train.take(torch.tensor([5, 2]))
    copy = pickle.loads(pickle.dumps(photos))
    assert [copy.content(place) for place in range(2)] == [photos.content(place) for place in range(2)]


def test_a_split_made_for_the_shards_is_the_folders_and_holds_for_validation_too(photographs, tmp_path):
    root, out = photographs / "train", tmp_path / "out"
    first = next(root.rglob("*.jpg"))
    grown = tmp_path / "grown"
    for path in root.rglob("*.jpg"):
        target = grown / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    twin = grown / first.relative_to(root).with_name("twin.jpg")
    twin.write_bytes(first.read_bytes())  # a near-duplicate, which stays on its twin's side
    write_shards(grown, out, group=r"([0-9]|twin)\.jpg")
    recipe = small("imagenet-epochs", validation=6)
    folder, loaded = (load_folder(place, group=r"([0-9]|twin)\.jpg") for place in (grown, out))
    assert folder.train.groups is not None
    assert torch.equal(loaded.train.groups, folder.train.groups)
    assert prepare(recipe, data_dir=out).data.facts["images_sha256"] == folder.fingerprint
    with pytest.raises(UsageError, match="keeps the split"):
        load_folder(out, group="other")


def test_a_stop_in_mid_epoch_and_a_resume_on_shards_give_the_folders_run(
    photographs, shards, tmp_path, stop_at
):
    recipe = small("imagenet-modern")
    residual.train(recipe, data_dir=photographs, output=tmp_path / "whole", workers=0)

    def stop(_):
        raise InterruptedRunError("stopped", 15)

    restore = stop_at(9, stop)
    with pytest.raises(InterruptedRunError):
        residual.train(recipe, data_dir=shards, output=tmp_path / "cut", workers=0)
    restore()
    shutil.copytree(tmp_path / "cut", tmp_path / "moved")
    residual.resume(tmp_path / "cut", workers=1)
    residual.resume(tmp_path / "moved", data_dir=photographs, workers=0)
    for name in ("cut", "moved"):
        assert comparable(tmp_path / name) == comparable(tmp_path / "whole")
    assert "data:image/jpeg" in (tmp_path / "cut" / "report.html").read_text()
    found = residual.evaluate(tmp_path / "cut", data=str(shards), workers=0)
    assert found.error == residual.evaluate(tmp_path / "whole", data=str(photographs), workers=0).error


def test_shards_are_kept_decoded_as_files_are(photographs, shards, tmp_path, monkeypatch):
    from residual.data.decoded import keep_decoded

    kept = [
        keep_decoded(load_folder(place).train, 32, 1 << 30, tmp_path / name)
        for place, name in ((photographs, "a"), (shards, "b"))
    ]
    assert all(torch.equal(kept[0][index][0], kept[1][index][0]) for index in range(len(kept[0])))
    assert [path.name for path in (tmp_path / "a").iterdir()] == [p.name for p in (tmp_path / "b").iterdir()]


def test_int8_is_calibrated_and_exports_are_compared_on_the_same_images(photographs, shards):
    preprocessing = Preprocessing((32, 32), Normalization.of_channels(IMAGENET_MEAN, IMAGENET_STD))
    (ours, note), (theirs, _) = (
        calibration_photos(load_photos(place), preprocessing) for place in (shards, photographs)
    )
    assert torch.equal(ours, theirs)
    assert note == "INT8 calibrated on 24 images of train/"
    config = SimpleNamespace(data="folder", preprocessing=preprocessing)
    ours, theirs = (find_material(config, place) for place in (shards, photographs))
    assert torch.equal(ours.pixels, theirs.pixels)


# writing


def test_shards_are_the_same_bytes_whenever_they_are_written(photographs, shards, tmp_path):
    write_shards(photographs, tmp_path / "again", size=SIZE)
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in (shards, tmp_path / "again")
    )
    assert first == second
    assert all(len(content) <= SIZE for name, content in first.items() if name.endswith(".tar"))
    with pytest.raises(UsageError, match="holds shards already"):
        write_shards(photographs, tmp_path / "again")


def test_an_interrupted_call_leaves_whole_shards_and_goes_on(photographs, shards, tmp_path, monkeypatch):
    out, real, written = tmp_path / "out", write._pieces, []

    def pieces(photos, plan, start, stop):
        written.append(start)
        for number, piece in enumerate(real(photos, plan, start, stop)):
            if len(written) == 4 and number == 2:
                raise KeyboardInterrupt
            yield piece

    monkeypatch.setattr(write, "_pieces", pieces)
    with pytest.raises(KeyboardInterrupt):
        write_shards(photographs, out, size=SIZE)
    there = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    assert len(there) == 3
    assert all((shards / name).read_bytes() == content for name, content in there.items())
    assert not (out / HEAD).exists()
    (out / "train-000001.tar").write_bytes(b"cut")
    kept = json.loads((out / write.DONE).read_text())
    (out / write.DONE).write_text(json.dumps({**kept, "train-000099.tar": kept["train-000000.tar"]}))
    (out / "train-000099.tar").write_bytes(b"of an earlier call, which wrote more shards")
    written.clear()
    monkeypatch.setattr(write, "_pieces", lambda *a: (written.append(a[2]), real(*a))[1])
    write_shards(photographs, out, size=SIZE)
    assert len(written) == len(list(shards.glob("*.tar"))) - 2, "two of the three were complete"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {
        path.name: path.read_bytes() for path in shards.iterdir()
    }


def test_what_an_interrupted_call_left_removes_nothing_elsewhere(photographs, tmp_path):
    out, precious = tmp_path / "out", tmp_path / "precious.tar"
    precious.write_bytes(b"1")
    out.mkdir()
    shard = {"name": "x", "size": 1, "sha256": "0" * 64, "images": 1}
    (out / write.DONE).write_text(json.dumps({"../precious.tar": ["0", shard]}))
    write_shards(photographs, out)
    assert precious.read_bytes() == b"1"
    assert load_folder(out).fingerprint == load_folder(photographs).fingerprint


def test_a_full_disk_and_a_missing_image_are_one_line(photographs, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(write, "_write", full)
        with pytest.raises(DataError, match=r"cannot write shards to .*: the disk is full"):
            write_shards(photographs, tmp_path / "out")
    for name in ("ant", "bee"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            random = np.random.default_rng(number)
            pixels = random.integers(0, 256, (30, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "data" / "ant" / "gone.jpg").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"cannot read .*gone\.jpg"):
        write_shards(tmp_path / "data", tmp_path / "out")


# what is broken


def test_a_shard_that_is_cut_is_named_with_its_offset(copied):
    photos = load_folder(copied).train
    path = copied / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    place = next(n for n in range(len(photos)) if "train-000001" in photos.source.place(n))
    with pytest.raises(SourceError, match=r"train-000001\.tar at byte 512 is truncated: 2,488 of"):
        photos.region(place, lambda height, width: None)
    with pytest.raises(DataError, match=r"train-000001\.tar has 3,000 bytes, not the"):
        load_folder(copied)
    path.unlink()
    with pytest.raises(DataError, match=r"cannot read .*train-000001\.tar: No such file"):
        load_folder(copied)


def test_an_image_that_is_bad_in_a_shard_is_named_and_skipped_as_in_a_folder(copied):
    path = copied / "train-000000.tar"
    content = bytearray(path.read_bytes())
    content[512:1024] = bytes(512)
    path.write_bytes(content)
    with pytest.raises(BadImageError, match=r"train/ant/0\.jpg in .*train-000000\.tar at byte 512: "):
        load_folder(copied).train[0]
    photos = load_folder(copied, on_bad_image="skip").train
    assert len(batches(photos)) == 7
    with pytest.raises(DataError, match=r"train-000000\.tar is corrupted: its SHA-256"):
        list(verify_shards(copied))


def replaced(folder, **changes):
    """Change keys of the index's JSON."""
    values = json.loads((folder / HEAD).read_text())
    (folder / HEAD).write_text(json.dumps({**values, **changes}))


def rewritten(folder, part="train", **changes):
    """Write the index with changed arrays, as someone who means harm would."""
    read = read_index(open_store(folder))
    sets = {**read.sets, part: replace(read.sets[part], **changes)}
    index_module.write_index(folder, replace(read, sets=sets))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "format Input should be 1"),
        ({"class_names": ["ant", "bee"]}, "a label of train is not from 0 to 1"),
        ({"class_names": ["ant", "bee", "bee"]}, "two classes have one name"),
        ({"class_names": "abc"}, "class_names Input should be"),
        ({"shards": []}, "a shard of train is not from 0 to -1"),
        ({"samples_sha256": "0" * 64}, "does not belong to shards.json"),
        ({"extra": 1}, "extra Extra inputs"),
    ],
)
def test_an_index_that_does_not_fit_is_one_line(change, message, copied):
    replaced(copied, **change)
    with pytest.raises(DataError, match=message):
        load_folder(copied)


@pytest.mark.parametrize("name", ["../train.tar", "/etc/passwd.tar", "a/b.tar", "..tar", "C:x.tar", "x", ""])
def test_the_name_of_a_shard_leads_nowhere_else(name, copied):
    shards = json.loads((copied / HEAD).read_text())["shards"]
    replaced(copied, shards=[{**shards[0], "name": name}, *shards[1:]])
    with pytest.raises(DataError, match="the name of a shard must be"):
        load_folder(copied)


def array_header(kind, shape):
    """Return the header of a .npy file without what should follow it."""
    buffer = io.BytesIO()
    values = {"descr": kind, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, values)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("offsets", 1 << 40, "an image of train lies outside its shard"),
        ("offsets", -1, "an offset of train|a offset of train"),
        ("lengths", 1 << 40, "a length of train"),
        ("shards", 1000, "a shard of train"),
        ("labels", -1, "a label of train"),
    ],
)
def test_an_image_must_lie_in_its_shard(column, value, message, copied):
    samples = read_index(open_store(copied)).sets["train"]
    array = np.array(getattr(samples, column))
    array[3] = value
    rewritten(copied, **{column: array})
    with pytest.raises(DataError, match=message):
        load_folder(copied)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "EOF"),
        (b"\x93NUMPY\x01\x00\x20\x00" + b"{'descr': (((".ljust(32), "is corrupted: "),
        (b"\x93NUMPY\x01\x00\x20\x00" + b"[" * 32, "is corrupted: "),
        (array_header("<i8", (10**18,)), "has 0 values, not 1000000000000000000"),
        (array_header("<i8", (-1,)), "is corrupted: "),
        (array_header("|O", (1,)), "has the type object"),
        (array_header("<i8", (2, 3)), "has 0 values, not 2 x 3"),
    ],
)
def test_an_array_that_is_not_what_it_says_is_refused(content, message, copied):
    with zipfile.ZipFile(copied / SAMPLES, "w") as file:
        file.writestr("train_shards.npy", content)
    replaced(copied, samples_sha256=hashlib.sha256((copied / SAMPLES).read_bytes()).hexdigest())
    with pytest.raises(DataError, match=message):
        load_folder(copied)


SHARED = [HealthCheck.function_scoped_fixture]  # each example writes the files anew
OVER_INDEX = given(
    data=st.binary(max_size=300), where=st.integers(0, 3000), file=st.sampled_from([HEAD, SAMPLES])
)
OVER_TAR = given(data=st.binary(max_size=1000), where=st.integers(0, 5000))


@settings(max_examples=30, deadline=None, suppress_health_check=SHARED)
@OVER_INDEX
def test_bytes_written_over_an_index_are_an_error_of_ours(data, where, file, shards, tmp_path):
    read_spoiled_index(data, where, file, shards, tmp_path)


def read_spoiled_index(data, where, file, shards, tmp_path):
    """Read an index with some bytes replaced; any error but `DataError` fails the test."""
    content = bytearray((shards / file).read_bytes())
    where = min(where, len(content))
    content[where : where + len(data)] = data
    for name in (HEAD, SAMPLES):
        (tmp_path / name).write_bytes(content if name == file else (shards / name).read_bytes())
    if file == SAMPLES:  # whoever means harm can compute its digest
        replaced(tmp_path, samples_sha256=hashlib.sha256(content).hexdigest())
    with contextlib.suppress(DataError):  # or they change nothing that can be told
        read_index(open_store(tmp_path))


# tar files of others


def tar_of(path, members):
    """Write a tar file."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def eight(folder=""):
    """Return the members of a tar of eight images of two classes."""
    images = [(f"{folder}{number}.jpg", picture(number)) for number in range(8)]
    labels = [(f"{folder}{number}.cls", b"%d" % (number % 2)) for number in range(8)]
    return [member for pair in zip(images, labels, strict=True) for member in pair]


def picture(number, suffix="JPEG"):
    buffer = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, suffix)
    return buffer.getvalue()


def test_the_webdataset_library_reads_our_shards(photographs, shards):
    webdataset = pytest.importorskip("webdataset")
    tars = sorted(map(str, shards.glob("train-*.tar")))
    with warnings.catch_warnings():  # it leaves files to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        found = list(webdataset.WebDataset(tars, shardshuffle=False).to_tuple("jpg", "cls"))
        gc.collect()
    folder = load_folder(photographs).train
    assert [content for content, _ in found] == [folder.content(index) for index in range(len(folder))]
    assert [int(label) for _, label in found] == folder.labels.tolist()


def test_shards_of_the_webdataset_library_are_read(tmp_path):
    webdataset = pytest.importorskip("webdataset")
    for part, count in (("train", 6), ("validation", 4)):
        with webdataset.TarWriter(str(tmp_path / f"pets-{part}-0000.tar")) as sink:
            for number in range(count):
                values = {"jpg": picture(number), "cls": number % 2}
                sink.write({"__key__": f"sample{number:04d}", **values})
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    index_shards(tmp_path, classes=tmp_path / "names.txt")
    dataset = load_folder(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert dataset.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert [dataset.test.content(number) for number in range(4)] == [picture(number) for number in range(4)]
    assert dataset.train.files[1] == "pets-train-0000.tar/sample0001.jpg"
    with pytest.raises(UsageError, match="has an index already"):
        index_shards(tmp_path)


def test_labels_may_be_names_or_in_json_and_a_test_set_is_split_off(tmp_path):
    members = []
    for number in range(20):
        label = {"label": ("cat", "dog")[number % 2], "more": [1]}
        members += [
            (f"./a/{number}.seg.png", b"no image of ours"),
            (f"./a/{number}.PNG", picture(number, "PNG")),
        ]
        members += [(f"./a/{number}.json", json.dumps(label).encode()), (f"./a/{number}.txt", b"a caption")]
    tar_of(tmp_path / "some.tar", members)
    index_shards(tmp_path)
    dataset = load_folder(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert (len(dataset.train), len(dataset.test)) == (16, 4)
    assert dataset.train[0][0].shape == (20, 24, 3)
    assert dataset.findings.notes == ("near-duplicates were not looked for in these shards",)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.jpg", picture(0))], "has no label for '0.jpg'"),
        ([("0.jpg", picture(0)), ("0.json", b"[1]")], "has no label for '0.jpg'"),
        ([("0.txt", b"1")], "hold no image with a label"),
        ([("0.jpg", picture(0)), ("0.cls", b"1")], "too few images|no images|at least two"),
    ],
)
def test_tar_files_without_what_is_needed_are_one_line(members, message, tmp_path):
    tar_of(tmp_path / "some.tar", members)
    with pytest.raises(DataError, match=message):
        index_shards(tmp_path)


def test_a_tar_with_links_and_paths_outside_writes_nothing(tmp_path):
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in" / "some.tar", eight("../../"))
    with tarfile.open(tmp_path / "in" / "some.tar", "a") as tar:
        link = tarfile.TarInfo("9.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    index_shards(tmp_path / "in")
    dataset = load_folder(tmp_path / "in")
    assert len(dataset.train) + len(dataset.test) == 8
    assert {path.name for path in tmp_path.rglob("*")} == {"in", "some.tar", HEAD, SAMPLES}


def test_a_size_below_zero_which_would_lead_back_to_the_same_header_is_refused(tmp_path):
    header = bytearray(tarfile.TarInfo("0.jpg").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = (-512).to_bytes(12, "big", signed=True)
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * ord(" ") + sum(header[156:]))
    (tmp_path / "some.tar").write_bytes(bytes(header) * 2 + bytes(1024))
    with pytest.raises(DataError, match=r"some\.tar is corrupted"):
        index_shards(tmp_path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_a_device_in_place_of_a_tar_is_not_read(tmp_path):
    (tmp_path / "some.tar").symlink_to("/dev/zero")
    with pytest.raises(DataError, match=r"cannot index .*some\.tar: not a regular file"):
        index_shards(tmp_path)


def test_a_file_of_class_names_that_is_empty_or_too_short_is_named(tmp_path):
    tar_of(tmp_path / "some.tar", eight())
    for text, words in (("", "names no class"), ("ant", r"names 1 classes, but there is a label '1'")):
        (tmp_path / "names.txt").write_text(text)
        with pytest.raises(DataError, match=rf"names\.txt {words}"):
            index_shards(tmp_path, classes=tmp_path / "names.txt")


def test_a_tar_that_is_cut_or_damaged_is_refused(tmp_path):
    path = tmp_path / "some.tar"
    tar_of(path, eight())
    whole = path.read_bytes()
    with tarfile.open(path) as tar:
        second = tar.getmembers()[2].offset
    damaged = whole[:second] + b"x" * 512 + whole[second + 512 :]
    for content in (whole[: second + 700], whole[:second], damaged, b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"some\.tar"):
            index_shards(tmp_path)
    assert not (tmp_path / HEAD).exists()


@settings(max_examples=30, deadline=None, suppress_health_check=SHARED)
@OVER_TAR
def test_bytes_written_over_a_tar_are_an_error_of_ours(data, where, tmp_path):
    read_spoiled_tar(data, where, tmp_path)


def read_spoiled_tar(data, where, tmp_path):
    """Index a tar with some bytes replaced; any error but `DataError` fails the test."""
    tar_of(tmp_path / "t.tar", eight())
    content = bytearray((tmp_path / "t.tar").read_bytes())
    content[where : where + len(data)] = data
    (tmp_path / "t.tar").write_bytes(content)
    (tmp_path / HEAD).unlink(missing_ok=True)
    with contextlib.suppress(DataError):
        index_shards(tmp_path)
        read_index(open_store(tmp_path))


# the command line


def test_the_commands(photographs, tmp_path, cli):
    out = tmp_path / "out"
    code, printed, _ = cli("data", "shard", photographs, out, "--size", "20KB")
    assert code == 0
    assert printed.splitlines()[0] == f"{out}: 24 train and 12 val images of 3 classes in 12 shards"
    assert cli("data", "verify", out)[1].splitlines()[0] == "train-000000.tar: verified"
    train = ["train", "resnet8", "--data", out, "--image-size", 32, "--epochs", 1, "--workers", 0]
    code, printed, err = cli(*train, "--output", tmp_path / "run")
    assert code == 0, err
    code, printed, _ = cli("evaluate", tmp_path / "run", "--data", out, "--workers", 0)
    assert code == 0
    assert "images      12" in printed
    code, _, err = cli("data", "index", tmp_path)
    assert (code, "holds no .tar files" in err) == (3, True)
