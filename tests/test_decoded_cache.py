"""Decoded photographs that are kept: the pixels are the same, and whatever goes wrong is one line."""

import errno
import multiprocessing
import os
import pickle
import shutil
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from residual.cli.train_options import parse_size
from residual.data import decoded
from residual.data.decode import BadImageError
from residual.data.decoded import keep_decoded
from residual.data.folder import load_photos
from residual.data.photos import Photos
from residual.data.region import Region, whole
from residual.errors import DataError, UsageError

SIZES = [(40, 60), (100, 80), (50, 50), (64, 200)]
PLENTY = 1 << 30


@pytest.fixture
def photos(tmp_path):
    """Load four photographs of two classes, and one bad file."""
    random = np.random.default_rng(0)
    for number, (height, width) in enumerate(SIZES):
        path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = Image.fromarray(random.integers(0, 256, (height // 8, width // 8, 3), np.uint8))
        noise.resize((width, height), Image.Resampling.BICUBIC).save(path, quality=95)
    (tmp_path / "photos/b/bad.jpg").write_bytes(b"no image")
    found = load_photos(tmp_path / "photos")
    assert list(found.files) == ["a/0.jpg", "a/2.jpg", "b/1.jpg", "b/3.jpg", "b/bad.jpg"]
    return found


def center(height, width):
    side = min(height, width) // 2
    left, top = (width - side) / 2, (height - side) / 2
    return Region(left, top, left + side, top + side, 24, 24)


def test_small_images_keep_every_bit(photos, tmp_path):
    kept = keep_decoded(photos, 100, PLENTY, tmp_path / "kept")
    assert (len(kept), kept.class_names) == (5, ("a", "b"))
    assert torch.equal(kept.labels, photos.labels)
    for index in range(4):
        for choose in (whole, center):
            for interpolation in ("bilinear", "bicubic"):
                found = kept.region(index, choose, interpolation)
                assert torch.equal(found, photos.region(index, choose, interpolation))
        image, label = kept[index]
        assert (image.dtype, label) == (torch.uint8, int(photos.labels[index]))


def test_large_images_are_reduced_and_regions_stay_where_they_are(photos, tmp_path):
    kept = keep_decoded(photos, 50, PLENTY, tmp_path / "kept")
    assert [tuple(kept.store.image(i).shape) for i in range(4)] == [
        (40, 60, 3),
        (50, 50, 3),
        (62, 50, 3),
        (50, 156, 3),
    ]
    seen = []

    def choose(height, width):
        seen.append((height, width))
        return center(height, width)

    for index in range(4):
        far = kept.region(index, choose).int() - photos.region(index, choose).int()
        assert far.abs().float().mean() < 8
    assert seen[::2] == seen[1::2] == [(40, 60), (50, 50), (100, 80), (64, 200)]
    assert kept[2][0].shape == (100, 80, 3)


def test_bad_images_stay_bad(photos, tmp_path):
    kept = keep_decoded(photos, 50, PLENTY, tmp_path / "kept")
    for each in (photos, kept, pickle.loads(pickle.dumps(kept))):
        with pytest.raises(BadImageError, match=r"bad\.jpg: it is none of") as caught:
            each.region(4, whole)
        assert caught.value.path == str(photos.root / "b/bad.jpg")


def test_what_is_kept_is_found_again(photos, tmp_path, monkeypatch):
    first = keep_decoded(photos, 50, PLENTY, tmp_path / "kept")
    monkeypatch.setattr(Photos, "content", None)  # nothing is decoded
    again = keep_decoded(photos, 50, 1, tmp_path / "kept")
    assert all(torch.equal(first[i][0], again[i][0]) for i in range(4))
    monkeypatch.undo()
    other = keep_decoded(photos, 40, PLENTY, tmp_path / "kept")
    assert other.store.folder != first.store.folder
    Image.new("RGB", (60, 40)).save(photos.root / "a/0.jpg")
    changed = load_photos(photos.root)
    assert keep_decoded(changed, 50, PLENTY, tmp_path / "kept")[0][0].max() == 0


def test_it_pickles_small_and_is_shared_by_workers(photos, tmp_path):
    kept = keep_decoded(photos, 100, PLENTY, tmp_path / "kept", workers=2)
    kept.region(0, whole)  # maps the files
    assert len(pickle.dumps(kept)) < 5000
    assert torch.equal(pickle.loads(pickle.dumps(kept)).region(3, center), photos.region(3, center))


def test_some_of_them_can_be_taken(photos, tmp_path):
    kept = keep_decoded(photos, 100, PLENTY, tmp_path / "kept")
    taken = kept.take(torch.tensor([3, 0])).take(torch.tensor([1, 0]))
    assert list(taken.files) == ["a/0.jpg", "b/3.jpg"]
    assert torch.equal(taken.region(1, center), photos.region(3, center))


def test_what_does_not_fit_is_refused_before_it_is_decoded(photos, tmp_path, monkeypatch):
    needed = 3 * (40 * 60 + 50 * 50 + 62 * 50 + 50 * 156)
    folder = tmp_path / "kept"
    with pytest.raises(DataError, match=r"5 decoded images .* need 0\.05 MiB, but 0\.05 MiB are allowed"):
        keep_decoded(photos, 50, needed - 1, folder)
    usage = shutil.disk_usage(tmp_path)._replace(free=needed - 1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(DataError, match="are free on the disk of"):
            keep_decoded(photos, 50, PLENTY, folder)
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]
    keep_decoded(photos, 50, needed, folder)


def test_a_disk_that_fills_up_leaves_nothing_behind(photos, tmp_path, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = tmp_path / "kept"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(DataError, match=r"cannot keep decoded images in .*: the disk is full"):
            keep_decoded(photos, 50, PLENTY, folder)
    assert not [path for path in folder.iterdir() if path.suffix != ".lock"]
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match="cannot keep decoded images"):
        keep_decoded(photos, 50, PLENTY, tmp_path / "file" / "kept")


@pytest.mark.parametrize("name", ["pixels", "ends.npy", "sizes.npy", "bad.json"])
@pytest.mark.parametrize("damage", ["gone", "short", "other"])
def test_a_damaged_cache_is_made_again(photos, tmp_path, name, damage):
    kept = keep_decoded(photos, 50, PLENTY, tmp_path / "kept")
    expected = kept.region(3, center).clone()
    file = kept.store.folder / name
    if damage == "gone":
        file.unlink()
    else:
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if damage == "short" else b"[]")
    again = keep_decoded(photos, 50, PLENTY, tmp_path / "kept")
    assert torch.equal(again.region(3, center), expected)


def test_sizes_that_do_not_fit_the_pixels_are_made_again(photos, tmp_path):
    kept = keep_decoded(photos, 50, PLENTY, tmp_path / "kept")
    expected = kept.region(3, center).clone()
    sizes = np.array(kept.store.sizes)
    sizes[3, 2] += 1
    np.save(kept.store.folder / "sizes.npy", sizes)
    again = keep_decoded(photos, 50, PLENTY, tmp_path / "kept")
    assert torch.equal(again.region(3, center), expected)


def build(photos, folder):
    keep_decoded(photos, 50, PLENTY, folder)


def test_two_at_once_build_it_once(photos, tmp_path, monkeypatch):
    builds, real = [], decoded._build
    monkeypatch.setattr(decoded, "_build", lambda *a: (builds.append(1), real(*a)))
    threads = [threading.Thread(target=build, args=(photos, tmp_path / "kept")) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builds == [1]


@pytest.mark.slow
def test_two_processes_at_once(photos, tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=build, args=(photos, tmp_path / "kept")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert torch.equal(keep_decoded(photos, 50, 1, tmp_path / "kept")[0][0], photos[0][0])


def test_what_a_killed_process_left_is_removed(photos, tmp_path):
    folder = keep_decoded(photos, 50, PLENTY, tmp_path / "kept").store.folder
    folder.rename(folder.with_name(f".{folder.name}-left"))
    (tmp_path / "kept" / ".of-another-key").mkdir()
    keep_decoded(photos, 50, PLENTY, tmp_path / "kept")
    left = {path.name for path in (tmp_path / "kept").iterdir() if path.suffix != ".lock"}
    assert left == {folder.name, ".of-another-key"}


def test_progress_is_told(photos, tmp_path):
    seen = []
    keep_decoded(photos, 50, PLENTY, tmp_path / "kept", progress=seen.append)
    assert seen == [1, 2, 3, 4, 5]


def test_sizes():
    assert [parse_size(text) for text in ("8G", "1.5 GiB", "500m", "10KB", "7")] == [
        8 << 30,
        3 << 29,
        500 << 20,
        10 << 10,
        7,
    ]
    for text in ("", "G", "-1G", "8X", "1e3"):
        with pytest.raises(UsageError, match="give it as 500M or 8G"):
            parse_size(text)
