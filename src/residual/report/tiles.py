"""Images in rows with lines of text below them, as one picture."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

COLUMNS = 8
GAP, MARGIN, LINE, HEAD = 14, 24, 19, 40  # pixels between images, around them, of a line, of the head
INK, SOFT, PAPER = "#1c2430", "#5d6b7d", "#f6f7f9"
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_tiles(
    pixels: Tensor, captions: Sequence[Sequence[str]], head: str, size: tuple[int, int]
) -> Image.Image:
    """Draw images in rows of up to 8.

    Args:
        pixels: uint8 [N, H, W, 3].
        captions: for each image the lines below it, of which the first is the darkest.
        head: a line above all.
        size: width and height of an image in the picture, in pixels.
    """
    wide, tall = size
    columns = min(COLUMNS, len(pixels))
    rows = -(-len(pixels) // columns)
    lines = max(map(len, captions))
    step = tall + 6 + lines * LINE + GAP
    width = max(2 * MARGIN + columns * (wide + GAP) - GAP, 620)
    picture = Image.new("RGB", (width, HEAD + MARGIN + rows * step + MARGIN - GAP), PAPER)
    draw, font = ImageDraw.Draw(picture), _font(14)
    draw.text((MARGIN, MARGIN - 4), head, fill=SOFT, font=_font(15))
    for number, (image, names) in enumerate(zip(pixels, captions, strict=True)):
        row, column = divmod(number, columns)
        left, top = MARGIN + column * (wide + GAP), HEAD + MARGIN + row * step
        tile = Image.fromarray(image.contiguous().numpy())
        picture.paste(tile.resize(size, Image.Resampling.BICUBIC), (left, top))
        for line, name in enumerate(names):
            y = top + tall + 5 + line * LINE
            draw.text((left, y), _shorten(draw, name, font, wide), fill=SOFT if line else INK, font=font)
    return picture


def _shorten(draw: ImageDraw.ImageDraw, text: str, font: Font, width: int) -> str:
    """Cut a label to the width of an image; control characters, which would start new lines, are blanks."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)[:200]
    if isinstance(font, ImageFont.ImageFont):  # it has no other letters
        text = text.encode("latin-1", "replace").decode("latin-1")
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(text + "...", font) > width:
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
