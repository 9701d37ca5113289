"""The recipe `imagenette`: the paper's networks on photographs in minutes, without a GPU.

residual reproduce imagenette --data-dir FOLDER    plain and residual networks of 18 and 34 layers
residual train resnet18 --recipe imagenette --data FOLDER
"""

from .augment import ResizedCrop
from .schema import Optimizer, Recipe, Schedule

IMAGES = 9_469  # for training, in Imagenette
BATCH = 64


def imagenette(network: str) -> Recipe:
    """Five epochs of Imagenette at 128 pixels: what `fast` does on CIFAR-10, for photographs.

        residual train resnet18 --recipe imagenette --data FOLDER

    Optimizer and schedule are of the kind of `fast`; the values were chosen by hand and tried once, with
    resnet18 on a tenth of the training images set apart; see docs/log.md. The set's own validation images
    are the test set here, and chose nothing.
    """
    return Recipe(
        name="imagenette",
        network=network,
        data="folder",
        image_size=128,
        test_size=128,
        test_resize=144,
        normalization="imagenet",
        iterations=round(5 * IMAGES / BATCH),  # 740
        batch_size=BATCH,
        log_every=74,  # twice an epoch
        evaluate_every=148,  # once an epoch
        checkpoint_every=148,
        precision="auto",
        label_smoothing=0.1,
        optimizer=Optimizer(
            learning_rate=0.2, momentum=0.9, weight_decay=5e-4, nesterov=True, decay_all=False, muon=0.05
        ),
        schedule=Schedule(shape="triangle", peak=0.2),
        augment=ResizedCrop(smallest=0.35, flip=True, early_size=96, early_share=0.6),
    )
