"""Test errors on CIFAR-10 as the paper and others published them, where the length of training is known."""

from collections.abc import Mapping
from dataclasses import dataclass

# Table 6; for 110 layers the mean of five, since ours are means too
PAPER_ERRORS = {
    "resnet20": 8.75,
    "resnet32": 7.51,
    "resnet44": 7.17,
    "resnet56": 6.97,
    "resnet110": 6.61,
    "resnet1202": 7.93,
}
PAPER_DEVIATIONS = {"resnet110": 0.16}  # standard deviations of the five
PAPER_SPREADS = {"resnet110": "6.61 +- 0.16 (best of five 6.43)"}
COMPARED = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")  # those that others trained too


@dataclass(frozen=True)
class Published:
    """What a source published: the error of each network in percent, and how it was trained.

    `images` is how many images a training saw, counting each time; `chosen` says of which epoch the error is.
    """

    source: str
    images: int
    shortcut: str
    chosen: str
    errors: Mapping[str, float]


def _of(*errors: float) -> dict[str, float]:
    return dict(zip(COMPARED, errors, strict=False))


PAPER = Published(
    "the paper",
    64_000 * 128,
    "A",
    "Table 6; of 110 layers the mean of five",
    {network: PAPER_ERRORS[network] for network in COMPARED},
)
# Epochs are of all 50,000 training images: akamaster's and hysts's by the settings in their repositories,
# gcr's and Keras's as stated beside the errors, chenyaofo's by the logs beside the weights.
OTHERS = (
    Published(
        "akamaster/pytorch_resnet_cifar10",
        200 * 50_000,
        "A",
        "best epoch on the test set",
        _of(8.27, 7.37, 6.90, 6.61, 6.32),
    ),
    Published(
        "gcr/torch-residual-networks", 200 * 50_000, "A", "not said", _of(8.29, 7.63, 7.14, 6.94, 6.73)
    ),
    Published(
        "hysts/pytorch_image_classification",
        160 * 50_000,
        "B",
        "last epoch, median of three",
        {"resnet110": 6.52},
    ),
    Published("chenyaofo/pytorch-cifar-models", 200 * 50_000, "B", "last epoch", _of(7.44, 6.59, 6.15, 5.79)),
    Published(
        "Keras, cifar10_resnet.py", 200 * 50_000, "B", "after 200 epochs", _of(7.84, 7.54, 7.50, 7.29, 7.35)
    ),
)
