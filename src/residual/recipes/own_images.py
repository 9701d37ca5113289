"""Recipes for one's own photographs: `finetune`, where there are trained weights, and `scratch`.

residual train resnet18 --data FOLDER                     by one of the two, sized by the number of images
residual train resnet18 --data FOLDER --weights none      by `scratch`
"""

from collections.abc import Collection
from dataclasses import dataclass

from .augment import ResizedCrop
from .schema import FOLDER, Optimizer, Recipe, Schedule

STEPS_PER_EPOCH = 16  # at least so many, with smaller batches if need be


@dataclass(frozen=True)
class Length:
    """How long to train: for so many views of images, but in no fewer and no more epochs than these.

    Batches become smaller for few images, but not below `batch`: BN's statistics of fewer are poor, and a
    step of Muon takes its time whatever the batch, for ResNet-18 a second of one core.
    """

    views: int
    least: int
    most: int
    batch: int


LENGTHS = {
    "finetune": Length(20_000, least=5, most=30, batch=16),
    "scratch": Length(60_000, least=15, most=100, batch=32),
}

# what `residual train --from RUN` changes of `finetune`: the weights are for most of the classes already
CONTINUED = {"optimizer.learning_rate": 0.02, "optimizer.body_rate": 0.1}


def scratch(network: str) -> Recipe:
    """From fresh weights, by what `fast` does: Muon for convolutions and a triangular rate; smaller at first.

    The first 60 % of the steps see images of three quarters of the size, which takes half of the time.
    `fit_to_images` gives it the length and the batches for so many images.
    """
    return Recipe(
        name="scratch",
        network=network,
        data=FOLDER,
        image_size=128,
        test_size=128,
        test_resize=144,
        normalization="imagenet",
        iterations=1_250,
        batch_size=64,
        log_every=20,
        precision="auto",
        label_smoothing=0.1,
        optimizer=Optimizer(learning_rate=0.2, weight_decay=5e-4, nesterov=True, decay_all=False, muon=0.05),
        schedule=Schedule(shape="triangle", peak=0.2),
        augment=ResizedCrop(smallest=0.35, flip=True, early_size=96, early_share=0.6),
    )


def finetune(network: str) -> Recipe:
    """From trained weights: an epoch of the last layer alone, then all, with a hundredth of its rate.

    The weights are those of the key `weights`. `fit_to_images` gives it the length and the batches for so
    many images.
    """
    return Recipe(
        name="finetune",
        network=network,
        data=FOLDER,
        image_size=160,
        test_size=160,
        test_resize=180,
        normalization="imagenet",
        iterations=310,
        batch_size=64,
        log_every=20,
        precision="auto",
        label_smoothing=0.1,
        optimizer=Optimizer(
            learning_rate=0.2,
            weight_decay=5e-4,
            nesterov=True,
            decay_all=False,
            body_rate=0.01,
            frozen=20,
        ),
        schedule=Schedule(shape="triangle", peak=0.2),
        augment=ResizedCrop(smallest=0.35, flip=True),
    )


def fit_to_images(
    recipe: Recipe, images: int, given: Collection[str] = (), epochs: float | None = None
) -> tuple[Recipe, tuple[str, ...]]:
    """Size `finetune` or `scratch` by the number of training images; any other recipe stays as it is.

    Args:
        recipe: what the user set is set already.
        images: for training, without those set apart for validation.
        given: keys that the user set, such as "batch_size", which stay.
        epochs: the length that the user set; None: it follows from the number of images.

    Returns:
        The recipe, and a line for each choice with its reason.
    """
    length = LENGTHS.get(recipe.name)
    if length is None:
        return recipe, ()
    changes: dict[str, float] = {}
    reasons = []
    if "batch_size" not in given:
        batch = _batch_size(recipe.batch_size, length.batch, images)
        if batch != recipe.batch_size:
            changes["batch_size"] = batch
            reasons.append(f"batches of {batch}, since {images:,} images are few")
            if "optimizer.learning_rate" not in given:  # in proportion (Goyal et al., 2017)
                rate = recipe.optimizer.learning_rate * batch / recipe.batch_size
                changes["optimizer.learning_rate"] = rate
                reasons.append(f"a learning rate of {rate:g}, in proportion to the batch")
    per_epoch = images / changes.get("batch_size", recipe.batch_size)
    if "iterations" not in given and not recipe.time:
        if epochs is None:
            epochs, reason = _epochs(length, images)
            reasons.append(reason)
        changes["iterations"] = max(1, round(epochs * per_epoch))
    if recipe.optimizer.frozen and "optimizer.frozen" not in given:
        iterations = changes.get("iterations", recipe.iterations)
        changes["optimizer.frozen"] = max(1, min(round(per_epoch), iterations // 4))
        reasons.append(f"the first {changes['optimizer.frozen']:,} steps train the last layer alone")
    return recipe.replace(changes), tuple(reasons)


def _batch_size(usual: int, smallest: int, images: int) -> int:
    """Halve the batch until an epoch has enough steps, or a half would be too small."""
    batch = usual
    while batch // 2 >= smallest and images < batch * STEPS_PER_EPOCH:
        batch //= 2
    return max(1, min(batch, images))


def _epochs(length: Length, images: int) -> tuple[int, str]:
    """Return the epochs for so many images, and the reason."""
    wanted = round(length.views / images)
    if wanted > length.most:
        return length.most, f"{length.most} epochs, since {images:,} images are few: no more than that"
    if wanted < length.least:
        return length.least, f"{length.least} epochs, since {images:,} images are many: no fewer than that"
    return wanted, f"{wanted} epochs of {images:,} images, which is about {length.views:,} views"
