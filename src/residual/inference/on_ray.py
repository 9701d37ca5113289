"""Many image files classified by Ray Data: on all CPUs or GPUs of this machine or of a cluster.

Ray runs in a process of its own, which sends the answers here. So a signal interrupts nothing of Ray's, Ray
prints nothing, and whatever becomes of it, this process goes on or says why not.
"""

import importlib.util
import logging
import multiprocessing
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.workers import cores
from ..errors import DataError, InterruptedRunError, ResidualError, UsageError, in_short
from ..models.network import Network
from ..runtime.device import prepare, resolve_device
from ..runtime.extras import how_to_install
from ..runtime.leftovers import no_leftovers
from ..runtime.signals import Interrupted
from .classifier import Classifier
from .many import Answer, Load, classify_loaded
from .parts import Content, Parts, open_parts
from .shards import ShardImages

Row = dict[str, Any]
TRIES = 3  # of a block whose process died
START = 300  # seconds in which Ray has to start; where memory is short it may wait for ever
# read by Ray when it is imported; what the user has set stays
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is sent to its makers
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns
}


def check_installed() -> None:
    """Check for Ray and what its data library needs.

    Raises:
        UsageError: it is not installed.
    """
    if not all(importlib.util.find_spec(name) for name in ("ray", "pandas", "pyarrow")):
        raise UsageError(f"--on ray needs Ray: {how_to_install('ray')}")


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
        UsageError: Ray is not installed, cannot be started or reached, or has no such device; or the images
            are in shards.
        RunError: `folder` does not fit, see `open_parts`.
        DataError: a process died `TRIES` times on a block, or a part is damaged.
        InterruptedRunError: stopped by a signal.
    """
    check_installed()
    if isinstance(paths, ShardImages):
        raise UsageError("--on ray predicts image files, not those in shards: leave --on out")
    with open_parts(folder, classifier, paths, top=top, features=features) as parts:
        missing = parts.missing()
        done = len(paths) - sum(len(parts.block(number)) for number in missing)
        progress(done)
        job = _Job(
            classifier.network,
            _Blocks(parts, Load(classifier.config.preprocessing), str(Path.cwd())),
            tuple(missing),
            {"top": top, "features": features},
            workers,
            device,
        )
        try:
            with closing(_predicted(job)) as found:
                for number, content in found:
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


@dataclass(frozen=True)
class _Job:
    """What Ray has to do: the blocks of some numbers."""

    network: Network
    blocks: _Blocks
    numbers: tuple[int, ...]
    options: dict[str, Any]
    workers: int | None
    device: str | None


def _predicted(job: _Job) -> Generator[tuple[int, Content]]:
    """Predict blocks, and give each with its number as soon as it is done."""
    if not job.numbers:
        return
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    speaks = logging.getLogger().getEffectiveLevel() <= logging.INFO  # --verbose
    if sys.platform != "win32":
        resource_tracker.ensure_running()  # it serves other processes too, so it must not end with Ray's
    with no_leftovers(), reader:
        # in usual bytes: torch would share the weights by files in memory
        process = context.Process(target=_drive, args=(pickle.dumps(job), writer, speaks))
        process.start()
        writer.close()
        try:
            if not reader.poll(START):
                raise UsageError(f"Ray cannot be started or reached: no answer in {START} s")
            while (found := reader.recv()) is not None:
                if isinstance(found, ResidualError):
                    raise found
                if found:
                    yield found
            process.join(30)
        except EOFError as error:
            raise _gave_up("its process ended") from error
        finally:
            process.kill()  # what it has started ends with it
            process.join()


def _gave_up(reason: str) -> DataError:
    return DataError(f"Ray gave up: {reason}; what is done is kept, and the same command goes on")


def _drive(pickled: bytes, writer: Connection, speaks: bool) -> None:
    """Run Ray in a process of its own; send () once it has started, what it gives, and None or the error."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches it too; its parent ends it
    with Path(os.devnull).open("wb") as nowhere:
        for number in (1, 2)[: 1 if speaks else 2]:
            os.dup2(nowhere.fileno(), number)
    try:
        ray = _started()
        writer.send(())
        for number, content in _on_ray(ray, pickle.loads(pickled)):
            writer.send((number, content))
        writer.send(None)
    except ResidualError as error:
        writer.send(error)
    except Exception as error:
        traceback.print_exc()
        writer.send(_gave_up(in_short(getattr(error, "cause", None) or error)))


def _on_ray(ray: Any, job: _Job) -> Iterator[tuple[int, Content]]:
    """Predict blocks with a Ray that has started, and end it."""
    try:
        kind, most = _device(ray, job.device)
        count = min(len(job.numbers), most if not job.workers else min(job.workers, most))
        # kept until the end, for a process that has to start anew
        network, blocks = ray.put(job.network), ray.put(job.blocks)
        rows = [{"number": number} for number in job.numbers]
        data = ray.data.from_items(rows, override_num_blocks=len(rows))
        if kind == "cuda":  # CPUs decode for it; without one, each process decodes for itself
            data = data.map(_decoded, fn_args=(blocks,), num_cpus=1, max_retries=TRIES)
        data = data.map(
            _Predictor,
            fn_constructor_args=(network, blocks, kind, job.options),
            compute=ray.data.ActorPoolStrategy(size=count),
            max_restarts=TRIES,
            max_task_retries=TRIES,
            **({"num_gpus": 1} if kind == "cuda" else {"num_cpus": 1}),
        )
        for batch in data.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            for row in batch.to_pylist():
                yield row["number"], Content(row["answers"], row["features"])
    finally:
        ray.shutdown()


def _started() -> Any:
    """Return Ray, connected to the one at RAY_ADDRESS or to one that is started on this machine.

    Raises:
        UsageError: it cannot be started or reached.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS") or "local"
    own = {"num_cpus": cores(), "include_dashboard": False} if address == "local" else {}
    try:
        _knock(address)
        import ray
        import ray.data

        ray.init(address, log_to_driver=False, **own)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise UsageError(f"Ray cannot be started or reached: {in_short(error)}") from error
    return ray


def _knock(address: str) -> None:
    """Raise OSError if nothing answers at an address HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _device(ray: Any, wanted: str | None) -> tuple[str, int]:
    """Return the kind of device that predicts, and how many of it there are."""
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0))
    if wanted == "cpu" or (wanted is None and not gpus):
        return "cpu", max(1, int(there.get("CPU", 1)))
    if wanted not in (None, "cuda") or not gpus:
        raise UsageError(f"Ray has no device '{wanted}' here: leave --device out")
    return "cuda", gpus


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
