"""Networks as ONNX files, run by ONNX Runtime on the CPU; needs the extra `onnx`."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..data.preprocessing import Preprocessing
from ..errors import CheckpointError
from ..models.fold import optimize_for_inference
from ..models.network import Network
from .libraries import library
from .shapes import dynamic_shapes, example_images, example_photographs
from .whole import PreparedImages, Probabilities

STANDARD = ("", "ai.onnx")  # the names of the domain of ONNX's own operators
SMALL = 64  # values; shorter constants stay in float32 in a file with float16 weights


class OnnxNetwork(nn.Module):
    """A network from an ONNX file, called like the one that it was made from; it runs on the CPU.

    The file has one input, and its first output is [N, classes].
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        super().__init__()
        runtime = library("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        self._session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name  # earlier files have another

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, 3, H, W] to logits [N, classes].

        With preprocessing in the file: uint8 images [N, H, W, 3] to probabilities [N, classes].
        """
        logits = self._session.run(None, {self._input: np.ascontiguousarray(x.numpy())})[0]
        return torch.from_numpy(logits)


def export_onnx(network: Network, images: Tensor, path: Path) -> None:
    """Write a network, BN folded, as an ONNX file in float32, for any number of images.

    A residual or plain network takes images of any size, VGG those of the given one.

    Args:
        network: any network of this package; it is not changed.
        images: normalised images [N, 3, H, W] of the size that it will take.
        path: the file to write.

    Raises:
        UsageError: the extra is not installed.
    """
    folded = optimize_for_inference(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    example = example_images(network, (images.shape[2], images.shape[3]))
    shapes = dynamic_shapes(network, (images.shape[2], images.shape[3]), bounded=False)
    _export(folded, example, shapes, path, ("images", "logits"))


def _export(
    module: nn.Module, example: Tensor, shapes: Mapping[int, Any], path: Path, names: tuple[str, str]
) -> None:
    library("onnxscript")
    with quietly():
        torch.onnx.export(
            module,
            (example,),
            path,
            dynamo=True,
            external_data=False,
            dynamic_shapes=(dict(shapes),),
            input_names=names[:1],
            output_names=names[1:],
            verbose=False,
        )


def add_preprocessing(path: Path, preprocessing: Preprocessing, temperature: float, classes: int) -> None:
    """Put preprocessing before the network of a file, and probabilities behind it.

    The file then maps `images`, uint8 [N, H, W, 3] of any size, to `probabilities` [N, classes].
    """
    onnx = library("onnx")
    before, after = path.with_suffix(".before"), path.with_suffix(".after")
    photographs, sizes = example_photographs()
    _export(PreparedImages(preprocessing), photographs, sizes, before, ("images", "prepared"))
    batch = {0: torch.export.Dim("batch", min=1)}
    _export(Probabilities(temperature), torch.zeros(2, classes), batch, after, ("logits", "probabilities"))
    parts = [onnx.load(file) for file in (before, path, after)]
    for part, prefix in zip(parts, ("before_", "", "after_"), strict=True):
        part.ir_version = max(other.ir_version for other in parts)
        if prefix:
            onnx.compose.add_prefix(part, prefix, inplace=True)
    merge = onnx.compose.merge_models
    found = merge(parts[0], parts[1], io_map=[("before_prepared", "images")])
    found = merge(found, parts[2], io_map=[("logits", "after_logits")])
    for file in (before, after):
        file.unlink()
    _rename(found.graph, {"before_images": "images", "after_probabilities": "probabilities"})
    onnx.save(found, path)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)


def halve_weights(path: Path) -> None:
    """Store the weights of a file as float16; it still computes in float32."""
    onnx = library("onnx")
    model = onnx.load(path)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) <= SMALL:
            continue
        name = tensor.name
        values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, f"{name}_float16"))
        casts.append(
            onnx.helper.make_node("Cast", [tensor.name], [name], f"{name}_cast", to=onnx.TensorProto.FLOAT)
        )
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def finish_onnx(path: Path, metadata: Mapping[str, str]) -> None:
    """Write metadata into a file, and check that any engine can read it: standard operators, one file.

    Raises:
        CheckpointError: it has other operators.
    """
    onnx = library("onnx")
    model = onnx.load(path)
    used = {node.domain for node in model.graph.node} | {function.domain for function in model.functions}
    if used - set(STANDARD):
        raise CheckpointError(
            f"the ONNX file has operators of {', '.join(sorted(used - set(STANDARD)))}, which not every "
            "engine knows: not written"
        )
    standard = [opset for opset in model.opset_import if opset.domain in STANDARD]
    del model.opset_import[:]
    model.opset_import.extend(standard)
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    onnx.save(model, path)


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
