"""The server's answers: what each request gets, and what each bad one is refused with."""

import base64
import io
import json
import struct
import sys
import types
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import residual
from residual.errors import UsageError
from residual.inference.classifier import Prediction
from residual.serving.limits import Limits
from residual.zoo.facts import ModelFacts
from residual.zoo.model_card import Measured
from serving import FORM, answer, form, picture, request, serving

PATHS = ("/model", "/limits", "/metrics", "/openapi.json", "/predict")


@pytest.fixture(scope="module")
def classifier():
    return residual.Classifier("resnet20")


@pytest.fixture(scope="module")
def running(classifier):
    with serving(classifier, Limits(pixels=1_000_000, body_bytes=2_000_000)) as server:
        yield server


def expected(classifier, content, top=5):
    return [
        {"class": name, "probability": pytest.approx(value, abs=1e-5)}
        for name, value in classifier(content, top)
    ]


def test_images_of_a_form_are_answered_in_their_order(running, classifier):
    files = [
        ("b.jpg", picture(1)),
        ("a b.png", picture(2, kind="PNG")),
        ("c/d.webp", picture(3, kind="WEBP")),
    ]
    found = running.form(files)
    assert found.status == 200
    assert found.json["model"] == "net"
    assert [image["path"] for image in found.json["images"]] == ["b.jpg", "a b.png", "c/d.webp"]
    for (_, content), image in zip(files, found.json["images"], strict=True):
        assert image["predictions"] == expected(classifier, content)


@pytest.mark.parametrize("kind", ["image/jpeg", "application/x-www-form-urlencoded", ""])
def test_a_raw_body_is_an_image_whatever_its_type(running, classifier, kind):
    found = running.predict(picture(4), "?top=2&model=net", content_type=kind)
    assert found.json["images"] == [{"path": "", "predictions": expected(classifier, picture(4), 2)}]
    assert len(running.predict(picture(4), "?top=1000").json["images"][0]["predictions"]) == 10


def test_an_error_belongs_to_its_image(running, classifier):
    files = [(f"{seed}.jpg", picture(seed)) for seed in range(64)]
    files[20] = ("bad.jpg", b"no image")
    found = running.form(files)
    assert found.status == 200
    images = found.json["images"]
    assert images[20] == {"path": "bad.jpg", "error": images[20]["error"]}
    assert "no image of a known format" in images[20]["error"]
    for position in (0, 19, 21, 63):
        assert images[position]["predictions"] == expected(classifier, files[position][1])
    assert sum("predictions" in image for image in images) == 63


