"""Random requests to the server: each has an answer that is no failure, and none leaves anything behind."""

import random

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import psutil

import residual
from residual.serving.limits import Limits
from serving import FORM, form, picture, serving

ALLOWED = {200, 400, 404, 405, 413, 415, 422}


def changed(draw, content):
    """Change bytes, cut or repeat them."""
    values = bytearray(content)
    for _ in range(draw.choice((1, 1, 3, 30))):
        at = draw.randrange(len(values) + 1)
        kind = draw.randrange(4)
        if kind == 0:
            values[at : at + 1] = draw.randbytes(1)
        elif kind == 1:
            del values[at : at + draw.choice((1, 10, 300))]
        elif kind == 2:
            values[at:at] = draw.randbytes(draw.choice((1, 20)))
        else:
            values[at:at] = values[at : at + 50]
    return bytes(values)


def fuzz(running, count, seed):
    draw = random.Random(seed)
    images = [picture(1, kind=kind) for kind in ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")]
    seen = {}
    for _ in range(count):
        image = draw.choice(images)
        kind = draw.randrange(5)
        path = draw.choice(("/predict", "/predict", "/predict?top=" + draw.choice(("1", "-1", "%00", "x"))))
        if kind == 0:
            found = running.send("POST", path, draw.randbytes(draw.choice((0, 1, 100, 3000))))
        elif kind == 1:
            found = running.send("POST", path, changed(draw, image))
        elif kind == 2:
            found = running.send("POST", path, changed(draw, form([("a", image)] * 2)), content_type=FORM)
        elif kind == 3:
            parts = [("n", image), ("m", changed(draw, image)), ("", draw.randbytes(30))]
            found = running.form(draw.sample(parts, draw.randrange(4)), path)
        else:
            boundary = "".join(chr(draw.randrange(33, 127)) for _ in range(draw.randrange(9)))
            kind = f"multipart/form-data; boundary={boundary}"
            found = running.send("POST", path, changed(draw, form([("a", image)])), content_type=kind)
        assert found.status in ALLOWED, found
        assert found.status == 200 or found.json["detail"]
        seen[found.status] = seen.get(found.status, 0) + 1
    return seen


def test_random_requests_have_an_answer():
    with serving(residual.Classifier("resnet20"), Limits(pixels=100_000)) as running:
        seen = fuzz(running, 300, 1)
        assert {200, 400, 415, 422} <= seen.keys()
        assert running.predict(picture()).status == 200
        assert (running.service.memory.held, running.service.batchers["net"].waiting) == (0, 0)


@pytest.mark.slow
def test_ten_thousand_random_requests_leave_nothing_behind():
    own = psutil.Process()
    with serving(residual.Classifier("resnet20"), Limits(pixels=100_000)) as running:
        fuzz(running, 2000, 2)
        before, files = own.memory_info().rss, own.num_fds() if hasattr(own, "num_fds") else 0
        fuzz(running, 8000, 3)
        assert running.predict(picture()).status == 200
        assert own.memory_info().rss - before < 30_000_000
        assert (own.num_fds() if files else 0) <= files + 5
