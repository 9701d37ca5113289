"""The engine of training: one step, eager or by a CUDA graph, and all the state that a step changes.

It knows no run folder, logs nothing and decides nothing but the learning rate; the loop is in `trainer.py`.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..data.augment import shrink
from ..data.loader import Batches, TrainBatches
from ..errors import CheckpointError, NonFiniteLossError
from ..recipes.schema import Recipe
from ..runtime import ranks
from ..runtime.device import synchronize
from ..zoo.model_folder import check_weights
from .checkpoint import check_keys
from .cuda_graph import CaptureError, DeviceSteps, can_capture
from .ema import copy_for_average, decay_over, has_average, steps_to_average, update_average
from .guard import Guard
from .metrics import Window
from .optim import body_parameters, make_optimizer, set_learning_rate
from .parallel import Parallel
from .schedule import (
    ScheduleState,
    after_evaluation,
    after_warmup_window,
    fitted,
    is_early,
    learning_rate,
    warming_up,
)
from .step import train_step
from .sync_bn import synchronise

STRETCH = 500  # steps whose batches and learning rates are put on the device at a time
RUNNING = ("running_mean", "running_var")  # statistics of BN
KINDS: Mapping[str, type | tuple[type, ...]] = {
    "step": int,
    **dict.fromkeys(("network", "optimizer", "schedule"), dict),
    **dict.fromkeys(("window", "warmup_window"), Tensor),
}


class Engine:
    """A network in training, its optimizer, metrics and learning-rate schedule.

    Args:
        recipe: how a step is taken; its precision is resolved.
        network: maps images [B, 3, H, W] to logits [B, classes]; on the device already.
        batches: gives the batch of each step.
    """

    def __init__(self, recipe: Recipe, network: nn.Module, batches: Batches) -> None:
        self.recipe, self.network, self.batches = recipe, network, batches
        self.device = batches.device
        self.optimizer = make_optimizer(network, recipe.optimizer)
        self.guard = Guard(self.optimizer, self.device)
        self.window = Window(self.device)  # since the last log
        self.warmup_window = Window(self.device)  # since the warm-up was last checked
        self.schedule = ScheduleState()
        self.average: nn.Module | None = None  # of the weights, from its first update on
        self.step = 0
        self.left_out: set[int] = set()  # steps that are counted and not taken, after a bad loss
        in_memory = isinstance(batches, TrainBatches)
        settings = recipe.optimizer
        self._body = body_parameters(network) if settings.frozen else []
        # a graph has one rate and one backward pass
        uniform = settings.body_rate == 1 and not settings.frozen
        alone = ranks.count() == 1
        self.captured = recipe.capture and in_memory and uniform and alone and can_capture(self.device)
        self._groups = max(1, recipe.bn_groups // ranks.count())
        if recipe.sync_bn:
            synchronise(network)
        self._forward = cast(nn.Module, torch.compile(network)) if recipe.compile else network
        self._parallel: Parallel | None = None
        self._parallel_frozen = False  # whether it was made while the body was frozen
        self._device_steps: DeviceSteps | None = None
        self._captured_early = False  # whether its graph takes the size of early batches
        self._loaded_schedule = self.schedule  # of which the tables on the device hold the rates

    def take_step(self) -> None:
        """Take the next step. On CUDA this may return before the device has computed it; see `wait`.

        Raises:
            CaptureError: the CUDA graph failed. The step was not taken; later calls take eager steps.
            NonFiniteLossError: the loss was not finite; on CUDA, `wait` raises it.
        """
        if self.step in self.left_out:
            self._device_steps = None  # its tables hold a batch for every step
        elif self.captured:
            self._take_captured_step()
        else:
            self._take_eager_step()
        self.step += 1
        self._average()

    def _take_eager_step(self) -> None:
        rate = learning_rate(self.recipe, self.step, self.schedule)
        set_learning_rate(self.optimizer, rate)
        for parameter in self._body:  # while it is frozen, the backward pass ends at the last layer
            parameter.requires_grad_(self.step >= self.recipe.optimizer.frozen)
        images, labels = self.batches[self.step]
        self._compute(images, labels, self.step)

    def _take_captured_step(self) -> None:
        early = is_early(self.recipe, self.step, self.schedule)
        if self._device_steps is None or self._captured_early != early:  # a graph has one image size
            assert isinstance(self.batches, TrainBatches)
            self._captured_early = early
            self._device_steps = DeviceSteps(self.optimizer, self.batches, self._changing(), STRETCH)
        if self._device_steps.needs(self.step) or self._loaded_schedule != self.schedule:
            last = min(self.step + STRETCH, self.fitted.last_step)
            rates = [learning_rate(self.recipe, step, self.schedule) for step in range(self.step, last)]
            self._device_steps.load(self.step, rates)
            self._loaded_schedule = self.schedule
        try:
            self._device_steps.run(self._compute)
        except CaptureError:
            self.captured, self._device_steps = False, None
            raise

    def _compute(self, images: Tensor, labels: Tensor, step: int | Tensor) -> None:
        """Update the weights and the metrics with a batch; nothing here waits for a CUDA device."""
        if is_early(self.recipe, self.step, self.schedule):  # of a graph, for as long as it is replayed
            images = shrink(images, self.recipe.augment.early_size)
        if not self.recipe.channels_last:
            images = images.contiguous()
        recipe, share = self.recipe, len(images) / self.batches.batch_size
        how = (recipe.precision, recipe.label_smoothing, self.batches.class_weights, self._groups, share)
        network = self._forward if ranks.count() == 1 else self._with_ranks()
        with ranks.explained():
            loss, logits = train_step(network, self.optimizer, self.guard, (images, labels), step, *how)
        self.window.add(loss, logits, labels)
        if self.warming_up:
            self.warmup_window.add(loss, logits, labels)

    def _with_ranks(self) -> Parallel:
        """Return the network of all ranks, made anew when the body is no longer frozen."""
        frozen = self.step < self.recipe.optimizer.frozen
        if self._parallel is None or self._parallel_frozen != frozen:
            self._parallel, self._parallel_frozen = Parallel(self._forward, self.device), frozen
        return self._parallel

    def _average(self) -> None:
        """Update the average of the weights if that is due; the first update copies them."""
        steps = steps_to_average(self.fitted, self.step)
        if not steps:
            return
        if self.average is None:
            self.average = copy_for_average(self.network)
        else:
            update_average(self.average, self.network, decay_over(self.fitted, steps))

    def _changing(self) -> list[Tensor]:
        """Return the tensors that a step changes, except the optimizer's."""
        return [
            *self.network.parameters(),
            *self.network.buffers(),
            *(self.window.sums, self.warmup_window.sums, self.guard.found, self.guard.first),
        ]

    @property
    def fitted(self) -> Recipe:
        """The recipe, with the iterations that its time is enough for, if it has a time."""
        return fitted(self.recipe, self.schedule)

    @property
    def warming_up(self) -> bool:
        """Whether the warm-up of the learning rate lasts."""
        return warming_up(self.recipe, self.schedule)

    @property
    def last_learning_rate(self) -> float:
        """The learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def check_warmup(self) -> None:
        """End the warm-up if the training error since the last check is low enough."""
        if not self.warmup_window.empty:
            _, error = self.warmup_window.read()
            self.schedule = after_warmup_window(self.recipe, self.schedule, self.step, error)

    def check_plateau(self, error: float) -> bool:
        """Take note of a validation error, in percent; tell whether the learning rate drops for it."""
        before = self.schedule.drops
        self.schedule = after_evaluation(self.recipe, self.schedule, error)
        return self.schedule.drops > before

    @property
    def evaluated(self) -> nn.Module:
        """The network to evaluate and to keep: the average of its weights, where there is one."""
        return self.network if self.average is None else self.average

    def wait(self) -> None:
        """Wait until the device has taken all steps.

        Raises:
            NonFiniteLossError: a loss was not finite.
        """
        synchronize(self.device)
        self.guard.check()
        if self._device_steps is not None:
            self._device_steps.check(self.step)

    def check_weights_are_finite(self) -> None:
        """Check the weights and the BN statistics, reading one value from the device.

        Raises:
            NonFiniteLossError: one of them is not finite.
        """
        statistics = [b for name, b in self.network.named_buffers() if name.rpartition(".")[2] in RUNNING]
        tensors = [*self.network.parameters(), *statistics]
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors])
        if not bool(finite.all()):
            raise NonFiniteLossError(
                f"the weights of step {self.step} are not finite: not saved, training stopped"
            )

    def state(self) -> dict[str, Any]:
        """Return all that `restore` needs; batches follow from the recipe's seed and the step.

        Every rank calls it, and the first one's is what is saved.
        """
        more: dict[str, Any] = {"left_out": sorted(self.left_out)} if self.left_out else {}
        if self.average is not None:
            more["average"] = self.average.state_dict()
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "window": self.window.state(),
            "warmup_window": self.warmup_window.state(),
            "schedule": self.schedule.as_dict(),
            **more,
        }

    def restore(self, state: Mapping[str, Any], source: str) -> None:
        """Return to a state; `source` says in messages where it is from.

        Raises:
            CheckpointError: it is of another network or optimizer, or not what `state` gave.
        """
        check_keys(state, KINDS, source)
        for name, window in (("window", self.window), ("warmup_window", self.warmup_window)):
            try:
                window.restore(state[name])
            except ValueError as error:
                raise CheckpointError(f"{source} does not fit: {name} has {error}") from error
        try:
            self.schedule = ScheduleState.from_dict(state["schedule"])
            self.left_out |= set(state.get("left_out", ()))
        except (TypeError, ValueError) as error:
            raise CheckpointError(f"{source} does not fit: {error}") from error
        averaged = has_average(self.fitted, state["step"])
        if averaged:
            check_keys(state, {"average": dict}, source)
        self.average = copy_for_average(self.network) if averaged else None
        loaded = {"network": self.network} | ({"average": self.average} if self.average else {})
        try:
            for name, network in loaded.items():
                check_weights(network, state[name], source)
                network.load_state_dict(state[name])
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{source} does not fit: {str(error).splitlines()[0]}") from error
        self._restore_optimizer(state["optimizer"], source)
        self.step = state["step"]
        self.guard.clear()
        self._device_steps = None  # a graph writes to the momenta of before

    def _restore_optimizer(self, state: dict[str, Any], source: str) -> None:
        try:
            self.optimizer.load_state_dict(state)
            for parameter, values in self.optimizer.state.items():
                momentum = values.get("momentum_buffer")
                if momentum is not None and momentum.shape != parameter.shape:
                    raise ValueError(f"a momentum has the shape {list(momentum.shape)}")
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{source} holds another optimizer: {error}") from error
