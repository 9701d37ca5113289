"""The index of a folder of shards: where each image lies, its label and its path; checked before it is used.

`shards.json` names the classes and the shards; `shards.npz` holds a few arrays for each of the two sets.
"""

import hashlib
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import DataError
from ...models.names import MAX_CLASSES
from ...runtime.files import write_atomically, write_text
from ..arrays import unpack
from ..decode import MAX_BYTES
from ..findings import Findings
from ..layouts import check_classes
from ..scan import Paths
from .store import Store

HEAD, SAMPLES = "shards.json", "shards.npz"
MAX_HEAD, MAX_SAMPLES, MAX_UNPACKED = 1 << 26, 1 << 30, 1 << 32  # bytes
SETS = ("train", "val")
COLUMNS = ("shards", "offsets", "lengths", "labels", "ends", "text")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*\.tar")  # never a path, and the same in an address
Integers = NDArray[np.int64]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Shard(_Strict):
    """A tar file: its name, size in bytes, SHA-256 and number of images."""

    name: str
    size: Annotated[int, Field(ge=0, le=1 << 50)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    images: Annotated[int, Field(ge=0)]


class _Head(_Strict):
    format: Literal[1] = 1
    name: str
    class_names: Annotated[tuple[str, ...], Field(max_length=MAX_CLASSES)]
    shards: Annotated[tuple[Shard, ...], Field(max_length=1_000_000)]
    samples_sha256: str
    group: str | None
    findings: Findings


@dataclass(frozen=True, eq=False)
class Samples:
    """The images of a set [N]: numbers of their shards, offsets and lengths there in bytes, labels, paths.

    `groups` [N] as in `Photos`.
    """

    shards: Integers
    offsets: Integers
    lengths: Integers
    labels: Integers
    paths: Paths
    groups: Integers | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Index:
    """What is in the shards; `group` is the one of `load_folder`, by which the sets were split."""

    name: str
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...]
    sets: Mapping[str, Samples]
    findings: Findings = Findings()  # noqa: RUF009, a frozen value
    group: str | None = None


def write_index(folder: Path, index: Index) -> None:
    """Write both files, `shards.json` last: where it is, all is.

    Raises:
        OSError: they cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for part, samples in index.sets.items():
        columns = (samples.shards, samples.offsets, samples.lengths, samples.labels)
        packed: tuple[NDArray[Any], ...] = (*columns, samples.paths.ends, samples.paths.text)
        arrays |= {f"{part}_{name}": array for name, array in zip(COLUMNS, packed, strict=True)}
        if samples.groups is not None:
            arrays[f"{part}_groups"] = samples.groups
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    data = buffer.getvalue()
    head = _Head(
        name=_shown(index.name),
        class_names=index.class_names,
        shards=index.shards,
        samples_sha256=hashlib.sha256(data).hexdigest(),
        group=None if index.group is None else _shown(index.group),
        findings=_in_utf8(index.findings),
    )
    write_atomically(folder / SAMPLES, lambda file: file.write(data))
    write_text(folder / HEAD, head.model_dump_json(indent=1) + "\n")


def read_index(store: Store) -> Index:
    """Read and check an index, which may be anyone's.

    Raises:
        DataError: it cannot be read, or is not what `write_index` writes.
    """
    where = f"{store.root}/{HEAD}"
    try:
        head = _Head.model_validate_json(store.read_whole(HEAD, MAX_HEAD))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, fault["loc"]))
        raise DataError(f"{where} is no index of shards, or a corrupted one: {key} {fault['msg']}") from error
    data = store.read_whole(SAMPLES, MAX_SAMPLES)
    if hashlib.sha256(data).hexdigest() != head.samples_sha256:
        raise DataError(f"{store.root}/{SAMPLES} does not belong to {HEAD} beside it: copy both again")
    try:
        arrays = unpack(data, MAX_UNPACKED)
        sets = {part: _samples(arrays, part) for part in SETS}
        _check(head, sets)
    except ValueError as error:
        raise DataError(f"{store.root}/{SAMPLES} is corrupted: {error}") from error
    check_classes(Path(store.root), head.class_names, least=1)
    return Index(head.name, head.class_names, head.shards, sets, head.findings, head.group)


class _FaultError(ValueError):
    """What is wrong with an index."""


def _samples(arrays: Mapping[str, NDArray[Any]], part: str) -> Samples:
    names = [f"{part}_{name}" for name in COLUMNS]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise _FaultError(f"it has no {missing[0]}")
    shards, offsets, lengths, labels, ends, text = (arrays[name] for name in names)
    groups = arrays.get(f"{part}_groups")
    of_images = [shards, offsets, lengths, labels, ends, *([] if groups is None else [groups])]
    if text.dtype != np.uint8 or any(array.dtype != np.int64 for array in of_images):
        raise _FaultError(f"an array of {part} has the wrong type")
    if any(array.ndim != 1 for array in (text, *of_images)):
        raise _FaultError(f"an array of {part} has more than one dimension")
    if not len(ends) or any(len(array) != len(ends) for array in of_images):
        raise _FaultError(f"the arrays of {part} are empty or differ in length")
    if ends[0] < 0 or (np.diff(ends) < 0).any() or ends[-1] != len(text):
        raise _FaultError(f"the paths of {part} overlap or are cut")
    return Samples(shards, offsets, lengths, labels, Paths(text, ends), groups)


def _check(head: _Head, sets: Mapping[str, Samples]) -> None:
    """Check names of shards, and that each image lies in its shard and has a class."""
    names = [shard.name for shard in head.shards]
    for name in names:
        check_name(name)
    if len(set(names)) < len(names):
        raise _FaultError("two shards have one name")
    if len(set(head.class_names)) < len(head.class_names):
        raise _FaultError("two classes have one name")
    sizes = np.array([shard.size for shard in head.shards], np.int64)
    for part, samples in sets.items():
        for what, values, least, above in (
            ("shard", samples.shards, 0, len(sizes)),
            ("label", samples.labels, 0, len(head.class_names)),
            ("length", samples.lengths, 0, MAX_BYTES + 1),
            ("offset", samples.offsets, 0, 1 << 50),
        ):
            if int(values.min()) < least or int(values.max()) >= above:
                raise _FaultError(f"a {what} of {part} is not from {least} to {above - 1}")
        if (samples.offsets + samples.lengths > sizes[samples.shards]).any():
            raise _FaultError(f"an image of {part} lies outside its shard")


def check_name(name: str) -> None:
    """Refuse the name of a shard that could lead elsewhere.

    Raises:
        ValueError: it is no plain name.
    """
    if len(name) > 200 or not NAME.fullmatch(name):
        raise _FaultError(
            f"the name of a shard must be of letters, digits and . _ + = - and end in .tar, not {name!r:.80}"
        )


def _in_utf8(findings: Findings) -> Findings:
    """Return findings whose paths JSON can hold: those that are not UTF-8 are shown, and no longer found."""

    def each(groups: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(map(_shown, group)) for group in groups)

    return Findings(
        each(findings.duplicates),
        tuple((_shown(a), _shown(b)) for a, b in findings.leaks),
        each(findings.conflicts),
        tuple(map(_shown, findings.notes)),
        tuple(map(_shown, findings.bad)),
        findings.shorter_side,
    )


def _shown(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
