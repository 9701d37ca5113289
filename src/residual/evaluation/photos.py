"""Evaluation on photographs in files: decoded in worker processes, tested by a protocol of the paper."""

from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor, nn

from ..data.decode import BadImageError
from ..data.photos import Photos
from ..data.preprocessing import Preprocessing
from ..data.sampler import bounds
from ..data.workers import in_batches, map_in_workers
from ..models.fold import optimize_for_inference
from ..models.network import Network
from ..runtime import ranks
from ..runtime.launch import ALONE, Part
from .classification import Accumulator, Evaluation
from .predictions import Recorder
from .protocols import Protocol, make_protocol

AHEAD = 16  # photographs that a process reads at once from shards on a server


@torch.no_grad()
def evaluate_photos(
    network: nn.Module,
    photos: Photos,
    preprocessing: Preprocessing,
    device: torch.device,
    progress: Callable[[int], None] = lambda _done: None,
    workers: int = 0,
    protocol: str = "one-crop",
    recorder: Recorder | None = None,
    part: Part = ALONE,
) -> Evaluation:
    """Evaluate a network on photographs, each once and in their order, by a protocol of section 4.1.

    The network, which is on `device`, is put into evaluation mode and back. `progress` is called with the
    number of images done, skipped ones included: with `photos.on_bad_image` "skip", images that cannot be
    decoded count in no figure and are named in the result.

    Args:
        network: maps normalised images [N, 3, H, W] to logits; multi-scale needs a `Network`.
        photos: labels are the network's classes.
        preprocessing: the model's.
        device: where it is computed.
        progress: see above.
        workers: processes that decode; with 0 this one does.
        protocol: "one-crop", "ten-crop" or "multi-scale".
        recorder: keeps the logits.
        part: (rank, ranks) where several ranks evaluate together, each its share of the photographs; all
            return the same figures, and the recorder of each has all logits.

    Raises:
        BadImageError: an image cannot be decoded, and bad images are not skipped.
        CheckpointError: a logit is not finite.
        DataError: there are no images, or a worker died.
        UsageError: there is no such protocol, or the network does not take images of the size.
    """
    test = make_protocol(protocol, preprocessing)
    test.check(network)
    was_training = network.training
    network.eval()
    ready = optimize_for_inference(network) if isinstance(network, Network) else network
    on_device = replace(test, preprocessing=preprocessing.to(device))
    figures, skipped, done = Accumulator(), [], 0
    own = range(*bounds(len(photos), part[1])[part[0]])
    try:
        watching = nullcontext() if recorder is None else recorder.watching(ready)
        with watching, closing(_decoded(test, photos, own, workers)) as decoded:
            for batch in in_batches(decoded, test.images_at_once):
                good = [item for item in batch if not item.problem]
                skipped += [photos.files[item.index] for item in batch if item.problem]
                if good:
                    indices = [item.index for item in good]
                    logits = on_device.predict(ready, [item.views for item in good], device)
                    figures.add(logits, photos.labels[indices])
                    if recorder is not None:
                        recorder.add(indices, logits)
                done += len(batch)
                progress(min(len(photos), done * part[1]))
    finally:
        network.train(was_training)
    if part != ALONE:
        figures.sum_over_ranks()
        skipped = list(chain.from_iterable(ranks.gathered(skipped)))
        if recorder is not None:
            recorder.gather()
    return replace(figures.result(), skipped=tuple(skipped), notes=test.notes)


@dataclass(frozen=True)
class _Decoded:
    """A photograph's views, or why it cannot be decoded."""

    index: int
    views: list[Tensor]
    problem: str = ""


@dataclass(frozen=True)
class _Load:
    """Decodes photographs by their indices, in any process."""

    protocol: Protocol
    photos: Photos

    def __call__(self, indices: range) -> list[_Decoded]:
        photos = self.photos.ahead(indices)
        return [self._one(photos, index) for index in indices]

    def _one(self, photos: Photos, index: int) -> _Decoded:
        try:
            return _Decoded(index, self.protocol.load(photos, index))
        except BadImageError as error:
            if photos.on_bad_image != "skip":
                raise
            return _Decoded(index, [], str(error))


def _decoded(protocol: Protocol, photos: Photos, own: range, workers: int) -> Generator[_Decoded, None, None]:
    size = AHEAD if photos.source is not None else 1
    parts = [own[first : first + size] for first in range(0, len(own), size)]
    with closing(map_in_workers(_Load(protocol, photos), parts, workers)) as decoded:
        for part in decoded:
            yield from part
