"""Photographs in shards: the same images, in the same order, as in the folder that they were written from."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ...errors import DataError, UsageError
from ...runtime.files import found
from ..names import is_url
from ..photos import OnBadImage, PhotoDataset, Photos, fingerprint_of
from . import order
from .blocks import Blocks, Part
from .index import HEAD, Index, Integers, Samples, read_index
from .store import Store, open_store


@dataclass(frozen=True, eq=False)
class ShardSource:
    """The places of images [N] in shards: numbers of the shards' names, offsets and lengths in bytes."""

    store: Store
    names: tuple[str, ...]
    shards: Integers
    offsets: Integers
    lengths: Integers
    coming: Mapping[int, Future[bytes]] = field(default_factory=dict)
    blocks: Blocks | None = None

    @property
    def root(self) -> str:
        """The folder of the shards, or its address."""
        return self.store.root

    def read(self, index: int) -> bytes:
        """Return the content of an image file.

        Raises:
            SourceError: it cannot be read.
        """
        if self.blocks is not None:
            number, place = divmod(index, order.BLOCK)
            return self.blocks.read(number, self._parts(number), place)
        return self.store.read(*self._part(index), self.coming.get(index))

    def _part(self, index: int) -> Part:
        return self.names[int(self.shards[index])], int(self.offsets[index]), int(self.lengths[index])

    def _parts(self, block: int) -> list[Part]:
        first = block * order.BLOCK
        return [self._part(index) for index in range(first, min(first + order.BLOCK, len(self.shards)))]

    def ahead(self, indices: Sequence[int]) -> Self:
        """Return a copy that begins to read these images, if they are on a server."""
        if self.blocks is not None:
            for number in dict.fromkeys(index // order.BLOCK for index in indices):
                if not self.blocks.has(number):
                    self.blocks.begin(number, self._parts(number))
            return self
        begun = {index: self.store.begin(*self._part(index)) for index in set(indices)}
        return replace(self, coming={index: part for index, part in begun.items() if part is not None})

    def place(self, index: int) -> str:
        """Name the shard and the offset."""
        name, start, _ = self._part(index)
        return f"{self.root}/{name} at byte {start:,}"

    def take(self, indices: Tensor) -> Self:
        """Return those with these indices, in their order."""
        chosen = indices.numpy()
        parts = (self.shards[chosen], self.offsets[chosen], self.lengths[chosen])
        return replace(self, shards=parts[0], offsets=parts[1], lengths=parts[2], coming={}, blocks=None)

    def in_blocks(self, images: int) -> Self:
        """Return a copy that reads blocks from a server and keeps those of so many images."""
        if not is_url(self.root):
            return self
        return replace(self, blocks=Blocks(self.store, -(-images // order.BLOCK)))

    def release(self) -> None:
        """Remove the blocks that are kept."""
        if self.blocks is not None:
            self.blocks.keep(0)


def holds_shards(root: str | Path) -> bool:
    """Tell whether a folder has an index of shards; whatever is on a server must have one."""
    return is_url(root) or found((Path(root) / HEAD).is_file)


def load_shards(
    root: str | Path, *, on_bad_image: OnBadImage = "stop", group: str | None = None
) -> PhotoDataset:
    """Load the training and the test set of shards; see `load_folder`.

    Args:
        root: a folder with `shards.json`, or its address, such as https://HOST/FOLDER or s3://BUCKET/FOLDER.
        on_bad_image: what loaders do with an image that cannot be decoded.
        group: must be the one that the shards were written with, or None.

    Raises:
        DataError: the index cannot be read or is corrupted, or a shard is incomplete.
        UsageError: `group` is another one, or the address needs a library that is not installed.
    """
    store = open_store(root)
    index = read_index(store)
    if group not in (None, index.group):
        raise UsageError(f"{store.root} keeps the split that it was written with: leave group out")
    if not is_url(root):
        _check_sizes(Path(root), index)
    train, test = (_photos(store, index, part, on_bad_image) for part in ("train", "val"))
    return PhotoDataset(index.name, train, test, index.class_names, None, index.findings)


def _check_sizes(root: Path, index: Index) -> None:
    """Notice shards that are missing or were copied in part, before training."""
    for shard in index.shards:
        try:
            size = (root / shard.name).stat().st_size
        except OSError as error:
            raise DataError(
                f"cannot read the shard {root / shard.name}: {error.strerror or error}"
            ) from error
        if size != shard.size:
            raise DataError(
                f"{root / shard.name} has {size:,} bytes, not the {shard.size:,} of its index: copy it again"
            )


def _photos(store: Store, index: Index, part: str, on_bad_image: OnBadImage) -> Photos:
    samples: Samples = index.sets[part]
    names = tuple(shard.name for shard in index.shards)
    source = ShardSource(store, names, samples.shards, samples.offsets, samples.lengths)
    labels = torch.from_numpy(np.array(samples.labels))  # a copy, for what was read cannot be written to
    groups = None if samples.groups is None else torch.from_numpy(np.array(samples.groups))
    fingerprint = fingerprint_of(samples.paths, samples.lengths, labels)
    paths, classes = samples.paths, index.class_names
    return Photos(Path(store.root), paths, labels, classes, on_bad_image, fingerprint, groups, source)
