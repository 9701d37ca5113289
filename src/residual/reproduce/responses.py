"""Layer responses, as in Figure 7: the standard deviation of each layer's output after BN."""

from pathlib import Path

import torch
from torch import nn

from ..data.dataset import Split
from ..data.load import load_dataset
from ..models.network import Network
from ..training.run_folder import Run
from ..zoo.model_folder import ModelConfig, load_model

IMAGES = 1000


def layer_responses(network: Network, split: Split) -> list[float]:
    """Measure the standard deviation of each layer's response, from the first layer to the last.

    The response is the output of BN after the convolution, before ReLU and addition (section 4.2, "Analysis
    of Layer Responses"). It is measured on the first thousand images of `split`, uint8 [N, H, W, 3].
    """
    config: ModelConfig = network.config
    found: list[float] = []
    layers = [
        m for n, m in network.named_modules() if isinstance(m, nn.BatchNorm2d) and "downsample" not in n
    ]
    hooks = [
        layer.register_forward_hook(lambda _m, _i, out: found.append(float(out.std()))) for layer in layers
    ]
    try:
        with torch.no_grad():
            network.eval()(config.preprocessing.apply(split.images[:IMAGES]).permute(0, 3, 1, 2))
    finally:
        for hook in hooks:
            hook.remove()
    return found


def measure_responses(run: Run, data_dir: Path | None = None) -> list[float]:
    """Measure the responses of a finished run on images of its test set, rounded to four digits."""
    split = load_dataset(run.recipe.data, data_dir or run.environment.get("data_dir")).test
    return [round(value, 4) for value in layer_responses(load_model(run.model), split)]
