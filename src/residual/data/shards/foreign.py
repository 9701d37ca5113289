"""An index of tar files in WebDataset format that another program wrote, from their headers."""

import hashlib
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...errors import DataError, UsageError
from ...runtime.files import found, read_bounded
from ..decode import MAX_BYTES
from ..findings import Findings
from ..layouts import Rows, check_classes, split_by_class
from ..scan import SUFFIXES, Paths, Progress
from .index import HEAD, SETS, Index, Samples, Shard, check_name, write_index

TEST_NAME = re.compile(r"(^|[-_.])(val|valid|validation|test)([-_.\d]|$)", re.IGNORECASE)
LABELS = (".cls", ".json")
JSON_KEYS = ("label", "cls", "class", "class_id")
MAX_LABEL, MAX_LINES = 1 << 20, 1 << 26  # bytes
UNSEARCHED = "near-duplicates were not looked for in these shards"


@dataclass
class _Found:
    """An image in a shard: its number, offset and length, its path for messages, its label as text."""

    shard: int
    offset: int
    length: int
    path: str
    label: str


def index_shards(
    folder: str | Path, *, classes: str | Path | None = None, progress: Progress | None = None
) -> Index:
    """Write an index of the `.tar` files in a folder, which are left as they are.

    A sample is what follows each other with one key (the name up to its first dot): an image, and a `.cls` or
    `.json` that holds its label, in JSON as "label", "cls", "class" or "class_id". Tar files with val, valid,
    validation or test in their names are the test set; where there are none, a share of each class is, as
    `load_folder` sets it apart.

    Args:
        folder: the folder.
        classes: a text file with the name of a class in each line, from label 0 on. By default labels that
            are numbers are also the names, and others are the classes' names.
        progress: is called with the number of images found so far.

    Returns:
        The index.

    Raises:
        DataError: a tar file is corrupted, or an image has no label.
        UsageError: the folder has an index already.
    """
    folder = Path(folder)
    if found((folder / HEAD).exists):
        raise UsageError(f"{folder} has an index already: delete {HEAD} to make it anew")
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise DataError(f"{folder} holds no .tar files; compressed ones must be unpacked to .tar first")
    shards, images = [], list[_Found]()
    for number, path in enumerate(tars):
        before = len(images)
        try:
            check_name(path.name)
            if not path.is_file():  # a device may never end
                raise OSError("not a regular file")
            images += _images(path, number)
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except (OSError, ValueError) as error:
            raise DataError(f"cannot index {path}: {error}") from error
        size = path.stat().st_size
        shards.append(Shard(name=path.name, size=size, sha256=digest, images=len(images) - before))
        if progress is not None:
            progress(len(images))
    names, labels = _classes(folder, images, classes)
    tested = [bool(TEST_NAME.search(Path(shard.name).stem)) for shard in shards]
    rows = [(number, image.label) for number, image in enumerate(images)]
    sets = {
        part: _samples([images[number] for number, _ in chosen], labels)
        for part, chosen in zip(SETS, _split(folder, rows, images, tested), strict=True)
    }
    made = Index(folder.resolve().name, names, tuple(shards), sets, Findings(notes=(UNSEARCHED,)))
    try:
        write_index(folder, made)
    except OSError as error:
        raise DataError(f"cannot write the index of {folder}: {error.strerror or error}") from error
    return made


@dataclass
class _Sample:
    """The members of one key so far."""

    key: str
    image: tuple[str, int, int] | None = None  # name, offset, length
    labels: dict[str, str] = field(default_factory=dict)  # by suffix


def _images(path: Path, number: int) -> Iterator[_Found]:
    """Yield the images of a tar file.

    Raises:
        DataError: the file is corrupted, or an image has no label.
    """
    with path.open("rb") as file:
        for sample in _samples_of(_members(path, file)):
            if sample.image is None:
                continue
            name, offset, length = sample.image
            label = next((sample.labels[suffix] for suffix in LABELS if suffix in sample.labels), None)
            if label is None:
                raise DataError(
                    f"{path} has no label for {name!r:.80}: it needs a .cls or a .json with a label"
                )
            yield _Found(number, offset, length, f"{path.name}/{name}", label)


