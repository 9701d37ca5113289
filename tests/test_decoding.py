"""Image files of every kind: each is decoded to known pixels, or named as bad with a reason."""

import contextlib
import io
import os
import pickle
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from residual.data import decode as decode_module
from residual.data import pillow
from residual.data.decode import BadImageError, decode

HEIGHT, WIDTH = 40, 56
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
# smooth, so that JPEG keeps it, and different in all directions
COLOURS = np.stack([40 + 3 * COLUMNS, 220 - 4 * ROWS, 60 + COLUMNS + 2 * ROWS], 2).astype(np.uint8)
GRAY = (30 + 3 * COLUMNS + ROWS).astype(np.uint8)
FIRST = GRAY[0, 0]
GRAY3 = np.repeat(GRAY[..., None], 3, 2)
DEEP = (GRAY.astype(np.uint16) << 8) | 77  # 16 bits; the upper eight are GRAY
ALPHA = np.where(COLUMNS < 20, 0, 255).astype(np.uint8)
ON_WHITE = np.where(ALPHA[..., None] == 0, 255, COLOURS).astype(np.uint8)
BLACK_AND_WHITE = ((ROWS // 8 + COLUMNS // 8) % 2 * 255).astype(np.uint8)
PALETTE = Image.fromarray(COLOURS).quantize(64)


def save(image, file_format, **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def rgb(image):
    return np.asarray(image.convert("RGB"))


def with_alpha(colours):
    return Image.fromarray(np.dstack([colours, ALPHA]))


def cmyk():
    data = save(Image.fromarray(np.dstack([255 - COLOURS, np.zeros_like(GRAY)]), "CMYK"), "JPEG", quality=98)
    assert b"Adobe" in data
    return data


def ycck():
    """Write a four-channel JPEG whose Adobe marker says that its colours are YCbCr and K, inverted."""
    inverted = Image.fromarray(255 - COLOURS).convert("YCbCr")
    pixels = np.dstack([np.asarray(inverted), np.full_like(GRAY, 255)])
    # Pillow stores 255 minus the values that it is given
    data = save(Image.fromarray(255 - pixels, "CMYK"), "JPEG", quality=98, subsampling=0)
    at = data.index(b"Adobe") + 11
    return data[:at] + b"\2" + data[at + 1 :]


def rgb_jpeg():
    """Write a JPEG with the channels R, G and B, by its Adobe marker."""
    return save(COLOURS, "JPEG", quality=98, keep_rgb=True)


def frames(file_format, **options):
    later = [Image.fromarray(255 - COLOURS)] * 2
    return save(Image.fromarray(COLOURS), file_format, save_all=True, append_images=later, **options)


def transparent_palette(value):
    image = PALETTE.copy()
    image.info["transparency"] = value
    return save(image, "PNG", transparency=value)


def gray_key():
    return save(GRAY, "PNG", transparency=int(GRAY[0, 0]))


def deep_rgb_png():
    """Write a PNG of 16 bits and three channels, which Pillow cannot."""
    lines = b"".join(
        b"\0" + ((COLOURS[row].astype(">u2") << 8) + 200).astype(">u2").tobytes() for row in range(HEIGHT)
    )
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(lines)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(map(chunk, chunks))


def chunk(named):
    name, body = named
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def deep_ppm():
    return b"P5 %d %d 65535\n" % (WIDTH, HEIGHT) + DEEP.astype(">u2").tobytes()


def odd_exif():
    """Write a JPEG whose EXIF data is damaged."""
    data = save(COLOURS, "JPEG", quality=98, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12" * 20)
    assert b"Exif" in data
    return data


def restarts():
    return save(COLOURS, "JPEG", quality=98, restart_marker_rows=1)


def fill_bytes():
    data = save(COLOURS, "JPEG", quality=98)
    return data[:2] + b"\xff\xff\xff" + data[2:]


def padded():
    return save(COLOURS, "JPEG", quality=98) + bytes(1000)


def multi_page():
    return frames("TIFF", compression="tiff_deflate")


GOOD = {
    # name: (content, pixels, how far they may be from it)
    "rgb.jpg": (lambda: save(COLOURS, "JPEG", quality=98, subsampling=0), COLOURS, 5),
    "420.jpg": (lambda: save(COLOURS, "JPEG", quality=98, subsampling=2), COLOURS, 8),
    "422.jpg": (lambda: save(COLOURS, "JPEG", quality=98, subsampling=1), COLOURS, 8),
    "progressive.jpg": (lambda: save(COLOURS, "JPEG", quality=98, progressive=True), COLOURS, 8),
    "gray.jpg": (lambda: save(GRAY, "JPEG", quality=98), GRAY3, 5),
    "optimised.jpg": (lambda: save(COLOURS, "JPEG", quality=98, optimize=True), COLOURS, 8),
    "rgb channels.jpg": (rgb_jpeg, COLOURS, 5),
    "cmyk.jpg": (cmyk, COLOURS, 5),
    "ycck.jpg": (ycck, COLOURS, 8),
    "restarts.jpg": (restarts, COLOURS, 8),
    "fill.jpg": (fill_bytes, COLOURS, 8),
    "padded.jpg": (padded, COLOURS, 8),
    "odd exif.jpg": (odd_exif, COLOURS, 8),
    "mpo.jpg": (lambda: frames("MPO", quality=98), COLOURS, 8),
    "rgb.png": (lambda: save(COLOURS, "PNG"), COLOURS, 0),
    "gray.png": (lambda: save(GRAY, "PNG"), GRAY3, 0),
    "named.jpg": (lambda: save(COLOURS, "PNG"), COLOURS, 0),
    "one bit.png": (lambda: save(Image.fromarray(BLACK_AND_WHITE).convert("1"), "PNG"), BLACK_AND_WHITE, 0),
    "palette.png": (lambda: save(PALETTE, "PNG"), rgb(PALETTE), 0),
    "bytes.png": (lambda: transparent_palette(bytes([255] * 64)), rgb(PALETTE), 0),
    "clear.png": (lambda: transparent_palette(bytes(64)), np.full_like(COLOURS, 255), 0),
    "rgba.png": (lambda: save(with_alpha(COLOURS), "PNG"), ON_WHITE, 0),
    "la.png": (lambda: save(with_alpha(GRAY), "PNG"), np.where(ALPHA == 0, 255, GRAY), 0),
    "key.png": (gray_key, np.where(FIRST == GRAY, 255, GRAY), 0),
    "16 bits.png": (lambda: save(DEEP, "PNG"), GRAY3, 0),
    "16 bits rgb.png": (deep_rgb_png, COLOURS, 0),
    "apng.png": (lambda: frames("PNG"), COLOURS, 0),
    "gif.gif": (lambda: save(PALETTE, "GIF"), rgb(PALETTE), 0),
    "animated.gif": (lambda: save(PALETTE, "GIF", save_all=True, append_images=[PALETTE]), rgb(PALETTE), 0),
    "gray.gif": (lambda: save(GRAY, "GIF"), GRAY3, 0),
    "webp.webp": (lambda: save(COLOURS, "WEBP", lossless=True), COLOURS, 0),
    "lossy.webp": (lambda: save(COLOURS, "WEBP", quality=98), COLOURS, 12),
    "rgba.webp": (lambda: save(with_alpha(COLOURS), "WEBP", lossless=True), ON_WHITE, 0),
    "animated.webp": (lambda: frames("WEBP", lossless=True), COLOURS, 0),
    "bmp.bmp": (lambda: save(COLOURS, "BMP"), COLOURS, 0),
    "palette.bmp": (lambda: save(PALETTE, "BMP"), rgb(PALETTE), 0),
    "tiff.tif": (lambda: save(COLOURS, "TIFF"), COLOURS, 0),
    "lzw.tif": (lambda: save(COLOURS, "TIFF", compression="tiff_lzw"), COLOURS, 0),
    "pages.tif": (multi_page, COLOURS, 0),
    "16 bits.tif": (lambda: save(DEEP, "TIFF"), GRAY3, 0),
    "16 bits big.tif": (lambda: save(Image.fromarray(DEEP.astype(">u2")), "TIFF"), GRAY3, 0),
    "float.tif": (lambda: save((GRAY / 255).astype(np.float32), "TIFF"), GRAY3, 0),
    "cmyk.tif": (lambda: save(Image.fromarray(COLOURS).convert("CMYK"), "TIFF"), COLOURS, 1),
    "one bit.tif": (
        lambda: save(Image.fromarray(BLACK_AND_WHITE).convert("1"), "TIFF", compression="group4"),
        BLACK_AND_WHITE,
        0,
    ),
    "lab.tif": (lambda: save(Image.new("LAB", (WIDTH, HEIGHT), (255, 128, 128)), "TIFF"), 255, 1),
    "ppm.ppm": (lambda: save(COLOURS, "PPM"), COLOURS, 0),
    "16 bits.pgm": (deep_ppm, GRAY3, 0),
}


def put(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", GOOD)
def test_every_kind_becomes_upright_rgb(name, tmp_path):
    content, pixels, tolerance = GOOD[name]
    found = decode(put(tmp_path, name, content())).numpy()
    pixels = np.asarray(pixels, int)
    expected = np.broadcast_to(pixels[..., None] if pixels.ndim == 2 else pixels, COLOURS.shape)
    assert found.shape == COLOURS.shape
    assert found.dtype == np.uint8
    assert np.abs(found - expected).max() <= tolerance


def broken_idat():
    data = bytearray(save(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8), "PNG"))
    data[len(data) // 2] ^= 0xFF
    return bytes(data)


def huge_png(side=30_000):
    head = chunk((b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)))
    return b"\x89PNG\r\n\x1a\n" + head + chunk((b"IDAT", zlib.compress(bytes(1000)))) + chunk((b"IEND", b""))


def huge_jpeg():
    data = save(COLOURS, "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 60_000, 60_000) + data[at + 4 :]


def many_scans():
    data = save(COLOURS, "JPEG", progressive=True)
    start = data.rindex(b"\xff\xda")
    return data[:start] + data[start:-2] * 200 + data[-2:]


NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
BAD = {
    "empty.jpg": (lambda: b"", "the file is empty"),
    "text.jpg": (lambda: b"<html>404 Not Found</html>", "none of JPEG, PNG"),
    "zeros.png": (lambda: bytes(1000), "none of"),
    "start.jpg": (lambda: b"\xff\xd8\xff", "none of"),
    "markers.jpg": (lambda: b"\xff\xd8\xff\xd9", "none of"),
    "half.jpg": (lambda: save(NOISE, "JPEG")[:5000], "truncated"),
    "half progressive.jpg": (lambda: save(NOISE, "JPEG", progressive=True)[:5000], "truncated"),
    "half.png": (lambda: save(NOISE, "PNG")[:5000], "truncated"),
    "half.webp": (lambda: save(NOISE, "WEBP", lossless=True)[:5000], ""),
    "half.gif": (lambda: save(NOISE, "GIF")[:5000], "truncated"),
    "half.bmp": (lambda: save(NOISE, "BMP")[:5000], "truncated"),
    "half.tif": (lambda: save(NOISE, "TIFF")[:5000], ""),
    "half.ppm": (lambda: save(NOISE, "PPM")[:5000], ""),
    "header.png": (lambda: save(NOISE, "PNG")[:40], ""),
    "broken.png": (broken_idat, ""),
    "huge.png": (huge_png, "more than 178 million pixels"),
    "large.png": (lambda: huge_png(13_360), "more than 178 million pixels"),  # Pillow would only warn
    "huge.jpg": (huge_jpeg, "more than 178 million pixels"),
    "scans.jpg": (many_scans, "more than 100 scans"),
    "scans without an end.jpg": (lambda: many_scans()[:-2], "more than 100 scans"),
    "float.tif": (lambda: save(GRAY.astype(np.float32), "TIFF"), "not from 0 to 1"),
    "nan.tif": (lambda: save(np.full((4, 4), np.nan, np.float32), "TIFF"), "not from 0 to 1"),
    "32 bits.tif": (lambda: save(GRAY.astype(np.int32), "TIFF"), "32 bits per value"),
    "script.jpg": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "none of"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_named_with_a_reason(name, tmp_path):
    content, words = BAD[name]
    path = put(tmp_path, name, content())
    with pytest.raises(BadImageError) as caught:
        decode(path)
    error = caught.value
    assert (error.path, error.exit_code) == (str(path), 3)
    assert words in error.reason
    assert error.reason.strip()
    assert "\n" not in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.reason, str(again)) == (error.path, error.reason, str(error))


def test_what_is_no_file_is_named(tmp_path):
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(BadImageError, match=r"missing\.jpg: No such file"):
        decode(tmp_path / "missing.jpg")
    with pytest.raises(BadImageError, match="not a regular file"):
        decode(tmp_path / "folder.jpg")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")  # would wait for a writer
        with pytest.raises(BadImageError, match="not a regular file"):
            decode(tmp_path / "pipe.jpg")


def test_an_unreadable_file_is_named(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(decode_module, "read_bounded", refuse)
    with pytest.raises(BadImageError, match="Permission denied"):
        decode(tmp_path / "x.jpg")


def test_a_file_with_more_bytes_than_the_largest_image_is_not_read(tmp_path):
    path = tmp_path / "sparse.tif"
    with path.open("wb") as file:
        file.truncate(decode_module.MAX_BYTES + 1)
    with pytest.raises(BadImageError, match="at most"):
        decode(path)


def test_no_warning_of_pillow_gets_out(tmp_path):
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 1000)
    path = put(tmp_path, "x.png", save(PALETTE, "PNG", transparency=bytes(64), pnginfo=text))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        decode(path)
        decode(put(tmp_path, "odd exif.jpg", odd_exif()))
    assert not caught


def test_threads_leave_the_filters_of_warnings_as_they_were(tmp_path):
    path = put(tmp_path, "x.png", save(PALETTE, "PNG"))
    before = list(warnings.filters)
    threads = [threading.Thread(target=lambda: [decode(path) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


@pytest.mark.parametrize("name", ["rgb.jpg", "progressive.jpg", "cmyk.jpg", "rgb.png", "gif.gif", "lzw.tif"])
def test_damage_anywhere_is_decoded_or_named(name, tmp_path, monkeypatch):
    monkeypatch.setattr(pillow, "MAX_PIXELS", 1_000_000)
    whole = GOOD[name][0]()
    random = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(whole)
        for at in random.integers(0, len(data), 3):
            data[at] = random.integers(256)
        path = put(tmp_path, name, bytes(data[: random.integers(len(data) // 2, len(data) + 1)]))
        with contextlib.suppress(BadImageError):
            assert decode(path).shape[2] == 3


def test_an_error_of_the_choice_is_not_taken_for_a_bad_image(tmp_path):
    def choose(height, width):
        raise ZeroDivisionError

    for name in ("rgb.jpg", "rgb.png"):
        with pytest.raises(ZeroDivisionError):
            decode(put(tmp_path, name, GOOD[name][0]()), choose)
