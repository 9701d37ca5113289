"""Images of requests that wait together share a batch."""

import asyncio
import logging
from concurrent.futures import Executor
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

import torch
from torch import Tensor

from ..inference.classifier import Classifier, Prediction
from .images import load
from .limits import Limits, Refused
from .metrics import Metrics

Outcome = list[Prediction] | Refused
logger = logging.getLogger(__name__)


class Job:
    """The images of one request; `done` has a result when each has an outcome."""

    def __init__(self, contents: list[bytes], top: int) -> None:
        self.contents, self.top = contents, top
        self.outcomes: list[Outcome | None] = [None] * len(contents)
        self.left = len(contents)
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Item(NamedTuple):
    """An image that is decoded and waits."""

    job: Job
    position: int
    pixels: Tensor


class Batcher:
    """Decodes images in a pool, and computes those that wait in one thread, as many as there are at a time.

    No image waits for others to come: while a batch is computed, the next one gathers.
    """

    def __init__(
        self,
        name: str,
        classifier: Classifier,
        pool: Executor,
        limits: Limits,
        metrics: Metrics,
        size: int | None = None,
    ) -> None:
        self.classifier, self.limits = classifier, limits
        self.size = size or min(64, classifier.images_at_once)
        self.waiting = 0  # images with no outcome yet; read and changed by the event loop's thread alone
        self.ready = False
        self._pool, self._queue = pool, SimpleQueue[Item | None]()
        self._sizes = metrics.batch_size.labels(name)
        metrics.waiting.labels(name).set_function(lambda: self.waiting)
        outcomes = ("classified", "refused", "cancelled")
        self._counts = {outcome: metrics.images.labels(name, outcome) for outcome in outcomes}
        self._thread = Thread(target=self._run, name=f"batches of {name}", daemon=True)

    def start(self) -> None:
        """Start the thread; it belongs to the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after what is queued; it is waited for."""
        self._queue.put(None)
        self._thread.join()

    def submit(self, contents: list[bytes], top: int) -> Job:
        """Queue a request's images. Cancelling `done` of the result drops those that still wait.

        Raises:
            Refused: 503, the queue is full.
        """
        if self.waiting + len(contents) > self.limits.queue:
            raise Refused(503, "too many images are waiting: try again")
        job = Job(contents, top)
        self.waiting += len(contents)
        for index in range(len(contents)):
            self._pool.submit(self._decode, job, index)
        return job

    def _decode(self, job: Job, index: int) -> None:
        if job.done.cancelled():
            self._report([(job, index, None)])
            return
        try:
            pixels = load(self.classifier, job.contents[index], self.limits)
        except Refused as refused:
            self._report([(job, index, refused)])
        except Exception as error:  # lack of memory, for example; without an outcome the request would wait
            self._report([(job, index, _failed(error))])
        else:
            self._queue.put(Item(job, index, pixels))

    def _run(self) -> None:
        self._warm_up()
        while (item := self._queue.get()) is not None:
            batch, last = [item], False
            while len(batch) < self.size and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    last = True
                    break
                batch.append(following)
            self._compute(batch)
            if last:
                return

    def _warm_up(self) -> None:
        """Compute once: the first batch takes far longer, and a network that fails shows it here."""
        height, width = self.classifier.config.preprocessing.image_size
        for size in (1, min(4, self.size)):
            self.classifier.logits(torch.zeros(size, height, width, 3, dtype=torch.uint8))
        self.ready = True

    def _compute(self, batch: list[Item]) -> None:
        found: list[tuple[Job, int, Outcome | None]] = [
            (job, index, None) for job, index, _ in batch if job.done.cancelled()
        ]
        wanted = [item for item in batch if not item.job.done.cancelled()]
        if wanted:
            self._sizes.observe(len(wanted))
            found += zip(
                (item.job for item in wanted),
                (item.position for item in wanted),
                self._outcomes(wanted),
                strict=True,
            )
        self._report(found)

    def _outcomes(self, items: list[Item]) -> list[Outcome]:
        """Classify images together, or one by one if that fails."""
        try:
            return list(self._classify(items))
        except Exception as error:
            if len(items) == 1:
                logger.exception("an image could not be computed")
                return [_failed(error)]
            return [outcome for item in items for outcome in self._outcomes([item])]

    def _classify(self, items: list[Item]) -> list[list[Prediction]]:
        logits = self.classifier.logits(torch.stack([item.pixels for item in items]))
        probabilities = self.classifier.probabilities(logits)
        best = {top: self.classifier.best(probabilities, top) for top in {item.job.top for item in items}}
        return [best[item.job.top][row] for row, item in enumerate(items)]

    def _report(self, found: list[tuple[Job, int, Outcome | None]]) -> None:
        with suppress(RuntimeError):  # the event loop has ended, and with it all who wait
            self._loop.call_soon_threadsafe(self._deliver, found)

    def _deliver(self, found: list[tuple[Job, int, Outcome | None]]) -> None:
        self.waiting -= len(found)
        for job, index, outcome in found:
            self._counts[_kind(outcome)].inc()
            job.outcomes[index] = outcome
            job.left -= 1
            if not job.left and not job.done.done():
                job.done.set_result(None)


def _kind(outcome: Outcome | None) -> str:
    if outcome is None:
        return "cancelled"
    return "refused" if isinstance(outcome, Refused) else "classified"


def _failed(error: Exception) -> Refused:
    return Refused(503, f"it could not be computed ({type(error).__name__}): try again")
