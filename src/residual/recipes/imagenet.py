"""Recipes for ImageNet: `imagenet-paper` (section 3.4), `imagenet-epochs`, and `imagenet-modern`.

residual train resnet50 --recipe imagenet-paper --data FOLDER     24.7 % top-1 error of the authors' model
residual train resnet50 --recipe imagenet-modern --data FOLDER    19.1 % top-1 error of torchvision's

Errors are of one crop per image of the 50,000 validation images, on which no recipe here selects anything.
"""

from ..models.names import parse_name
from .augment import ResizedCrop, ScaleCrop
from .schema import Ema, Optimizer, Recipe, Schedule

IMAGES = 1_281_167  # for training, in ILSVRC 2012


def imagenet_paper(network: str) -> Recipe:
    """600k iterations of SGD; 0.1, divided by 10 when the error plateaus; batch 256 (section 3.4).

        residual train resnet50 --recipe imagenet-paper --data FOLDER

    The released models of the authors have 24.7, 23.6 and 23.0 % top-1 error with 50, 101 and 152 layers;
    with ten crops, Table 3 has 22.85, 21.75 and 21.43 %. Bottlenecks are theirs, "v1".

    The paper does not say which error is watched, nor how. Here it is that of 1 % of the training images,
    12,812, set apart: at 25 % its standard deviation is 0.4 %, and little training data is lost. It is
    measured every 5,000 iterations, a pass over ImageNet; five of them without a new minimum are a plateau.
    """
    return Recipe(
        name="imagenet-paper",
        network=network,
        variant=_authors_variant(network),
        data="folder",
        image_size=224,
        normalization="measured",
        iterations=600_000,
        batch_size=256,
        validation=0.01,
        evaluate_every=5_000,
        checkpoint_every=1_000,
        precision="float32",
        optimizer=Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True),
        schedule=Schedule(shape="plateau", factor=0.1, patience=5, max_drops=3),
        augment=ScaleCrop(shortest=256, longest=480, colour=0.1, flip=True),
    )


def imagenet_epochs(network: str) -> Recipe:
    """90 epochs: as imagenet-paper, but 0.1 is divided by 10 after 30 and 60 epochs.

        residual train resnet50 --recipe imagenet-epochs --data FOLDER

    The authors' next paper (Identity Mappings in Deep Residual Networks, 2016, appendix) divides so, with the
    augmentation of this one, and so do most reimplementations. It takes three quarters of the iterations and
    no validation set, and the rate falls at the same step with every seed. Expect the errors of
    imagenet-paper.
    """
    return Recipe(
        name="imagenet-epochs",
        network=network,
        variant=_authors_variant(network),
        data="folder",
        image_size=224,
        normalization="measured",
        iterations=round(90 * IMAGES / 256),  # 450,410
        batch_size=256,
        evaluate_every=5_000,
        checkpoint_every=1_000,
        precision="float32",
        optimizer=Optimizer(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay_all=True),
        schedule=Schedule(shape="steps", drops=(30 / 90, 60 / 90), factor=0.1),
        augment=ScaleCrop(shortest=256, longest=480, colour=0.1, flip=True),
    )


def imagenet_modern(network: str) -> Recipe:
    """600 epochs by torchvision's settings of 2021: mixup, cutmix, TrivialAugment, averaged weights.

        residual train resnet50 --recipe imagenet-modern --data FOLDER

    torchvision's model (ResNet50_Weights.IMAGENET1K_V2) has 19.1 % top-1 error, 80.858 % right. Its settings
    are those of "How to Train State-Of-The-Art Models Using TorchVision's Latest Primitives" and of the
    command for these weights. What differs here:

    - biases, of which the classifier has one, have no weight decay either; there only normalization has none
    - the rate rises from near 0, step by step, and falls so; there from 0.01 of the peak, once an epoch
    - the average of the weights covers the warm-up too; there it copies the weights until the warm-up ends
    - computes in bfloat16 where the device does; there in float32
    - BN's statistics are those of the whole batch; there of the 128 images of each of eight GPUs
    """
    return Recipe(
        name="imagenet-modern",
        network=network,
        data="folder",
        image_size=176,  # of the training crops
        test_size=224,
        test_resize=232,
        normalization="imagenet",
        iterations=600 * 1_251,  # 600 epochs, each of as many whole batches of 8 x 128 images as there are
        batch_size=1_024,  # 128 on each of eight GPUs
        evaluate_every=5_000,
        checkpoint_every=1_000,
        precision="auto",
        label_smoothing=0.1,
        optimizer=Optimizer(learning_rate=0.5, momentum=0.9, weight_decay=2e-5, decay_all=False),
        schedule=Schedule(shape="cosine", peak=5 / 600),  # five epochs of warm-up
        # torchvision scales its decay of 1 - 2e-5 by batch size x 32 / epochs, so that the time constant is
        # the same share of any run: 1 / (2e-5 x images)
        ema=Ema(span=1 / (2e-5 * IMAGES), every=32),
        augment=ResizedCrop(
            smallest=0.08,
            flip=True,
            trivial=True,
            erase=0.1,
            mixup=0.2,
            cutmix=1.0,
            repeats=4,
        ),
    )


def _authors_variant(network: str) -> str | None:
    """Return the variant of the authors' models, for networks that have variants."""
    name = parse_name(network)
    return "v1" if name.imagenet and name.bottleneck else None
