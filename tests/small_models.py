"""Model folders of a small network with drawn weights, whose answers differ clearly between images."""

from pathlib import Path

import torch
from torch import nn

import residual
from residual.data.normalization import Normalization
from residual.data.preprocessing import Preprocessing
from residual.zoo.model_folder import ModelConfig, save_model

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


def small_model(
    folder: Path,
    size: tuple[int, int] = (32, 32),
    fit: str = "crop",
    resize: int | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    names: tuple[str, ...] = NAMES,
) -> Path:
    """Write the model folder of a ResNet-8 for images of a size, and return it."""
    random = torch.Generator().manual_seed(seed)
    network = residual.create_model("resnet8", num_classes=len(names))
    with torch.no_grad():
        for value in network.parameters():
            if value.dim() > 1:
                value.normal_(0, (2 / value[0].numel()) ** 0.5, generator=random)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the mean over all batches
        patches = nn.functional.interpolate(torch.randn(64, 3, 5, 5, generator=random), size, mode="bicubic")
        network.train()(patches)
        logits, last = network.eval()(patches), network.get_submodule(network.classifier_name)
        last.weight.mul_(3 / logits.std(0)[:, None])
        last.bias.sub_(last.bias + 3 * (logits - last.bias).mean(0) / logits.std(0))
    scale = Normalization.of_channels((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    preprocessing = Preprocessing(size, scale, resize, fit)
    config = ModelConfig(
        "resnet8", "A", names, preprocessing, data="mine", recipe="drawn", temperature=temperature
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_model(folder, network, config, "")
    return folder
