"""`batch.png`: the first training batch as the network sees it, augmented, with its labels."""

import io
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..data.augment import shrink
from ..data.normalization import Normalization
from ..runtime.files import write_atomically

MOST = 32  # images that are drawn
COLUMNS = 8
TILE = 152  # pixels of an image in the picture
GAP, MARGIN, LINE, HEAD = 14, 24, 19, 40  # pixels between images, around them, of a line, of the head
INK, SOFT, PAPER = "#1c2430", "#5d6b7d", "#f6f7f9"
SHOWN = 0.005  # a label with a smaller share of a mixed image is not named
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


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
    picture = _draw(pixels, captions, head + f"{side} x {side} pixels")
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


def _draw(pixels: Tensor, captions: list[list[str]], head: str) -> Image.Image:
    columns = min(COLUMNS, len(pixels))
    rows = -(-len(pixels) // columns)
    lines = max(map(len, captions))
    step = TILE + 6 + lines * LINE + GAP
    width = max(2 * MARGIN + columns * (TILE + GAP) - GAP, 620)
    picture = Image.new("RGB", (width, HEAD + MARGIN + rows * step + MARGIN - GAP), PAPER)
    draw, font = ImageDraw.Draw(picture), _font(14)
    draw.text((MARGIN, MARGIN - 4), head, fill=SOFT, font=_font(15))
    for number, (image, names) in enumerate(zip(pixels, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * (TILE + GAP), HEAD + MARGIN + row * step
        tile = Image.fromarray(image.contiguous().numpy())
        picture.paste(tile.resize((TILE, TILE), Image.Resampling.BICUBIC), (left, top))
        for line, name in enumerate(names):
            y = top + TILE + 5 + line * LINE
            draw.text((left, y), _shorten(draw, name, font), fill=SOFT if line else INK, font=font)
    return picture


def _shorten(draw: ImageDraw.ImageDraw, text: str, font: Font) -> str:
    """Cut a label to the width of an image; control characters, which would start new lines, are blanks."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)[:200]
    if isinstance(font, ImageFont.ImageFont):  # it has no other letters
        text = text.encode("latin-1", "replace").decode("latin-1")
    if draw.textlength(text, font) <= TILE:
        return text
    while text and draw.textlength(text + "...", font) > TILE:
        text = text[:-1]
    return text + "..."


def _font(size: int) -> Font:
    """Return DejaVu Sans, which has most alphabets and comes with Matplotlib, without loading Matplotlib."""
    spec = find_spec("matplotlib")
    if spec is not None and spec.origin is not None:
        file = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        try:
            return ImageFont.truetype(file, size)
        except (OSError, ImportError):
            pass
    return ImageFont.load_default()
