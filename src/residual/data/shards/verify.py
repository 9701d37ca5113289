"""Shards compared with the SHA-256 that their index has."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

from ...errors import DataError
from .index import Shard, read_index
from .store import Store, open_store

PIECE = 16 << 20  # bytes


def verify_shards(root: str | Path) -> Iterator[str]:
    """Yield the name of each shard that is as it was written.

    Raises:
        DataError: one is not, or cannot be read.
    """
    store = open_store(root)
    for shard in read_index(store).shards:
        if _sha256(store, shard) != shard.sha256:
            raise DataError(f"{store.root}/{shard.name} is corrupted: its SHA-256 is not that of the index")
        yield shard.name


def _sha256(store: Store, shard: Shard) -> str:
    digest = hashlib.sha256()
    for start in range(0, shard.size, PIECE):
        digest.update(store.read(shard.name, start, min(PIECE, shard.size - start)))
    return digest.hexdigest()
