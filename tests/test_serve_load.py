"""The server under load and under clients that mean no good: batches, queue, limits of time and size."""

import socket
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import residual
from residual.data.pillow import quiet
from residual.serving.limits import Limits
from residual.serving.server import guarded
from serving import FORM, Engine, answer, form, picture, request, serving


@pytest.fixture(scope="module")
def classifier():
    return residual.Classifier("resnet20")


@pytest.fixture
def engine(classifier):
    made = Engine(classifier)
    yield made
    made.open.set()


def until(true):
    """Wait for another thread."""
    for _ in range(2000):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come")


def test_requests_that_wait_together_share_a_batch(engine, classifier):
    contents = [picture(seed) for seed in range(20)]
    with serving(engine.classifier) as running, ThreadPoolExecutor(20) as clients:
        engine.open.clear()
        first = clients.submit(running.predict, contents[0])
        assert engine.entered.wait(20)
        others = [clients.submit(running.predict, content) for content in contents[1:]]
        until(lambda: running.service.batchers["net"]._queue.qsize() == 19)
        engine.open.set()
        found = [future.result(20) for future in (first, *others)]
        assert engine.sizes == [1, 19]
        assert running.metric('residual_batch_size_count{model="net"}') == 2
        assert running.metric('residual_batch_size_sum{model="net"}') == 20
    for content, one in zip(contents, found, strict=True):
        best = [(item["class"], item["probability"]) for item in one.json["images"][0]["predictions"]]
        assert best == [(name, pytest.approx(value, abs=1e-5)) for name, value in classifier(content)]


def test_a_batch_is_no_larger_than_asked(engine):
    with serving(engine.classifier, batch=4) as running:
        assert running.form([("", picture(seed)) for seed in range(10)]).status == 200
    assert sum(engine.sizes) == 10
    assert max(engine.sizes) <= 4


def test_an_image_that_the_engine_fails_at_spoils_no_other(engine, classifier):
    contents = [picture(seed) for seed in range(6)]
    bad = classifier.load(contents[3])

    def fault(pixels):
        if any(torch.equal(image, bad) for image in pixels):
            raise RuntimeError("the engine fails")

    engine.fault = fault
    with serving(engine.classifier) as running:
        images = running.form([(f"{seed}", content) for seed, content in enumerate(contents)]).json["images"]
        alone = running.predict(contents[3])
        assert running.predict(contents[0]).status == 200
    assert ["error" in image for image in images] == [False, False, False, True, False, False]
    assert (alone.status, alone.headers["retry-after"]) == (503, "1")


def test_a_full_queue_refuses_at_once_and_finishes_what_it_took(engine):
    with serving(engine.classifier, Limits(queue=3)) as running, ThreadPoolExecutor(3) as clients:
        engine.open.clear()
        taken = [clients.submit(running.predict, picture(seed)) for seed in range(3)]
        until(lambda: running.service.batchers["net"].waiting == 3)
        for refused in (running.predict(picture()), running.form([("a", picture())] * 4)):
            assert (refused.status, refused.headers["retry-after"]) == (503, "1")
            assert "waiting" in refused.json["detail"]
        assert running.get("/health").status == 200
        engine.open.set()
        assert [future.result(20).status for future in taken] == [200] * 3
        assert running.predict(picture()).status == 200


def test_too_many_requests_in_progress_are_refused_but_its_health_is_told(engine):
    with serving(engine.classifier, Limits(requests=1)) as running, ThreadPoolExecutor(1) as clients:
        engine.open.clear()
        taken = clients.submit(running.predict, picture())
        assert engine.entered.wait(20)
        refused = running.get("/model")
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        assert running.get("/health").status == running.get("/metrics").status == 200
        engine.open.set()
        assert taken.result(20).status == 200


def test_an_image_whose_client_is_gone_is_not_computed(engine):
    with serving(engine.classifier) as running, ThreadPoolExecutor(1) as clients:
        engine.open.clear()
        first = clients.submit(running.predict, picture(0))
        assert engine.entered.wait(20)
        with running.connect() as connection:
            connection.sendall(request("POST", "/predict", picture(1)))
            until(lambda: running.service.batchers["net"]._queue.qsize() == 1)
        until(lambda: running.metric("residual_requests_in_progress") == 2)  # this one and the first
        engine.open.set()
        assert first.result(20).status == 200
        assert running.predict(picture(2)).status == 200
        assert running.metric('residual_images_total{model="net",outcome="cancelled"}') == 1
    assert engine.sizes == [1, 1]


def test_a_stop_finishes_what_waits(engine):
    with ThreadPoolExecutor(3) as clients:
        with serving(engine.classifier) as running:
            engine.open.clear()
            taken = [clients.submit(running.predict, picture(seed)) for seed in range(3)]
            until(lambda: running.service.batchers["net"].waiting == 3)
            threading.Timer(0.3, engine.open.set).start()  # while it stops
        assert [future.result(20).status for future in taken] == [200] * 3


def test_an_answer_that_takes_too_long_is_given_up(engine):
    with serving(engine.classifier, Limits(answer_seconds=0.2)) as running:
        engine.open.clear()
        late = running.predict(picture())
        assert (late.status, late.headers["retry-after"]) == (503, "1")
        engine.open.set()
        until(lambda: running.service.batchers["net"].waiting == 0)
        assert running.predict(picture()).status == 200


