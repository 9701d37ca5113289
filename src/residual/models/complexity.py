"""Counts of layers, parameters and multiply-adds, measured on the network itself, not by formulas."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .build import build_model
from .names import default_size, resolve_shortcut, resolve_variant

# Table 1, Figure 3 and section 3.3, in 10^9 (the paper calls them FLOPs); its bottlenecks are those of v1
PAPER_MULTIPLY_ADDS = {
    **{"plain18": 1.8, "plain34": 3.6, "resnet18": 1.8, "resnet34": 3.6},
    **{"resnet50": 3.8, "resnet101": 7.6, "resnet152": 11.3},
    **{"vgg19": 19.6},
}


@dataclass(frozen=True)
class Complexity:
    """What a network costs for one image.

    `shortcut` and `variant` are the options it was built with, see `build_model`; `layers` counts weighted
    layers as the paper does, without projections; `multiply_adds` counts those of convolutions and fully
    connected layers; `stages` maps each part to its output size, (C, H, W) or (C,).
    """

    name: str
    shortcut: str | None
    variant: str | None
    layers: int
    parameters: int
    multiply_adds: int
    stages: dict[str, tuple[int, ...]]

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def complexity(
    name: str,
    *,
    shortcut: str | None = None,
    variant: str | None = None,
    num_classes: int | None = None,
    input_size: int | None = None,
) -> Complexity:
    """Measure a network on one image, on the meta device: no data.

    Args:
        name, shortcut, variant, num_classes: as `build_model` takes them.
        input_size: height and width of the image in pixels; by default 32 for CIFAR networks, 224 for
            ImageNet networks.

    Raises:
        UsageError: as `build_model`.
    """
    size = input_size or default_size(name)
    with torch.device("meta"):
        network = build_model(name, num_classes=num_classes, shortcut=shortcut, variant=variant).eval()
    products: list[int] = []
    stages: dict[str, tuple[int, ...]] = {}

    def count(module: nn.Module, _: Any, output: Tensor) -> None:
        if isinstance(module, nn.Conv2d | nn.Linear):
            products.append(output.numel() * module.weight[0].numel())

    for module in network.modules():
        module.register_forward_hook(count)
    for part, module in network.parts().items():
        module.register_forward_hook(
            lambda _module, _input, output, part=part: stages.update({part: tuple(output.shape[1:])})
        )
    network(torch.zeros(1, 3, size, size, device="meta"))
    weighted = [path for path, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return Complexity(
        name=name,
        shortcut=resolve_shortcut(name, shortcut),
        variant=resolve_variant(name, variant),
        layers=sum("downsample" not in path for path in weighted),
        parameters=sum(p.numel() for p in network.parameters()),
        multiply_adds=sum(products),
        stages=stages,
    )
