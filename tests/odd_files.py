"""Image files that programs tend to read differently: the same answer is expected of every way to classify.

`odd_files` makes those that have a picture, `bad_files` those that have none.
"""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag


def odd_files(folder: Path) -> dict[str, Path]:
    """Write image files of odd kinds, which all can be decoded, and return their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {**_odd_jpegs(), **_odd_sizes(), **_odd_formats()}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in sorted(contents)}


def bad_files(folder: Path) -> dict[str, Path]:
    """Write files that cannot be decoded, and return their paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    jpeg = encode(picture(64, 80), "JPEG")
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.jpg", jpeg)
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    contents = {
        "empty.jpg": b"",
        "text.jpg": b"no image at all\n",
        "truncated.jpg": jpeg[: len(jpeg) // 2],
        "truncated.png": encode(picture(64, 80), "PNG")[:500],
        "archive.jpg": archive.getvalue(),
        "drawing.svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "bomb.png": png(header, bytes(1000)),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return {name: folder / name for name in sorted(contents)}


def picture_folder(root: Path) -> Path:
    """Write pictures into a folder and folders in it, with other files and hidden ones among them."""
    for number, name in enumerate(("b.jpg", "a.png", "deep/er/c.JPG", "deep/d.webp")):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[path.suffix[1:].lower()]
        path.write_bytes(encode(picture(40, 50, number), kind))
    (root / "notes.txt").write_text("no image")
    (root / "image-without-suffix").write_bytes((root / "b.jpg").read_bytes())
    (root / ".hidden.jpg").write_bytes((root / "b.jpg").read_bytes())
    return root


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Draw coloured patches with a little noise, different at every place."""
    random = np.random.default_rng((seed, height, width))
    patches = Image.fromarray(random.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    smooth = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    noise = random.integers(-9, 10, (height, width, 1), dtype=np.int16)
    return Image.fromarray((smooth + noise).clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    """Return an image file's content."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def png(header: bytes, lines: bytes) -> bytes:
    """Return a PNG file of a header and of uncompressed lines."""
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b""))
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def _turned(file_format: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(picture(90, 120, orientation), file_format, exif=exif, **options)


def _odd_jpegs() -> dict[str, bytes]:
    image = picture(150, 200, 1)
    cmyk = image.convert("CMYK")
    return {
        **{f"exif {number}.jpg": _turned("JPEG", number, quality=92) for number in range(1, 9)},
        "grey.jpg": encode(image.convert("L"), "JPEG"),
        "cmyk.jpg": encode(cmyk, "JPEG"),
        "rgb channels.jpg": encode(image, "JPEG", keep_rgb=True),
        "progressive.jpg": encode(image, "JPEG", progressive=True),
        "4-2-0.jpg": encode(image, "JPEG", subsampling=2, quality=60),
        "4-4-4.jpg": encode(image, "JPEG", subsampling=0, quality=98),
        "restarts.jpg": encode(image, "JPEG", restart_marker_rows=1),
        "fill bytes.jpg": encode(image, "JPEG") + bytes(1000),
        "two pictures.mpo": encode(image, "MPO", save_all=True, append_images=[picture(150, 200, 2)]),
    }


def _odd_sizes() -> dict[str, bytes]:
    return {
        "1x1.jpg": encode(picture(1, 1), "JPEG"),
        "1x1.png": encode(picture(1, 1, 1), "PNG"),
        "8x8.jpg": encode(picture(8, 8), "JPEG"),
        "32x32.png": encode(picture(32, 32), "PNG"),
        "33x31.jpg": encode(picture(33, 31), "JPEG"),
        "10 to 1.jpg": encode(picture(60, 600), "JPEG"),
        "1 to 10.png": encode(picture(600, 60), "PNG"),
        "1x2000.png": encode(picture(1, 2000), "PNG"),
        "2000x1.jpg": encode(picture(2000, 1), "JPEG"),
        "1x10000.png": encode(picture(1, 10_000), "PNG"),
        "large.jpg": encode(picture(1200, 1600), "JPEG"),
        "large progressive.jpg": encode(picture(1000, 700), "JPEG", progressive=True),
        "large.png": encode(picture(600, 900), "PNG", compress_level=1),
    }


def _odd_formats() -> dict[str, bytes]:
    image, other = picture(70, 100, 3), picture(70, 100, 4)
    grey = image.convert("L")
    see_through = Image.fromarray(np.asarray(other.convert("L")))
    alpha, palette = image.copy(), image.quantize(64)
    alpha.putalpha(see_through)
    deep = np.asarray(grey).astype(np.uint16) << 8 | 77
    return {
        "alpha.png": encode(alpha, "PNG"),
        "alpha.webp": encode(alpha, "WEBP"),
        "grey alpha.png": encode(Image.merge("LA", (grey, see_through)), "PNG"),
        "grey.png": encode(grey, "PNG"),
        "one bit.png": encode(grey.convert("1"), "PNG"),
        "palette.png": encode(palette, "PNG"),
        "transparent palette.png": encode(palette, "PNG", transparency=3),
        "16 bits grey.png": encode(Image.fromarray(deep), "PNG"),
        "16 bits.png": _deep_rgb(image),
        "16 bits.pgm": b"P5 100 70 65535\n" + deep.astype(">u2").tobytes(),
        "turned.png": _turned("PNG", 6),
        "turned.webp": _turned("WEBP", 3),
        "turned.tif": _turned("TIFF", 8),
        "lossless.webp": encode(image, "WEBP", lossless=True),
        "frames.gif": encode(image, "GIF", save_all=True, append_images=[other]),
        "frames.apng": encode(image, "PNG", save_all=True, append_images=[other]),
        "pages.tif": encode(image, "TIFF", save_all=True, append_images=[other], compression="tiff_lzw"),
        "floats.tif": encode(Image.fromarray(np.asarray(grey, np.float32) / 255), "TIFF"),
        "plain.bmp": encode(image, "BMP"),
        "plain.ppm": encode(image, "PPM"),
        "a png.jpg": encode(image, "PNG"),
        "Größe 猫.jpg": encode(image, "JPEG"),
    }


def _deep_rgb(image: Image.Image) -> bytes:
    """Return a PNG of 16 bits and three channels, which Pillow cannot write."""
    values = (np.asarray(image).astype(np.uint16) << 8 | 200).astype(">u2")
    header = struct.pack(">IIBBBBB", image.width, image.height, 16, 2, 0, 0, 0)
    return png(header, b"".join(b"\0" + row.tobytes() for row in values))
