"""What a run recorded when it began, compared with what there is when it is resumed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..data.cifar import RELEASES, find
from ..errors import RunError
from ..recipes.schema import FOLDER, Recipe
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


def recorded_start(run: Run, began: Mapping[str, Any]) -> Start | None:
    """Return what came with the starting weights, unless they are needed again for want of a checkpoint."""
    if run.recipe.weights is None or find_checkpoint(run.checkpoints) is None:
        return None
    return Start.of_run(began.get("start"))
