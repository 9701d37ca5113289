"""Grad-CAM as an answer of the server: pictures as data URLs."""

import base64
import io
from typing import Any

from PIL import Image
from torch import Tensor

from ..errors import ResidualError
from ..inference.classifier import Classifier
from ..inference.explain import explain
from .images import load
from .limits import Limits, Refused


def explanation(
    classifier: Classifier, content: bytes, top: int, stage: str | None, limits: Limits
) -> dict[str, Any]:
    """Decode and explain an image.

    Raises:
        Refused: it cannot be decoded, or there is no such stage.
    """
    pixels = load(classifier, content, limits)
    try:
        found = explain(classifier, pixels, top, stage)
    except ResidualError as error:
        raise Refused(422, str(error)) from None
    maps = (found.maps * 255).round().byte()
    return {
        "image": _data_url(pixels),
        "predictions": [
            {"class": name, "probability": probability, "heatmap": _data_url(heatmap)}
            for (name, probability), heatmap in zip(found.predictions, maps, strict=True)
        ],
    }


def _data_url(pixels: Tensor) -> str:
    """Return uint8 values [H, W] or [H, W, 3] as a PNG in a data URL."""
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
