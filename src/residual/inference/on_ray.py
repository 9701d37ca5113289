"""Many image files classified by Ray Data: on all CPUs or GPUs of this machine or of a cluster."""

import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.workers import cores
from ..errors import DataError, InterruptedRunError, UsageError, in_short
from ..runtime.device import prepare, resolve_device
from ..runtime.extras import how_to_install
from ..runtime.leftovers import no_leftovers
from ..runtime.signals import Interrupted
from .classifier import Classifier
from .many import Answer, Load, classify_loaded
from .parts import Content, Parts, open_parts

Row = dict[str, Any]
TRIES = 3  # of a block whose process died
# read by Ray when it is imported; what the user has set stays
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to its makers
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its C++ side writes to standard error itself
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns
}


def library() -> Any:
    """Return Ray, with its data library.

    Raises:
        UsageError: it is not installed.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(f"--on ray needs Ray: {how_to_install('ray')}") from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(_level())
    return ray


def classify_on_ray(
    classifier: Classifier,
    paths: Sequence[str],
    folder: Path,
    *,
    top: int = 5,
    features: bool = False,
    workers: int | None = None,
    device: str | None = None,
    progress: Callable[[int], None] = lambda _done: None,
) -> Generator[Answer]:
    """Classify image files by Ray Data; the answers are those of `classify_files`, in the same order.

    Ray runs at RAY_ADDRESS, else it is started on this machine and ended with the iterator. Every machine
    of a cluster must have this package, and see the images under the same names. Each answer is given once
    all images are done; until then they are kept in `folder`, by which an interrupted call goes on.

    Args:
        classifier: the network, computed by torch.
        paths: the files; a list or `Paths`.
        folder: see `Parts`.
        top, features: see `classify_files`.
        workers: how many processes predict, at most; by default one for each GPU or, without any, each CPU.
        device: "cuda" or "cpu"; by default CUDA if Ray has a GPU.
        progress: takes the number of images done.

    Raises:
        UsageError: Ray is not installed, cannot be started or reached, or has no such device.
        RunError: `folder` does not fit, see `open_parts`.
        DataError: a process died `TRIES` times on a block, or a part is damaged.
        InterruptedRunError: stopped by a signal.
    """
    ray = library()
    with open_parts(folder, classifier, paths, top=top, features=features) as parts:
        missing = parts.missing()
        done = len(paths) - sum(len(parts.block(number)) for number in missing)
        progress(done)
        try:
            if missing:
                with _running(ray):
                    options = {"top": top, "features": features}
                    for number, content in _predicted(
                        ray, classifier, parts, missing, options, workers, device
                    ):
                        parts.write(number, content)
                        done += len(parts.block(number))
                        progress(done)
        except Interrupted as error:
            raise InterruptedRunError(
                f"stopped by {error}: {done:,} of {len(paths):,} images are done; "
                "the same command goes on with the rest",
                error.number,
            ) from error
        yield from parts.read()


def _predicted(
    ray: Any,
    classifier: Classifier,
    parts: Parts,
    numbers: list[int],
    options: dict[str, Any],
    workers: int | None,
    device: str | None,
) -> Iterator[tuple[int, Content]]:
    """Predict blocks, and give each with its number as soon as it is done."""
    kind, most = _device(ray, device)
    count = min(len(numbers), most if not workers else min(workers, most))
    # kept until the end, for a process that has to start anew
    weights = ray.put(classifier.network)
    shared = ray.put(_Blocks(parts, Load(classifier.config.preprocessing), str(Path.cwd())))
    blocks = ray.data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
    if kind == "cuda":  # CPUs decode for it; without one, each process decodes for itself
        blocks = blocks.map(_decoded, fn_args=(shared,), num_cpus=1, max_retries=TRIES)
    answers = blocks.map(
        _Predictor,
        fn_constructor_args=(weights, shared, kind, options),
        compute=ray.data.ActorPoolStrategy(size=count),
        max_restarts=TRIES,
        max_task_retries=TRIES,
        **({"num_gpus": 1} if kind == "cuda" else {"num_cpus": 1}),
    )
    try:
        for batch in answers.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            for row in batch.to_pylist():
                yield row["number"], Content(row["answers"], row["features"])
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise DataError(
            f"Ray gave up: {in_short(cause)}; what is done is kept, and the same command goes on"
        ) from error


def _device(ray: Any, wanted: str | None) -> tuple[str, int]:
    """Return the kind of device that predicts, and how many of it there are."""
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    if wanted == "cpu" or (wanted is None and not gpus):
        return "cpu", max(1, int(there.get("CPU", 1)))
    if wanted not in (None, "cuda") or not gpus:
        raise UsageError(f"Ray has no device '{wanted}' here: leave --device out")
    return "cuda", gpus


@dataclass(frozen=True)
class _Blocks:
    """The images of every block, in any process of Ray."""

    parts: Parts
    load: Load
    folder: str  # that relative names begin in

    def loaded(self, number: int) -> list[Any]:
        """Return the pixels of each image of a block as an array, or what is wrong with it."""
        with suppress(OSError):  # where it does not exist, absolute names are found all the same
            os.chdir(self.folder)
        found = map(self.load, self.parts.block(number))
        return [one.numpy() if isinstance(one, Tensor) else one for one in found]


def _decoded(row: Row, shared: Any) -> Row:
    """Decode the images of a block."""
    import ray

    torch.set_num_threads(1)
    return {**row, "loaded": pickle.dumps(ray.get(shared).loaded(row["number"]), 5)}


class _Predictor:
    """Answers blocks in a process of Ray, which holds the network."""

    def __init__(self, network: Any, shared: Any, kind: str, options: dict[str, Any]) -> None:
        import ray

        torch.set_num_threads(1)
        prepare(resolve_device(kind))
        self._classifier = Classifier(ray.get(network), device=kind)
        self._blocks: _Blocks = ray.get(shared)
        self._options = options

    def __call__(self, row: Row) -> Row:
        """Answer the block of a number."""
        number = row["number"]
        loaded = pickle.loads(row["loaded"]) if "loaded" in row else self._blocks.loaded(number)
        pixels = (one if isinstance(one, str) else torch.from_numpy(one) for one in loaded)
        pairs = zip(self._blocks.parts.block(number), pixels, strict=True)
        content = Content.of(list(classify_loaded(self._classifier, pairs, **self._options)))
        return {"number": number, "answers": content.answers, "features": content.features}


@contextmanager
def _running(ray: Any) -> Iterator[None]:
    """Reach the Ray of RAY_ADDRESS, or start one on this machine, all of whose processes end with it."""
    if ray.is_initialized():  # by the caller
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    own = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
    with no_leftovers():  # two processes of Ray stay for minutes after its driver was killed
        try:
            with _signal_kept(), _silent():
                ray.init(address, log_to_driver=False, logging_level=_level(), **own)
            yield
        finally:
            ray.shutdown()


@contextmanager
def _signal_kept() -> Iterator[None]:
    """Put the handler of SIGTERM back, which Ray replaces by one that ends the process.

    Raises:
        UsageError: Ray cannot be started or reached.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as error:  # by its handler
        raise Interrupted(signal.SIGTERM) from error
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"Ray cannot be started or reached: {in_short(error)}") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _silent() -> Iterator[None]:
    """Keep the C++ side of Ray from standard error, where it says at its start how little it will say."""
    if _level() <= logging.INFO:
        yield
        return
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _level() -> int:
    """Return what Ray may log: nothing, unless --verbose lets the libraries speak."""
    level = logging.getLogger().getEffectiveLevel()
    return level if level <= logging.INFO else logging.CRITICAL
