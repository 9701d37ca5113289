"""The models that are served, and the threads that work for them."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..inference.classifier import Classifier
from ..zoo.facts import ModelFacts
from .batcher import Batcher
from .limits import Limits, Memory, Refused
from .metrics import Metrics

EXPLAINING = 16  # requests for an explanation at a time; each takes about as long as a batch


class Service:
    """Models by name, with a batcher each; the first one is the default.

    Args:
        models: what is served.
        engine: what computes their logits, for `describe`.
        facts: of each model, what is known beside its config.
        limits: see `Limits`.
        workers: threads that decode images.
        batch: images in a batch at most; None: what suits the network.
    """

    def __init__(
        self,
        models: Mapping[str, Classifier],
        engine: str,
        facts: Mapping[str, ModelFacts],
        limits: Limits,
        workers: int,
        batch: int | None,
    ) -> None:
        self.models, self.engine, self.facts, self.limits = dict(models), engine, facts, limits
        self.default = next(iter(models))
        self.metrics, self.memory = Metrics(), Memory(limits.held_bytes)
        self.stopping = False
        self.explaining = 0
        self._decoders = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        self._explainer = ThreadPoolExecutor(1, thread_name_prefix="explain")
        self.batchers = {
            name: Batcher(name, classifier, self._decoders, limits, self.metrics, batch)
            for name, classifier in self.models.items()
        }

    @property
    def ready(self) -> bool:
        """Whether requests are answered without delay: every network has computed once."""
        return not self.stopping and all(batcher.ready for batcher in self.batchers.values())

    def start(self) -> None:
        """Start the threads, for the running event loop."""
        for batcher in self.batchers.values():
            batcher.start()

    def stop(self) -> None:
        """End the threads, after what they are at."""
        self.stopping = True
        for pool in (self._decoders, self._explainer):
            pool.shutdown(cancel_futures=True)
        for batcher in self.batchers.values():
            batcher.stop()

    def find(self, name: str | None) -> str:
        """Return the name of the model that a request asks for.

        Raises:
            Refused: 404, there is none of this name.
        """
        if name is None:
            return self.default
        if name not in self.models:
            raise Refused(404, f"there is no model '{name[:100]}': {', '.join(self.models)}")
        return name

    def explain(
        self, name: str, content: bytes, top: int, stage: str | None
    ) -> asyncio.Future[dict[str, Any]]:
        """Explain an image in a thread; the future's result is the answer.

        Raises:
            Refused: 503, too many wait.
        """
        from .explanation import explanation  # Grad-CAM is needed by this alone

        if self.explaining >= EXPLAINING:
            raise Refused(503, "too many images wait to be explained: try again")
        self.explaining += 1
        done = asyncio.get_running_loop().run_in_executor(
            self._explainer, explanation, self.models[name], content, top, stage, self.limits
        )
        done.add_done_callback(self._explained)
        return done

    def _explained(self, _done: asyncio.Future[dict[str, Any]]) -> None:
        self.explaining -= 1

    def describe(self) -> dict[str, Any]:
        """Return what is known of the models."""
        return {"default": self.default, "models": [self._describe(name) for name in self.models]}

    def _describe(self, name: str) -> dict[str, Any]:
        classifier, facts = self.models[name], self.facts.get(name, ModelFacts())
        config = classifier.config
        return {
            "name": name,
            "network": config.network,
            "classes": list(classifier.class_names),
            "image_size": list(config.preprocessing.image_size),
            "data": config.data,
            "recipe": config.recipe,
            "error": facts.error,
            "images": facts.images,
            "temperature": config.temperature,
            "parameters": sum(weight.numel() for weight in classifier.network.parameters()),
            "licence": facts.licence,
            "engine": self.engine,
            "explain": True,
        }
