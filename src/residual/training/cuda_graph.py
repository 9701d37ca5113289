"""The whole training step as one CUDA graph: augmentation, forward, backward, update, metrics, replayed.

A step of these small nets is some hundred kernels of a few microseconds, and launching them one by one
takes the host longer than the device needs to compute them. So the step is written to read all that
changes from step to step out of tables on the device, at a place that a counter on the device gives:
which pictures, which offsets, which flips, which learning rate. Captured once, it is replayed with nothing
but a launch a step. The host fills the tables for a stretch of steps ahead and waits for the device only
where something is logged, saved or evaluated.

Without CUDA the same step runs uncaptured, which is how its tests run.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..data.batches import TrainBatches
from ..recipes.schema import Recipe
from .metrics import Window
from .optim import Guard
from .step import train_step

WARMUP_STEPS = 3  # before the capture, so that libraries have chosen kernels and allocated what they keep


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
        """Take the next step of the stretch: by the graph on CUDA, which is captured at the first call."""
        if self.counter.device.type != "cuda":
            self._step()
            return
        if self._graph is None:
            self._graph = self._capture()
        self._graph.replay()

    def check(self, step: int) -> None:
        """Assert that the device took the steps that the host counted, and by the graph; waits for it.

        The step's Python code runs when the graph is made and never again, which its count shows.
        """
        if self.counter.device.type == "cuda" and self._traced != WARMUP_STEPS + 1:
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

    def _capture(self) -> torch.cuda.CUDAGraph:
        """Warm up, put everything back as it was, and record one step."""
        before = [(tensor, tensor.clone()) for tensor in self._state()]
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARMUP_STEPS):
                self.counter.zero_()
                self._step()
        torch.cuda.current_stream().wait_stream(side)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # records, and computes nothing
            self._step()
        known = {tensor.data_ptr() for tensor, _ in before}
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
            for momentum in self._momenta():  # those that the warm-up made start from nothing
                if momentum.data_ptr() not in known:
                    momentum.zero_()
        return graph

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
