"""Counts of layers, parameters and multiply-adds, measured on the network itself, not by formulas."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .build import build_model


@dataclass(frozen=True)
class Complexity:
    """What a network costs for one image.

    `layers` counts weighted layers as the paper does, without projections; `multiply_adds` counts those of
    convolutions and fully connected layers; `stages` maps each part to its output size, (C, H, W) or (C,).
    """

    name: str
    layers: int
    parameters: int
    multiply_adds: int
    stages: dict[str, tuple[int, ...]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def complexity(
    name: str, *, shortcut: str | None = None, num_classes: int = 10, input_size: int = 32
) -> Complexity:
    """Measure a network on one image of `input_size` x `input_size` pixels, on the meta device: no data.

    Raises:
        UsageError: as `build_model`.
    """
    with torch.device("meta"):
        network = build_model(name, num_classes=num_classes, shortcut=shortcut).eval()
    products: list[int] = []
    stages: dict[str, tuple[int, ...]] = {}

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            products.append(output.numel() * module.weight[0].numel())

    for path, module in network.named_modules():
        module.register_forward_hook(count)
        if path and "." not in path:
            module.register_forward_hook(
                lambda _module, _input, output, path=path: stages.update({path: tuple(output.shape[1:])})
            )
    network(torch.zeros(1, 3, input_size, input_size, device="meta"))
    weighted = [path for path, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return Complexity(
        name=name,
        layers=sum("downsample" not in path for path in weighted),
        parameters=sum(p.numel() for p in network.parameters()),
        multiply_adds=sum(products),
        stages={path: size for path, size in stages.items() if not path.startswith("bn")},
    )
