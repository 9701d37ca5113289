"""Networks as ONNX files, run by ONNX Runtime on the CPU; needs the extra `int8`."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.fold import optimize_for_inference
from ..models.network import Network


class OnnxNetwork(nn.Module):
    """A network from an ONNX file, called like the one that it was made from; it runs on the CPU.

    The file has one input [N, 3, H, W] and one output [N, classes].
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__()
        runtime = library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name  # earlier files have another

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, 3, H, W] to logits [N, classes]."""
        logits = self._session.run(None, {self._input: np.ascontiguousarray(x.numpy())})[0]
        return torch.from_numpy(logits)


def export_onnx(network: Network, images: Tensor, path: Path) -> None:
    """Write a network, BN folded, as an ONNX file in float32, for any number of images.

    Args:
        network: any network of this package; it is not changed.
        images: two or more normalised images [N, 3, H, W] of the size that it will take.
        path: the file to write.

    Raises:
        UsageError: the extra is not installed.
    """
    library("onnxscript")
    with quietly():
        torch.onnx.export(
            optimize_for_inference(network).to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            (images[:2].contiguous(),),
            path,
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )


@contextmanager
def quietly() -> Iterator[None]:
    """Hide the exporters' own log messages and warnings."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def library(name: str) -> Any:
    """Import a library of the extra.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"INT8 needs {name}: pip install -c constraints.txt -e '.[int8]'") from error
