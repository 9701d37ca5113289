"""Going on from a finished run with more images, epochs or classes; its classes are measured again."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..data.layouts import listed
from ..data.photos import Photos
from ..errors import DataError, RunError, UsageError
from ..evaluation.classification import Evaluation
from ..evaluation.metrics import wilson_interval
from ..evaluation.photos import evaluate_photos
from ..models.network import Network
from ..recipes.own_images import CONTINUED, finetune
from ..recipes.schema import FOLDER, Recipe
from .run_folder import Run

KEPT = ("shortcut", "variant", "image_size", "test_size", "test_resize", "fit")  # of the run's recipe


def continued_recipe(path: str | Path) -> Recipe:
    """Return the recipe to go on with from a finished run on photographs: `finetune`, with the run's weights.

    Network, sizes and fit are the run's; so is the normalization, which comes with the weights.

    Raises:
        RunError: there is no run, it is not finished, or it has a network of the caller's own.
        UsageError: it was not trained on photographs.
    """
    run = Run.open(Path(path))
    former = run.recipe
    if run.result is None:
        raise RunError(f"the run {path} is not finished: 'residual train --resume {path}' resumes it")
    if run.own_network is not None:
        raise RunError(
            f"{path} has a network of your own, '{run.own_network}', which train(network=...) takes"
        )
    if former.data != FOLDER:
        raise UsageError(
            f"{path} was trained on {former.data}, not on photographs in a folder: to begin with its "
            f"weights, give --weights {path}"
        )
    values = former.flat()
    kept = {key: values[key] for key in KEPT}
    return finetune(former.network).replace({**kept, **CONTINUED, "weights": str(path)})


def check_classes(former: tuple[str, ...], now: tuple[str, ...], add_classes: bool) -> None:
    """Compare the classes of a run with those of the images to go on with.

    Raises:
        UsageError: some are new, and that was not asked for.
        DataError: some are gone.
    """
    new, gone = set(now) - set(former), set(former) - set(now)
    if gone:
        raise DataError(
            f"the images lack classes of the run: {listed(gone)}; add images of them, or begin with its "
            "weights alone by --weights"
        )
    if new and not add_classes:
        raise UsageError(f"the images have classes that the run has not: {listed(new)}; give --add-classes")


@dataclass(frozen=True)
class Figures:
    """The error on the test images of the former classes, in percent, with its 95 % interval."""

    error: float
    error_interval: tuple[float, float]
    images: int


@dataclass(frozen=True)
class Continued:
    """The classes of the run that this one goes on from, and its model's figures on their test images."""

    class_names: tuple[str, ...]
    before: Figures

    @classmethod
    def measure(
        cls,
        source: Network,
        test: Photos,
        device: torch.device,
        workers: int,
        progress: Callable[[int], None],
    ) -> "Continued":
        """Evaluate the former model, as it is tested itself, on the test images of its classes."""
        names = source.config.class_names
        number = {name: label for label, name in enumerate(names)}
        labels = torch.tensor([number.get(name, -1) for name in test.class_names])[test.labels]
        kept = (labels >= 0).nonzero().flatten()
        photos = replace(test.take(kept), labels=labels[kept], class_names=names)
        preprocessing = source.config.preprocessing
        found = evaluate_photos(source.to(device), photos, preprocessing, device, progress, workers)
        return cls(names, Figures(found.error, found.error_interval, found.images))

    def change(self, class_names: tuple[str, ...], after: Evaluation) -> dict[str, Any]:
        """Return what `result.json` holds: the figures before, and after on the same images.

        The classes that are new compete for these images too.
        """
        rows = [class_names.index(name) for name in self.class_names]
        images = sum(sum(after.confusion[row]) for row in rows)
        wrong = images - sum(after.confusion[row][row] for row in rows)
        now = Figures(100 * wrong / images, wilson_interval(wrong, images), images)
        return {"classes": len(rows), "before": asdict(self.before), "after": asdict(now)}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for `environment.json`."""
        return asdict(self)

    @classmethod
    def of_run(cls, recorded: Mapping[str, Any]) -> "Continued":
        """Read back what `as_dict` gave.

        Raises:
            RunError: the record is damaged.
        """
        try:
            error, interval, images = (
                recorded["before"][key] for key in ("error", "error_interval", "images")
            )
            before = Figures(float(error), (float(interval[0]), float(interval[1])), int(images))
            return cls(tuple(map(str, recorded["class_names"])), before)
        except (LookupError, TypeError, ValueError) as problem:
            raise RunError(f"'continued' in environment.json is corrupted: {problem!r:.200}") from problem
