"""What a trained network must reach to come with the package, and how it is stored there."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..errors import RunError
from ..evaluation.evaluate import evaluate
from ..models.complexity import complexity
from ..recipes.catalog import CIFAR_RECIPES, recipe_label
from ..runtime.files import write_json, write_text
from ..training.run_folder import Run
from ..zoo.model_folder import load_model, model_card, save_model
from ..zoo.pretrained import MEASURED, WEIGHTS
from .page import HEADLINES, PAPER_ERRORS
from .results import provenance


def aim(network: str) -> float:
    """Return the error in percent at which a network is published: the paper's or this project's headline.

    Raises:
        RunError: the network has no aim.
    """
    aims = [errors[network] for errors in (PAPER_ERRORS, HEADLINES) if network in errors]
    if not aims:
        raise RunError(f"no error is set that {network} must reach: not published")
    return max(aims)


def publish(run: Run, *, weights: Path = WEIGHTS, data_dir: Path | None = None) -> Path:
    """Store a finished run's network in half precision, with the error it has as stored.

    Only seed 0 of an unchanged recipe is published, once, so that nobody can choose by the test set, and
    only a network that reached the paper's error or this project's headline.

    Args:
        run: a run in full of one of the paper's networks.
        weights: the folder that gets the model folder.
        data_dir: see `load_dataset`.

    Returns:
        The model folder.

    Raises:
        RunError: the run does not qualify, or its network is there already.
    """
    recipe, result, folder = run.recipe, run.result, weights / run.recipe.network
    wanted = aim(recipe.network)
    if folder.exists():
        raise RunError(f"{recipe.network} is published already: remove {folder} first")
    if result is None or recipe.last_step < recipe.iterations:
        raise RunError(f"{run.path} did not train to the end of its recipe: not published")
    if recipe.seed != 0 or recipe_label(recipe) not in CIFAR_RECIPES:
        raise RunError(f"{run.path} is not seed 0 of {' or '.join(CIFAR_RECIPES)}: not published")
    weights.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=weights, prefix=".") as temporary:
        stored = Path(temporary) / recipe.network
        found = _store(run, stored, data_dir)
        if found > wanted:
            raise RunError(f"{recipe.network} has {found:.2f} % error, above {wanted:.2f} %: not published")
        stored.rename(folder)
    return folder


def _store(run: Run, folder: Path, data_dir: Path | None) -> float:
    """Write a run's network in half precision, evaluate it as stored, and write card and figures."""
    result = run.result or {}
    network = load_model(run.path)
    save_model(folder, network, network.config, "", torch.float16)
    found = evaluate(folder, data_dir=data_dir, device="cpu")
    cost = complexity(run.recipe.network)
    facts = {
        "error": found.error,
        "images": found.images,
        "parameters": cost.parameters,
        "multiply_adds": cost.multiply_adds,
        **{key: result[key] for key in ("seed", "iterations", "training_error", "seconds")},
        **provenance(run),
    }
    rows = {
        f"error on the {found.images:,} test pictures, as stored here": f"{found.error:.2f} %",
        "weights": "half precision (float16)",
        "training error, last window": f"{result['training_error']:.2f} %",
        "iterations": f"{result['iterations']:,} of batch {run.recipe.batch_size}",
        "seed": run.recipe.seed,
        "trained with": f"`{facts['command']}`",
    }
    write_text(folder / "README.md", model_card(network.config, rows))
    write_json(folder / MEASURED, facts)
    return found.error
