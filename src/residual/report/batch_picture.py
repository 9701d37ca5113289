"""`batch.png`: the first training batch as the network sees it, augmented, with its labels."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..data.augment import shrink
from ..data.normalization import Normalization
from ..runtime.files import write_atomically
from .tiles import draw_tiles

MOST = 32  # images that are drawn
TILE = 152  # pixels of an image in the picture
SHOWN = 0.005  # a label with a smaller share of a mixed image is not named


def write_batch_picture(
    path: Path,
    batch: tuple[Tensor, Tensor],
    normalization: Normalization,
    class_names: Sequence[str],
    early_size: int = 0,
) -> None:
    """Draw up to 32 images of a batch into a PNG.

    Args:
        path: the file.
        batch: images [B, 3, S, S] as `Batches` gives them, and labels [B] or shares [B, classes].
        normalization: what was applied to the images, and is undone.
        class_names: by label.
        early_size: pixels to which the first batches are resized; 0: they are not.

    Raises:
        OSError: the file cannot be written.
    """
    images, targets = (part[:MOST] for part in batch)
    pixels = as_pixels(images, normalization, early_size)
    captions = [caption(target, class_names) for target in targets.cpu()]
    side = pixels.shape[1]
    head = f"The first batch as the network sees it: {len(pixels)} of {len(batch[0])} images, "
    picture = draw_tiles(pixels, captions, head + f"{side} x {side} pixels", (TILE, TILE))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    write_atomically(path, lambda file: file.write(buffer.getvalue()))


def as_pixels(images: Tensor, normalization: Normalization, early_size: int = 0) -> Tensor:
    """Undo the normalization of images [B, 3, S, S]; return uint8 [B, S, S, 3] on the CPU."""
    plain = images.float().permute(0, 2, 3, 1) * normalization.std + normalization.mean
    if early_size:
        plain = shrink(plain.permute(0, 3, 1, 2), early_size).permute(0, 2, 3, 1)
    return plain.round().clamp(0, 255).to("cpu", torch.uint8)


def caption(target: Tensor, class_names: Sequence[str]) -> list[str]:
    """Name a label, or the two labels of a mixed image with their shares, the larger first."""
    if target.dim() == 0:
        return [class_names[int(target)]]
    shares, labels = target.sort(descending=True, stable=True)
    found = [(float(s), class_names[int(k)]) for s, k in zip(shares, labels, strict=True) if s > SHOWN]
    if len(found) == 1:
        return [found[0][1]]
    return [f"{100 * share:.0f} % {name}" for share, name in found]
