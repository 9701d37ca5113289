"""JPEG decoded in part and at a fraction of its size, turned and resized: the pixels are the right ones."""

import io

import numpy as np
import pytest
from PIL import Image

from residual.data import jpeg, orientation
from residual.data.decode import decode
from residual.data.region import Region
from residual.data.resize import resize


def save(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def put(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def photograph(height=301, width=403, seed=0):
    """Draw smooth noise, as photographs are."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 6, width // 6, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


# what a camera that is held so makes of the upright image (EXIF 2.3, tag 0x0112)
STORED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("value", range(1, 9))
@pytest.mark.parametrize("name", ["x.jpg", "x.png", "x.webp", "x.tif"])
def test_every_exif_orientation(name, value, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = value
    file_format = {".jpg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF"}[name[1:]]
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}.get(file_format, {})
    stored = photograph(40, 56)
    if value > 1:
        stored = stored.transpose(STORED[value])
    path = put(tmp_path, name, save(stored, file_format, exif=exif, **options))
    whole = decode(path).numpy()
    assert whole.shape == (40, 56, 3)
    assert np.abs(whole.astype(int) - np.asarray(photograph(40, 56))).max() <= (8 if name == "x.jpg" else 0)
    part = decode(path, lambda height, width: Region(10, 4, 34, 28, 24, 24)).numpy()
    assert np.array_equal(part, whole[4:28, 10:34])


def test_a_region_goes_to_the_stored_pixels_and_back():
    random = np.random.default_rng(0)
    for value in range(1, 9):
        pixels = random.integers(0, 256, (13, 21, 3), np.uint8)
        up = orientation.upright(pixels, value)
        assert up.shape[:2] == orientation.upright_size(13, 21, value)
        at = orientation.stored(Region(2, 3, 9, 11, 8, 7), *up.shape[:2], value)
        cut = pixels[int(at.top) : int(at.bottom), int(at.left) : int(at.right)]
        assert cut.shape[:2] == (at.height, at.width)
        assert np.array_equal(orientation.upright(cut, value), up[3:11, 2:9])


REGIONS = {
    "whole edges": Region(20, 30, 180, 230, 128, 96),
    "fractions": Region(20.3, 30.6, 180.2, 230.9, 128, 96),
    "enlarged": Region(20, 30, 60, 80, 96, 96),
    "of half": Region(11, 5, 391, 251, 120, 130),
    "of an eighth": Region(0, 0, 403, 301, 30, 40),
}


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("kind", ["444", "420", "progressive", "gray", "restarts"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_simplejpeg_and_pillow_give_the_same_pixels(kind, region, interpolation, tmp_path, monkeypatch):
    pytest.importorskip("simplejpeg")
    image = photograph().convert("L") if kind == "gray" else photograph()
    options = {
        "444": {"subsampling": 0},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_rows": 1},
    }.get(kind, {})
    path = put(tmp_path, "x.jpg", save(image, "JPEG", **options))

    def found():
        return decode(path, lambda *_: REGIONS[region], interpolation)

    fast = found()
    monkeypatch.setattr(jpeg, "HAS_SIMPLEJPEG", False)
    assert np.array_equal(fast.numpy(), found().numpy())


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_decoding_that_ends_early_gives_the_same_rows(scale, subsampling):
    data = save(photograph(), "JPEG", subsampling=subsampling)
    header = jpeg.read_header(data)
    whole = jpeg.decode_scaled(data, header, scale, 301 / scale)
    assert whole.shape[:2] == (-(-301 // scale), -(-403 // scale))
    ended = 0
    for bottom in range(1, len(whole), 3):
        part = jpeg.decode_scaled(data, header, scale, bottom)
        ended += len(part) < len(whole)
        assert np.array_equal(part[:bottom], whole[:bottom])
    assert ended > len(whole) // 6


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_resizing_agrees_with_pillow(interpolation):
    image, resample = photograph(), Image.Resampling[interpolation.upper()]
    pixels = np.array(image)
    for region in REGIONS.values():
        box, size = (region.left, region.top, region.right, region.bottom), (region.width, region.height)
        if all(edge == int(edge) for edge in box):
            expected = image.crop(box).resize(size, resample)
        else:
            expected = image.resize(size, resample, box)
        found = resize(pixels, region, interpolation)
        assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 1


def test_a_scaled_jpeg_stays_near_the_whole_one(tmp_path):
    image = photograph(600, 800)
    path = put(tmp_path, "x.jpg", save(image, "JPEG", quality=95))
    for region in (Region(0, 0, 800, 600, 100, 150), Region(101, 57, 703, 561, 200, 200)):
        box = (region.left, region.top, region.right, region.bottom)
        expected = image.resize((region.width, region.height), Image.Resampling.BILINEAR, box)
        found = decode(path, lambda *_, region=region: region).numpy()
        assert np.abs(found.astype(int) - np.asarray(expected)).mean() < 5


def test_the_scale_keeps_at_least_the_size_that_is_needed():
    assert jpeg.scale_for(448, 448, 224, 224) == 2
    assert jpeg.scale_for(447, 2000, 224, 224) == 1
    assert jpeg.scale_for(2000, 2000, 224, 224) == 8
    assert jpeg.scale_for(100, 100, 224, 224) == 1
