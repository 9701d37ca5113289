"""Recipes for small images: `paper` (section 4.2), this project's own for CIFAR, and `demo` (digits).

residual train resnet20 --data-dir DATA               8.75 % test error in the paper's Table 6
residual train resnet20 --data digits                 under 2 % test error
"""

from ..models.names import parse_name
from .augment import PadCrop
from .schema import Optimizer, Recipe, Schedule


def paper(network: str) -> Recipe:
    """64k iterations of SGD; 0.1, divided by 10 at 32k and 48k; batch 128; crop and flip (section 4.2).

    From 110 layers on, 0.01 until the training error is under 80 %.
    """
    deep = parse_name(network).layers >= 110
    return Recipe(
        name="paper", network=network, schedule=Schedule(warmup_learning_rate=0.01 if deep else 0.0)
    )


def fast(network: str) -> Recipe:
    """27 epochs, a sixth of the paper's: Muon for convolutions, batch 256, a triangular rate.

    It computes in bfloat16 where the device does. How it was chosen is in `docs/log.md`; what it reaches,
    in `docs/results.md`.
    """
    return Recipe(
        name="fast",
        network=network,
        iterations=5274,
        batch_size=256,
        precision="auto",
        optimizer=Optimizer(learning_rate=0.4, weight_decay=5e-4, nesterov=True, decay_all=False, muon=0.02),
        schedule=Schedule(shape="triangle", peak=0.2),
        augment=PadCrop(padding=2),
    )


def faster(network: str) -> Recipe:
    """20 epochs of what `fast` does in 27, the first 60 % of the steps at 24 pixels; see `docs/log.md`."""
    shorter = {"name": "faster", "iterations": 3906, "augment.early_size": 24, "optimizer.muon": 0.03}
    return fast(network).replace(shorter)


def strong(network: str) -> Recipe:
    """40 epochs for networks of any depth, the first 60 % of the steps at 24 pixels; see `docs/log.md`.

    Each image is flipped in every other epoch, not at random.
    """
    changes = {"name": "strong", "iterations": 7812, "augment.padding": 4}
    return fast(network).replace(changes | {"augment.early_size": 24, "augment.alternate_flip": True})


def best(network: str) -> Recipe:
    """200 epochs of what `fast` does in 27, with the paper's crops; aims for a lower error."""
    longer = {"name": "best", "iterations": 39_063, "augment.padding": 4}
    return fast(network).replace(longer)


def demo(network: str) -> Recipe:
    """300 iterations on scikit-learn's handwritten digits; crops but no flips, which would change a digit."""
    return Recipe(
        name="demo",
        network=network,
        data="digits",
        iterations=300,
        batch_size=64,
        log_every=20,
        evaluate_every=50,
        checkpoint_every=100,
        curve="test",
        optimizer=Optimizer(learning_rate=0.1, weight_decay=5e-4),
        augment=PadCrop(padding=2, flip=False),
    )
