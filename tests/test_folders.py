"""Layouts of photographs are told apart, split and indexed; each mistake is one line that says what to do."""

import pickle
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from residual.data import ilsvrc, index
from residual.data.folder import load_folder, load_photos
from residual.data.imagenet_classes import SYNSETS
from residual.data.scan import Paths, scan
from residual.errors import DataError, UsageError

SYNSET = ("n02084071", "n01440764", "n03000000")  # not in their own order


def put(root, *paths, size=6):
    """Write an image of a colour of its own at each path."""
    for number, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (size, size), (number * 7 % 256, 1, 2)).save(file, "PNG")
    return root


def names(photos):
    labels = photos.labels.tolist()
    return [f"{photos.class_names[label]}:{file}" for file, label in zip(photos.files, labels, strict=True)]


def two_sets(root, second="val"):
    paths = [
        f"{part}/{name}/{i}.png" for part in ("train", second) for name in ("cat", "dog") for i in range(2)
    ]
    return put(root, *paths)


@pytest.mark.parametrize("second", ["val", "valid", "validation", "test"])
def test_train_and_a_second_folder(tmp_path, second):
    dataset = load_folder(two_sets(tmp_path / "pets", second))
    assert (dataset.name, dataset.class_names) == ("pets", ("cat", "dog"))
    assert names(dataset.train)[:3] == ["cat:train/cat/0.png", "cat:train/cat/1.png", "dog:train/dog/0.png"]
    assert [file.split("/")[0] for file in dataset.test.files] == [second] * 4
    assert names(load_photos(tmp_path / "pets")) == names(dataset.test)
    assert dataset.test.labels.dtype == torch.int64
    image, label = dataset.test[3]
    assert (image.shape, label) == ((6, 6, 3), 1)


def test_nested_files_and_what_is_left_out(tmp_path):
    root = put(tmp_path, "a/x/y/1.PNG", "a/2.JpEg", "b/1.tiff", "b/2.webp")
    put(root, "a/.hidden.png", ".cache/a/1.png", "__MACOSX/a/1.png", "a/._2.jpg", "loose.png")
    (root / "a/Thumbs.db").write_bytes(b"x")
    (root / "a/.DS_Store").write_bytes(b"x")
    (root / "b/readme.txt").write_text("x")
    assert names(load_photos(root)) == ["a:a/2.JpEg", "a:a/x/y/1.PNG", "b:b/1.tiff", "b:b/2.webp"]


def test_class_folders_are_split_by_class_and_always_the_same(tmp_path):
    counts = {"one": 1, "two": 2, "ten": 10, "many": 40}
    files = [f"{name}/{i}.png" for name, count in counts.items() for i in range(count)]
    dataset = load_folder(put(tmp_path / "a", *files))
    held = {name: sum(f.startswith(name + "/") for f in dataset.test.files) for name in counts}
    assert held == {"one": 0, "two": 1, "ten": 2, "many": 8}
    assert sorted([*dataset.train.files, *dataset.test.files]) == sorted(files)
    again = load_folder(put(tmp_path / "b", *reversed(files), size=9))
    assert list(again.test.files) == list(dataset.test.files)
    assert [f for f in dataset.test.files if f.startswith("ten")] == ["ten/2.png", "ten/3.png"]
    half = load_folder(tmp_path / "a", test_share=0.5)
    assert sum(f.startswith("many/") for f in half.test.files) == 20
    with pytest.raises(UsageError, match="between 0 and 1"):
        load_folder(tmp_path / "a", test_share=1.0)


def test_a_class_may_be_called_train(tmp_path):
    root = put(tmp_path, *(f"{name}/{i}.png" for name in ("train", "plane") for i in range(2)))
    assert load_folder(root).class_names == ("plane", "train")


def ilsvrc_val(root, labels, count=None, where="devkit/data"):
    put(root, *(f"val/ILSVRC2012_val_{n:08}.JPEG" for n in range(1, (count or len(labels)) + 1)))
    (root / where).mkdir(parents=True, exist_ok=True)
    (root / where / ilsvrc.GROUND_TRUTH).write_text("".join(f"{label}\n" for label in labels))
    return root


