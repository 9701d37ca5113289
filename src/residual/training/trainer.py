"""The training loop around the engine: what is logged, evaluated and saved, and the resume."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import CheckpointError, InterruptedRunError, RunError
from ..evaluation.classification import Evaluation
from ..recipes.schema import differences, from_dict
from ..runtime.cpu_time import CpuMeter, CpuTime
from ..runtime.progress import Reporter
from ..runtime.signals import stop_signals
from .checkpoint import check_keys, delete_after, find_checkpoint, load_newest, save_checkpoint, step_of
from .cuda_graph import CaptureError
from .engine import Engine
from .ranks import any_rank_stops
from .run_folder import Run
from .schedule import learning_rate

KINDS: Mapping[str, type | tuple[type, ...]] = {
    "recipe": dict,
    "training_error": (int, float, type(None)),
    "best": (dict, type(None)),
    "seconds": (int, float),
}


@dataclass(frozen=True)
class Trained:
    """What training hands on: the network after the last step, or the average of its weights, and figures.

    `best` holds step and validation error of the best evaluation, None without a validation set;
    `best_checkpoint` holds its weights. Errors are in percent.
    """

    network: nn.Module
    steps: int
    seconds: float
    cpu: CpuTime
    training_error: float | None
    warmup_end: int | None
    best: dict[str, float] | None
    best_checkpoint: Path | None


class Trainer:
    """A run in progress.

    Args:
        engine: takes the steps, `recipe.last_step` in all.
        run: where metrics and checkpoints go.
        reporter: shows progress.
        evaluations: take the network, and are called every `recipe.evaluation_period` steps, under
            "validation" (whose best step is kept too) or "test".
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        reporter: Reporter,
        evaluations: Mapping[str, Callable[[nn.Module], Evaluation]] | None = None,
    ) -> None:
        self.engine, self.recipe = engine, engine.recipe
        self.run, self.reporter, self.evaluations = run, reporter, evaluations or {}
        self.best: dict[str, float] | None = None
        self.training_error: float | None = None  # of the last window that was logged
        self.seconds = 0.0  # of training alone
        self.meter = CpuMeter()
        self.saved: int | None = None  # the step of the last checkpoint
        self._logged_at = (0, 0.0)
        self._periods = {"log": self.recipe.log_period, "save": self.recipe.checkpoint_every}
        if self.evaluations:
            self._periods["evaluate"] = self.recipe.evaluation_period

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self.engine.step

    def fit(self) -> Trained:
        """Take the remaining steps.

        Raises:
            NonFiniteLossError: a loss was not finite; the last checkpoint stays.
            InterruptedRunError: SIGTERM or SIGINT came; the step was finished and saved.
        """
        self.engine.network.train()
        self._logged_at = (self.step, self.seconds)
        epochs_per_step = self.recipe.batch_size / self.engine.batches.size
        self.reporter.start(self.step, self.recipe.last_step, epochs_per_step)
        with stop_signals.deferred():
            while self.step < self.recipe.last_step:
                started = time.perf_counter()
                self.train_one()
                due = self._due()
                if due:
                    self.engine.wait()
                self.seconds += time.perf_counter() - started
                if self.reporter.wants_figures():
                    self._show()
                self._do(due)
                number = any_rank_stops(stop_signals.number)
                if number is not None:
                    self._save_unless_saved()
                    raise self.stopped(number)
        return self._trained()

    def train_one(self) -> None:
        """Take the next step, and nothing else: no log, no evaluation, no checkpoint."""
        if not self._takes_step():
            self.engine.take_step()  # an eager one
        self.reporter.advance(self.step)

    def _takes_step(self) -> bool:
        """Take the next step unless its capture fails, which is reported and noted."""
        try:
            self.engine.take_step()
            return True
        except CaptureError as error:
            reason = str(error)
        self.reporter.say(f"warning: no CUDA graph, so training is slower ({reason})")
        self.run.note("capture", f"failed: {reason}")
        return False

    def _due(self) -> set[str]:
        """Return what is to be done after the step just taken; for all of it the device is waited for."""
        step, last = self.step, self.step == self.recipe.last_step
        due = {name for name, period in self._periods.items() if last or step % period == 0}
        if self.engine.warming_up and step % self.recipe.schedule.warmup_window == 0:
            due.add("check warm-up")
        if stop_signals.number is not None:
            due.add("stop")
        return due

    def _do(self, due: set[str]) -> None:
        """Do what is due, except to stop."""
        if "check warm-up" in due:
            self.engine.check_warmup()
        if "log" in due:
            self._log()
        if "evaluate" in due:
            self._evaluate()
        if "save" in due:
            self.save()

    def _save_unless_saved(self) -> None:
        if self.saved != self.step:
            self.engine.wait()
            self.save()

    def stopped(self, number: int) -> InterruptedRunError:
        """Say, of a run that a signal stopped, what is saved and how to resume it."""
        if self.saved is None:
            saved = "no step of it is saved"
        else:
            saved = "saved" if self.saved == self.step else f"saved up to step {self.saved}"
        return InterruptedRunError(f"stopped at step {self.step}: {saved}; {self.run.how_to_resume}", number)

    def _trained(self) -> Trained:
        path = find_checkpoint(self.run.checkpoints, "best")
        return Trained(
            network=self.engine.evaluated,
            steps=self.step,
            seconds=self.seconds,
            cpu=self.meter.read(),
            training_error=self.training_error,
            warmup_end=self.engine.schedule.warmup_end,
            best=self.best,
            best_checkpoint=path,
        )

    def _show(self) -> None:
        """Show the window so far, unless it has no step because it was logged just now."""
        step, seconds = self._logged_at
        if self.step > step:
            speed = self.recipe.batch_size * (self.step - step) / (self.seconds - seconds)
            self.reporter.show(self.step, *self.engine.window.peek(), self.engine.last_learning_rate, speed)

    def _log(self) -> None:
        loss, error = self.engine.window.read()
        self.training_error = error
        step, seconds = self._logged_at
        self._logged_at = (self.step, self.seconds)
        per_step = (self.seconds - seconds) / max(self.step - step, 1)
        images_per_second = self.recipe.batch_size / per_step
        rate = self.engine.last_learning_rate
        self.run.log(
            {
                "step": self.step,
                "kind": "train",
                "loss": loss,
                "error": error,
                "learning_rate": rate,
                "images_per_second": round(images_per_second, 1),
            }
        )
        left = (self.recipe.last_step - self.step) * per_step
        self.reporter.trained(self.step, loss, error, rate, images_per_second, left)

    def _evaluate(self) -> None:
        for kind, evaluate in self.evaluations.items():
            found = evaluate(self.engine.evaluated)
            self.run.log({"step": self.step, "kind": kind, "loss": found.loss, "error": found.error})
            self.reporter.evaluated(self.step, kind, found.error)
            if kind == "validation":
                self._validated(found.error)

    def _validated(self, error: float) -> None:
        """Let the learning rate fall if the error has stopped falling; keep the weights of the lowest."""
        if self.engine.check_plateau(error):
            rate = learning_rate(self.recipe, self.step, self.engine.schedule)
            self.reporter.say(
                f"step {self.step}: no lower validation error, so the learning rate is {rate:g}"
            )
        if self.best is None or error < self.best["error"]:
            self.best = {"step": self.step, "error": error}
            self.save("best")

    def save(self, kind: str = "last") -> None:
        """Save a checkpoint.

        Raises:
            NonFiniteLossError: the weights are not finite, and are not saved.
            CheckpointError: it cannot be written.
        """
        self.engine.check_weights_are_finite()
        keep = self.recipe.keep_checkpoints if kind == "last" else 1
        save_checkpoint(self.run.checkpoints, kind, self.step, self.state(), keep)
        if kind == "last":
            self.saved = self.step

    def state(self) -> dict[str, Any]:
        """Return all that a resume needs; what is random follows from the seed and the step."""
        return {
            **self.engine.state(),
            "recipe": self.recipe.as_dict(),
            "training_error": self.training_error,
            "best": self.best,
            "seconds": self.seconds,
            "cpu_time": asdict(self.meter.read()),
            "bad_images": dict(self.engine.batches.bad),
        }

    def resume(self) -> list[str]:
        """Go back to the run's newest checkpoint that can be read, or to step 0 if there is none.

        Returns:
            A line for each thing that the user should know of: corrupted or missing checkpoints.

        Raises:
            CheckpointError: every checkpoint is truncated or corrupted, or the newest that can be read does
                not fit the network or the optimizer.
            RunError: the recipe is not the one that the checkpoint was trained with.
        """
        folder = self.run.checkpoints
        path, state, faults = load_newest(folder)
        notes = [f"warning: {fault}; going back to {path}" for fault in faults]
        if path is not None:
            check_keys(state, KINDS, str(path))
            changed = differences(from_dict(state["recipe"]), self.recipe)
            if changed:
                raise RunError(f"{self.run.path} was begun with another recipe: {'; '.join(changed)}")
            self._restore(state, str(path))
        else:
            notes.append(f"no checkpoint in {folder}: training begins anew at step 0")
        delete_after(folder, self.step)
        self.run.forget_after(self.step)
        return notes + self._check_best()

    def _check_best(self) -> list[str]:
        """Choose the best anew if its weights are gone, so that its figures always belong to its weights."""
        path = find_checkpoint(self.run.checkpoints, "best")
        if self.best is None or (path is not None and step_of(path) == self.best["step"]):
            return []
        step, self.best = self.best["step"], None
        return [f"the best checkpoint, of step {step}, is gone: the best is chosen among the steps to come"]

    def _restore(self, state: Mapping[str, Any], source: str) -> None:
        self.engine.restore(state, source)
        best = state["best"]
        if best is not None:
            check_keys(best, {"step": int, "error": (int, float)}, source)
        try:  # early checkpoints have neither
            self.meter.total = CpuTime(**state.get("cpu_time", {}))
            self.engine.batches.bad |= state.get("bad_images", {})
        except (TypeError, ValueError) as error:
            raise CheckpointError(
                f"{source} does not fit: its 'cpu_time' or 'bad_images': {error}"
            ) from error
        self.best, self.training_error, self.seconds = best, state["training_error"], state["seconds"]
        self.saved = self.step
