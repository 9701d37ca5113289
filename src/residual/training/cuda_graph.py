"""The whole training step as one CUDA graph: augmentation, forward, backward, update, metrics, replayed.

A step of these small nets is some hundred kernels of a few microseconds, and launching them one by one
takes the host longer than the device needs to compute them. So the step is written to read all that
changes from step to step out of tables on the device, at a place that a counter on the device gives:
which pictures, which offsets, which flips, which learning rate. Captured once, it is replayed with nothing
but a launch a step. The host fills the tables for a stretch of steps ahead and waits for the device only
where something is logged, saved or evaluated.

Without CUDA the same step runs uncaptured, which is how its tests run. Where the capture or its first replay
fails, everything is put back as it was, and the trainer takes its steps one by one.
"""

import gc
import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data.loader import TrainBatches
from ..recipes.schema import Recipe
from .metrics import Window
from .optim import Guard
from .step import train_step

logger = logging.getLogger(__name__)
WARMUP_STEPS = 3  # before the capture, so that libraries have chosen kernels and allocated what they keep


class CaptureError(Exception):
    """The step could not be captured or replayed; everything is as it was before."""


def can_capture(device: torch.device) -> bool:
    """Tell whether a step on this device can be captured at all."""
    return device.type == "cuda"


class DeviceSteps:
    """Steps that read what they need by a counter on the device.

    Args:
        network, optimizer, guard, batches: as the trainer has them, on the device.
        windows: metrics to add each step to.
        recipe: precision, layout, and whether the network is compiled.
        capacity: the longest stretch of steps that `load` takes.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        guard: Guard,
        batches: TrainBatches,
        windows: Sequence[Window],
        recipe: Recipe,
        capacity: int,
    ) -> None:
        self.network, self.optimizer, self.guard = network, optimizer, guard
        self.batches, self.windows, self.recipe = batches, windows, recipe
        self.capacity = capacity
        device = batches.device
        pictures = capacity * batches.batch_size
        self.order = torch.zeros(pictures, dtype=torch.int64, device=device)
        self.offsets = torch.zeros(pictures, 2, dtype=torch.int64, device=device)
        self.flips = torch.zeros(pictures, dtype=torch.bool, device=device)
        self.rates = torch.zeros(capacity, device=device)
        self.rate = torch.zeros((), device=device)
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)  # steps since the tables were filled
        self.first_step = torch.zeros((), dtype=torch.int64, device=device)
        self._within = torch.arange(batches.batch_size, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loaded = range(0)
        self._traced = 0
        self._former_rates = [float(group["lr"]) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = self.rate

    def load(self, step: int, rates: Sequence[float]) -> None:
        """Fill the tables for the stretch that begins at a step and has as many steps as rates."""
        count = len(rates) * self.batches.batch_size
        draws = self.batches.draws(step * self.batches.batch_size, count)
        for table, values in (
            (self.order, draws.order),
            (self.offsets, draws.offsets),
            (self.flips, draws.flips),
            (self.rates, torch.tensor(rates)),
        ):
            table[: len(values)].copy_(values)
        self.first_step.fill_(step)
        self.counter.zero_()
        self._loaded = range(step, step + len(rates))

    def needs(self, step: int) -> bool:
        """Tell whether the tables must be filled before this step."""
        return step not in self._loaded

    def run(self) -> None:
        """Take the next step of the stretch: by the graph on CUDA, which is captured at the first call.

        Raises:
            CaptureError: the graph cannot be made or replayed; this step was not taken, the optimiser has its
                former learning rates, and this object is of no use any more.
        """
        if not can_capture(self.counter.device):
            self._step()
        elif self._graph is None:
            self._begin()
        else:
            self._graph.replay()

    def check(self, step: int) -> None:
        """Assert that the device took the steps that the host counted, and by the graph; waits for it.

        The step's Python code runs when the graph is made and never again, which its count shows.
        """
        if can_capture(self.counter.device) and self._traced != WARMUP_STEPS + 1:
            raise AssertionError(f"the step ran {self._traced} times outside the graph's replays")
        done = int(self.counter)
        expected = step - self._loaded.start
        if done != expected:
            raise AssertionError(f"the device took {done} steps where the host counted {expected}")

    def _step(self) -> None:
        """One step, without a word from the host."""
        self._traced += 1
        places = self.counter * self.batches.batch_size + self._within
        self.rate.copy_(self.rates[self.counter][0])
        images, labels = self.batches.make(self.order[places], self.offsets[places], self.flips[places])
        if not self.recipe.channels_last:
            images = images.contiguous()
        number = self.first_step + self.counter[0]
        how = (self.recipe.precision, self.recipe.label_smoothing)
        loss, logits = train_step(self.network, self.optimizer, self.guard, (images, labels), number, *how)
        for window in self.windows:
            window.add(loss, logits, labels)
        self.counter += 1

    def _begin(self) -> None:
        """Capture the step and take it once by the graph; where that fails, leave no trace."""
        before = [(tensor, tensor.clone()) for tensor in self._state()]
        stream = torch.cuda.current_stream()
        try:
            graph = self._capture()
            self._put_back(before)
            graph.replay()
            if int(self.counter) != 1:  # waits for the replay, so that what it does wrong shows here
                raise RuntimeError("the graph's replay took no step")
            self._graph = graph
            return
        except Exception as error:  # whatever CUDA, cuDNN, the compiler or the lack of memory may raise
            logger.info("capturing the step failed", exc_info=True)
            reason = f"{type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}"
        # the handler has ended: nothing holds the frames of what failed, and their tensors can be freed
        torch.cuda.set_stream(stream)  # a capture that fails may not leave its own
        torch.cuda.synchronize()  # warm-up steps may be under way still, on another stream
        self.optimizer.zero_grad(set_to_none=True)  # gradients may lie in the graph's memory
        self._put_back(before, forget=True)
        for group, rate in zip(self.optimizer.param_groups, self._former_rates, strict=True):
            group["lr"] = rate
        gc.collect()
        raise CaptureError(reason)

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Warm up and record one step, both on one stream; leaves the state as the warm-up has changed it."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self.counter.zero_()
                self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)  # so that the graph makes its own
        gc.collect()  # what the warm-up left in cycles must not be freed while the step is recorded
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):  # records, and computes nothing
            self._step()
        return graph

    @torch.no_grad()
    def _put_back(self, before: list[tuple[Tensor, Tensor]], forget: bool = False) -> None:
        """Give every tensor of the state its value of before; momenta that are new start from nothing."""
        for tensor, value in before:
            tensor.copy_(value)
        known = {id(tensor) for tensor, _ in before}
        for momentum in self._momenta():
            if id(momentum) not in known:
                momentum.zero_()
        if forget:
            for state in self.optimizer.state.values():
                if id(state.get("momentum_buffer")) not in known:
                    state.clear()

    def _momenta(self) -> list[Tensor]:
        buffers = [state.get("momentum_buffer") for state in self.optimizer.state.values()]
        return [buffer for buffer in buffers if buffer is not None]

    def _state(self) -> list[Tensor]:
        """Return every tensor that a step changes."""
        return [
            *self.network.parameters(),
            *self.network.buffers(),
            *self._momenta(),
            *(window.sums for window in self.windows),
            *(self.guard.found, self.guard.first, self.counter, self.rate),
        ]
