"""The server's page in a real browser: every way in, the keyboard alone, errors, phones, both themes."""

import base64
import io
import json
import shutil
import threading
from collections.abc import Iterator
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

import residual
from residual.data.decode import BadImageError
from residual.inference.explain import explain
from residual.zoo.facts import model_facts
from residual.zoo.pretrained import find_model

PAGE = Path(residual.__file__).parent / "serving" / "page"
KINDS = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def data_url(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


class StandIn:
    """Answers what the page asks of `residual serve`."""

    def __init__(self, classifiers):
        self.classifiers = classifiers

    def get(self, path):
        if path == "/limits":
            return 200, {"body_bytes": 3_000_000, "pixels": 178_000_000, "images": 100}
        if path == "/model":
            default = Path(next(iter(self.classifiers))).name
            return 200, {"default": default, "models": [self.describe(name) for name in self.classifiers]}
        return 404, {"detail": "not found"}

    def describe(self, name):
        config, facts = self.classifiers[name].config, model_facts(find_model(name))
        return {
            **{"name": Path(name).name, "network": config.network, "classes": list(config.class_names)},
            **{"image_size": list(config.preprocessing.image_size), "data": config.data},
            **{"recipe": config.recipe, "error": facts.error, "images": facts.images},
            **{"temperature": config.temperature, "parameters": 272_474, "licence": facts.licence},
            **{"engine": "torch", "explain": True},
        }

    def post(self, query, name, content):
        model = query["model"][0]
        classify = next(one for key, one in self.classifiers.items() if Path(key).name == model)
        try:
            found = explain(classify, content, int(query["top"][0]))
        except BadImageError as error:
            return (422 if "truncated" in str(error) else 415), {"detail": error.reason}
        predictions = [
            {"class": named, "probability": probability, "heatmap": data_url((255 * one).byte().numpy())}
            for (named, probability), one in zip(found.predictions, found.maps, strict=True)
        ]
        image = data_url(found.pixels.numpy())
        return 200, {"model": model, "path": name, "image": image, "predictions": predictions}


def handler(stand_in):
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status, content, kind="application/json"):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Content-Security-Policy", CSP)
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            path = urlsplit(self.path).path
            file = PAGE / (path.strip("/") or "index.html")
            if file.suffix in KINDS and file.is_file():
                self.answer(200, file.read_bytes(), KINDS[file.suffix])
                return
            status, values = stand_in.get(path)
            self.answer(status, json.dumps(values).encode())

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
            part = BytesParser().parsebytes(head + body).get_payload(0)
            query = parse_qs(urlsplit(self.path).query)
            status, values = stand_in.post(query, part.get_filename(), part.get_payload(decode=True))
            self.answer(status, json.dumps(values).encode())

    return Handler


def serve(classifiers) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(StandIn(classifiers))) as listening:
        thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}/"
        listening.shutdown()
        thread.join()
