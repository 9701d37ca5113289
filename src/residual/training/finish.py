"""The last stages of a run: the evaluation of what was trained, then model folder, curves and result."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..data.photos import Photos
from ..errors import CheckpointError, RunError
from ..evaluation.classification import Evaluation
from ..recipes.catalog import recipe_label
from ..runtime import ranks
from ..runtime.cpu_time import DISTURBED
from ..runtime.progress import Reporter
from ..zoo.hub import is_hub_name, repository
from ..zoo.model_card import Measured, model_card
from ..zoo.model_folder import ModelConfig, save_model
from ..zoo.own_network import save_own_network
from .checkpoint import evaluated_weights, load_checkpoint
from .photo_report import Examined, examine, recorder_for, write_report
from .prepare import Prepared
from .run_folder import Run
from .run_state import bad_images
from .trained import Trained


@dataclass(frozen=True)
class Evaluated:
    """A trained network, its evaluation on the test set, and that of its best validation step, if any."""

    trained: Trained
    test: Evaluation
    validation_best: dict[str, float] | None
    continued: dict[str, Any] | None  # the change for the classes of the run that this one goes on from
    examined: Examined | None  # of photographs


def evaluate_trained(prepared: Prepared, trained: Trained, reporter: Reporter) -> Evaluated:
    """Evaluate the last step, and the best validation step, on the test set."""
    test = prepared.data.dataset.test
    recorder = recorder_for(prepared)
    with reporter.working("test set", len(test)) as progress:
        found = prepared.evaluate(test, trained.network, progress, recorder)
    former, names = prepared.continued, prepared.data.dataset.class_names
    change = former.change(names, found) if former else None
    best, examined = _evaluate_best(prepared, trained, reporter), None
    if recorder is not None and ranks.is_first():
        examined = examine(prepared, trained.network, recorder.predictions(), reporter)
    elif recorder is None and isinstance(test, Photos):
        reporter.say("note: too many test images and classes for a report, so there is none")
    return Evaluated(trained, found, best, change, examined)


def _evaluate_best(prepared: Prepared, trained: Trained, reporter: Reporter) -> dict[str, float] | None:
    """Return the best validation step with its test error, which is reported and selects nothing.

    Step, figure and weights come from one file, so they belong together.
    """
    if trained.best is None or trained.best_checkpoint is None:
        return None
    try:
        path = trained.best_checkpoint
        state = ranks.from_first(lambda: load_checkpoint(path))
    except CheckpointError as error:  # the run itself is good
        reporter.say(f"warning: {error}; the result names no best step")
        return None
    network = copy.deepcopy(prepared.network)
    network.load_state_dict(evaluated_weights(state))
    return {**state["best"], "test_error": prepared.evaluate(prepared.data.dataset.test, network).error}


def write(run: Run, prepared: Prepared, evaluated: Evaluated) -> dict[str, Any]:
    """Write model folder, curves, report and, last of all, the result, whose figures are returned.

    Of several ranks only the first writes them.

    Raises:
        RunError: one of them cannot be written; the message says how to go on.
    """
    from .curves import plot_runs  # loads matplotlib, which nothing before needs

    figures = _figures(prepared, evaluated)
    if not ranks.is_first():
        return figures
    try:
        digest = _write_model(run, prepared, evaluated, Measured.of(figures))
    except OSError as error:
        raise RunError(
            f"cannot write the model folder {run.model}: {error}; once there is room, {run.how_to_resume}"
        ) from error
    if run.metrics("train"):  # unless someone deleted them, which is no reason to fail now
        plot_runs([run], run.curves)
    figures["model_sha256"] = digest
    if evaluated.examined is not None:
        figures |= write_report(run, prepared, evaluated.trained, evaluated.test, evaluated.examined)
    run.write_result(figures)
    return figures


def _write_model(run: Run, prepared: Prepared, evaluated: Evaluated, measured: Measured) -> str:
    config = ModelConfig(
        network=prepared.own_network or prepared.recipe.network,
        shortcut=None if prepared.own_network else prepared.recipe.shortcut,
        class_names=prepared.data.dataset.class_names,
        preprocessing=prepared.data.preprocessing,
        data=prepared.data.dataset.name,
        recipe=recipe_label(prepared.recipe),
        variant=None if prepared.own_network else prepared.recipe.variant,
        temperature=1.0 if evaluated.examined is None else evaluated.examined.temperature.value,
    )
    weights = prepared.recipe.weights
    card = model_card(
        config,
        _facts(prepared, evaluated),
        measured=measured,
        base=repository(weights) if weights is not None and is_hub_name(weights) else None,
        own_network=prepared.own_network is not None,
    )
    save = save_own_network if prepared.own_network else save_model
    return save(run.model, evaluated.trained.network, config, card)


def _facts(prepared: Prepared, evaluated: Evaluated) -> Mapping[str, Any]:
    """Return the rows of the model card."""
    trained, test, examined = evaluated.trained, evaluated.test, evaluated.examined
    fitted = {} if examined is None else examined.temperature.facts()
    low, high = test.error_interval
    return {
        f"error on the {test.images:,} test images": f"{test.error:.2f} %",
        "its 95 % confidence interval": f"{low:.2f} to {high:.2f} %",
        "training error, last window": f"{trained.training_error:.2f} %",
        "iterations": f"{trained.steps:,} of batch {prepared.recipe.batch_size}",
        "seed": prepared.recipe.seed,
        "seconds of training": f"{trained.seconds:.0f}",
        **fitted,
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
        "error_interval": list(test.error_interval),
        "macro_error": test.macro_error,
        "calibration_error": test.calibration_error,
        "top5_error": test.top5_error,
        "loss": test.loss,
        "images": test.images,
        "skipped": [*sorted(bad_images(prepared.data.batches)), *test.skipped],
        "training_error": trained.training_error,
        "validation_best": evaluated.validation_best,
        "seconds": round(trained.seconds, 3),
        "images_per_second": round(images / trained.seconds, 1),
        "cpu_seconds": round(trained.cpu.own, 1),
        "others_share": round(trained.cpu.others_share, 4),
        "disturbed": trained.cpu.others_share > DISTURBED,
        "warmup_end": trained.warmup_end,
        "stopped_early": trained.stopped_early,
        **({"continued": evaluated.continued} if evaluated.continued else {}),
    }
