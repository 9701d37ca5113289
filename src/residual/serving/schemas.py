"""The server's answers as types, for the OpenAPI document; answers themselves are plain values."""

from typing import Any

from pydantic import BaseModel, Field


class Predicted(BaseModel):
    """A class and its probability."""

    class_: str = Field(alias="class")
    probability: float


class ImageAnswer(BaseModel):
    """An image's classes, the likeliest first, or why there are none."""

    path: str = Field(description="The file name that the client gave; empty for a raw body.")
    predictions: list[Predicted] | None = None
    error: str | None = None


class PredictAnswer(BaseModel):
    """The images in the order sent. If none was classified, `detail` is the first error."""

    model: str
    images: list[ImageAnswer]
    detail: str | None = None


class Explained(Predicted):
    """A class, its probability and the places that speak for it."""

    heatmap: str = Field(description="A grey PNG of the image's size as a data URL.")


class ExplainAnswer(BaseModel):
    """An image as the network saw it, and its classes."""

    model: str
    path: str
    image: str = Field(description="A PNG as a data URL.")
    predictions: list[Explained]


class ModelAnswer(BaseModel):
    """A model that is served."""

    name: str
    network: str
    classes: list[str]
    image_size: tuple[int, int] = Field(description="Height and width.")
    data: str
    recipe: str
    error: float | None = Field(description="In percent, on `images` test images.")
    images: int | None
    temperature: float
    parameters: int
    licence: str | None
    engine: str
    explain: bool


class ModelsAnswer(BaseModel):
    """The models; `default` answers where a request names none."""

    default: str
    models: list[ModelAnswer]


class LimitsAnswer(BaseModel):
    """Limits of one request."""

    body_bytes: int
    pixels: int
    images: int


class State(BaseModel):
    """Of the server."""

    status: str


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str


_TOP = {"name": "top", "in": "query", "description": "How many classes.", "schema": {"type": "integer"}}
_MODEL = {"name": "model", "in": "query", "description": "Its name.", "schema": {"type": "string"}}
_STAGE = {"name": "stage", "in": "query", "schema": {"type": "string"}}
_FILES = {"type": "array", "items": {"type": "string", "format": "binary"}}
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "properties": {"file": _FILES}}},
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
}
PREDICT: dict[str, Any] = {"parameters": [_TOP, _MODEL], "requestBody": _BODY}
EXPLAIN: dict[str, Any] = {"parameters": [_TOP, _MODEL, _STAGE], "requestBody": _BODY}
STATUSES = (400, 401, 404, 408, 413, 415, 422, 503)
PROBLEMS: dict[int | str, dict[str, Any]] = {status: {"model": Problem} for status in STATUSES}
