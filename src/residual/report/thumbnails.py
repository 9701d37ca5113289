"""Small pictures of photographs inside the page, in number and size bounded."""

import base64
import io
from pathlib import Path

from PIL import Image

from ..data.decode import decode
from ..data.region import Region
from ..errors import DataError

SIDE = 176  # pixels of the longer side
QUALITY = 78
BUDGET = 2_000_000  # characters of all pictures of a page


class Thumbnails:
    """Makes pictures of files below `root` until the page would be too large."""

    def __init__(self, root: Path) -> None:
        self.root, self._left = root, BUDGET
        self._made: dict[str, str | None] = {}

    def __call__(self, path: str) -> str | None:
        """Return a data URL of an image file; None if it cannot be decoded or the page is full."""
        if path not in self._made:
            self._made[path] = self._make(path)
        url = self._made[path]
        if url is None or len(url) > self._left:
            return None
        self._left -= len(url)
        return url

    def _make(self, path: str) -> str | None:
        try:
            pixels = decode(self.root / path, _fitted)
        except DataError:
            return None
        buffer = io.BytesIO()
        Image.fromarray(pixels.numpy()).save(buffer, "JPEG", quality=QUALITY)
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _fitted(height: int, width: int) -> Region:
    """Choose the whole image, in the size in which its longer side is `SIDE` at most."""
    scale = min(1.0, SIDE / max(height, width))
    return Region(0, 0, width, height, max(1, round(height * scale)), max(1, round(width * scale)))