def _samples_of(members: Iterable[tuple[str, int, int, bytes]]) -> Iterator[_Sample]:
    """Group members that follow each other by their keys."""
    sample: _Sample | None = None
    for name, offset, length, content in members:
        folder, slash, last = name.rpartition("/")
        stem, _, suffixes = last.partition(".")
        key, suffix = folder + slash + stem, "." + suffixes.lower()
        if sample is None or key != sample.key:
            if sample is not None:
                yield sample
            sample = _Sample(key)
        if suffix in SUFFIXES and sample.image is None:
            sample.image = name, offset, length
        elif suffix in LABELS:
            label = _label(suffix, content)
            if label is not None:
                sample.labels[suffix] = label
    if sample is not None:
        yield sample


def _members(path: Path, file: BinaryIO) -> Iterator[tuple[str, int, int, bytes]]:
    """Yield name, offset and length of the files in a tar, and the content of those that hold a label."""
    last = -1
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                if member.size < 0 or member.offset_data <= last:  # it would read a header again for ever
                    raise DataError(f"{path} is corrupted at byte {member.offset_data:,}")
                last = member.offset_data
                if not member.isreg() or member.issparse():
                    continue  # links and folders hold no image
                if member.size > MAX_BYTES:
                    raise DataError(f"{path} holds {member.name!r:.80} of {member.size:,} bytes")
                content = b""
                if member.name.lower().endswith(LABELS) and member.size <= MAX_LABEL:
                    reader = tar.extractfile(member)
                    content = b"" if reader is None else reader.read()
                yield member.name, member.offset_data, member.size, content
            file.seek(tar.offset)
            end = file.read(tarfile.BLOCKSIZE)
            if any(end) or not end:  # tarfile takes both for the end
                raise DataError(f"{path} is {'corrupted' if end else 'truncated'} at byte {tar.offset:,}")
    except DataError:
        raise
    except Exception as error:  # tarfile fails with several classes of error on a corrupted file
        raise DataError(f"{path} is corrupted: {' '.join(str(error).split())[:200]}") from error


def _label(suffix: str, content: bytes) -> str | None:
    """Return the label that a member holds as text; None if it holds none."""
    try:
        text = content.decode().strip()
        if suffix == ".json":
            values = json.loads(text)
            found = [values[key] for key in JSON_KEYS if key in values] if isinstance(values, dict) else []
            text = str(found[0]).strip() if found and isinstance(found[0], str | int) else ""
    except (ValueError, RecursionError):
        return None
    return text if 0 < len(text) <= 1000 else None


def _classes(
    folder: Path, images: list[_Found], file: str | Path | None
) -> tuple[tuple[str, ...], Mapping[str, int]]:
    """Return the names of the classes, and the number of each label's text."""
    found = {image.label for image in images}
    if not found:
        raise DataError(f"the .tar files in {folder} hold no image with a label, KEY.jpg and KEY.cls")
    numbers = {text: int(text) for text in found if re.fullmatch(r"\d{1,6}", text)}
    if file is None:
        if len(numbers) < len(found):
            names = check_classes(folder, found)
            return names, {name: number for number, name in enumerate(names)}
        return tuple(map(str, range(max(numbers.values()) + 1))), numbers
    try:
        names = tuple(line.strip() for line in read_bounded(Path(file), MAX_LINES).decode().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the shard {file}: {error}") from error
    if not names:
        raise DataError(f"{file} names no class: each line must hold the name of one")
    if len(check_classes(Path(file), names, least=1)) < len(names):
        raise DataError(f"{file} names a class twice: every label needs a name of its own")
    known = {name: number for number, name in enumerate(names)}
    labels = known if found <= known.keys() else numbers
    unknown = {text for text in found if labels.get(text, len(names)) >= len(names)}
    if unknown:
        raise DataError(f"{file} names {len(names):,} classes, but there is a label {min(unknown)!r:.80}")
    return names, labels


def _split(folder: Path, rows: Rows, images: list[_Found], tested: list[bool]) -> tuple[Rows, Rows]:
    """Return the training and the test set: by the shards' names, else a share of each class."""
    if not any(tested):
        return split_by_class(folder, [image.path for image in images], rows, 0.2)
    train = [row for row in rows if not tested[images[row[0]].shard]]
    test = [row for row in rows if tested[images[row[0]].shard]]
    if not train or not test:
        raise DataError(f"the .tar files in {folder} hold no {'test' if train else 'training'} images")
    return train, test


def _samples(images: list[_Found], labels: Mapping[str, int]) -> Samples:
    def column(values: Iterable[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.fromiter(values, np.int64, len(images))

    return Samples(
        column(image.shard for image in images),
        column(image.offset for image in images),
        column(image.length for image in images),
        column(labels[image.label] for image in images),
        Paths.of(image.path for image in images),
    )
