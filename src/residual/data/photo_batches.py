"""Training batches of photographs: decoded and cropped in worker processes, augmented on the device."""

from collections.abc import Generator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import DataError
from ..recipes.augment import ResizedCrop, ScaleCrop
from ..recipes.schema import Balance, Fit, Order
from ..runtime.launch import ALONE, Part
from .colour import pca_colour
from .decode import BadImageError
from .erasing import draw_erasing, erase
from .loader import Batches
from .mixing import apply_mix, draw_mix
from .normalization import Normalization
from .photo_augment import Place, choose_crop
from .photos import Photos
from .sampler import Members, bounds, class_weights, epoch_generator
from .shards import order as blocks
from .trivial_augment import trivial_augment
from .workers import map_in_workers

WORKER, BATCH = 1, 2  # purposes of random numbers, beside the crop's, which is 0
ENDLESS = 2**40  # steps


@dataclass(frozen=True)
class Decoded:
    """The crops of a step, uint8 [B, S, S, 3], their labels [B], and the bad images met: path and reason."""

    images: Tensor
    labels: Tensor
    bad: dict[str, str]


@dataclass(frozen=True, eq=False)
class DecodeStep:
    """Decodes the crops of a step; it pickles, for worker processes.

    The training images form an endless stream, of which epoch e is the stretch from e * N to (e + 1) * N, in
    an order drawn from (seed, e). What is drawn for an image depends on its epoch and its position alone.
    """

    photos: Photos
    augment: ScaleCrop | ResizedCrop
    size: int
    batch_size: int
    seed: int
    fit: Fit = "crop"
    members: Members | None = None  # of the classes, where they are to come equally often
    order: Order = "shuffle"
    part: Part = ALONE  # whose share of each batch is decoded, see `places`

    @property
    def places(self) -> list[int]:
        """The places in a batch of the images that are decoded.

        Where images are mixed, the one before a rank's share comes first: each is mixed with the one before.
        """
        first, stop = bounds(self.batch_size, self.part[1])[self.part[0]]
        return list(range(first - self.extra, stop))  # -1 is the last one

    @property
    def extra(self) -> int:
        """How many images are decoded beside the rank's share."""
        mixes = isinstance(self.augment, ResizedCrop) and bool(self.augment.mixup or self.augment.cutmix)
        return int(mixes and self.part[1] > 1)

    def __call__(self, step: int) -> Decoded:
        """Decode it.

        Raises:
            BadImageError: an image cannot be decoded, and bad ones are not skipped.
        """
        bad: dict[str, str] = {}
        positions = [step * self.batch_size + place % self.batch_size for place in self.places]
        wanted = [self._wanted(position) for position in positions]
        photos = self.photos.ahead([*wanted, *self._later((step + 1) * self.batch_size)])
        pairs = [
            self._image(photos, position, first, bad)
            for position, first in zip(positions, wanted, strict=True)
        ]
        labels = self.photos.labels[[index for _, index in pairs]]
        return Decoded(torch.stack([image for image, _ in pairs]), labels, bad)

    def _wanted(self, position: int) -> int:
        """Return the number of the image at a position of the stream."""
        epoch, within = divmod(position, len(self.photos))
        repeats = self.augment.repeats if isinstance(self.augment, ResizedCrop) else 1
        how = (repeats, self.members, self.order)
        return int(epoch_order(self.seed, epoch, len(self.photos), *how)[within])

    def _later(self, position: int) -> list[int]:
        """Return images that come after a batch and are read with it, where blocks are read."""
        more = 0 if self.order == "shuffle" else min(blocks.AHEAD, len(self.photos))
        return [self._wanted(position + number) for number in range(more)]

    def _image(self, photos: Photos, position: int, first: int, bad: dict[str, str]) -> tuple[Tensor, int]:
        """Return the crop at a position of the stream, and the number of the image that it is from."""
        place = Place(self.seed, *divmod(position, len(photos)))
        image, index = self._decode(photos, first, place, bad)
        if isinstance(self.augment, ResizedCrop) and self.augment.trivial:
            random = place.random(WORKER)
            flip = self.augment.flip and random.random() < 0.5  # before the operation, as torchvision does
            image = trivial_augment(image.flip(1) if flip else image, random)
        return image, index

    def _decode(self, photos: Photos, first: int, place: Place, bad: dict[str, str]) -> tuple[Tensor, int]:
        """Decode an image or, where it is bad and to be skipped, the next one that is not."""
        choose = choose_crop(self.augment, self.size, place, self.fit)
        for index in (*range(first, len(photos)), *range(first)):
            try:
                return photos.region(index, choose), index
            except BadImageError as error:
                if photos.on_bad_image == "stop":
                    raise
                bad[photos.files[index]] = error.reason
        raise DataError(f"none of the {len(photos)} images in {photos.where} can be decoded")


@lru_cache(maxsize=3)  # a batch and what is read ahead may span three epochs
def epoch_order(
    seed: int, epoch: int, size: int, repeats: int, members: Members | None = None, order: Order = "shuffle"
) -> Tensor:
    """Return the order of an epoch's images [N]; repeated ones follow each other, so fewer have a turn."""
    if members is not None:
        found = members.order(seed, epoch, size)
    elif order == "blocks":
        found = blocks.block_order(seed, epoch, size)
    else:
        found = torch.randperm(size, generator=epoch_generator(seed, epoch))
    return found.repeat_interleave(repeats)[:size]


