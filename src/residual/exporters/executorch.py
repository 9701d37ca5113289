"""Networks as ExecuTorch files for phones and small devices; needs the extra `executorch`."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..models.fold import optimize_for_inference
from ..models.network import Network
from .libraries import library
from .onnx import quietly

LARGEST_BATCH = 15  # memory is laid out for it in advance; ExecuTorch 1.5 keeps to 15 where more is asked for


class ExecuTorchNetwork(nn.Module):
    """A network from an ExecuTorch file, called like the one that it was made from."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._program = library("executorch.runtime").Runtime.get().load_program(path)
        self._method = self._program.load_method("forward")

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images [N, 3, H, W], at most `LARGEST_BATCH`, to logits [N, classes]."""
        found: Tensor = self._method.execute([x.contiguous()])[0]
        return found.clone()


def export_executorch(network: Network, size: tuple[int, int], path: Path) -> None:
    """Write a network, BN folded, for 1 to `LARGEST_BATCH` images of one size; XNNPACK computes it.

    Raises:
        UsageError: ExecuTorch is not installed.
    """
    exir = library("executorch.exir")
    partitioner = library("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    folded = optimize_for_inference(network).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    example = torch.zeros(2, network.in_channels, *size)
    with torch.no_grad(), quietly():
        program = torch.export.export(folded, (example,), dynamic_shapes=({0: batch},))
        lowered = exir.to_edge_transform_and_lower(program, partitioner=[partitioner.XnnpackPartitioner()])
        path.write_bytes(lowered.to_executorch().buffer)
