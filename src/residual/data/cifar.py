"""CIFAR-10 and CIFAR-100 from their official releases: the binary one, else the Python one."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from ..errors import DataError
from ..runtime.files import read_bounded, write_json
from . import python_release
from .archive import check_md5, download, extract, md5_of
from .dataset import Dataset, Split

HOME = "https://www.cs.toronto.edu/~kriz"
PIXELS = 3 * 32 * 32
MD5_FILE = "md5.json"  # beside the record files, for releases that publish the archive's MD5 alone


@dataclass(frozen=True)
class Release:
    """An official release: its archive, the folder and the record files inside, and their checks.

    A record is `label_bytes` bytes, the last of which is the label, and 3,072 pixel bytes: the R, G and
    B planes, row by row. `files` maps a file's name to its MD5, or to "" where none was published.

    The Python release holds the same records as pickles, whose names lack the ".bin"; `python_labels` are
    the keys of a record's labels.
    """

    name: str
    archive: str
    md5: str
    folder: str
    label_bytes: int
    files: dict[str, str]
    records: dict[str, int]
    num_classes: int
    python_archive: str
    python_md5: str
    python_folder: str
    python_labels: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    class_names_file: str = ""

    @property
    def url(self) -> str:
        """Where the archive is fetched from; RESIDUAL_MIRROR may name another server."""
        return f"{os.environ.get('RESIDUAL_MIRROR', HOME).rstrip('/')}/{self.archive}"


CIFAR10 = Release(
    name="cifar10",
    archive="cifar-10-binary.tar.gz",
    md5="c32a1d4ab5d03f1284b67883e8d87530",
    folder="cifar-10-batches-bin",
    label_bytes=1,
    files={
        "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
        "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
        "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
        "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
        "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
        "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
    },
    records={**{f"data_batch_{n}.bin": 10_000 for n in range(1, 6)}, "test_batch.bin": 10_000},
    num_classes=10,
    python_archive="cifar-10-python.tar.gz",
    python_md5="c58f30108f718f92721af3b95e74349a",
    python_folder="cifar-10-batches-py",
    python_labels=("labels",),
    class_names=(
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
)
CIFAR100 = Release(
    name="cifar100",
    archive="cifar-100-binary.tar.gz",
    md5="03b5dce01913d631647c71ecec9e9cb8",
    folder="cifar-100-binary",
    label_bytes=2,
    files={"train.bin": "", "test.bin": ""},
    records={"train.bin": 50_000, "test.bin": 10_000},
    num_classes=100,
    python_archive="cifar-100-python.tar.gz",
    python_md5="eb9058c3a382ffc7106e4002c42a8d85",
    python_folder="cifar-100-python",
    python_labels=("coarse_labels", "fine_labels"),
    class_names_file="fine_label_names.txt",
)
RELEASES = {release.name: release for release in (CIFAR10, CIFAR100)}


def cache_folder() -> Path:
    """Return this package's folder in the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "residual"


def default_root() -> Path:
    """Return RESIDUAL_DATA where it is set, else a folder in the user's cache."""
    return Path(os.environ.get("RESIDUAL_DATA") or cache_folder())


def find(release: Release, root: Path | None = None) -> Path | None:
    """Return the folder with the record files, `root` itself or a folder in it; None if there is none.

    The binary release is preferred to the Python one, which other tools leave behind.

    Raises:
        DataError: `root` is not a valid path.
    """
    root = default_root() if root is None else root
    try:
        for name in (release.folder, release.python_folder):
            folder = root if name in (root.name, root.resolve().name) else root / name
            if folder.is_dir():
                return folder
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        raise DataError(f"no {release.name} in {root}: {error}") from error
    return None


def _is_python(release: Release, folder: Path) -> bool:
    return release.python_folder in (folder.name, folder.resolve().name)


def record_files(release: Release, folder: Path) -> list[Path]:
    """Return the paths of the record files in a folder of either release."""
    names = [Path(name) for name in release.files]
    return [folder / (name.stem if _is_python(release, folder) else name) for name in names]


def fetch(release: Release, root: Path | None = None) -> Path:
    """Return the folder with the record files; extract or download the archive if necessary.

    Raises:
        DataError: the archive is corrupted, or it cannot be downloaded; the message says what to put where.
    """
    folder = find(release, root)
    if folder is not None:
        return folder
    root = default_root() if root is None else root
    archive = root / release.archive
    try:
        key = hashlib.sha256(str(archive.resolve()).encode()).hexdigest()[:16]
        with FileLock(Path(tempfile.gettempdir()) / f"residual-{key}.lock"):  # two first uses, one download
            return find(release, root) or _obtain(release, root, archive)
    except (DataError, OSError) as error:
        hint = (
            f"put {release.archive} or the folder {release.folder} or {release.python_folder} "
            f"into {root} (--data-dir or RESIDUAL_DATA)"
        )
        raise DataError(f"no {release.name} in {root}: {error}; {hint}") from error


