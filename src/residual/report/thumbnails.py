"""Small pictures of photographs inside the page, in number and size bounded."""

import base64
import io
from collections.abc import Iterable
from functools import cached_property

from PIL import Image

from ..data.photos import Photos
from ..data.region import Region
from ..errors import DataError

SIDE = 176  # pixels of the longer side
QUALITY = 78
BUDGET = 2_000_000  # characters of all pictures of a page


class Thumbnails:
    """Makes pictures of the photographs of several sets until the page would be too large."""

    def __init__(self, sets: Iterable[Photos]) -> None:
        self._sets, self._left = tuple(sets), BUDGET
        self._made: dict[str, str | None] = {}

    @cached_property
    def _places(self) -> dict[str, tuple[Photos, int]]:
        """Where each image is, by its path; near-duplicates are looked for among few enough to list."""
        return {path: (photos, index) for photos in self._sets for index, path in enumerate(photos.files)}

    def of_path(self, path: str) -> str | None:
        """Return a data URL of an image by its path, as below; None also if it is in none of the sets."""
        return self(*self._places[path]) if path in self._places else None

    def __call__(self, photos: Photos, index: int) -> str | None:
        """Return a data URL of an image; None if it cannot be decoded or the page is full."""
        path = photos.files[index]
        if path not in self._made:
            self._made[path] = _make(photos, index)
        url = self._made[path]
        if url is None or len(url) > self._left:
            return None
        self._left -= len(url)
        return url


def _make(photos: Photos, index: int) -> str | None:
    try:
        pixels = photos.region(index, _fitted)
    except DataError:
        return None
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _fitted(height: int, width: int) -> Region:
    """Choose the whole image, in the size in which its longer side is `SIDE` at most."""
    scale = min(1.0, SIDE / max(height, width))
    return Region(0, 0, width, height, max(1, round(height * scale)), max(1, round(width * scale)))
