"""Near-duplicates: planted copies are found, other photographs are not; what was hashed is kept."""

import errno
import io
import random
from functools import cache

import numpy as np
import pytest
from PIL import Image

from residual.data import hashes, index, inspection
from residual.data.duplicates import components, find_pairs
from residual.data.folder import load_folder
from residual.data.hashes import make_prints
from residual.data.scan import scan


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """Keep hashes in a folder of the test's own."""
    monkeypatch.setattr(index, "index_folder", lambda: tmp_path / "kept")
    return tmp_path / "kept"


@cache
def picture(seed, height=180, width=240):
    """Make a picture that has structure at all scales, as photographs have."""
    numbers, pixels = np.random.default_rng(seed), np.zeros((height, width, 3))
    for cells in (3, 6, 12, 24, 48):
        coarse = numbers.integers(0, 256, (cells, cells, 3), np.uint8)
        resized = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        pixels += np.asarray(resized, float) * 3 / cells
    pixels -= pixels.min()
    return Image.fromarray((pixels * 255 / pixels.max()).astype(np.uint8))


def copy_of(image, draw):
    """Crop by 3 to 5 %, rescale to 60 to 150 % and re-encode, as a picture that went around has been."""
    lost = draw.uniform(0.03, 0.05)
    left, top = draw.uniform(0, lost) * image.width, draw.uniform(0, lost) * image.height
    image = image.crop(
        (int(left), int(top), int(left + image.width * (1 - lost)), int(top + image.height * (1 - lost)))
    )
    scale = draw.uniform(0.6, 1.5)
    buffer = io.BytesIO()
    image.resize((int(image.width * scale), int(image.height * scale))).save(
        buffer, "JPEG", quality=draw.randint(40, 80)
    )
    return buffer.getvalue()


def folder(root, count=40, copies=20, classes=2):
    """Write pictures of two classes, and copies of the first of them under other names."""
    draw = random.Random(0)
    for number in range(count):
        place = root / f"c{number % classes}"
        place.mkdir(parents=True, exist_ok=True)
        image = picture(number)
        image.save(place / f"{number:03}.png")
        if number < copies:
            (place / f"{number:03}-copy.jpg").write_bytes(copy_of(image, draw))
    return root


def pairs_in(root):
    listing = scan(root)
    numbers = list(range(len(listing.paths)))
    return [
        (listing.paths[first], listing.paths[second])
        for first, second in find_pairs(make_prints(root, root, listing, numbers))[0].tolist()
    ]


def test_planted_copies_are_found_and_nothing_else(tmp_path):
    root = folder(tmp_path / "a")
    found = pairs_in(root)
    right = [pair for pair in found if pair[0].replace("-copy.jpg", ".png") == pair[1]]
    assert len(found) == len(right) >= 19
    dataset = load_folder(root)
    train, test = ({file[:6] for file in part.files} for part in (dataset.train, dataset.test))
    for pair in found:
        assert len({pair[0][:6]} & train & test) == 0
    assert len(dataset.findings.duplicates) == len(found)
    assert dataset.findings.leaks == dataset.findings.conflicts == ()
    assert "groups of near-duplicates" in dataset.findings.notes[0]
    assert 9 <= len(dataset.test) <= 15
    groups = dict(zip(dataset.train.files, dataset.train.groups.tolist(), strict=True))
    assert sum(groups.get(a, -1) == groups.get(b, -2) for a, b in found) >= len(found) // 2


def test_flat_tiny_and_bad_images_are_no_duplicates(tmp_path):
    root = tmp_path / "a" / "x"
    root.mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (200, 200), (90, 90, 90)).save(root / f"flat{number}.png")
        picture(1, 20, 20).save(root / f"tiny{number}.png")
        (root / f"bad{number}.jpg").write_bytes(b"no image")
    assert pairs_in(tmp_path / "a") == []


