"""CIFAR-10 and CIFAR-100 from their official binary releases."""

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock

from ..errors import DataError
from ..files import write_json
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
    """

    name: str
    archive: str
    md5: str
    folder: str
    label_bytes: int
    files: dict[str, str]
    records: dict[str, int]
    num_classes: int
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
    class_names_file="fine_label_names.txt",
)
RELEASES = {release.name: release for release in (CIFAR10, CIFAR100)}


def default_root() -> Path:
    """Return RESIDUAL_DATA where it is set, else a folder in the user's cache."""
    if os.environ.get("RESIDUAL_DATA"):
        return Path(os.environ["RESIDUAL_DATA"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "residual"


def find(release: Release, root: Path | None = None) -> Path | None:
    """Return the folder with the record files if it is there: `root` itself or a folder in it.

    Raises:
        DataError: `root` is no path that can be looked for.
    """
    root = default_root() if root is None else root
    try:
        folder = root if root.resolve().name == release.folder else root / release.folder
        return folder if folder.is_dir() else None
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        raise DataError(f"no {release.name} in {root}: {error}") from error


def fetch(release: Release, root: Path | None = None) -> Path:
    """Return the folder with the record files; extract or download the archive if need be.

    Raises:
        DataError: the archive is altered, or there is neither data nor network; the message says
            what to put where.
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
            f"put {release.archive} or the folder {release.folder} into {root} (--data-dir or RESIDUAL_DATA)"
        )
        raise DataError(f"no {release.name} in {root}: {error}; {hint}") from error


def _obtain(release: Release, root: Path, archive: Path) -> Path:
    """Check or download the archive, extract it, and note the files' MD5 where none was published."""
    if archive.is_file():
        check_md5(archive, release.md5)
    else:
        download(release.url, archive, release.md5)
    extract(archive, release.folder, root)
    folder = root / release.folder
    sums = {name: md5_of(folder / name) for name in release.files if (folder / name).is_file()}
    write_json(folder / MD5_FILE, sums)
    return folder


def load(release: Release, root: Path | None = None) -> Dataset:
    """Load a release, every file checked.

    Raises:
        DataError: as `fetch`, or a record file is missing, cut or altered (it is named).
    """
    folder = fetch(release, root)
    parts = {name: read_records(release, folder / name) for name in release.files}
    train = [split for name, split in parts.items() if "test" not in name]
    test = next(split for name, split in parts.items() if "test" in name)
    whole = Split(torch.cat([s.images for s in train]), torch.cat([s.labels for s in train]))
    return Dataset(release.name, whole, test, class_names(release, folder))


def read_records(release: Release, path: Path) -> Split:
    """Read one record file.

    Raises:
        DataError: the file is missing, cut or altered.
    """
    width = release.label_bytes + PIXELS
    expected = release.records[path.name] * width
    if not path.is_file():
        raise DataError(f"{path} is missing: delete {path.parent} and let it be extracted again")
    if path.stat().st_size != expected:
        raise DataError(f"{path} is cut or altered: {path.stat().st_size} bytes, not {expected}")
    expected_md5 = release.files[path.name] or _noted_md5(path)
    if expected_md5:
        check_md5(path, expected_md5)
    records = torch.from_numpy(np.fromfile(path, np.uint8)).reshape(-1, width)
    labels = records[:, release.label_bytes - 1].long()
    if int(labels.max()) >= release.num_classes:
        raise DataError(f"{path} is altered: it holds the label {int(labels.max())}")
    planes = records[:, release.label_bytes :].reshape(-1, 3, 32, 32)
    return Split(planes.permute(0, 2, 3, 1).contiguous(), labels)


def _noted_md5(path: Path) -> str:
    """Return the MD5 that a file had when it came out of its archive, "" if that was not noted."""
    noted = path.with_name(MD5_FILE)
    try:
        return str(json.loads(noted.read_text())[path.name]) if noted.is_file() else ""
    except (ValueError, KeyError, TypeError):
        raise DataError(f"{noted} is altered: delete {path.parent} and let it be extracted again") from None


def class_names(release: Release, folder: Path) -> tuple[str, ...]:
    """Return the names of the classes, in the order of their labels."""
    if release.class_names:
        return release.class_names
    path = folder / release.class_names_file
    names = tuple(path.read_text(encoding="utf-8", errors="replace").split()) if path.is_file() else ()
    if len(names) != release.num_classes:
        raise DataError(f"{path} is missing or altered: it should name {release.num_classes} classes")
    return names