@pytest.mark.parametrize("file", ["synset_words.txt", "LOC_synset_mapping.txt", "meta.mat"])
@pytest.mark.parametrize("where", ["", "data", "devkit", "devkit/data", "ILSVRC2012_devkit_t12/data"])
def test_the_validation_set_of_ilsvrc_as_published(tmp_path, file, where):
    root = ilsvrc_val(tmp_path, [2, 3, 1, 2], where=where)
    if file == "meta.mat":
        write_meta(root / where / file, SYNSET)
    else:
        (root / where / file).write_text("".join(f"{name} some words, more\n" for name in SYNSET))
    expected = [SYNSET[1], SYNSET[2], SYNSET[0], SYNSET[1]]
    for photos in (load_photos(root), load_photos(root / "val") if not where else load_photos(root)):
        assert photos.class_names == tuple(sorted(SYNSET))
        assert [photos.class_names[label] for label in photos.labels] == expected
        assert [file[-8:] for file in photos.files] == [f"{n:03}.JPEG" for n in range(1, 5)]
    put(root, *(f"train/{name}/{name}_1.JPEG" for name in SYNSET))
    dataset = load_folder(root)
    assert dataset.class_names == tuple(sorted(SYNSET))
    assert [dataset.class_names[label] for label in dataset.test.labels] == expected


def write_meta(path, synsets):
    from scipy.io import savemat

    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")]
    rows = [(number, name, "words") for number, name in enumerate([*synsets], start=1)]
    rows += [(1001, "n00001740", "entity")]  # an inner node of the hierarchy
    savemat(path, {"synsets": np.array(rows, kinds)[:, None]})


def test_the_order_of_the_wordnet_ids_is_not_that_of_the_ground_truth(tmp_path):
    root = ilsvrc_val(tmp_path, [1, 2])
    with pytest.raises(DataError, match=r"need meta\.mat or synset_words\.txt or LOC_synset_mapping\.txt"):
        load_photos(root)
    (root / "synset_words.txt").write_text("".join(f"{name} x\n" for name in SYNSETS))
    with pytest.raises(DataError, match=r"order of the WordNet ids.*put meta\.mat"):
        load_photos(root)
    (root / "synset_words.txt").unlink()
    (root / "meta.mat").write_bytes(b"MATLAB 5.0 MAT-file, damaged")
    with pytest.raises(DataError, match=r"meta\.mat is corrupted"):
        load_photos(root)


def test_a_ground_truth_of_another_length_or_with_other_labels(tmp_path):
    root = ilsvrc_val(tmp_path, [1, 2, 3, 1], count=3)
    (root / "synset_words.txt").write_text("".join(f"{name} x\n" for name in SYNSET))
    with pytest.raises(DataError, match=r"4 labels, but .* has 3 images"):
        load_photos(root)
    for wrong in ("4", "0", "-1", "cat"):
        (root / "devkit/data" / ilsvrc.GROUND_TRUTH).write_text(f"1\n{wrong}\n3\n")
        with pytest.raises(DataError, match="no label from 1 to 3 for val/ILSVRC2012_val_00000002"):
            load_photos(root)
    (root / "devkit/data" / ilsvrc.GROUND_TRUTH).unlink()
    with pytest.raises(DataError, match=ilsvrc.GROUND_TRUTH):
        load_photos(root)


def csv_file(root, text, name="photos.csv"):
    put(root, *(f"pictures/{n}.png" for n in range(8)))
    (root / name).write_text(text, encoding="utf-8")
    return root / name


@pytest.mark.parametrize("path", ["path", "file", "image", "filename", "Path"])
@pytest.mark.parametrize("label", ["label", "class"])
def test_a_csv_file_with_splits(tmp_path, path, label):
    rows = [f"pictures/{n}.png,{'ab'[n % 2]},{'train' if n < 4 else 'val'}" for n in range(8)]
    file = csv_file(tmp_path, "\ufeff" + "\n".join([f"{path},{label},split", *rows]))
    dataset = load_folder(file)
    assert (dataset.name, dataset.class_names) == ("photos", ("a", "b"))
    assert names(dataset.train) == [f"{'ab'[n % 2]}:pictures/{n}.png" for n in range(4)]
    assert names(load_photos(file)) == names(dataset.test)
    assert dataset.train[1][0].shape == (6, 6, 3)


