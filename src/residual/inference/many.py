"""Many image files classified: decoded in worker processes, a batch in memory at a time, bad ones named."""

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.decode import BadImageError
from ..data.preprocessing import Preprocessing
from ..data.workers import default_workers, in_batches, map_in_workers
from ..errors import DataError, UsageError
from .classifier import Classifier, Prediction
from .shards import ShardImages, decoded


@dataclass(frozen=True)
class Answer:
    """What a network says of an image file.

    Args:
        path: the file.
        predictions: the likeliest classes, the likeliest first; none if the file cannot be decoded.
        error: why it cannot be decoded, None if it can.
        features: what the last linear layer takes, [D]; None where it was not asked for.
    """

    path: str
    predictions: tuple[Prediction, ...] = ()
    error: str | None = None
    features: Tensor | None = None

    def is_unsure(self, below: float | None) -> bool:
        """Tell whether the likeliest class has a probability below this; None: no answer is unsure."""
        return below is not None and bool(self.predictions) and self.predictions[0].probability < below

    def as_dict(self, unsure_below: float | None = None) -> dict[str, Any]:
        """Return plain values, for JSON; `unsure` only where it is true."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        named = [{"class": found.class_name, "probability": found.probability} for found in self.predictions]
        unsure = {"unsure": True} if self.is_unsure(unsure_below) else {}
        return {"path": self.path, "predictions": named, **unsure}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Answer":
        """Read back what `as_dict` gave.

        Raises:
            KeyError, TypeError: it is something else.
        """
        if "error" in values:
            return cls(_text(values["path"]), error=_text(values["error"]))
        named = [(_text(found["class"]), found["probability"]) for found in values["predictions"]]
        if not named or any(type(probability) is not float for _, probability in named):
            raise TypeError("the predictions are not classes with probabilities")
        return cls(_text(values["path"]), tuple(Prediction(*pair) for pair in named))


def classify_files(
    classifier: Classifier,
    paths: Sequence[str],
    *,
    top: int = 5,
    features: bool = False,
    workers: int | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> Generator[Answer]:
    """Classify image files, in their order; those that cannot be decoded have an `error`.

    Args:
        classifier: the network.
        paths: the files; a list, `Paths`, or the images of shards.
        top: how many classes, at most all.
        features: give the features too, which torch computes.
        workers: processes that decode; by default what suits the number of images and the device.
        progress: takes the number of images done.

    Raises:
        UsageError: `top` or `workers` is out of range.
        DataError: a worker process died.
    """
    if top < 1:
        raise UsageError(f"top must be 1 or more, not {top}")
    if workers is not None and workers < 0:
        raise UsageError(f"workers must be 0 or more, not {workers}")
    if workers is None:
        workers = default_workers(len(paths), classifier.device)
    return _answers(classifier, paths, top, features, workers, progress)


def classify_loaded(
    classifier: Classifier,
    loaded: Iterable[tuple[str, Tensor | str]],
    *,
    top: int = 5,
    features: bool = False,
    progress: Callable[[int], None] = lambda _done: None,
) -> Generator[Answer]:
    """Classify images that `Load` has decoded: pairs of a path and what it gave. See `classify_files`."""
    done = 0
    for batch in in_batches(loaded, classifier.images_at_once):
        yield from _classified(classifier, batch, top, features)
        done += len(batch)
        progress(done)


def _answers(
    classifier: Classifier,
    paths: Sequence[str],
    top: int,
    features: bool,
    workers: int,
    progress: Callable[[int], None],
) -> Generator[Answer]:
    preprocessing = classifier.config.preprocessing
    if isinstance(paths, ShardImages):
        decoding = decoded(preprocessing, paths, workers)
    else:
        decoding = map_in_workers(Load(preprocessing), paths, workers)
    with closing(decoding) as loaded:
        pairs = zip(paths, loaded, strict=True)
        yield from classify_loaded(classifier, pairs, top=top, features=features, progress=progress)


@dataclass(frozen=True)
class Load:
    """Decodes an image file, in any process; text says why one cannot be decoded."""

    preprocessing: Preprocessing

    def __call__(self, path: str) -> Tensor | str:
        """Return uint8 [*image_size, 3], or what is wrong with the file."""
        try:
            return self.preprocessing.read(path)
        except BadImageError as error:
            return error.reason
        except DataError as error:
            return str(error)


def _classified(
    classifier: Classifier, batch: list[tuple[str, Tensor | str]], top: int, with_features: bool
) -> Iterator[Answer]:
    """Answer a batch of paths, each with its pixels or with what is wrong with it."""
    good = [pixels for _, pixels in batch if isinstance(pixels, Tensor)]
    rows: Iterator[tuple[list[Prediction], Tensor | None]] = iter(())
    if good:
        pixels = torch.stack(good)
        features = classifier.features(pixels) if with_features else None
        logits = classifier.logits(pixels) if features is None else classifier.logits_of_features(features)
        best = classifier.best(classifier.probabilities(logits), top)
        rows = zip(best, [None] * len(best) if features is None else features, strict=True)
    for path, content in batch:
        if isinstance(content, str):
            yield Answer(path, error=content)
        else:
            predictions, row = next(rows)
            yield Answer(path, tuple(predictions), features=row)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
