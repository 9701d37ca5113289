"""The layers of a network in the order in which they run, found by hooks; Table 1 made from them."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby, zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from ..models.blocks import BasicBlock, Bottleneck
from ..models.build import build_model
from ..models.complexity import PAPER_MULTIPLY_ADDS, complexity
from ..models.names import IMAGENET_DEPTHS, default_size, parse_name

LABELS = {112: "conv1", 56: "conv2_x", 28: "conv3_x", 14: "conv4_x", 7: "conv5_x", 1: ""}  # by output size


@dataclass(frozen=True)
class Layer:
    """A layer; the width (channels) and the size (rows) are those of its output."""

    kind: str  # "conv", "max pool", "avg pool" or "fc"
    kernel: int
    width: int
    stride: int
    size: int

    def __str__(self) -> str:
        if self.kind == "fc":
            return f"fc {self.width}"
        if self.kind == "conv":
            return f"{self.kernel}x{self.kernel}, {self.width}" + (
                f", /{self.stride}" if self.stride > 1 else ""
            )
        return self.kind + (f", /{self.stride}" if self.stride > 1 else "")


@dataclass
class Block:
    """A block and its layers, which are `layers[first : end]` of the network."""

    first: int
    end: int = 0
    shortcut: str | None = None  # "identity", or "changed" if padded or projected; None in a plain network


@dataclass(frozen=True)
class Architecture:
    """The layers of a network in order, without projections, and its blocks."""

    layers: list[Layer]
    blocks: list[Block]


def architecture(name: str, *, shortcut: str | None = None, variant: str | None = None) -> Architecture:
    """Run a network of the paper on one image, on the meta device, and record its layers."""
    size = default_size(name)
    with torch.device("meta"):
        network = build_model(name, shortcut=shortcut, variant=variant).eval()
    layers: list[Layer] = []
    blocks: list[Block] = []

    def add_layer(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        layers.extend(_layers(module, inputs[0], output, layers))

    def open_block(_module: nn.Module, _inputs: object) -> None:
        blocks.append(Block(len(layers)))

    def close_block(module: nn.Module, _inputs: object, _output: object) -> None:
        blocks[-1].end = len(layers)
        if module.downsample is not None:
            blocks[-1].shortcut = "identity" if isinstance(module.downsample, nn.Identity) else "changed"

    for path, module in network.named_modules():
        if isinstance(module, BasicBlock | Bottleneck):
            module.register_forward_pre_hook(open_block)
            module.register_forward_hook(close_block)
        elif "downsample" not in path:
            module.register_forward_hook(add_layer)
    network(torch.zeros(1, network.in_channels, size, size, device="meta"))
    return Architecture(layers, blocks)


def _layers(module: nn.Module, x: Tensor, output: Tensor, before: list[Layer]) -> Iterator[Layer]:
    """Describe a module; global average pooling, which is no module, is seen by the classifier's input."""
    if isinstance(module, nn.Conv2d | nn.MaxPool2d):
        kind = "conv" if isinstance(module, nn.Conv2d) else "max pool"
        kernel, stride = _one(module.kernel_size), _one(module.stride)
        yield Layer(kind, kernel, output.shape[1], stride, output.shape[2])
    elif isinstance(module, nn.Linear):
        last = before[-1]
        if last.size > 1 and x.shape[1] == last.width:
            yield Layer("avg pool", last.size, last.width, 1, 1)
        yield Layer("fc", 1, output.shape[1], 1, 1)


def _one(value: Any) -> int:
    return int(value[0] if isinstance(value, tuple) else value)


def table_1() -> Iterator[str]:
    """Return the lines of Table 1, then counts of parameters and multiply-adds beside the paper's."""
    names = [f"resnet{depth}" for depth in IMAGENET_DEPTHS]
    found = [architecture(name, variant=_variant(name, "v1")) for name in names]
    yield _row("layer", "output", (f"{depth}-layer" for depth in IMAGENET_DEPTHS))
    for size, label in LABELS.items():
        lines = zip_longest(*(_cell(one, size) for one in found), fillvalue="")
        for number, line in enumerate(lines):
            yield _row("", "", line) if number else _row(label, f"{size}x{size}", line)
    yield ""
    costs = {v: [complexity(name, variant=_variant(name, v)) for name in names] for v in ("v1", "v1.5")}
    yield _row("parameters, 10^6", "", (f"{cost.parameters / 1e6:.2f}" for cost in costs["v1"]))
    yield "multiply-adds, 10^9"
    yield _row("  in the paper", "", (f"{PAPER_MULTIPLY_ADDS[name]}" for name in names))
    for variant, row in costs.items():
        yield _row(f"  here, {variant}", "", (f"{cost.multiply_adds / 1e9:.2f}" for cost in row))


def table_1_values() -> list[dict[str, Any]]:
    """Return the networks of Table 1 as plain values: counts, and the layers without projections."""
    return [
        {
            **complexity(name, variant=_variant(name, "v1")).as_dict(),
            "in_order": [asdict(layer) for layer in architecture(name, variant=_variant(name, "v1")).layers],
        }
        for name in (f"resnet{depth}" for depth in IMAGENET_DEPTHS)
    ]


def _variant(name: str, variant: str) -> str | None:
    return variant if parse_name(name).bottleneck else None


def _cell(found: Architecture, size: int) -> list[str]:
    """Describe the layers with an output size: those outside blocks, then the blocks and their number."""
    inside = {number for block in found.blocks for number in range(block.first, block.end)}
    lines = [
        str(layer) for number, layer in enumerate(found.layers) if layer.size == size and number not in inside
    ]
    blocks = [found.layers[block.first : block.end] for block in found.blocks]
    shapes = [
        [f"{layer.kernel}x{layer.kernel}, {layer.width}" for layer in b] for b in blocks if b[-1].size == size
    ]
    for shape, alike in groupby(shapes):
        lines += [*shape, f"  x {len(list(alike))}"]
    return lines


def _row(label: str, output: str, cells: Iterable[str]) -> str:
    return f"{label:17} {output:8} {''.join(f'{cell:15}' for cell in cells)}".rstrip()