def test_a_csv_file_without_splits(tmp_path):
    rows = [f'"pictures/{n}.png",{10 * (n % 2)}' for n in range(8)]
    file = csv_file(tmp_path, "\r\n".join(["image,label", *rows]))
    assert (len(load_folder(file).train), len(load_folder(file).test)) == (6, 2)
    assert load_photos(file).class_names == ("0", "10")
    assert len(load_photos(file)) == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "needs the columns path and label"),
        ("path,label\n", "lists no image"),
        ("a,b\nx,y", "needs the columns path and label"),
        ("path;label\npictures/0.png;a", "separated by commas"),
        ("path,labels\npictures/0.png,a", "column 'labels'"),
        ("path,label\npictures/0.png,a|b", "line 2, has several labels, a|b"),
        ("path,label\npictures/0.png,a;b", "several labels"),
        ("path,label\npictures/0.png", "line 2, has no label"),
        ("path,label\n,a", "line 2, has no path"),
        ("path,label\npictures/0.png,a\npictures/0.png,b", "line 3, lists an image again"),
        ("path,label\npictures/99.png,a", "1 images that do not exist, for example pictures/99.png"),
        ("path,label,split\npictures/0.png,a,dev", "line 2, has the split dev"),
        ("path,label,split\npictures/0.png,a,train\npictures/1.png,b,", "no split for pictures/1.png"),
        ("path,label,split\npictures/0.png,a,train\npictures/1.png,b,train", "no test images"),
        ("path,label,split\npictures/0.png,a,train\npictures/1.png,b,val", "split train has no images of b"),
        ('path,label\n"pictures/0.png,a', "cannot read"),
    ],
)
def test_a_csv_file_with_a_mistake(tmp_path, text, words):
    check_refused(csv_file(tmp_path, text), words)


def check_refused(root, words, load=load_folder):
    with pytest.raises(DataError) as caught:
        load(root)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


