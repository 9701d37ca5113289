"""What a run recorded when it began, compared with what there is when it is resumed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..data.cifar import RELEASES, find
from ..errors import RunError
from ..recipes.schema import FOLDER, Recipe
from ..runtime import ranks
from .checkpoint import find_checkpoint
from .prepare import Prepared
from .run_folder import Run, has_own_dataset
from .starting_weights import Start


def check_own(run: Run, began: Mapping[str, Any], dataset: Any, network: nn.Module | None) -> None:
    """Refuse to resume without the dataset or the network that the caller passed to `train`."""
    own = began.get("own_network")
    if dataset is None and has_own_dataset(began, run.recipe):
        raise RunError(
            f"{run.path} was trained on a dataset of your own, '{began['dataset']}': resume(..., dataset=...)"
        )
    if network is None and own is not None:
        raise RunError(f"{run.path} trains a network of your own, '{own}': resume(..., network=...)")
    if network is not None and own is None:
        raise RunError(f"{run.path} trains {run.recipe.network}: leave network= out to resume it")


def recorded_data_dir(recipe: Recipe, began: Mapping[str, Any]) -> str | Path | None:
    """Return where the run found its data, if it is still there."""
    release, root = RELEASES.get(recipe.data), began.get("data_dir")
    if recipe.data == FOLDER and root is not None:
        return str(root)
    if release is None or root is None:
        return None
    there = find(release, Path(root)) is not None or (Path(root) / release.archive).is_file()
    return Path(root) if there else None


def check_images(run: Run, began: Mapping[str, Any], prepared: Prepared) -> None:
    """Refuse to resume with other photographs than the run began with."""
    before, now = began.get("images_sha256"), prepared.data.facts.get("images_sha256")
    if before != now:
        raise RunError(
            f"{run.path} began with other images than those in the folder now: bring them back, or train anew"
        )
    before, now = began.get("validation_sha256"), prepared.data.facts.get("validation_sha256")
    if before is not None and before != now:
        raise RunError(f"{run.path} began with another validation set than is set apart now: train anew")


def other_versions(began: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Say whether torch is not the version that the run began with, for then other bits may come out."""
    before, now = (where["versions"]["torch"] for where in (began, facts))
    if before == now:
        return []
    return [f"warning: the run began with torch {before}, this is {now}: the last bits may differ"]


def other_ranks(began: Mapping[str, Any]) -> list[str]:
    """Say whether the number of processes is not the one that the run began with."""
    before, now = began.get("processes", 1), ranks.count()
    if before == now:
        return []
    return [f"the run began on {before} processes, and goes on on {now}: the same images in the same order"]


def threads_of(began: Mapping[str, Any]) -> int:
    """Return how many threads to compute with: as the run began, unless on another number of processes."""
    if began.get("processes", 1) != ranks.count():
        return torch.get_num_threads()
    return int(began["hardware"]["threads"])


def device_of(began: Mapping[str, Any]) -> str:
    """Return the device that a run began on; of several ranks each has one of the same kind."""
    name = str(began["hardware"]["device"])
    return name.partition(":")[0] if max(ranks.count(), began.get("processes", 1)) > 1 else name


def recorded_start(run: Run, began: Mapping[str, Any]) -> Start | None:
    """Return what came with the starting weights, unless they are needed again for want of a checkpoint."""
    if run.recipe.weights is None or find_checkpoint(run.checkpoints) is None:
        return None
    return Start.of_run(began.get("start"))