def _archives(release: Release, root: Path) -> Iterator[tuple[Path, str, str]]:
    """Yield the archives in `root`: path, MD5, and the folder inside."""
    for name, md5, folder in (
        (release.archive, release.md5, release.folder),
        (release.python_archive, release.python_md5, release.python_folder),
    ):
        if (root / name).is_file():
            yield root / name, md5, folder


def _obtain(release: Release, root: Path, archive: Path) -> Path:
    """Check or download the archive, extract it, and record the MD5 of its files (not all are published)."""
    there = next(_archives(release, root), None)
    if there is None:
        download(release.url, archive, release.md5)
        name = release.folder
    else:
        archive, md5, name = there
        check_md5(archive, md5)
    extract(archive, name, root)
    folder = root / name
    sums = {path.name: md5_of(path) for path in record_files(release, folder) if path.is_file()}
    write_json(folder / MD5_FILE, sums)
    return folder


def load(release: Release, root: Path | None = None) -> Dataset:
    """Load a release, every file checked.

    Raises:
        DataError: as `fetch`, or a record file is missing, truncated or corrupted (it is named).
    """
    folder = fetch(release, root)
    parts = {path.stem: read_records(release, path) for path in record_files(release, folder)}
    train = [split for name, split in parts.items() if "test" not in name]
    test = next(split for name, split in parts.items() if "test" in name)
    whole = Split(torch.cat([s.images for s in train]), torch.cat([s.labels for s in train]))
    return Dataset(release.name, whole, test, class_names(release, folder))


def verify(release: Release, root: Path | None = None) -> Iterator[tuple[Path, str]]:
    """Check every file, or the archive; yield each one's path and what was found.

    Raises:
        DataError: there are no files, or a file is missing, truncated or corrupted (it is named).
    """
    folder = find(release, root)
    if folder is not None:
        for path in record_files(release, folder):
            yield path, _verdict(release, path)
        return
    root = default_root() if root is None else root
    there = next(_archives(release, root), None)
    if there is None:
        raise DataError(f"no {release.name} in {root}")
    check_md5(*there[:2])
    yield there[0], "as in the official release"


def _verdict(release: Release, path: Path) -> str:
    records = _records(release, path)
    published = release.files[path.stem + ".bin"]
    if path.with_name(MD5_FILE).is_file() or hashlib.md5(records.data).hexdigest() == published:
        return "as in the official release"
    if published:
        return "size and labels fit; its records are not those of the official binary release"
    return "size and labels fit; its MD5 was not published"


def read_records(release: Release, path: Path) -> Split:
    """Read one record file, of either release.

    Raises:
        DataError: the file is missing, truncated or corrupted, or would run code.
    """
    records = torch.from_numpy(_records(release, path))
    planes = records[:, release.label_bytes :].reshape(-1, 3, 32, 32)
    return Split(planes.permute(0, 2, 3, 1).contiguous(), records[:, release.label_bytes - 1].long())


def _records(release: Release, path: Path) -> NDArray[np.uint8]:
    """Read and check a file's records [count, label_bytes + 3072]."""
    if _is_python(release, path.parent):
        _check_recorded(path)
        count = release.records[path.name + ".bin"]
        records = python_release.read_batch(path, count, PIXELS, release.python_labels)
    else:
        records = _read_binary(release, path)
    highest = int(records[:, release.label_bytes - 1].max())
    if highest >= release.num_classes:
        raise DataError(f"{path} is corrupted: it holds the label {highest}")
    return records


def _read_binary(release: Release, path: Path) -> NDArray[np.uint8]:
    width = release.label_bytes + PIXELS
    expected = release.records[path.name] * width
    if not path.is_file():
        raise DataError(f"{path} is missing: delete {path.parent} and let it be extracted again")
    if path.stat().st_size != expected:
        raise DataError(f"{path} is truncated or corrupted: {path.stat().st_size} bytes, not {expected}")
    if release.files[path.name]:
        check_md5(path, release.files[path.name])
    else:
        _check_recorded(path)
    return np.fromfile(path, np.uint8).reshape(-1, width)


def _check_recorded(path: Path) -> None:
    """Compare a file with its MD5 recorded when the archive was extracted, if there is one."""
    recorded = path.with_name(MD5_FILE)
    if not (recorded.is_file() and path.is_file()):
        return
    try:
        expected = bytes.fromhex(json.loads(read_bounded(recorded, python_release.MARGIN))[path.name]).hex()
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise DataError(
            f"{recorded} is corrupted: delete {path.parent} and let it be extracted again"
        ) from None
    check_md5(path, expected)


def class_names(release: Release, folder: Path) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their labels."""
    if release.class_names:
        return release.class_names
    if _is_python(release, folder):
        path = folder / "meta"
        names = python_release.read_names(path, "fine_label_names")
    else:
        path, names = folder / release.class_names_file, ()
        with suppress(OSError):
            names = tuple(read_bounded(path, python_release.MARGIN).decode(errors="replace").split())
    if len(names) != release.num_classes:
        raise DataError(f"{path} is missing or corrupted: it should name {release.num_classes} classes")
    return names