FOLDERS = {
    "nothing": ([], "holds no image: put the images of each class into a folder of its own"),
    "loose": (["1.png", "2.png"], "holds its 2 images directly, without classes: put"),
    "one class": (["a/1.png", "a/2.png"], "images of one class only, a:"),
    "singles": (["a/1.png", "b/1.png"], "too few images to set a test set apart"),
    "empty class": (["a/1.png", "a/2.png", "b/1.png", "c/"], "class folder without images: c;"),
    "empty in val": (["train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/"], "without images: b;"),
    "only in train": (["train/a/1.png", "train/b/1.png", "val/a/1.png"], "val/ has no images of b"),
    "both": (
        ["train/a/1.png", "train/b/1.png", "val/b/1.png", "val/c/1.png"],
        "no images of c, and",
    ),
    "loose in val": (["train/a/1.png", "train/b/1.png", "val/1.png"], "val holds its 1 images directly"),
    "no image in val": (["train/a/1.png", "train/b/1.png", "val/"], "val holds no image"),
    "case": (["train/Cat/1.png", "train/b/1.png", "val/cat/1.png", "val/b/1.png"], "'Cat' and 'cat'"),
    "accents": (["caf\u00e9/1.png", "cafe\u0301/1.png"], r"'cafe\u0301' and 'caf\xe9'"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_with_a_mistake(tmp_path, name):
    paths, words = FOLDERS[name]
    for path in paths:
        if path.endswith("/"):
            (tmp_path / path).mkdir(parents=True)
    put(tmp_path, *(path for path in paths if not path.endswith("/")))
    if name in ("case", "accents") and len({p.parent.name for p in tmp_path.rglob("*.png")}) < 2:
        pytest.skip("the file system takes the two names for one")
    check_refused(tmp_path, words)


def test_a_path_that_is_no_folder(tmp_path):
    for load in (load_folder, load_photos):
        check_refused(tmp_path / "none", "there is no folder", load)
        check_refused(tmp_path / ("x" * 5000), "there is no folder", load)
        check_refused(tmp_path / "a\0b", "there is no folder", load)
        (tmp_path / "x.zip").write_bytes(b"")
        check_refused(tmp_path / "x.zip", "neither a folder nor a CSV file", load)


def test_links_that_lead_back_and_nowhere(tmp_path):
    root = put(tmp_path / "a", "x/1.png", "x/2.png", "y/1.png", "y/2.png")
    put(tmp_path / "elsewhere", "3.png")
    try:
        (root / "x/loop").symlink_to(root)
        (root / "y/self").symlink_to(root / "y")
        (root / "y/more").symlink_to(tmp_path / "elsewhere")
        (root / "y/gone.png").symlink_to(root / "nowhere")
    except OSError:
        pytest.skip("no symbolic links here")
    files = list(scan(root).paths)
    assert {"y/more/3.png", "y/gone.png"} <= set(files)
    assert sum(file.startswith("y/self") for file in files) == 0
    assert len(files) < 20


def test_an_unreadable_folder_is_named(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    check_refused(tmp_path, f"cannot read {tmp_path}: Permission denied")


def test_changes_since_the_last_time_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "index_folder", lambda: tmp_path / "kept")
    root = two_sets(tmp_path / "pets")
    assert load_folder(root).changed is None
    assert load_folder(root).changed is None
    (root / "train/cat/0.png").unlink()
    put(root, "val/dog/new.png", "train/dog/1.png", size=9)
    expected = f"{root} has changed since it was last read: of 8 images, 1 new, 1 gone, 1 changed"
    assert load_folder(root).changed == expected
    assert load_folder(root).changed is None


def test_a_damaged_index_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "index_folder", lambda: tmp_path / "kept")
    root = two_sets(tmp_path / "pets")
    load_folder(root)
    (file,) = (file for file in (tmp_path / "kept").iterdir() if not file.name.endswith("-hashes.npz"))
    whole = file.read_bytes()
    for damage in (b"", whole[:100], whole[:-30], b"PK" + bytes(50), whole.replace(b"int64", b"int63")):
        file.write_bytes(damage)
        assert load_folder(root).changed is None
        assert len(file.read_bytes()) == len(whole)
    np.savez(file, text=np.zeros(3, object), ends=[1], sizes=[1], times=[1])  # would need pickle
    assert load_folder(root).changed is None


def test_without_a_place_for_the_index_all_else_works(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(index, "index_folder", lambda: tmp_path / "file" / "kept")
    assert load_folder(two_sets(tmp_path / "pets")).changed is None


def test_the_fingerprint_tells_other_images(tmp_path):
    first = load_folder(two_sets(tmp_path / "a"))
    same = load_folder(shutil.copytree(tmp_path / "a", tmp_path / "b"))
    assert first.fingerprint == same.fingerprint
    put(tmp_path / "b", "val/dog/1.png", size=90)
    other = load_folder(tmp_path / "b")
    assert other.fingerprint != first.fingerprint
    assert other.train.fingerprint == first.train.fingerprint
    parts = [first.train.take(torch.tensor(order)) for order in ([0, 1], [1, 0], [0, 1])]
    assert parts[0].fingerprint == parts[2].fingerprint != parts[1].fingerprint
    assert list(parts[1].files) == ["train/cat/1.png", "train/cat/0.png"]


def test_progress_is_told(tmp_path):
    seen = []
    load_folder(two_sets(tmp_path), progress=seen.append)
    assert seen[-1] == 8


def test_many_paths_take_little_memory_and_pickle():
    files = [f"train/n01440764/n01440764_{number}.JPEG" for number in range(1000)]
    paths = Paths.of([*files, "caf\u00e9.png", "bad\udcff.png", ""])
    assert len(pickle.dumps(paths)) < 50 * len(paths)
    again = pickle.loads(pickle.dumps(paths))
    assert list(again) == list(paths) == [*files, "caf\u00e9.png", "bad\udcff.png", ""]
    assert again[-2] == "bad\udcff.png"
    assert list(again[1:3]) == files[1:3]
    with pytest.raises(IndexError):
        again[len(paths)]
