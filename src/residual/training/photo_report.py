"""What a run on photographs shows people: first batch, predictions, temperature, page and mistakes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..data.photo_batches import PhotoBatches
from ..data.photos import PhotoDataset, Photos
from ..errors import RunError
from ..evaluation.classification import Evaluation
from ..evaluation.predictions import Predictions, Recorder, fits_in_memory
from ..evaluation.temperature import Temperature, calibrate
from ..runtime.progress import Reporter
from .prepare import Prepared
from .run_folder import Run

if TYPE_CHECKING:
    from ..report.outcome import Outcome
    from .trained import Trained

SAMPLE = 20_000  # training images at most whose labels are looked at


@dataclass(frozen=True, eq=False)
class Examined:
    """What a trained network says of the photographs of each set, and its temperature.

    `training_error`, in percent, is that of the training images without augmentation, or of a sample.
    """

    predictions: Mapping[str, Predictions]
    temperature: Temperature
    training_error: float
    notes: tuple[str, ...]


def write_first_batch(run: Run, prepared: Prepared, reporter: Reporter) -> None:
    """Draw the first batch of photographs into `batch.png`; images in memory have none.

    Raises:
        RunError: it cannot be written.
    """
    from ..report.batch_picture import write_batch_picture

    recipe, batches = prepared.recipe, prepared.data.batches
    if not isinstance(batches, PhotoBatches):
        return
    early = recipe.augment.early_size if recipe.early_steps else 0
    names = prepared.data.dataset.class_names
    try:
        write_batch_picture(run.batch, batches.first(), batches.normalization, names, early)
    except OSError as error:
        raise RunError(
            f"cannot write {run.batch}: {error}; once there is room, {run.how_to_resume}"
        ) from error
    reporter.say(f"first batch as the network sees it: {run.batch}")


def recorder_for(prepared: Prepared) -> Recorder | None:
    """Return what keeps the test set's logits; None for images in memory, or too many photographs."""
    test = prepared.data.dataset.test
    if not isinstance(test, Photos) or not fits_in_memory(len(test), len(test.class_names)):
        return None
    return Recorder(test)


def examine(prepared: Prepared, network: nn.Module, test: Predictions, reporter: Reporter) -> Examined:
    """Predict the validation set and the training images too, and fit the temperature."""
    predictions, notes = {"test": test}, []
    validation, batches = prepared.data.validation, prepared.data.batches
    assert isinstance(batches, PhotoBatches)
    if isinstance(validation, Photos):
        if fits_in_memory(len(validation), batches.classes):
            predictions["validation"] = _predict(prepared, network, validation, "validation set", reporter)[0]
        else:
            notes.append("the validation set is too large for its predictions to be kept")
    photos = batches.photos
    if len(photos) > SAMPLE:
        order = torch.randperm(len(photos), generator=torch.Generator().manual_seed(0))
        photos = photos.take(order[:SAMPLE].sort().values)
        notes.append(f"of the training images, {SAMPLE:,} were looked at")
    photos = replace(photos, on_bad_image="skip")  # one that training did not meet must not end the run
    predictions["training"], found = _predict(prepared, network, photos, "training images", reporter)
    pairs = {kind: (found.logits, found.photos.labels) for kind, found in predictions.items()}
    temperature = calibrate(pairs["test"], pairs.get("validation"))
    return Examined(predictions, temperature, found.error, tuple(notes))


def _predict(
    prepared: Prepared, network: nn.Module, photos: Photos, what: str, reporter: Reporter
) -> tuple[Predictions, Evaluation]:
    recorder = Recorder(photos)
    with reporter.working(what, len(photos)) as progress:
        found = prepared.evaluate(photos, network, progress, recorder, alone=True)
    return recorder.predictions(), found


def write_report(
    run: Run, prepared: Prepared, trained: "Trained", test: Evaluation, examined: Examined
) -> dict[str, Any]:
    """Write `report.html` and `mistakes.csv`; return what `result.json` holds of them.

    Raises:
        RunError: one of them cannot be written; the message says how to go on.
    """
    from ..report.advice import advice  # these load Jinja, which nothing before needs
    from ..report.judged import write_mistakes
    from ..report.page import write_page

    outcome = _outcome(run, prepared, trained, test, examined)
    try:
        write_mistakes(run.mistakes, outcome.judged)
        write_page(run.report, outcome)
    except OSError as error:
        raise RunError(
            f"cannot write the report of {run.path}: {error}; once there is room, {run.how_to_resume}"
        ) from error
    temperature = examined.temperature
    return {
        "temperature": temperature.value,
        "temperature_set": temperature.source,
        "calibration_error_after": temperature.after,
        "plain_training_error": examined.training_error,
        "suspicious_labels": len(outcome.suspects),
        "advice": advice(outcome),
    }


def _outcome(
    run: Run, prepared: Prepared, trained: "Trained", test: Evaluation, examined: Examined
) -> "Outcome":
    from ..report.outcome import Outcome

    dataset, batches = prepared.data.dataset, prepared.data.batches
    assert isinstance(dataset, PhotoDataset)
    assert isinstance(batches, PhotoBatches)
    kinds = {"training": "train", "validation": "validation", "test": "test"}
    per_step = batches.batch_size / batches.size
    curves = {
        name: [(record["step"] * per_step, float(record["error"])) for record in run.metrics(kind)]
        for name, kind in kinds.items()
    }
    if not curves["validation"] and not curves["test"]:
        curves["test"] = [(trained.steps * per_step, test.error)]
    return Outcome(
        network=prepared.own_network or prepared.recipe.network,
        data=dataset.name,
        train=batches.photos,
        test=test,
        predictions=examined.predictions,
        temperature=examined.temperature,
        training_error=examined.training_error,
        curves={name: curve for name, curve in curves.items() if curve},
        seconds=trained.seconds,
        epochs=trained.steps * per_step,
        findings=dataset.findings,
        bad={**dict.fromkeys(test.skipped, ""), **batches.bad},
        recipe=prepared.recipe.flat(),
        notes=examined.notes,
    )
