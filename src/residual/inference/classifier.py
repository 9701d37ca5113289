"""The public `Classifier`: a trained network applied to images in whatever form they come."""

import copy
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast, overload

import torch
from torch import Tensor, nn

from ..data.any_image import AnyImage
from ..errors import UsageError
from ..models.fold import optimize_for_inference
from ..models.network import Network
from ..runtime.device import resolve_device
from ..zoo.model_folder import ModelConfig
from ..zoo.pretrained import open_model
from .engines import EngineName, open_engine

PIXELS_AT_ONCE = 32 * 224 * 224  # of a batch: bounds the memory for feature maps


class Prediction(NamedTuple):
    """A class and its probability."""

    class_name: str
    probability: float


class Classifier:
    """A trained network that names what images show.

    Each image is decoded, resized, cropped and normalised as the model's own evaluation does it. The
    probabilities are the softmax of the logits divided by the model's temperature. It can be called from
    several threads at once.

        classify = residual.Classifier("resnet20")
        classify("cat.jpg")  # [Prediction(class_name='cat', probability=0.98), ...]

    Args:
        model: a run folder, a model folder, the name of a pretrained model, or a network from `load_model` or
            `create_model(..., pretrained=True)`.
        device: "cuda", "mps" or "cpu"; by default CUDA where it is available.
        engine: what computes: "torch"; or "onnx" or "int8", which are ONNX Runtime on the CPU.
        calibration: for "int8", a folder with images of the kind that will be classified, see `open_engine`.

    Raises:
        UsageError: there is no such model, device or engine, or the engine is not installed.
        CheckpointError: the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path | Network,
        *,
        device: str | None = None,
        engine: EngineName = "torch",
        calibration: str | Path | None = None,
    ) -> None:
        network = open_model(model)
        self.config: ModelConfig = network.config
        self.class_names = self.config.class_names
        self.device = resolve_device(device if engine == "torch" else "cpu")
        self.network = copy.deepcopy(network).eval().requires_grad_(False).to(self.device)
        self._engine = open_engine(engine, self.network, calibration)
        self._preprocessing = self.config.preprocessing.to(self.device)

    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, images: AnyImage, top: int = 5
    ) -> list[Prediction]: ...

    @overload
    def __call__(self, images: Sequence[AnyImage], top: int = 5) -> list[list[Prediction]]: ...

    def __call__(
        self, images: AnyImage | Sequence[AnyImage], top: int = 5
    ) -> list[Prediction] | list[list[Prediction]]:
        """Classify an image, or each of several.

        Args:
            images: an image: a path, the bytes of an image file, a Pillow image, or uint8 values [H, W] or
                [H, W, C] in a NumPy array or a tensor. Or several: a list or tuple of them, or an array or
                tensor [N, H, W, C].
            top: how many classes, at most all.

        Returns:
            Of an image the likeliest classes, the likeliest first; of several a list of such lists.

        Raises:
            BadImageError: an image cannot be decoded.
            UsageError: `top` is below 1.
        """
        if isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4:
            several = cast(Sequence[AnyImage], images)
            size = self.images_at_once
            parts = [several[start : start + size] for start in range(0, len(several), size)]
            return [found for part in parts for found in self._classify(part, top)]
        return self._classify([cast(AnyImage, images)], top)[0]

    @property
    def images_at_once(self) -> int:
        """How many images make a batch that is quick and fits into memory."""
        height, width = self.config.preprocessing.image_size
        return max(1, min(250, PIXELS_AT_ONCE // (height * width)))

    @property
    def feature_size(self) -> int:
        """How many features an image has."""
        return int(self._last.weight.shape[1])

    def load(self, image: AnyImage) -> Tensor:
        """Decode an image as the uint8 values [*image_size, 3] that `logits` takes.

        Raises:
            BadImageError: it cannot be decoded.
        """
        return self.config.preprocessing.read(image)

    @torch.no_grad()
    def logits(self, pixels: Tensor) -> Tensor:
        """Map uint8 values [N, *image_size, 3], as `load` gives them, to logits [N, classes] on the CPU."""
        logits: Tensor = self._engine(self.normalised(pixels))
        return logits.float().cpu()

    @torch.no_grad()
    def features(self, pixels: Tensor) -> Tensor:
        """Map uint8 values [N, *image_size, 3] to what the last linear layer takes, [N, D] on the CPU."""
        found: Tensor = self._headless(self.normalised(pixels))
        return found.float().cpu()

    @torch.no_grad()
    def logits_of_features(self, features: Tensor) -> Tensor:
        """Map what `features` gives, [N, D], to logits [N, classes] on the CPU."""
        logits: Tensor = self._last(features.to(self.device))
        return logits.float().cpu()

    def probabilities(self, logits: Tensor) -> Tensor:
        """Map logits [N, classes] to probabilities [N, classes], at the model's temperature."""
        return (logits.double() / self.config.temperature).softmax(1)

    def best(self, probabilities: Tensor, top: int = 5) -> list[list[Prediction]]:
        """Name the likeliest classes of each row of probabilities [N, classes], the likeliest first.

        Raises:
            UsageError: `top` is below 1.
        """
        if top < 1:
            raise UsageError(f"top must be 1 or more, not {top}")
        values, labels = probabilities.topk(min(top, len(self.class_names)), dim=1)
        return [
            [Prediction(self.class_names[label], value) for value, label in zip(row, names, strict=True)]
            for row, names in zip(values.tolist(), labels.tolist(), strict=True)
        ]

    def _classify(self, images: Sequence[AnyImage], top: int) -> list[list[Prediction]]:
        pixels = torch.stack([self.load(image) for image in images])
        return self.best(self.probabilities(self.logits(pixels)), top)

    def normalised(self, pixels: Tensor) -> Tensor:
        """Map uint8 values [N, *image_size, 3] to the network's input, float32 [N, 3, H, W]."""
        images: Tensor = self._preprocessing.normalization.apply(pixels.to(self.device))
        return images.permute(0, 3, 1, 2)

    @property
    def _last(self) -> nn.Linear:
        return cast(nn.Linear, self.network.get_submodule(self.network.classifier_name))

    @cached_property
    def _headless(self) -> nn.Module:
        """The network without its last linear layer."""
        network = optimize_for_inference(self.network)
        network.set_submodule(self.network.classifier_name, nn.Identity())
        return network
