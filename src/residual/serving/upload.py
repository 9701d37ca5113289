"""The images of a request: its body, read within the limits, and split if it is a form."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from .limits import Limits, Refused, Share

FIELD = b"file"


class Upload(NamedTuple):
    """An image as the client sent it; `name` is empty for a raw body."""

    name: str
    content: bytes


async def read_uploads(request: Request, limits: Limits, share: Share) -> list[Upload]:
    """Read the images of a request: the fields `file` of a form, or the whole body.

    Raises:
        Refused: the body is too large, too slow, no form, or has no or too many images.
    """
    try:
        async with asyncio.timeout(limits.body_seconds):
            body = await _read(request, limits, share)
    except TimeoutError:
        raise Refused(408, f"the body was not complete after {limits.body_seconds:g} seconds") from None
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != b"multipart/form-data":
        return [Upload("", body)]
    uploads = _Form(limits.images).parse(options.get(b"boundary", b""), body)
    if not uploads:
        raise Refused(422, "the form has no field 'file'")
    return uploads


async def _read(request: Request, limits: Limits, share: Share) -> bytes:
    too_large = Refused(413, f"the body has more than {limits.body_bytes:,} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > limits.body_bytes:
        raise too_large
    chunks: list[bytes] = []
    more = True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Refused(400, "the connection was closed before the body was complete")
        chunk: bytes = message.get("body", b"")
        if share.size + len(chunk) > limits.body_bytes:
            raise too_large
        share.grow(len(chunk))
        chunks.append(chunk)
        more = message.get("more_body", False)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


class _Form:
    """The parts of a multipart form that are images; all stay in memory, within the limit of the body."""

    def __init__(self, limit: int) -> None:
        self._limit, self._parts, self._complete = limit, 0, False
        self._uploads: list[Upload] = []
        self._name, self._value, self._disposition, self._content = b"", b"", b"", b""

    def parse(self, boundary: bytes, body: bytes) -> list[Upload]:
        if not boundary:
            raise Refused(400, "the form has no boundary in its Content-Type")
        callbacks: dict[str, Callable[..., None]] = {
            name: getattr(self, f"_{name}")
            for name in (
                *("on_part_begin", "on_header_field", "on_header_value", "on_header_end"),
                *("on_part_data", "on_part_end", "on_end"),
            )
        }
        try:
            MultipartParser(boundary, callbacks).write(body)  # type: ignore[arg-type]
        except FormParserError as error:
            raise Refused(400, f"the form is damaged: {' '.join(str(error).split())}") from None
        if not self._complete:
            raise Refused(400, "the form ends early")
        return self._uploads

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > self._limit:
            raise Refused(413, f"the form has more than {self._limit} parts")
        self._name = self._value = self._disposition = self._content = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._content = self._content + data[start:end] if self._content else data[start:end]

    def _on_part_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        if options.get(b"name") == FIELD:
            name = options.get(b"filename", b"").decode(errors="replace")
            self._uploads.append(Upload(name, self._content))

    def _on_end(self) -> None:
        self._complete = True
