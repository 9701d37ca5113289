"""The picture of an explanation: the image, and for each class the image below its Grad-CAM."""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import RunError
from ..inference.explain import Explanation
from ..runtime.files import write_atomically
from .tiles import draw_tiles

SIDE = 240  # pixels of the longer side of an image in the picture
# Colours of a map by its value, as in serving/page/page.js
STOPS = (0.0, 0.35, 0.6, 0.8, 1.0)
COLOURS = ((70, 130, 240), (40, 220, 190), (235, 220, 60), (250, 130, 30), (190, 20, 20))
OPACITY = 0.75  # where a map is 1


def write_explanation(path: Path, explanation: Explanation) -> None:
    """Draw an explanation into a PNG.

    Raises:
        RunError: the file cannot be written.
    """
    image = explanation.pixels
    height, width = image.shape[:2]
    tiles = torch.stack([image, *(overlaid(image, one) for one in explanation.maps)])
    captions = [["the image", f"{width} x {height} pixels"]]
    for found, strength in zip(explanation.predictions, explanation.maps, strict=True):
        nothing = "" if strength.any() else ", no evidence"
        captions.append([found.class_name, f"{100 * found.probability:.1f} %{nothing}"])
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    head = f"Evidence for each class, from blue (little) to red (most): Grad-CAM of {explanation.stage}"
    buffer = io.BytesIO()
    draw_tiles(tiles, captions, head, size).save(buffer, "PNG")
    try:
        write_atomically(path, lambda file: file.write(buffer.getvalue()))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error}") from error


def overlaid(image: Tensor, strength: Tensor) -> Tensor:
    """Lay a map [H, W] from 0 to 1 in colours over an image, uint8 [H, W, 3]; where it is 0, nothing."""
    values = strength.numpy()
    colours = np.stack([np.interp(values, STOPS, channel) for channel in zip(*COLOURS, strict=True)], 2)
    share = OPACITY * values[..., None]
    mixed = (1 - share) * image.numpy() + share * colours
    return torch.from_numpy(mixed.round().astype(np.uint8))
