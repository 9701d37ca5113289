"""An order of an epoch in which images that lie beside each other come at about the same time.

It is for a store that is slow to answer: what is read in one piece, a block, serves many images. Like the
full shuffle it is drawn from (seed, epoch), for so many images, and depends on nothing else.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..sampler import epoch_generator

BLOCK = 32  # images that follow each other in the list; of ImageNet, 3.5 MB
MIXED = 128  # blocks whose images come mixed
AHEAD = 1024  # images beyond a batch whose blocks are read with it


def images_kept(apart: int) -> int:
    """Return the images of the blocks that are still to come, for readers that are so many images apart."""
    return 2 * MIXED * BLOCK + AHEAD + apart


def block_order(seed: int, epoch: int, size: int) -> Tensor:
    """Return the order [size] of an epoch, in which the images of `MIXED` blocks are mixed at any time.

    Blocks begin one after the other, and the images of each are spread evenly over the time in which `MIXED`
    blocks begin. The first `MIXED` blocks begin together and the last ones too, so that the first and the
    last batch are as mixed as any other. Up to twice `MIXED` blocks are thereby shuffled fully.
    """
    generator = epoch_generator(seed, epoch)

    def draw(count: int) -> NDArray[np.float64]:
        return torch.rand(count, generator=generator, dtype=torch.float64).numpy()

    blocks = -(-size // BLOCK)
    turns = np.empty(blocks)
    turns[_in_turn(draw(blocks), draw(MIXED))] = np.arange(blocks)
    begins = np.clip(turns - MIXED, 0, max(0, blocks - 2 * MIXED))
    times = begins[np.arange(size) // BLOCK] + draw(size) * MIXED
    return torch.from_numpy(times.argsort(kind="stable"))


def _in_turn(within: NDArray[np.float64], among: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of the blocks as they begin, by numbers drawn for each block and each part.

    The list is cut into `MIXED` parts, and each round takes a block of each part, the parts always in the
    same order. So any `MIXED` blocks in turn are from all over the list, and where images of a class follow
    each other there, they hold the classes as the whole list does.
    """
    blocks = len(within)
    parts = np.arange(blocks) * MIXED // blocks
    shuffled = np.lexsort((within, parts))  # each part for itself
    rounds = np.empty(blocks, np.int64)
    rounds[shuffled] = np.arange(blocks) - np.searchsorted(parts, parts)
    return np.lexsort((among[parts], rounds))
