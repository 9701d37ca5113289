"""INT8 inference by post-training quantisation with ONNX Runtime; install the extra `int8` for it."""

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
from ..models.resnet import ResNet

CALIBRATION_IMAGES = 512  # with so many, INT8 lost at most 0.17 points on the CIFAR-10 test set


class Int8Network(nn.Module):
    """A quantised network that is called like the one it was made from, on the CPU.

    Its file is an ONNX model with one input `pictures` [N, 3, H, W] and one output `scores`.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__()
        runtime = _library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised pictures [N, 3, H, W] to class scores [N, classes]."""
        scores = self._session.run(None, {"pictures": np.ascontiguousarray(x.numpy())})[0]
        return torch.from_numpy(scores)


def quantize(network: ResNet, calibration: Tensor, path: str | Path) -> Int8Network:
    """Quantise maps to 8 bits and weights to 7, the weights channel by channel.

    A CPU without VNNI adds two products in 16 bits, which saturate: 2 x 255 x 127 does not fit, 2 x 255 x 64
    does. So the file gives the same answers, but for rounding, on every CPU; one bit less costs neither
    accuracy nor speed where there is VNNI.

    Args:
        network: any network of this package; it is left as it is.
        calibration: normalised training pictures [N, 3, H, W] (never test pictures), which set the
            maps' ranges; `CALIBRATION_IMAGES` are enough.
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
            input_names=["pictures"],
            output_names=["scores"],
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
    """Keep the exporters' notes about themselves from the user."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _reader(quantizer: Any, pictures: Tensor) -> Any:
    """Give the calibration set to the library in the form that it wants."""

    class Reader(quantizer.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(torch.split(pictures, 64))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"pictures": batch.contiguous().numpy()}

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
