"""The photographs of the tutorial: the same every time, with the faults that it speaks of and no others."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

import residual

SCRIPT = Path(__file__).parent.parent / "scripts" / "draw_photos.py"


def draw(folder, *options):
    subprocess.run([sys.executable, SCRIPT, folder, *options], check=True, capture_output=True)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


def test_they_have_the_faults_of_the_tutorial(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    files = draw(tmp_path / "photos")
    photos = residual.load_folder(tmp_path / "photos")
    assert photos.class_names == ("circle", "cross", "square", "triangle")
    assert (len(photos.train), len(photos.test)) == (120, 60)
    copy = ("train/cross/cross-03.jpg", "val/cross/cross-32.jpg")
    assert photos.findings.leaks == photos.findings.duplicates == (copy,)
    with Image.open(tmp_path / "photos/train/triangle/triangle-05.jpg") as stored:
        assert stored.getexif()[0x0112] == 6
    assert sum(map(len, files.values())) < 1_000_000


def test_the_same_seed_draws_the_same(tmp_path):
    few = ("--train", "2", "--val", "1")
    first, again, other = (
        draw(tmp_path / name, *few, "--seed", seed) for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    )
    assert first == again
    assert len(first) == 12
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
