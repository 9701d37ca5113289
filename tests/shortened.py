"""What is shortened where the documents' blocks are run.

What a reader waits minutes for is shortened, after the command was read and checked as it stands on the page:

| what                                  | in the test                                                        |
|---------------------------------------|--------------------------------------------------------------------|
| training: `train`, `residual.train`   | 2 steps of 8 images; photographs have 48 pixels                    |
| `--validation 5000`, of CIFAR-10      | a tenth of the stand-in's images                                   |
| several runs: `--seeds`, `reproduce`  | the first two, one after the other, in this process                |
| `train --find-lr`                     | 8 steps with rising rates                                          |
| `bench`                               | one round of one step                                              |
| `serve`                               | in a thread, on a free port, until the end of the page             |
| `push`, `hf-hub:USER/photos`          | a stand-in of the hub on this machine                              |
| `make`, `pip install`, environments   | not run: `.ci/run` and `pyproject.toml` have what is named         |
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import residual
from residual.bench import suites
from residual.recipes.schema import Recipe
from residual.reproduce import campaign
from residual.training import experiment, find_rate, jobs

STEPS, BATCH, SIDE, RUNS, RATES = 2, 8, 48, 2, 8


def shortened(recipe: Recipe) -> Recipe:
    """Return a recipe of a few steps with a few small images."""
    changes: dict[str, Any] = {"iterations": min(recipe.iterations, STEPS), "stop_after": 0, "time": 0.0}
    changes["batch_size"] = min(recipe.batch_size, BATCH)
    changes["optimizer.frozen"] = min(recipe.optimizer.frozen, 1)
    changes["validation"] = recipe.validation if recipe.validation < 1 else 0.1
    if recipe.augment.kind == "resized-crop" and recipe.image_size > SIDE:
        sizes = {"image_size": recipe.image_size, "test_size": recipe.test_size}
        sizes |= {"test_resize": recipe.test_resize, "augment.early_size": recipe.augment.early_size}
        changes |= {key: round(size * SIDE / recipe.image_size) for key, size in sizes.items()}
    return recipe.replace(changes)


def shorten(change: pytest.MonkeyPatch) -> None:
    """Shorten what takes long, as the table at the top says."""
    train = residual.train  # loaded at its first use, so before that of `experiment` is replaced
    compare = suites.compare

    def train_shortly(recipe: Any, **options: Any) -> Any:
        return train(shortened(recipe) if isinstance(recipe, Recipe) else recipe, **options)

    def run_here(
        planned: Any, _at_once: int, *, reading: Mapping[str, Any] | None = None, **options: Any
    ) -> dict[Path, int]:
        where = {key: options.get(key) for key in ("data_dir", "device")}
        for job in planned[:RUNS]:
            train_shortly(job.recipe, output=job.output, quiet=True, **where, **(reading or {}))
            options["finished"](job, 0)
        return {job.output: 0 for job in planned[:RUNS]}

    def compare_shortly(contestants: Any, steps: Any, _repeats: int, batch: int) -> Any:
        return compare(contestants, dict.fromkeys(steps, 1), 1, batch)

    change.setattr(experiment, "train", train_shortly)
    change.setattr(residual, "train", train_shortly)
    change.setattr(jobs, "run_jobs", run_here)
    change.setattr(campaign, "run_jobs", run_here)
    change.setattr(find_rate, "STEPS", RATES)
    change.setattr(suites, "compare", compare_shortly)
