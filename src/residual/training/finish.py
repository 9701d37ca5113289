"""The last stages of a run: the evaluation of what was trained, then model folder, curves and result."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, RunError
from ..evaluation.classification import Evaluation
from ..recipes.catalog import recipe_label
from ..runtime.cpu_time import DISTURBED
from ..runtime.progress import Reporter
from ..zoo.model_folder import ModelConfig, model_card, save_model
from ..zoo.own_network import save_own_network
from .checkpoint import evaluated_weights, load_checkpoint
from .prepare import Prepared
from .run_folder import Run
from .trainer import Trained


@dataclass(frozen=True)
class Evaluated:
    """A trained network, its evaluation on the test set, and that of its best validation step, if any."""

    trained: Trained
    test: Evaluation
    validation_best: dict[str, float] | None


def evaluate_trained(prepared: Prepared, trained: Trained, reporter: Reporter) -> Evaluated:
    """Evaluate the last step, and the best validation step, on the test set."""
    test = prepared.data.dataset.test
    with reporter.working("test set", len(test)) as progress:
        found = prepared.evaluate(test, trained.network, progress)
    return Evaluated(trained, found, _evaluate_best(prepared, trained, reporter))


def _evaluate_best(prepared: Prepared, trained: Trained, reporter: Reporter) -> dict[str, float] | None:
    """Return the best validation step with its test error, which is reported and selects nothing.

    Step, figure and weights come from one file, so they belong together.
    """
    if trained.best is None or trained.best_checkpoint is None:
        return None
    try:
        state = load_checkpoint(trained.best_checkpoint)
    except CheckpointError as error:  # the run itself is good
        reporter.say(f"warning: {error}; the result names no best step")
        return None
    network = copy.deepcopy(prepared.network)
    network.load_state_dict(evaluated_weights(state))
    return {**state["best"], "test_error": prepared.evaluate(prepared.data.dataset.test, network).error}


def write(run: Run, prepared: Prepared, evaluated: Evaluated) -> dict[str, Any]:
    """Write model folder, curves and, last of all, the result, whose figures are returned.

    Raises:
        RunError: one of them cannot be written; the message says how to go on.
    """
    from .curves import plot_runs  # loads matplotlib, which nothing before needs

    try:
        digest = _write_model(run, prepared, evaluated)
    except OSError as error:
        raise RunError(
            f"cannot write the model folder {run.model}: {error}; once there is room, {run.how_to_resume}"
        ) from error
    plot_runs([run], run.curves)
    figures = {**_figures(prepared, evaluated), "model_sha256": digest}
    run.write_result(figures)
    return figures


def _write_model(run: Run, prepared: Prepared, evaluated: Evaluated) -> str:
    config = ModelConfig(
        network=prepared.own_network or prepared.recipe.network,
        shortcut=None if prepared.own_network else prepared.recipe.shortcut,
        class_names=prepared.data.dataset.class_names,
        preprocessing=prepared.data.preprocessing,
        data=prepared.data.dataset.name,
        recipe=recipe_label(prepared.recipe),
        variant=None if prepared.own_network else prepared.recipe.variant,
    )
    facts = _facts(prepared, evaluated)
    if prepared.own_network:
        return save_own_network(run.model, evaluated.trained.network, config, facts)
    return save_model(run.model, evaluated.trained.network, config, model_card(config, facts))


def _facts(prepared: Prepared, evaluated: Evaluated) -> Mapping[str, Any]:
    """Return the rows of the model card."""
    trained, test = evaluated.trained, evaluated.test
    return {
        f"error on the {test.images:,} test images": f"{test.error:.2f} %",
        "training error, last window": f"{trained.training_error:.2f} %",
        "iterations": f"{trained.steps:,} of batch {prepared.recipe.batch_size}",
        "seed": prepared.recipe.seed,
        "seconds of training": f"{trained.seconds:.0f}",
    }


def _figures(prepared: Prepared, evaluated: Evaluated) -> dict[str, Any]:
    """Return what `result.json` holds, except the digest of the weights."""
    recipe, trained, test = prepared.recipe, evaluated.trained, evaluated.test
    images = trained.steps * recipe.batch_size
    return {
        "network": prepared.own_network or recipe.network,
        "shortcut": None if prepared.own_network else recipe.shortcut,
        "data": prepared.data.dataset.name,
        "recipe": recipe_label(recipe),
        "seed": recipe.seed,
        "iterations": trained.steps,
        "error": test.error,
        "top5_error": test.top5_error,
        "loss": test.loss,
        "images": test.images,
        "skipped": [*sorted(prepared.data.batches.bad), *test.skipped],
        "training_error": trained.training_error,
        "validation_best": evaluated.validation_best,
        "seconds": round(trained.seconds, 3),
        "images_per_second": round(images / trained.seconds, 1),
        "cpu_seconds": round(trained.cpu.own, 1),
        "others_share": round(trained.cpu.others_share, 4),
        "disturbed": trained.cpu.others_share > DISTURBED,
        "warmup_end": trained.warmup_end,
        "stopped_early": trained.stopped_early,
    }