def png(height, width):
    """A PNG of this size, by its header alone."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [
        struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        for body in (header, b"IEND")
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def zipped():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cat.jpg", picture())
    return file.getvalue()


def webp():
    file = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(file, "WEBP")
    return file.getvalue()


BAD = {
    "nothing": (b"", 422, "0 bytes"),
    "text": (b"this is not a photograph", 415, "known format"),
    "zip": (zipped(), 415, "known format"),
    "svg": (
        b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9"/></svg>',
        415,
        "known format",
    ),
    "truncated JPEG": (picture()[:-300], 422, "damaged"),
    "JPEG without its header": (b"\xff\xd8\xff" + bytes(50), 422, "damaged"),
    "truncated PNG": (picture(kind="PNG")[:-900], 422, "damaged"),
    "empty PNG": (png(9, 9), 422, "damaged"),
    "900 million pixels": (png(30_000, 30_000), 413, "178 million pixels"),
    "4 million pixels": (webp(), 413, "2,000 x 2,000 pixels, more than 1,000,000"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_image_has_its_status_and_the_next_request_is_fine(running, name):
    content, status, reason = BAD[name]
    for found in (running.predict(content), running.form([("x.jpg", content)])):
        assert (found.status, reason in found.json["detail"]) == (status, True), found
        assert found.json["images"][0]["error"] == found.json["detail"]
        assert "\n" not in found.json["detail"]
    assert running.predict(picture()).status == 200


@pytest.mark.parametrize(("height", "width"), [(1, 10_000), (10_000, 1), (1, 1)])
def test_odd_shapes_are_classified(running, classifier, height, width):
    content = picture(5, height, width, "PNG")
    assert running.predict(content).json["images"][0]["predictions"] == expected(classifier, content)


def test_a_request_as_a_whole_is_refused_in_one_line(running):
    good, many = [("a.jpg", picture())], [("a.jpg", b"x")] * 10_000
    whole = form(good)
    found = {
        "wrong field": (running.form(good, field="image"), 422),
        "10,000 images": (running.form(many), 413),
        "no parts": (running.send("POST", "/predict", b"--ABC--\r\n", content_type=FORM), 422),
        "no boundary": (running.send("POST", "/predict", whole, content_type="multipart/form-data"), 400),
        "other boundary": (running.send("POST", "/predict", whole, content_type=FORM + "D"), 400),
        "cut form": (running.send("POST", "/predict", whole[:-20], content_type=FORM), 400),
        "long header": (
            running.send("POST", "/predict", b"--ABC\r\nA: " + b"x" * 9000, content_type=FORM),
            400,
        ),
        "too long a body": (running.predict(bytes(2_000_001)), 413),
        "wrong method": (running.get("/predict"), 405),
        "another": (running.send("DELETE", "/model"), 405),
        "unknown model": (running.predict(picture(), "?model=../../etc/passwd"), 404),
        "top of 0": (running.predict(picture(), "?top=0"), 422),
        "top of text": (running.predict(picture(), "?top=" + "9" * 5000), 422),
        "two to explain": (running.form(good * 2, "/explain"), 413),
    }
    upwards = ("/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/page/..%2fapp.py")
    for path in ("/nothing", "/predict/", *upwards):
        found[path] = running.get(path), 404
    for name, (refused, status) in found.items():
        assert refused.status == status, (name, refused)
        assert refused.json["detail"].strip(), name
        assert "\n" not in refused.json["detail"]
    assert running.form(good).status == 200


def test_every_answer_has_the_security_headers_and_no_cors(running):
    wrong = running.get("/no"), running.predict(b""), running.get("/predict")
    for found in (running.get("/health"), *wrong):
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["referrer-policy"] == "no-referrer"
        assert found.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in found.headers
        assert "server" not in found.headers


def test_facts(classifier):
    facts = {"net": ModelFacts(Measured(8.5, 10_000), "MIT")}
    with serving(classifier, facts=facts) as running:
        model = running.get("/model").json
        assert model["default"] == "net"
        assert model["models"][0] == {
            **{"name": "net", "network": "resnet20", "classes": list(classifier.class_names)},
            **{"image_size": [32, 32], "data": "cifar10", "recipe": "strong", "error": 8.5, "images": 10_000},
            **{"temperature": 1.0, "parameters": 269_722, "licence": "MIT", "engine": "torch"},
            "explain": True,
        }
        assert running.get("/limits").json == {"body_bytes": 2**25, "pixels": 64_000_000, "images": 100}
        assert running.get("/health").status == 200
        while not running.service.ready:  # the first batch
            assert running.get("/ready").status in (200, 503)
        assert running.get("/ready").json == {"status": "ready"}
        running.service.stopping = True
        assert (running.get("/ready").status, running.get("/health").status) == (503, 200)
        document = running.get("/openapi.json").json
        assert {"/predict", "/explain", "/model", "/metrics"} <= document["paths"].keys()
        assert running.get("/docs").status == 404


def test_metrics_count_requests_images_and_batches(classifier):
    with serving(classifier) as running:
        running.form([("a.jpg", picture()), ("b", b"")])
        running.get("/../secret")
        assert running.metric('residual_requests_total{path="/predict",status="200"}') == 1
        assert running.metric('residual_requests_total{path="other",status="404"}') == 1
        assert running.metric('residual_images_total{model="net",outcome="classified"}') == 1
        assert running.metric('residual_images_total{model="net",outcome="refused"}') == 1
        assert running.metric('residual_batch_size_count{model="net"}') == 1
        assert running.metric('residual_images_waiting{model="net"}') == 0


def test_a_token_guards_all_but_the_page_and_the_health(classifier):
    with serving(classifier, token="geheim-ä") as running:
        for path in PATHS:
            for wrong in ("", "Bearer geheim", "geheim-ä", "Basic geheim-ä"):
                refused = running.send("POST" if path == "/predict" else "GET", path, authorization=wrong)
                assert refused.status == 401, path
                assert refused.headers["www-authenticate"] == "Bearer"
        assert running.get("/model", authorization="Bearer geheim-ä").status == 200
        assert running.predict(picture(), authorization="Bearer geheim-ä").status == 200
        assert running.get("/health").status == 200
        assert running.get("/ready").status in (200, 503)
        assert running.get("/").status in (200, 404)  # without the page's files


def test_the_host_is_checked_against_rebinding(classifier):
    with serving(classifier, hosts=("127.0.0.1", "localhost", "[::1]")) as running:
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST:1"):
            assert running.get("/health", host=host).status == 200
        for host in ("evil.example", "evil.example:8000", "127.0.0.1.evil.example"):
            assert running.get("/health", host=host).status == 400


def test_other_origins_only_where_they_are_asked_for(classifier):
    with serving(classifier, cors=["https://example.org"], token="x") as running:
        wish = {"method": "POST", "headers": "authorization"}
        asked = {f"access_control_request_{name}": value for name, value in wish.items()}
        preflight = running.send("OPTIONS", "/predict", origin="https://example.org", **asked)
        assert preflight.status == 200
        assert preflight.headers["access-control-allow-origin"] == "https://example.org"
        other = running.get("/health", origin="https://evil.example")
        assert "access-control-allow-origin" not in other.headers


def test_explain_answers_with_pictures(running, classifier, monkeypatch):
    def explain(model, image, top=3, stage=None):
        if stage not in (None, "stage3"):
            raise UsageError(f"there is no stage '{stage}'")
        maps = torch.linspace(0, 1, top * 32 * 32).reshape(top, 32, 32)
        return types.SimpleNamespace(
            pixels=image, predictions=[Prediction(f"c{i}", 0.5) for i in range(top)], maps=maps
        )

    stand_in = types.ModuleType("explain")
    stand_in.explain = explain  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "residual.inference.explain", stand_in)
    sys.modules.pop("residual.serving.explanation", None)
    found = running.form([("cat.jpg", picture(6))], "/explain?top=2&stage=stage3").json
    assert (found["model"], found["path"]) == ("net", "cat.jpg")
    assert [item["class"] for item in found["predictions"]] == ["c0", "c1"]
    seen = np.asarray(Image.open(io.BytesIO(content_of(found["image"]))))
    assert np.array_equal(seen, classifier.load(picture(6)).numpy())
    heatmap = Image.open(io.BytesIO(content_of(found["predictions"][1]["heatmap"])))
    assert (heatmap.mode, heatmap.size, heatmap.getpixel((31, 31))) == ("L", (32, 32), 255)
    assert running.send("POST", "/explain?stage=stage9", picture()).status == 422
    assert running.send("POST", "/explain", b"text").status == 415
    sys.modules.pop("residual.serving.explanation", None)


def content_of(url):
    assert url.startswith("data:image/png;base64,")
    return base64.b64decode(url.partition(",")[2])


def test_a_connection_is_used_again(running):
    with running.connect() as connection:
        for seed in range(3):
            connection.sendall(request("POST", "/predict", picture(seed), connection="keep-alive"))
            found = answer(connection)
            assert found.status == 200
            assert "connection" not in found.headers
            assert json.loads(found.body)["images"]
