"""What follows a loss that is not finite: the run stops or, where the recipe has `retries`, goes back."""

import torch

from ..errors import NonFiniteLossError
from ..runtime import ranks
from .checkpoint import find_checkpoint
from .engine import Engine
from .run_state import go_back
from .trained import Trained
from .trainer import Trainer


def fit(trainer: Trainer) -> Trained:
    """Train as `trainer.fit` does; after a loss that is not finite go back, `recipe.retries` times at most.

    The run goes back to its last checkpoint, so weights, momenta, BN statistics and metrics are as they were
    there, and takes the steps again. The batch with which it failed is left out: that step is counted, and
    changes nothing. PaLM was trained in this way (Chowdhery et al., 2022, section 5.1), which left out some
    hundred batches at a spike of the loss. What is left out depends on no checkpoint: a run that is stopped
    and resumed leaves out the same.

    Raises:
        NonFiniteLossError: it happened once more.
        InterruptedRunError: as of `trainer.fit`.
    """
    folder = trainer.run.checkpoints
    if trainer.recipe.retries and ranks.from_first(lambda: find_checkpoint(folder)) is None:
        trainer.save()  # of step 0, to go back to
    while True:
        try:
            return trainer.fit()
        except NonFiniteLossError as error:
            if not trainer.recipe.retries:
                raise
            _leave_out(trainer, error)


def _leave_out(trainer: Trainer, error: NonFiniteLossError) -> None:
    """Go back to the last checkpoint, to go on without the batch of the step that failed."""
    engine, recipe = trainer.engine, trainer.recipe
    before, failed = len(engine.left_out), _failed(engine)
    if before == recipe.retries or before + 1 >= trainer.last_step:
        raise NonFiniteLossError(f"{error}; the run has gone back {before} times") from error
    engine.left_out.add(failed)
    earlier = trainer.pace.earlier  # no other process spent the time since the checkpoint
    notes = go_back(trainer)
    trainer.pace.earlier = earlier
    if failed < trainer.step:  # it is in the checkpoint
        raise error
    reason = str(error).partition(":")[0]
    line = f"{reason}: back to step {trainer.step}, to go on without the batch of step {failed}"
    notes.append(f"warning: {line} ({before + 1} of at most {recipe.retries} times)")
    values = trainer.run.environment
    already = (values["resumed"] or [values])[-1].get("went_back", [])
    trainer.run.note("went_back", [*already, *notes])
    for note in notes:
        trainer.reporter.say(note)


def _failed(engine: Engine) -> int:
    """Return the step to leave out: that of the bad loss or, if it made the weights bad, the one before."""
    finite = all(bool(torch.isfinite(weights).all()) for weights in engine.network.parameters())
    first = int(engine.guard.first)
    step = first if first >= 0 and finite else (engine.step if first < 0 else first) - 1
    while step in engine.left_out:
        step -= 1
    return step
