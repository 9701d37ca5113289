"""What an exported file says of itself: class names, preprocessing, temperature, licence."""

import json
from typing import Any

from .._version import __version__
from ..data.preprocessing import Preprocessing
from ..zoo.model_folder import ModelConfig


def metadata_of(config: ModelConfig, licence: str | None, with_preprocessing: bool) -> dict[str, str]:
    """Return texts by name; lists and objects as JSON.

    `preprocessing` is what the network's input needs: {"image_size": [H, W], "resize", "fit",
    "interpolation", "mean", "std"}, the last two for values from 0 to 1; see `Preprocessing`.
    """
    height, width = config.preprocessing.image_size
    plain = f"float32 [N, 3, H, W], RGB, normalised; made for {height}x{width} pixels"
    return {
        "network": config.network,
        "data": config.data,
        "recipe": config.recipe,
        "input": "uint8 [N, H, W, 3], RGB, of any size" if with_preprocessing else plain,
        "output": "probabilities [N, classes]" if with_preprocessing else "logits [N, classes]",
        "class_names": json.dumps(list(config.class_names)),
        "temperature": json.dumps(config.temperature),
        "preprocessing": json.dumps(describe(config.preprocessing)),
        "preprocessing_inside": json.dumps(with_preprocessing),
        "licence": licence or "not stated",
        "made_by": f"residual {__version__}",
    }


def describe(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return preprocessing as plain values, mean and standard deviation on the 0..1 scale."""
    normalization = preprocessing.normalization
    mean, std = ((values.double() / 255).tolist() for values in (normalization.mean, normalization.std))
    values = {key: value for key, value in preprocessing.as_dict().items() if key != "scale"}
    return {**values, "mean": mean, "std": std}
