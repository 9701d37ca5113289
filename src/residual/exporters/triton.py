"""A model's folder in a repository of the Triton inference server: config.pbtxt, labels.txt, 1/model.onnx."""

import json
from pathlib import Path

from ..models.network import Network
from ..zoo.model_folder import ModelConfig
from .shapes import takes_any_size

MODEL = "1/model.onnx"
LARGEST_BATCH = 64


def write_triton(network: Network, config: ModelConfig, folder: Path, with_preprocessing: bool) -> None:
    """Write the configuration and the labels of a model whose ONNX file is there already.

    Triton names the model after the folder.
    """
    height, width = config.preprocessing.image_size
    sides = (-1, -1) if with_preprocessing or takes_any_size(network, (height, width)) else (height, width)
    dims = [*sides, 3] if with_preprocessing else [3, *sides]
    kind = "TYPE_UINT8" if with_preprocessing else "TYPE_FP32"
    output = "probabilities" if with_preprocessing else "logits"
    lines = (
        'backend: "onnxruntime"',
        f"max_batch_size: {LARGEST_BATCH}",
        f'input [ {{ name: "images" data_type: {kind} dims: {json.dumps(dims)} }} ]',
        f'output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [{len(config.class_names)}] '
        'label_filename: "labels.txt" } ]',
        "dynamic_batching { }",
    )
    labels = (" ".join(name.split()) for name in config.class_names)
    (folder / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