def test_leaks_and_labels_that_differ_are_reported(tmp_path):
    root = tmp_path / "a"
    for part, name, number in (
        *(("train", "cat", n) for n in range(4)),
        *(("train", "dog", n) for n in range(4, 8)),
        *(("val", "cat", 8), ("val", "dog", 9)),
    ):
        (root / part / name).mkdir(parents=True, exist_ok=True)
        picture(number).save(root / part / name / f"{number}.png")
    (root / "val/cat/leak.jpg").write_bytes(copy_of(picture(2), random.Random(1)))
    picture(3).save(root / "train/dog/wrong.jpg", quality=70)
    (root / "train/dog/broken.jpg").write_bytes(b"no image")
    dataset = load_folder(root)
    found = dataset.findings
    assert found.leaks == (("train/cat/2.png", "val/cat/leak.jpg"),)
    assert found.conflicts == (("train/cat/3.png", "train/dog/wrong.jpg"),)
    assert (len(dataset.train), len(dataset.test)) == (10, 3)  # nothing is moved
    assert found.bad == ("train/dog/broken.jpg",)
    assert found.shorter_side == 180
    text = "\n".join(found.notes)
    for said in (
        "1 test images are near-duplicates",
        "different labels",
        "cannot be decoded",
        "fewer than 10",
    ):
        assert said in text


def test_only_new_and_changed_images_are_hashed_again(tmp_path, monkeypatch):
    root, seen = folder(tmp_path / "a", 6, 2), []
    real = hashes.decode
    monkeypatch.setattr(
        hashes, "decode", lambda path, choose: (seen.append(path.name), real(path, choose))[1]
    )
    first = pairs_in(root)
    assert len(seen) == 8
    picture(77).save(root / "c0/new.png")
    picture(78, 200, 200).save(root / "c1/003.png")
    seen.clear()
    assert pairs_in(root) == first
    assert sorted(seen) == ["003.png", "new.png"]


def test_a_damaged_or_missing_place_for_hashes_changes_nothing(tmp_path, kept, monkeypatch):
    root = folder(tmp_path / "a", 6, 2)
    first = pairs_in(root)
    (file,) = kept.glob("*-hashes.npz")
    whole = file.read_bytes()
    for damage in (b"", whole[:200], whole.replace(b"uint8", b"uint9"), whole[:-300]):
        file.write_bytes(damage)
        assert pairs_in(root) == first

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    file.unlink()
    monkeypatch.setattr(hashes, "write_atomically", full)
    assert pairs_in(root) == first
    assert not list(kept.glob("*-hashes.npz"))


def test_a_file_that_vanishes_while_it_is_hashed_is_left_out(tmp_path, monkeypatch):
    root = folder(tmp_path / "a", 6, 2)
    real = hashes.decode

    def decode(path, choose):
        if path.name == "000.png":
            path.unlink(missing_ok=True)
        return real(path, choose)

    monkeypatch.setattr(hashes, "decode", decode)
    dataset = load_folder(root)
    assert dataset.findings.bad == ("c0/000.png",)
    assert [pair[0] for pair in dataset.findings.duplicates] == ["c1/001-copy.jpg"]


def test_too_many_images_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(inspection, "MOST", 5)
    dataset = load_folder(folder(tmp_path / "a", 6, 2))
    assert dataset.findings.duplicates == ()
    assert dataset.findings.notes[0] == "near-duplicates were not looked for: 8 images are more than 5"
    assert dataset.train.groups is None


def test_images_that_all_look_alike_are_not_one_group(tmp_path):
    root = folder(tmp_path / "a", 30, 0)
    for number in range(20):
        picture(5).save(root / "c0" / f"same{number}.jpg", quality=60 + number)
    dataset = load_folder(root)
    assert "look so alike" in dataset.findings.notes[0]
    assert dataset.findings.duplicates == ()


def test_components_are_numbered_by_their_lowest():
    assert components(6, [(4, 2), (2, 0), (5, 3)]).tolist() == [0, 1, 0, 3, 0, 3]
