"""Images to classify that lie in shards, named by their paths in the index."""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import overload

from torch import Tensor

from ..data.decode import BadImageError
from ..data.photos import Photos, SourceError
from ..data.preprocessing import Preprocessing
from ..data.shards.source import holds_shards, load_shards
from ..data.workers import map_in_workers
from ..errors import DataError, UsageError

AHEAD = 16  # images that a worker reads at once from a server


@dataclass(frozen=True, eq=False)
class ShardImages(Sequence[str]):
    """The paths of all images of shards: those of the training set, then those of the test set."""

    sets: tuple[Photos, ...]

    def __len__(self) -> int:
        return sum(map(len, self.sets))

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...

    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        first = self.sets[0]
        return first.files[index] if index < len(first) else self.sets[1].files[index - len(first)]


def shard_images(given: Sequence[str]) -> ShardImages | None:
    """Return the images of shards, if that is what is given: a folder with an index, or an address.

    Raises:
        UsageError: something else is given beside them.
        DataError: the index cannot be read, or a shard is incomplete.
    """
    shards = [name for name in given if holds_shards(name)]
    if not shards:
        return None
    if len(given) > 1:
        raise UsageError(f"{shards[0]} holds shards, which are given alone: leave the others out")
    dataset = load_shards(shards[0])
    return ShardImages((dataset.train, dataset.test))


def decoded(
    preprocessing: Preprocessing, images: ShardImages, workers: int
) -> Generator[Tensor | str, None, None]:
    """Yield the images [*image_size, 3] as uint8, or why one cannot be decoded.

    Raises:
        SourceError: a shard cannot be read.
    """
    parts = [
        (number, range(first, min(first + AHEAD, len(photos))))
        for number, photos in enumerate(images.sets)
        for first in range(0, len(photos), AHEAD)
    ]
    with closing(map_in_workers(_Load(preprocessing, images.sets), parts, workers)) as loaded:
        for part in loaded:
            yield from part


@dataclass(frozen=True)
class _Load:
    """Decodes images of a set, by its number and their indices, in any process."""

    preprocessing: Preprocessing
    sets: tuple[Photos, ...]

    def __call__(self, part: tuple[int, range]) -> list[Tensor | str]:
        photos = self.sets[part[0]].ahead(part[1])
        return [self._one(photos, index) for index in part[1]]

    def _one(self, photos: Photos, index: int) -> Tensor | str:
        try:
            return self.preprocessing.load(photos, index)
        except SourceError:
            raise
        except BadImageError as error:
            return error.reason
        except DataError as error:
            return str(error)
