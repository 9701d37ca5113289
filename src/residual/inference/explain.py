"""Grad-CAM: which places of an image speak for a class, as maps over the image."""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data.any_image import AnyImage
from ..errors import UsageError
from ..models.network import Network
from .classifier import Classifier, Prediction


@dataclass(frozen=True)
class Explanation:
    """An image as the network saw it, its likeliest classes, and where the evidence for each is.

    Attributes:
        pixels: uint8 [H, W, 3], decoded, resized and cropped.
        predictions: the likeliest first.
        maps: float32 [len(predictions), H, W], Grad-CAM of each class, from 0 to 1. Each is divided by its
            own maximum, so two maps do not compare in size; a class that no place speaks for has zeros.
        stage: the part of the network that the maps are of.
    """

    pixels: Tensor
    predictions: list[Prediction]
    maps: Tensor
    stage: str


def explain(classifier: Classifier, image: AnyImage, top: int = 3, stage: str | None = None) -> Explanation:
    """Show where an image has the evidence for its likeliest classes, by Grad-CAM.

    It can be called from several threads at once. The maps are computed by torch, in float32, whatever the
    classifier's engine is.

    Args:
        classifier: the model.
        image: in any form that the classifier takes.
        top: how many classes, at most all.
        stage: the part of the network whose feature maps are weighed, see `stages`; by default the last.
            Earlier ones are finer, and say less of the class.

    Raises:
        BadImageError: the image cannot be decoded.
        UsageError: the network has no such stage, or `top` is below 1.
    """
    name = _find_stage(classifier.network, stage)
    pixels = classifier.load(image)
    probabilities = classifier.probabilities(classifier.logits(pixels[None]))
    predictions = classifier.best(probabilities, top)[0]
    labels = probabilities[0].topk(len(predictions)).indices
    coarse = grad_cam(classifier.network, classifier.normalised(pixels[None]), labels, name)
    maps = F.interpolate(coarse[:, None], pixels.shape[:2], mode="bilinear")[:, 0].cpu()
    largest = maps.amax((1, 2), keepdim=True)
    return Explanation(pixels, predictions, maps / torch.where(largest > 0, largest, 1), name)


def grad_cam(network: Network, images: Tensor, classes: Tensor, stage: str | None = None) -> Tensor:
    """Compute Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks", 2017).

    The feature maps of a stage are summed, each with a weight: the mean over all places of the gradient of
    the class's logit with respect to the map (equation 1). What is negative is set to 0 (equation 2). The
    network runs in evaluation mode; neither it nor its gradients are changed.

    Args:
        network: its weights are in float32 or float64.
        images: normalised, [N, C, H, W]; or one image, [1, C, H, W], for all classes.
        classes: int64 [N], a label for each map.
        stage: see `stages`; by default the last.

    Returns:
        The maps [N, H', W'] in the size of the stage's feature maps, from 0 up.

    Raises:
        UsageError: the network has no such stage, or the images do not fit it.
    """
    own = _with_shared_weights(network)  # whose hook meets no other call's images
    found = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        found.append(output.detach().expand(len(classes), -1, -1, -1).requires_grad_())
        return found[0]

    own.get_submodule(_module_path(own, stage)).register_forward_hook(keep)
    with torch.enable_grad():
        logits = own(images)
        chosen = logits.gather(1, classes.to(logits.device)[:, None])
        (gradients,) = torch.autograd.grad(chosen.sum(), found)
    weights = gradients.mean((2, 3), keepdim=True)
    return (weights * found[0].detach()).sum(1).relu()


def stages(network: Network) -> list[str]:
    """Return the names of the parts that give feature maps, in order, as `Network.parts` has them."""
    return [name for name, part in network.parts().items() if not isinstance(part, nn.Conv2d | nn.Linear)]


def _find_stage(network: Network, stage: str | None) -> str:
    known = stages(network)
    if stage is not None and stage not in known:
        raise UsageError(f"unknown stage '{stage}': this network has {', '.join(known)}")
    return stage or known[-1]


def _module_path(network: Network, stage: str | None) -> str:
    wanted = network.parts()[_find_stage(network, stage)]
    path: str = next(path for path, module in network.named_modules() if module is wanted)
    return path


def _with_shared_weights(network: Network) -> Network:
    """Copy a network in evaluation mode; the copy has its own modules, and the same tensors and config."""
    shared = [*network.parameters(), *network.buffers(), network.config]
    return copy.deepcopy(network, {id(value): value for value in shared}).eval()
