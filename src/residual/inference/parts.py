"""A folder with the answers to a long list of images, a part for each block of it; a job goes on by it."""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from safetensors.torch import save

from ..errors import DataError, RunError
from ..runtime.files import MAX_CONFIG, read_bounded, write_atomically, write_json
from ..zoo.model_folder import portable_state
from .classifier import Classifier
from .many import Answer

FORMAT = 1
ASKED = "asked.json"  # what the answers are to
LOCK = ".lock"
IMAGES = 256  # of a part, about: what is lost at most when its process is killed
MAX_PART = 2**30  # bytes; features of IMAGES images take 2 MB, a thousand classes of each 20 MB
NAMES = {
    "model": "another model",
    "images": "other images",
    "images_in_a_part": "parts of another size",
    "top": "another --top",
    "features": "another choice of --features",
}


@dataclass(frozen=True)
class Content:
    """A part as bytes: answers as JSON, one a line, and the features of its good images as float32."""

    answers: bytes
    features: bytes = b""

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> "Content":
        """Encode the answers to a block, with their features if they have any."""
        lines = "".join(json.dumps(answer.as_dict()) + "\n" for answer in answers)
        rows = [answer.features.numpy() for answer in answers if answer.features is not None]
        return cls(lines.encode(), b"".join(row.astype("<f4").tobytes() for row in rows))


@dataclass(frozen=True)
class Parts:
    """The parts of a list of images, numbered from 0; those that are there are complete.

    Args:
        folder: where they are.
        paths: the images.
        size: how many images a part has; the last one may have fewer. A multiple of the classifier's batch,
            so that the batches, and with them the answers, are those of all images in a row.
        features: how many features an image has; 0: they are not kept.
    """

    folder: Path
    paths: Sequence[str]
    size: int
    features: int

    def __len__(self) -> int:
        return -(-len(self.paths) // self.size)

    def block(self, number: int) -> Sequence[str]:
        """Return the images of a part."""
        return self.paths[number * self.size : (number + 1) * self.size]

    def missing(self) -> list[int]:
        """Return the numbers of the parts that are not there."""
        there = {path.name for path in self.folder.iterdir()}
        return [number for number in range(len(self)) if self._answers(number).name not in there]

    def write(self, number: int, content: Content) -> None:
        """Write a part; it is there at once with all that belongs to it.

        Raises:
            RunError: it cannot be written.
        """
        with _writing(self.folder):
            if content.features:
                write_atomically(self._features(number), lambda file: file.write(content.features))
            write_atomically(self._answers(number), lambda file: file.write(content.answers))

    def read(self) -> Iterator[Answer]:
        """Give all answers, in the order of the images; every part must be there.

        Raises:
            DataError: a part cannot be read, or is not the one that was written.
        """
        for number in range(len(self)):
            path = self._answers(number)
            try:
                yield from self._read(number)
            except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
                raise DataError(
                    f"{path} is damaged: remove it, and the same command predicts its images again"
                ) from error

    def _read(self, number: int) -> list[Answer]:
        lines = read_bounded(self._answers(number), MAX_PART).decode().splitlines()
        answers = [Answer.from_dict(json.loads(line)) for line in lines]
        if [answer.path for answer in answers] != list(self.block(number)):
            raise ValueError("it has other images")
        good = [answer for answer in answers if answer.error is None]
        if not self.features or not good:
            return answers
        values = np.frombuffer(read_bounded(self._features(number), MAX_PART), "<f4").astype(np.float32)
        rows = iter(torch.from_numpy(values.reshape(len(good), self.features)))
        return [
            answer if answer.error is not None else Answer(answer.path, answer.predictions, None, next(rows))
            for answer in answers
        ]

    def _answers(self, number: int) -> Path:
        return self.folder / f"part-{number:08}.jsonl"

    def _features(self, number: int) -> Path:
        return self.folder / f"part-{number:08}.features"


@contextmanager
def open_parts(
    folder: Path, classifier: Classifier, paths: Sequence[str], *, top: int, features: bool
) -> Iterator[Parts]:
    """Open a folder of parts, a new one or that of an interrupted job, and keep other processes from it.

    Raises:
        RunError: it has answers to something else, or other files; another process is at work on it; or it
            cannot be written.
    """
    batch = classifier.images_at_once
    size = batch * max(1, IMAGES // batch)
    parts = Parts(folder, paths, size, classifier.feature_size if features else 0)
    asked = {
        "format": FORMAT,
        "model": _digest(classifier),
        "images": fingerprint(paths),
        "images_in_a_part": parts.size,
        "top": top,
        "features": features,
    }
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise RunError(f"another process writes to {folder}: wait for it, or choose another") from error
    try:
        _check(folder, asked)
        with _writing(folder):
            for left in folder.glob(".*.tmp"):  # by a process that was killed
                left.unlink()
            write_json(folder / ASKED, asked)
        yield parts
    finally:
        lock.release()


def fingerprint(paths: Sequence[str]) -> str:
    """Return a SHA-256 of the names of files, their sizes and the times of their last change."""
    digest = hashlib.sha256()
    for path in paths:
        try:
            state = os.stat(path)  # noqa: PTH116 (a million times)
            size, time = state.st_size, state.st_mtime_ns
        except (OSError, ValueError):  # it will be named as bad
            size, time = -1, 0
        digest.update(os.fsencode(path) + b"\0" + struct.pack("<qq", size, time))
    return digest.hexdigest()


def _digest(classifier: Classifier) -> str:
    """Return a SHA-256 of a model: its weights and everything in its config."""
    config = json.dumps(classifier.config.as_dict(), sort_keys=True)
    return hashlib.sha256(save(portable_state(classifier.network)) + config.encode()).hexdigest()


def _check(folder: Path, asked: dict[str, Any]) -> None:
    """Check that a folder is new or has answers to what is asked."""
    path = folder / ASKED
    with _writing(folder):
        names = [name.name for name in folder.iterdir() if not name.name.startswith(".")]
    if not names:
        return
    if ASKED not in names:
        raise RunError(f"{folder} has other files and no {ASKED}: choose a new folder for --output")
    try:
        before = json.loads(read_bounded(path, MAX_CONFIG))
        other = [words for name, words in NAMES.items() if before[name] != asked[name]]
        known = before["format"] == FORMAT
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is damaged: choose a new folder for --output") from error
    if other or not known:
        raise RunError(
            f"{folder} has answers to something else ({', '.join(other or ['another version'])}): "
            "choose a new folder for --output"
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot keep answers in {folder}: {error.strerror or error}") from error
