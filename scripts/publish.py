"""Add a trained model to the package's weights: python scripts/publish.py RUN_FOLDER [DATA_FOLDER].

For maintainers: run it after `residual reproduce`, then commit the new folder.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from residual.errors import ResidualError, RunError
from residual.evaluation.evaluate import evaluate
from residual.models.complexity import complexity
from residual.recipes.catalog import CIFAR_RECIPES, recipe_label
from residual.reproduce.page import HEADLINES, PAPER_ERRORS
from residual.reproduce.results import provenance
from residual.runtime.files import write_json, write_text
from residual.training.run_folder import Run
from residual.zoo.facts import LICENCE
from residual.zoo.model_card import Measured, model_card
from residual.zoo.model_folder import load_model, save_model
from residual.zoo.pretrained import MEASURED, WEIGHTS


def aim(network: str) -> float:
    """Return the error in percent that a network must reach: the paper's, or else this project's headline.

    Raises:
        RunError: there is none for this network.
    """
    for errors in (PAPER_ERRORS, HEADLINES):
        if network in errors:
            return errors[network]
    raise RunError(f"no error is set that {network} must reach: not published")


def publish(run: Run, *, weights: Path = WEIGHTS, data_dir: Path | None = None) -> Path:
    """Store a finished run's model in half precision, with its error as stored.

    Only seed 0 of an unchanged recipe is published, once, so that nobody can choose by the test set, and
    only a network that reached the paper's error or this project's headline.

    Args:
        run: a full run of one of the paper's networks.
        weights: the parent of the new model folder.
        data_dir: see `load_dataset`.

    Returns:
        The model folder.

    Raises:
        RunError: the run does not qualify, or its network is published already.
    """
    recipe, result, folder = run.recipe, run.result, weights / run.recipe.network
    wanted = aim(recipe.network)
    if folder.exists():
        raise RunError(f"{recipe.network} is published already: remove {folder} first")
    if result is None or recipe.last_step < recipe.iterations:
        raise RunError(f"{run.path} has not finished its recipe: not published")
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
    """Write a run's model in half precision, evaluate it as stored, and write its card and figures."""
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
        f"error on the {found.images:,} test images, as stored here": f"{found.error:.2f} %",
        "its 95 % confidence interval": "{:.2f} to {:.2f} %".format(*found.error_interval),
        "weights": "half precision (float16)",
        "training error, last window": f"{result['training_error']:.2f} %",
        "iterations": f"{result['iterations']:,} of batch {run.recipe.batch_size}",
        "seed": run.recipe.seed,
        "trained with": f"`{facts['command']}`",
    }
    card = model_card(network.config, rows, measured=Measured.of(found.as_dict()), licence=LICENCE.lower())
    write_text(folder / "README.md", card)
    write_json(folder / MEASURED, facts)
    return found.error


def main() -> None:
    """Publish the run that the command line names."""
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    run, *data = map(Path, sys.argv[1:])
    try:
        print(publish(Run.open(run), data_dir=data[0] if data else None))  # noqa: T201
    except ResidualError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
