"""Networks applied at every place of an image that is larger than they were trained on (section 4.1)."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional as F

from ..models.network import Network
from ..models.vgg import VGG


def fully_convolutional(network: Network) -> Callable[[Tensor], Tensor]:
    """Return a function from normalised images [N, C, H, W] to logits averaged over all places, [N, classes].

    For residual and plain networks that is the network itself: its classifier is linear, so the classifier of
    the pooled features is the average of the scores that it gives at each place. VGG's fully connected layers
    become convolutions, the first of them with 7x7 kernels.
    """
    if isinstance(network, VGG):
        return lambda images: _vgg(network, images)
    return network


def _vgg(network: VGG, images: Tensor) -> Tensor:
    x = network.forward_features(images)
    side = network.avgpool.output_size  # of the maps that the first of the layers takes
    assert isinstance(side, int)
    height, width = (max(side, length) for length in x.shape[2:])
    x = F.adaptive_avg_pool2d(x, (height, width))  # only of images smaller than 224, as in `VGG.forward`
    kernel = side
    for layer in network.classifier:
        if isinstance(layer, nn.Linear):
            weight = layer.weight.reshape(layer.out_features, -1, kernel, kernel)
            x, kernel = F.conv2d(x, weight, layer.bias), 1
        else:
            x = layer(x)
    return x.mean((2, 3))
