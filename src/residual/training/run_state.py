"""The state of a run in a checkpoint: what is saved, and going back to it."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ..data.loader import Batches
from ..errors import CheckpointError, RunError
from ..recipes.schema import differences, from_dict
from ..runtime import ranks
from ..runtime.cpu_time import CpuTime
from .checkpoint import check_keys, delete_after, find_checkpoint, load_newest, step_of

if TYPE_CHECKING:
    from .trainer import Trainer

KINDS: Mapping[str, type | tuple[type, ...]] = {
    "recipe": dict,
    "training_error": (int, float, type(None)),
    "best": (dict, type(None)),
    "seconds": (int, float),
}


def state_of(trainer: "Trainer") -> dict[str, Any]:
    """Return all that a resume needs; what is random follows from the seed and the step."""
    return {
        **trainer.engine.state(),
        **({"spent": trainer.pace.spent()} if trainer.recipe.time else {}),
        "recipe": trainer.recipe.as_dict(),
        "training_error": trainer.training_error,
        "best": trainer.best,
        "seconds": trainer.seconds,
        "cpu_time": asdict(trainer.cpu_time()),
        "bad_images": bad_images(trainer.engine.batches),
    }


def bad_images(batches: Batches) -> dict[str, str]:
    """Return the images that any rank could not decode, with the reason, and let all ranks know them."""
    for found in ranks.gathered(batches.bad):
        batches.bad |= found
    return dict(batches.bad)


def go_back(trainer: "Trainer") -> list[str]:
    """Go back to the run's newest checkpoint that can be read, or to step 0 if there is none.

    Returns:
        A line for each thing that the user should know of: corrupted or missing checkpoints.

    Raises:
        CheckpointError: every checkpoint is truncated or corrupted, or the newest that can be read does
            not fit the network or the optimizer.
        RunError: the recipe is not the one that the checkpoint was trained with.
    """
    run = trainer.run
    path, state, faults = ranks.from_first(lambda: load_newest(run.checkpoints))
    notes = [f"warning: {fault}; going back to {path}" for fault in faults]
    if path is not None:
        check_keys(state, KINDS, str(path))
        changed = differences(from_dict(state["recipe"]), trainer.recipe)
        if changed:
            raise RunError(f"{run.path} was begun with another recipe: {'; '.join(changed)}")
        _restore(trainer, state, str(path))
    else:
        notes.append(f"no checkpoint in {run.checkpoints}: training begins anew at step 0")
    if ranks.is_first():
        delete_after(run.checkpoints, trainer.step)
    run.forget_after(trainer.step)
    return notes + _check_best(trainer)


def _check_best(trainer: "Trainer") -> list[str]:
    """Choose the best anew if its weights are gone, so that its figures always belong to its weights."""
    path, best = ranks.from_first(lambda: find_checkpoint(trainer.run.checkpoints, "best")), trainer.best
    if best is None or (path is not None and step_of(path) == best["step"]):
        return []
    trainer.best = None
    return [
        f"the best checkpoint, of step {best['step']}, is gone: the best is chosen among the steps to come"
    ]


def _restore(trainer: "Trainer", state: Mapping[str, Any], source: str) -> None:
    engine, best = trainer.engine, state["best"]
    engine.restore(state, source)
    if best is not None:
        check_keys(best, {"step": int, "error": (int, float)}, source)
    if trainer.recipe.time:
        check_keys(state, {"spent": (int, float)}, source)
        trainer.pace.earlier = state["spent"]
    try:  # early checkpoints have neither
        trainer.meter.total = CpuTime(**state.get("cpu_time", {}) if ranks.is_first() else {})
        engine.batches.bad |= state.get("bad_images", {})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{source} does not fit: its 'cpu_time' or 'bad_images': {error}") from error
    trainer.best, trainer.training_error = best, state["training_error"]
    trainer.seconds, trainer.saved = state["seconds"], trainer.step
