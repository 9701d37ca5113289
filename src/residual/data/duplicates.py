"""Near-duplicates among photographs: pairs that a perceptual hash proposes and small copies confirm.

A pair is a near-duplicate if one image, or a crop of it that lacks at most a tenth of its height and width,
looks like the other: re-encoding and rescaling do not matter. The thresholds were set on Imagenette, where
they find 99 of 100 copies that are re-encoded, rescaled and cropped by 3 to 5 %, 87 of those cropped by 6 to
8 %, and take no two different photographs for one.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ..runtime.device import flush_denormals
from .hashes import SIDE, Prints

BITS = 16  # of the 64 of a hash, that may differ
COARSE = 0.85  # correlation of 8x8 means, below which no pair is looked at closely
ALIKE = 0.93  # correlation of the grey copies, aligned
DETAIL = 0.8  # the same of what a blur takes away: photographs of one composition differ in it
FLAT = 4  # standard deviation, of 255, below which an image has too little in it to tell it by
LEAST = 32  # pixels of a shorter side: smaller images, as of digits, have no detail to tell them by
MOST_PAIRS = 10_000  # that are looked at closely, in a minute on a slow core
BLOCK = 512  # images that are compared with all others at a time
BATCH = 64  # pairs

Pairs = NDArray[np.int64]  # [P, 2], the first below the second


def find_pairs(prints: Prints) -> tuple[Pairs, bool]:
    """Return the near-duplicates among images, and whether all that might be some were compared."""
    flush_denormals()  # before the first parallel operation, which may be one of these
    copies = torch.from_numpy(prints.copies).float()
    big = prints.sizes.min(1) >= LEAST
    usable = np.flatnonzero(big & (copies.flatten(1).std(1).numpy() >= FLAT))
    proposed, whole = _proposed(prints.hashes[usable], copies[torch.from_numpy(usable)])
    pairs = usable[proposed]
    return pairs[_confirmed(copies, pairs)], whole


def components(count: int, pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    """Return a number for each of `count` items, the same for those that pairs connect: their lowest."""
    parent = list(range(count))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    for first, second in pairs:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return np.array([root(item) for item in range(count)], np.int64)


def _proposed(hashes: NDArray[np.uint8], copies: Tensor) -> tuple[Pairs, bool]:
    """Return pairs with similar hashes and means; where they are too many, the most similar of them."""
    signs = np.unpackbits(hashes, axis=1).astype(np.float32) * 2 - 1
    means = _normalized(F.avg_pool2d(copies[:, None], SIDE // 8)[:, 0]).flatten(1).numpy()
    pairs, alike = np.zeros((0, 2), np.int64), np.zeros(0, np.float32)
    whole = True
    for start in range(0, len(signs), BLOCK):
        # the product of signs is 64 less two for each bit that differs
        near = signs[start : start + BLOCK] @ signs[start:].T >= signs.shape[1] - 2 * BITS
        near &= means[start : start + BLOCK] @ means[start:].T >= COARSE
        found = np.argwhere(np.triu(near, 1)) + start
        pairs = np.concatenate([pairs, found])
        alike = np.concatenate([alike, (means[found[:, 0]] * means[found[:, 1]]).sum(1)])
        if len(pairs) > MOST_PAIRS:
            best = np.argsort(-alike, kind="stable")[:MOST_PAIRS]
            pairs, alike, whole = pairs[best], alike[best], False
    return pairs[np.lexsort(pairs.T[::-1])], whole


def _confirmed(copies: Tensor, pairs: Pairs) -> NDArray[np.bool_]:
    """Tell which pairs look alike, with either image cropped to match the other."""
    found = np.zeros(len(pairs), np.bool_)
    crops = _crops(3, 0.5)
    for start in range(0, len(pairs), BATCH):
        part = slice(start, start + BATCH)
        first, second = (copies[torch.from_numpy(pairs[part, side])] for side in (0, 1))
        found[part] = (_look_alike(first, second, crops) | _look_alike(second, first, crops)).numpy()
    return found


def _crops(most: float, step: float) -> Tensor:
    """Return matrices [K, SIDE, SIDE] that stretch a stretch of a line to the whole of it.

    What they leave out at the two ends, in steps of `step` pixels, is at most `most` pixels together.
    """
    margins = np.arange(0, most + step / 2, step)
    matrices = []
    for low in margins:
        for high in margins[margins <= most - low + step / 2]:
            scale = (SIDE - low - high) / SIDE
            at = np.clip(low + (np.arange(SIDE) + 0.5) * scale - 0.5, 0, SIDE - 1)
            # linear interpolation: the weight falls to 0 at a distance of a pixel
            matrices.append(np.maximum(0, 1 - np.abs(at[:, None] - np.arange(SIDE))))
    return torch.from_numpy(np.array(matrices, np.float32))


def _look_alike(images: Tensor, others: Tensor, crops: Tensor) -> Tensor:
    """Crop each image [B, SIDE, SIDE] to match the other; tell [B] whether they are alike then."""
    target = _normalized(others)
    rows = columns = torch.zeros(len(images), dtype=torch.int64)
    for _ in range(2):  # one axis after the other comes close to the best of both
        wide = images @ crops[columns].mT
        rows = (_normalized(crops[:, None] @ wide) * target).sum((-1, -2)).argmax(0)
        tall = crops[rows] @ images
        columns = (_normalized(tall @ crops[:, None].mT) * target).sum((-1, -2)).argmax(0)
    cropped = crops[rows] @ images @ crops[columns].mT
    alike = (_normalized(cropped) * target).sum((-1, -2))
    detail = (_normalized(_detail(cropped)) * _normalized(_detail(others))).sum((-1, -2))
    return (alike >= ALIKE) & (detail >= DETAIL)


def _normalized(images: Tensor) -> Tensor:
    """Give images [..., H, W] mean 0 and length 1, so that a product of two is their correlation."""
    centered = images - images.mean((-1, -2), keepdim=True)
    return centered / centered.square().sum((-1, -2), keepdim=True).sqrt().clamp(min=1e-6)


def _detail(images: Tensor) -> Tensor:
    """Take the mean of 5x5 pixels away from images [B, H, W]."""
    padded = F.pad(images[:, None], (2, 2, 2, 2), mode="reflect")
    return images - F.avg_pool2d(padded, 5, 1)[:, 0]
