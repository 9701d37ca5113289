"""INT8 inference by post-training quantisation with ONNX Runtime; needs the extra `onnx`."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from ..models.network import Network
from .libraries import library
from .onnx import OnnxNetwork, export_onnx, quietly

CALIBRATION_IMAGES = 512  # with this many, the error on CIFAR-10 rose by 0.20 points at most: docs/speed.md
CALIBRATION_PIXELS = 64 * 32 * 32  # at once, and at least 4 images: bounds the memory for feature maps


class Int8Network(OnnxNetwork):
    """A quantised network, called like the one that it was made from; it runs on the CPU."""


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
    quantizer = library("onnxruntime.quantization")
    with TemporaryDirectory() as folder:
        plain = Path(folder) / "float32.onnx"
        export_onnx(network, calibration, plain)
        with quietly():
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


def _reader(quantizer: Any, images: Tensor) -> Any:
    """Wrap the calibration set as the library needs it."""
    size = max(4, CALIBRATION_PIXELS // (images.shape[2] * images.shape[3]))

    class Reader(quantizer.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Tensor] = iter(torch.split(images, size))

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.contiguous().numpy()}

    return Reader()