class PhotoBatches(Batches):
    """Batches of photographs, the same whatever the number of workers.

    Args:
        photos: the training images.
        normalization: applied on the device; its per-pixel mean, if it has one, has the crops' size.
        image_size: height and width of the crops, in pixels.
        batch_size, seed: of the stream of images.
        augment: crops, colours and mixing.
        device: where the batches are made.
        workers: processes that decode ahead; with 0 this one decodes when a batch is asked for.
        fit: how an image that is not square becomes one, before a "resized-crop" is taken.
        balance: "sampler": all classes come equally often; "weights": `class_weights` says how their losses
            count; "none".
        part: see `Batches`.
        order: "shuffle" or "blocks", see `data/shards/order.py`.

    Raises:
        UsageError: the batch is larger than the training set.
    """

    def __init__(
        self,
        photos: Photos,
        normalization: Normalization,
        image_size: int,
        batch_size: int,
        augment: ScaleCrop | ResizedCrop,
        seed: int,
        device: torch.device,
        *,
        workers: int = 0,
        fit: Fit = "crop",
        balance: Balance = "none",
        part: Part = ALONE,
        order: Order = "shuffle",
    ) -> None:
        super().__init__(len(photos), batch_size, part)
        self.normalization = normalization.to(device)
        self.augment, self.seed, self.workers, self._device = augment, seed, workers, device
        self.classes = len(photos.class_names)
        if balance == "weights":
            self.class_weights = class_weights(photos.labels, self.classes).to(device)
        members = Members.of(photos.labels) if balance == "sampler" else None
        if order == "blocks":
            photos = photos.in_blocks(blocks.images_kept(apart=2 * workers * batch_size))
        self._decode = DecodeStep(photos, augment, image_size, batch_size, seed, fit, members, order, part)
        self._stream: Generator[Decoded] | None = None
        self._next = -1  # the step that the stream gives next
        self._first: Decoded | None = None  # step 0, where it was looked at before training

    @property
    def device(self) -> torch.device:
        """Where the batches are made."""
        return self._device

    @property
    def photos(self) -> Photos:
        """The training images."""
        return self._decode.photos

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Return step's images, float32 [B, 3, S, S] in channels-last memory, and their targets.

        The targets are labels [B], or the shares of the classes [B, classes] where images are mixed.

        Raises:
            DataError: an image is bad and not to be skipped, or a worker died.
        """
        decoded = self._first if step == 0 and self._first is not None else self._take(step)
        self._first = None
        return self._made(decoded, step)

    def first(self) -> tuple[Tensor, Tensor]:
        """Return the batch of step 0 as `[0]` does, and keep it decoded until a batch is asked for.

        Raises:
            DataError: as above.
        """
        self._first = self._take(0)
        return self._made(self._first, 0)

    def _made(self, decoded: Decoded, step: int) -> tuple[Tensor, Tensor]:
        self.bad |= decoded.bad
        images, labels = decoded.images, decoded.labels
        if self._device.type == "cuda":
            images = images.pin_memory()
        images = images.to(self._device, non_blocking=True)
        return self._augmented(images, labels.to(self._device), step)

    def _take(self, step: int) -> Decoded:
        if self._stream is None or step != self._next:
            self.close()
            self._stream = map_in_workers(self._decode, range(step, ENDLESS), self.workers)
        self._next = step + 1
        try:
            return next(self._stream)
        except BaseException:  # the stream has ended with it
            self._stream = None
            raise

    def close(self) -> None:
        """End the workers and remove the blocks that were kept; the next batch starts anew."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
        self.photos.release()

    def _augmented(self, images: Tensor, labels: Tensor, step: int) -> tuple[Tensor, Tensor]:
        """Do what acts on whole batches, drawn on the CPU so that it is the same on every device.

        It is drawn for the whole batch, also where these are the images of a part of it.
        """
        augment, random = self.augment, Place(self.seed, 0, step).random(BATCH)
        _, height, width, _ = images.shape
        count, places = self.batch_size, self._decode.places
        trivial = isinstance(augment, ResizedCrop) and augment.trivial
        if augment.flip and not trivial:
            flips = self._to_device((random.random(count) < 0.5)[places])
            images = torch.where(flips[:, None, None, None], images.flip(2), images)
        if isinstance(augment, ScaleCrop) and augment.colour:
            drawn = random.normal(0, augment.colour, (count, 3))[places]
            images = pca_colour(images, self._to_device(drawn))
        images = self.normalization.apply(images).permute(0, 3, 1, 2)
        if isinstance(augment, ScaleCrop):
            return images, labels
        if augment.erase:
            boxes = draw_erasing(random, count, augment.erase, height, width)[places]
            images = erase(images, self._to_device(boxes)).contiguous(memory_format=torch.channels_last)
        if augment.mixup or augment.cutmix:
            mix = draw_mix(random, augment.mixup, augment.cutmix, height, width)
            images, labels = apply_mix(images, labels, self.classes, mix)
        return images[self._decode.extra :], labels[self._decode.extra :]

    def _to_device(self, drawn: NDArray[Any]) -> Tensor:
        found = torch.from_numpy(drawn)
        return (found.float() if found.is_floating_point() else found).to(self._device)
