"""The whole training step as one CUDA graph: augmentation, forward, backward, update, metrics, replayed.

A step of these small networks consists of a few hundred kernels of a few microseconds each, and launching
them takes the host longer than computing them takes the device. So a step reads everything that changes from
step to step from tables on the device, at a position given by a counter on the device: indices, crop offsets,
flips, learning rate. Captured once, it is replayed with a single launch. The host fills the tables for many
steps ahead and waits for the device only where something is logged, saved or evaluated.

Without CUDA the same step runs without capture, which is how its tests run. Where the capture or its first
replay fails, all state is restored, and the engine takes eager steps.
"""

import gc
import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..data.loader import TrainBatches

logger = logging.getLogger(__name__)
Compute = Callable[[Tensor, Tensor, Tensor], None]
WARMUP_STEPS = 3  # before the capture, so that libraries have chosen kernels and allocated what they keep


class CaptureError(Exception):
    """The step could not be captured or replayed; everything is as it was before."""


def can_capture(device: torch.device) -> bool:
    """Tell whether a step on this device can be captured at all."""
    return device.type == "cuda"


class DeviceSteps:
    """Steps that read what they need by a counter on the device.

    Args:
        optimizer: its learning rate becomes a tensor on the device.
        batches: where the images are, on the device.
        changing: every tensor that a step changes, except the optimizer's own.
        capacity: how many steps `load` takes at most.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        batches: TrainBatches,
        changing: Sequence[Tensor],
        capacity: int,
    ) -> None:
        self.optimizer, self.batches, self.changing = optimizer, batches, changing
        device = batches.device
        images = capacity * batches.batch_size
        self.order = torch.zeros(images, dtype=torch.int64, device=device)
        self.offsets = torch.zeros(images, 2, dtype=torch.int64, device=device)
        self.flips = torch.zeros(images, dtype=torch.bool, device=device)
        self.rates = torch.zeros(capacity, device=device)
        self.rate = torch.zeros((), device=device)
        self.counter = torch.zeros(1, dtype=torch.int64, device=device)  # steps since the tables were filled
        self.first_step = torch.zeros((), dtype=torch.int64, device=device)
        self._within = torch.arange(batches.batch_size, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._loaded = range(0)
        self._former_rates = [float(group["lr"]) for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = self.rate

    def load(self, step: int, rates: Sequence[float]) -> None:
        """Fill the tables for as many steps as there are rates, beginning with a given one."""
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

    def run(self, compute: Compute) -> None:
        """Take the next step: by the graph on CUDA, which is captured at the first call.

        Args:
            compute: takes images, labels and the step's number, and does the rest of a step. It is not kept.

        Raises:
            CaptureError: the graph cannot be made or replayed; this step was not taken, the optimizer has its
                former learning rates, and this object cannot be used any more.
        """
        if not can_capture(self.counter.device):
            self._step(compute)
        elif self._graph is None:
            self._begin(compute)
        else:
            self._graph.replay()

    def check(self, step: int) -> None:
        """Assert that the device has taken the steps that the host counted; waits for it."""
        done, expected = int(self.counter), step - self._loaded.start
        assert done == expected, f"the device took {done} steps where the host counted {expected}"

    def _step(self, compute: Compute) -> None:
        """Take one step without any value from the host."""
        places = self.counter * self.batches.batch_size + self._within
        self.rate.copy_(self.rates[self.counter][0])
        images, labels = self.batches.make(self.order[places], self.offsets[places], self.flips[places])
        compute(images, labels, self.first_step + self.counter[0])
        self.counter += 1

    def _begin(self, compute: Compute) -> None:
        """Capture the step and take it once by the graph; where that fails, restore everything."""
        # detached: autograd would remember this stream for the parameters, where the capture has its own
        before = [(tensor, tensor.detach().clone()) for tensor in self._state()]
        stream = torch.cuda.current_stream()
        try:
            graph = self._capture(compute)
            self._put_back(before)
            graph.replay()
            if int(self.counter) != 1:  # waits for the replay, so that an error in it is raised here
                raise RuntimeError("the graph's replay took no step")
            self._graph = graph
            return
        except Exception as error:  # whatever CUDA, cuDNN, the compiler or the lack of memory may raise
            logger.info("capturing the step failed", exc_info=True)
            first = _first(error)
            reason = f"{type(first).__name__}: {(str(first) or 'no reason given').splitlines()[0]}"
        # the handler has ended: nothing holds the frames of what failed, and their tensors can be freed
        torch.cuda.set_stream(stream)  # a capture that fails may not restore it
        torch.cuda.synchronize()  # warm-up steps may still be running on another stream
        self.optimizer.zero_grad(set_to_none=True)  # gradients may lie in the graph's memory
        self._put_back(before, forget=True)
        for group, rate in zip(self.optimizer.param_groups, self._former_rates, strict=True):
            group["lr"] = rate
        gc.collect()
        raise CaptureError(reason)

    def _capture(self, compute: Compute) -> torch.cuda.CUDAGraph:
        """Warm up and record one step, both on one stream; leaves the state as the warm-up has changed it."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP_STEPS):
                self.counter.zero_()
                self._step(compute)
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)  # so that the graph allocates its own
        gc.collect()  # what the warm-up left in cycles must not be freed while the step is recorded
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):  # records, and computes nothing
            self._step(compute)
        return graph

    @torch.no_grad()
    def _put_back(self, before: list[tuple[Tensor, Tensor]], forget: bool = False) -> None:
        """Give every tensor of the state its former value; momenta that are new are set to zero."""
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
        return [*self.changing, *self._momenta(), self.counter, self.rate]


def _first(error: BaseException) -> BaseException:
    """Return the error that came first: one in a step that is recorded makes the recording's end fail too."""
    return error if error.__context__ is None else _first(error.__context__)
