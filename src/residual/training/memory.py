"""Lack of memory, in one line that says what to lower."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..errors import RunError
from ..recipes.schema import Recipe

# what torch says where it raises a plain RuntimeError: on a CPU (Linux, Windows), on MPS, in CUDA's libraries
SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "alloc_failed",
    "cannot allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error is for want of memory, of the device or of the computer."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def memory_explained(recipe: Recipe) -> Iterator[None]:
    """Return a context in which an error for want of memory becomes one line.

    Raises:
        RunError: in place of that error; it says what to lower.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunError(f"out of memory: train anew with a lower {_advice(recipe)}") from error


def _advice(recipe: Recipe) -> str:
    """Return what to lower, with the values of now, and what else helps and does not yet."""
    lower = [f"--batch-size (now {recipe.batch_size})"]
    lower += [f"--image-size (now {recipe.image_size})"] if recipe.image_size else []
    ways = [" or ".join(lower)]
    if recipe.bn_groups < recipe.batch_size and not recipe.compile:
        more = min(2 * recipe.bn_groups, recipe.batch_size)
        ways += ["--batch-size auto" if recipe.bn_groups == 1 else f"--set bn_groups={more}"]
    if not recipe.checkpoint_activations and not recipe.compile:
        ways += ["--set checkpoint_activations=true"]
    return ", or ".join(ways)
