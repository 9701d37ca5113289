"""INT8 inference by post-training quantisation with ONNX Runtime; needs the extra `int8`."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.fold import optimize_for_inference
from ..models.network import Network

CALIBRATION_IMAGES = 512  # with this many, the error on CIFAR-10 rose by 0.20 points at most: docs/speed.md


class Int8Network(nn.Module):
    """A quantised network, called like the one that it was made from; it runs on the CPU.

    Its file is an ONNX model with one input [N, 3, H, W] and one output [N, classes].
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__()
        runtime = _library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name  # earlier files have another

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, 3, H, W] to logits [N, classes]."""
        logits = self._session.run(None, {self._input: np.ascontiguousarray(x.numpy())})[0]
        return torch.from_numpy(logits)


def quantize(network: Network, calibration: Tensor, path: str | Path) -> Int8Network:
    """Quantise activations to 8 bits and weights to 7, per output channel.

    A CPU without VNNI adds two products in 16 bits, which saturate: 2 x 255 x 127 does not fit, 2 x 255 x 64
    does. So the model gives the same results, up to rounding, on every CPU. The missing bit costs neither
    accuracy nor speed on CPUs with VNNI.

    Args:
        network: any network of this package; it is not changed.
        calibration: normalised training images [N, 3, H, W] (never test images), which determine the ranges
            of the activations; `CALIBRATION_IMAGES` are enough.
        path: the ONNX file to write.

    Raises:
        UsageError: the extra is not installed.
    """
    quantizer = _library("onnxruntime.quantization")
    _library("onnxscript")
    with TemporaryDirectory() as folder, _quietly():
        plain = Path(folder) / "float32.onnx"
        torch.onnx.export(
            optimize_for_inference(network).to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
            (calibration[:2].contiguous(),),
            plain,
            dynamo=True,
            external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            input_names=["images"],
            output_names=["logits"],
            verbose=False,
        )
        quantizer.quantize_static(
            plain,
            path,
            _reader(quantizer, calibration),
            quant_format=quantizer.QuantFormat.QDQ,
            activation_type=quantizer.QuantType.QUInt8,
            weight_type=quantizer.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
        )
    return Int8Network(Path(path))


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide the exporters' own log messages and warnings."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _reader(quantizer: Any, images: Tensor) -> Any:
    """Wrap the calibration set as the library needs it."""

    class Reader(quantizer.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(torch.split(images, 64))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.contiguous().numpy()}

    return Reader()


def _library(name: str) -> Any:
    """Import a library of the extra.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(f"INT8 needs {name}: pip install -c constraints.txt -e '.[int8]'") from error
