"""What a trained network must reach to come with the package, and how it is stored there."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from ..errors import RunError
from ..evaluation import Evaluation
from ..experiment import evaluate
from ..files import write_json
from ..model_folder import load_model, model_card, save_model
from ..models import complexity, resolve_shortcut
from ..pretrained import WEIGHTS
from ..run import Run
from .page import HEADLINES, PAPER_ERRORS
from .results import provenance

PUBLISHED_DATA = "cifar10"


def aim(network: str) -> float:
    """Return the error in percent at which a network is published: the paper's or this project's headline."""
    return max(PAPER_ERRORS.get(network, 0.0), HEADLINES.get(network, 0.0))


def publish(run: Run, *, weights: Path = WEIGHTS, data_dir: Path | None = None) -> Path:
    """Store a finished run's network in half precision, with the error it has as stored.

    Only seed 0 is published, so that nobody can choose among seeds, and only a network that reached the
    paper's error or this project's headline.

    Args:
        run: a run in full of one of the paper's networks.
        weights: the folder that gets the model folder.
        data_dir: see `load_dataset`.

    Returns:
        The model folder.

    Raises:
        RunError: the run does not qualify.
    """
    recipe, result = run.recipe, run.result
    if result is None or recipe.last_step < recipe.iterations:
        raise RunError(f"{run.path} did not train to the end of its recipe: not published")
    usual = recipe.shortcut == resolve_shortcut(recipe.network, None)
    if recipe.seed != 0 or recipe.holdout or recipe.data != PUBLISHED_DATA or not usual:
        raise RunError(f"{run.path} is not seed 0 of the paper's network on all of CIFAR-10: not published")
    found = _evaluate_as_stored(run, data_dir)
    wanted = aim(recipe.network)
    if found.error > wanted:
        raise RunError(f"{recipe.network} has {found.error:.2f} % error, above {wanted:.2f} %: not published")
    network = load_model(run.path)
    cost = complexity(recipe.network)
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
        "iterations": f"{result['iterations']:,} of batch {recipe.batch_size}",
        "seed": recipe.seed,
        "trained with": f"`{facts['command']}`",
    }
    folder = weights / recipe.network
    save_model(folder, network, network.config, model_card(network.config, rows), torch.float16)
    write_json(folder / "measured.json", facts)
    return folder


def _evaluate_as_stored(run: Run, data_dir: Path | None) -> Evaluation:
    """Evaluate a run's network after its weights went through half precision."""
    network = load_model(run.path)
    with TemporaryDirectory() as folder:
        save_model(Path(folder), network, network.config, "", torch.float16)
        return evaluate(folder, data_dir=data_dir)
