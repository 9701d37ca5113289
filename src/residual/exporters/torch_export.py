"""Networks as files of torch.export, which load without this package."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from ..models.fold import optimize_for_inference
from ..models.network import Network
from ..zoo.model_folder import ModelConfig
from .onnx import quietly
from .shapes import dynamic_shapes, example_images, example_photographs
from .whole import WholeNetwork

METADATA = "residual.json"  # among the file's extra files


class TorchExportNetwork(nn.Module):
    """A network from a file of torch.export, called like the one that it was made from."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._module = torch.export.load(path).module()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, 3, H, W] to logits [N, classes].

        With preprocessing in the file: uint8 images [N, H, W, 3] to probabilities [N, classes].
        """
        found: Tensor = self._module(x)
        return found


def export_program(network: Network, config: ModelConfig, with_preprocessing: bool) -> ExportedProgram:
    """Export a network, BN folded, for any number of images, and of any size where it takes that."""
    module: nn.Module = optimize_for_inference(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    size = config.preprocessing.image_size
    example, shapes = example_images(network, size), dynamic_shapes(network, size, bounded=True)
    if with_preprocessing:
        module = WholeNetwork(module, config.preprocessing, config.temperature).eval()
        example, shapes = example_photographs()
    with torch.no_grad(), quietly():
        return torch.export.export(module, (example,), dynamic_shapes=(shapes,))


def save_program(program: ExportedProgram, path: Path, metadata: Mapping[str, str]) -> None:
    """Write an exported network and its metadata, as JSON in the file's extra files."""
    with quietly():
        torch.export.save(program, path, extra_files={METADATA: json.dumps(dict(metadata))})
