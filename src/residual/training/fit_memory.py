"""`--batch-size auto`: the batch as the recipe has it, in as few equal parts as fit into the memory.

The number of parts is the recipe's `bn_groups`: they are computed one by one, and BN sees each apart.
On a GPU parts are tried until one fits. On a CPU the system may kill the process instead of refusing memory,
so there two small parts are measured, and what fits is calculated.
"""

import copy
from dataclasses import dataclass, replace

import psutil
import torch
from torch import nn

from ..data.loader import Batches
from ..errors import RunError
from ..models.network import Network
from ..recipes.schema import Recipe
from ..runtime import device as devices
from ..runtime import ranks
from ..runtime.launch import on_this_machine
from ..runtime.memory import free_memory
from ..runtime.progress import Reporter
from .ema import copy_for_average
from .guard import Guard
from .memory import is_out_of_memory
from .optim import make_optimizer
from .step import train_step

SMALL = (8, 16)  # images of the parts measured on a CPU; from there on memory is about linear
SHARE = 0.8  # of a CPU's free memory that may be used


@dataclass(frozen=True)
class Fit:
    """In how many parts a batch fits; `need` and `free` are the bytes of the whole one and of the memory."""

    batch: int
    parts: int
    need: float
    free: float

    def __str__(self) -> str:
        size = -(-self.batch // self.parts)
        parts = f"{self.parts} parts of {size}" if self.parts > 1 else "one part"
        needs = f"the whole needs about {_gib(self.need)} GiB, {_gib(self.free)} are free"
        return f"batch {self.batch} in {parts}: {needs}"


def parts_that_fit(
    recipe: Recipe,
    network: nn.Module,
    batches: Batches,
    precision: str,
    reporter: Reporter,
) -> Recipe:
    """Return the recipe with the lowest `bn_groups`, from its own on by doubling, with which a step fits.

    Of several ranks each computes its share of the batch, in as many parts as the one with least room needs.

    Args:
        recipe: keeps its batch, learning rate and schedule.
        network: on its device; it stays as it is.
        batches: the images, of several ranks this one's share.
        precision: resolved.
        reporter: is told what was found.

    Raises:
        RunError: a single image does not fit.
        UsageError: BN needs larger parts.
    """
    settings = devices.cuda_settings(recipe.deterministic)
    random = torch.random.fork_rng([batches.device] if batches.device.type == "cuda" else [])
    with settings, random, reporter.working("finding what fits into the memory"):
        trials = _Trials(recipe, network, batches, precision)
        fit = trials.measured() if batches.device.type == "cpu" else trials.tried()
        del trials
        _release(batches.device)
    fit = replace(fit, parts=max(ranks.gathered(fit.parts)))
    reporter.say(str(fit))
    return recipe.replace({"bn_groups": fit.parts * ranks.count()}) if fit.parts > 1 else recipe


class _Trials:
    """Training steps of parts of the first batch, on a copy of the network.

    All that a run holds is held here, and one copy of the weights more.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, batches: Batches, precision: str) -> None:
        self.device = batches.device
        self.fewest = max(1, recipe.bn_groups // ranks.count())
        self.network = copy.deepcopy(network).train()
        self.average = copy_for_average(network) if recipe.ema.span else None
        self.optimizer = make_optimizer(self.network, recipe.optimizer)
        self.guard = Guard(self.optimizer, self.device)
        self.images, self.targets = batches[0]
        self.share = len(self.images)
        if not recipe.channels_last:
            self.images = self.images.contiguous()
        self.how = (precision, recipe.label_smoothing, batches.class_weights)

    def step(self, size: int, groups: int = 1) -> None:
        """Take a training step with so many parts of `size` images."""
        batch = self.images[: size * groups], self.targets[: size * groups]
        train_step(self.network, self.optimizer, self.guard, batch, 0, *self.how, groups)
        devices.synchronize(self.device)

    def tried(self) -> Fit:
        """Try parts, the largest first, until the device has the memory for one and the next."""
        parts, free, before = self.fewest, free_memory(self.device), _allocated(self.device)
        while not self._fits(parts):
            _release(self.device)
            parts = self._more(parts, "more than is there", free)
        peak = _allocated(self.device, peak=True) - before
        return Fit(self.share, parts, peak * min(parts, self.share), free)

    def _fits(self, parts: int) -> bool:
        size = -(-self.share // parts)
        _forget_peak(self.device)
        try:
            for _ in range(2):  # the second has the optimizer's state
                self.step(size, min(parts, 2))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            self.optimizer.zero_grad()
            return False
        return True

    def measured(self) -> Fit:
        """Measure two small parts, and calculate."""
        small, large = SMALL
        sizes = sorted({min(small, max(1, self.share // 2)), min(large, self.share)})
        self.step(sizes[0])  # for the optimizer's state, and for what is loaded at the first step
        taken = [self._grown(size) for size in sizes]
        slope = (taken[-1] - taken[0]) / (sizes[-1] - sizes[0]) if len(sizes) > 1 else taken[0] / sizes[0]
        constant = max(0.0, taken[0] - slope * sizes[0])
        _release(self.device)
        parts, free = self.fewest, free_memory(self.device) / on_this_machine()[1]
        while (need := constant + slope * -(-self.share // parts)) > SHARE * free:
            parts = self._more(parts, f"about {_gib(need)} GiB", free)
        return Fit(self.share, parts, constant + slope * self.share, free)

    def _grown(self, size: int) -> int:
        """Return the bytes by which a step makes this process larger."""
        _release(self.device)
        sizes = [_resident()]
        # after the forward pass all activations are held; after the step too, where freed memory is kept
        with self.network.register_forward_hook(lambda *_: sizes.append(_resident())):
            self.step(size)
        return max(*sizes, _resident()) - sizes[0]

    def _more(self, parts: int, need: str, free: float) -> int:
        """Return twice as many parts, at most one for each image.

        Raises:
            RunError: there are as many already.
            UsageError: BN needs larger parts.
        """
        height, width = self.images.shape[2:]
        if parts >= self.share:
            raise RunError(
                f"a single image of {height}x{width} pixels does not fit: it needs {need}, {_gib(free)} GiB "
                "are free; lower --image-size, take a smaller network, or --set checkpoint_activations=true"
            )
        parts = min(2 * parts, self.share)
        if isinstance(self.network, Network):
            self.network.check_training(-(-self.share // parts), height, width)
        return parts


def _resident() -> int:
    """Return the bytes of the computer's memory that this process takes."""
    return int(psutil.Process().memory_info().rss)


def _allocated(device: torch.device, peak: bool = False) -> int:
    """Return the bytes of tensors on a GPU, now or at most; 0 on another device, which does not say."""
    if device.type != "cuda":
        return 0
    return torch.cuda.max_memory_allocated(device) if peak else torch.cuda.memory_allocated(device)


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _release(device: torch.device) -> None:
    """Give memory that is kept for later back."""
    if device.type == "cpu":
        devices.release_memory()
    elif device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def _gib(size: float) -> str:
    gib = size / 2**30
    return f"{gib:.1f}" if gib >= 1 else f"{gib:.2g}"
