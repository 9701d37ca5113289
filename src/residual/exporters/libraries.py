"""The libraries that run exported files, each of an extra of its own."""

import importlib
from typing import Any

from ..errors import UsageError
from ..runtime.extras import how_to_install

EXTRAS = {"openvino": "openvino", "executorch": "executorch"}  # the others are of the extra `onnx`


def library(name: str) -> Any:
    """Import a library of an extra.

    Raises:
        UsageError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        root = name.partition(".")[0]
        extra = EXTRAS.get(root, "onnx")
        raise UsageError(f"{root} is not installed: {how_to_install(extra)}") from error