@pytest.mark.parametrize("headers", [{}, {"content_length": "", "transfer_encoding": "chunked"}])
def test_a_body_that_comes_too_slowly_is_refused(classifier, headers):
    with serving(classifier, Limits(body_seconds=0.3)) as running, running.connect() as connection:
        connection.sendall(request("POST", "/predict", **{"content_length": "1000", **headers}))
        connection.sendall(b"1\r\nx\r\n" if headers else b"x")
        assert answer(connection).status == 408
        connection.close()
        assert running.predict(picture()).status == 200


def test_a_body_of_a_gigabyte_is_refused_before_it_is_read(classifier):
    with serving(classifier, Limits(body_bytes=100_000)) as running:
        with running.connect() as connection:
            connection.sendall(request("POST", "/predict", content_length=str(2**30)))
            assert answer(connection).status == 413  # nothing of the body was sent
        with running.connect() as connection:
            connection.sendall(
                request("POST", "/predict", content_length="", transfer_encoding="chunked")
                + b"186a1\r\n"
                + bytes(100_001)
                + b"\r\n"
            )
            found = answer(connection)  # the body has no end yet
            assert (found.status, found.headers["connection"]) == (413, "close")
        assert running.predict(picture()).status == 200


def test_an_early_answer_reaches_a_client_that_still_sends(classifier):
    with serving(classifier, Limits(body_bytes=1000), token="x") as running:
        for path, status in (("/predict", 413), ("/nothing", 404), ("/model", 401)):
            headers = {"authorization": "" if status == 401 else "Bearer x"}
            found = running.send("POST", path, bytes(5_000_000), **headers)
            assert found.status == status


def test_bodies_together_are_bounded(engine):
    limits = Limits(held_bytes=1500)
    content = picture(height=32, width=32)
    assert 750 < len(content) < 1500
    with serving(engine.classifier, limits) as running, ThreadPoolExecutor(1) as clients:
        engine.open.clear()
        first = clients.submit(running.predict, content)
        assert engine.entered.wait(20)
        refused = running.predict(content)
        assert (refused.status, refused.headers["retry-after"]) == (503, "1")
        engine.open.set()
        assert first.result(20).status == 200
        assert running.predict(content).status == 200
        until(lambda: running.service.memory.held == 0)


def protocols():
    from uvicorn.protocols.http.h11_impl import H11Protocol

    found = [pytest.param(H11Protocol, id="h11")]
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
    except ImportError:
        return found
    return [*found, pytest.param(HttpToolsProtocol, id="httptools")]


@pytest.mark.parametrize("protocol", protocols())
def test_headers_are_bounded_in_size_and_time(classifier, protocol):
    limits = Limits(header_seconds=0.3, header_bytes=5000)
    with serving(classifier, limits, guarded(limits, protocol)) as running:
        for bomb in (b"x: " + b"a" * 100_000, b"x: y\r\n" * 20_000):
            with running.connect() as connection:
                connection.sendall(b"GET /health HTTP/1.1\r\n" + bomb)
                assert answer(connection).status == 431
        assert running.get("/health", x="y" * 6000).status == 431  # complete at once
        assert running.get("/health?" + "q" * 6000).status == 431
        for start in (b"", b"GET /health HT", b"GET /health HTTP/1.1\r\nhost: a\r\n"):
            with running.connect() as connection:
                connection.sendall(start)
                assert answer(connection).status == 408
                assert connection.recv(1) == b"", "it is closed"
        with running.connect() as connection:  # the time begins anew with the next request
            connection.sendall(request("GET", "/health", connection="keep-alive"))
            assert answer(connection).status == 200
            connection.sendall(b"GET")
            assert answer(connection).status == 408
        assert running.predict(picture()).status == 200


@pytest.mark.parametrize("protocol", protocols())
@pytest.mark.parametrize("sent", [b"\0\1\2\3\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"])
def test_what_is_no_http_is_refused(classifier, protocol, sent):
    limits = Limits(header_seconds=0.3)
    with serving(classifier, limits, guarded(limits, protocol)) as running:
        with running.connect() as connection:
            connection.sendall(sent)
            assert connection.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 408"))
        assert running.predict(picture()).status == 200


def test_connections_are_bounded(classifier):
    with serving(classifier, Limits(connections=2)) as running:
        idle = [running.connect(), running.connect()]
        until(lambda: running_connections(running) == 503)
        for connection in idle:
            connection.close()
        until(lambda: running_connections(running) == 200)


def running_connections(running):
    try:
        return running.get("/health").status
    except (OSError, IndexError):  # reset before its answer was read
        return None


@pytest.mark.parametrize("protocol", protocols())
def test_a_reader_that_does_not_read_is_let_go(classifier, protocol):
    limits = Limits(answer_seconds=0.5)
    made = guarded(limits, protocol)
    with serving(classifier, limits, made) as running, running.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        names = [("n" * 3000, b"")] * 90
        asked = request("POST", "/predict", form(names), content_type=FORM, connection="keep-alive")
        connection.settimeout(10)
        with pytest.raises(OSError) as gone:  # noqa: PT011 - reset, broken pipe or aborted, by the system
            connection.sendall(asked * 1000)
        assert not isinstance(gone.value, TimeoutError)


def test_images_are_decoded_at_the_same_time_and_warnings_come_back():
    inside, filters = threading.Barrier(2, timeout=20), list(warnings.filters)

    def enter():
        with quiet():
            inside.wait()  # both are inside
            warnings.warn("nobody sees this", stacklevel=1)
            inside.wait()

    with ThreadPoolExecutor(2) as pool:
        for future in (pool.submit(enter), pool.submit(enter)):
            future.result(30)
    assert warnings.filters == filters
