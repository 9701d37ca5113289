"""Networks as OpenVINO's model.xml and model.bin, run by OpenVINO on the CPU; needs the extra `openvino`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .libraries import library

MODEL = "model.xml"


class OpenVinoNetwork(nn.Module):
    """A network from a folder that `export` wrote, called like the one that it was made from.

    It computes in float32, also on CPUs for which OpenVINO's own default is bfloat16.
    """

    def __init__(self, folder: Path, threads: int | None = None) -> None:
        super().__init__()
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
        }
        core = library("openvino").Core()
        self._model = core.compile_model(core.read_model(folder / MODEL), "CPU", settings)

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, 3, H, W] to logits [N, classes].

        With preprocessing in the file: uint8 images [N, H, W, 3] to probabilities [N, classes].
        """
        found = self._model(np.ascontiguousarray(x.numpy()))[0]
        return torch.from_numpy(np.array(found))


def convert_to_openvino(onnx_file: Path, folder: Path, metadata: Mapping[str, str], half: bool) -> None:
    """Convert an ONNX file to OpenVINO's two files, with weights in float16 on demand.

    Raises:
        UsageError: OpenVINO is not installed.
    """
    openvino = library("openvino")
    model = openvino.Core().read_model(onnx_file)  # convert_model would report its use over the network
    for key, value in metadata.items():
        model.set_rt_info(value, ["residual", key])
    openvino.save_model(model, folder / MODEL, compress_to_fp16=half)
