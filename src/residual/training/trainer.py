"""The training loop around the engine: what is logged, evaluated and saved, and when it ends."""

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import nn

from ..errors import CheckpointError, InterruptedRunError, RunError
from ..evaluation.classification import Evaluation
from ..runtime import ranks
from ..runtime.cpu_time import CpuMeter, CpuTime, of_ranks
from ..runtime.progress import Reporter, clock, time_of_day
from ..runtime.signals import stop_signals
from .checkpoint import evaluated_weights, find_checkpoint, load_checkpoint, save_checkpoint, step_of
from .cuda_graph import CaptureError
from .engine import Engine
from .run_folder import Run
from .run_state import state_of
from .schedule import ENDLESS, after_fit, is_evaluated, learning_rate
from .time_fit import Pace
from .trained import Trained


class Trainer:
    """A run in progress.

    Args:
        engine: takes the steps, `recipe.last_step` in all, or as many as its time is enough for.
        run: where metrics and checkpoints go.
        reporter: shows progress.
        evaluations: take the network, and are called every `recipe.evaluation_period` steps, under
            "validation" (whose best step is kept too) or "test".
        pace: measures the speed, and counts the time of a run that has one.
    """

    def __init__(
        self,
        engine: Engine,
        run: Run,
        reporter: Reporter,
        evaluations: Mapping[str, Callable[[nn.Module], Evaluation]] | None = None,
        pace: Pace | None = None,
    ) -> None:
        self.engine, self.recipe = engine, engine.recipe
        self.run, self.reporter, self.evaluations = run, reporter, evaluations or {}
        self.pace = pace or Pace(self.recipe)
        self.best: dict[str, float] | None = None
        self.training_error: float | None = None  # of the last window that was logged
        self.seconds = 0.0  # of training alone
        self.meter = CpuMeter()
        self.saved: int | None = None  # the step of the last checkpoint
        self.stops_early = False  # for want of a lower validation error
        self._logged_at = (0, 0.0)

    @property
    def step(self) -> int:
        """How many steps have been taken."""
        return self.engine.step

    @property
    def last_step(self) -> int:
        """The step after which the run ends, as far as is known; see `schedule.fitted`."""
        return self.engine.fitted.last_step

    def fit(self) -> Trained:
        """Take the remaining steps.

        Raises:
            NonFiniteLossError: a loss was not finite; the last checkpoint stays.
            InterruptedRunError: SIGTERM or SIGINT came; the step was finished and saved.
        """
        self.engine.network.train()
        self._logged_at = (self.step, self.seconds)
        self.stops_early = self._is_stuck()
        epochs_per_step = self.recipe.batch_size / self.engine.batches.size
        last = None if self.last_step == ENDLESS else self.last_step
        self.reporter.start(self.step, last, epochs_per_step)
        self.pace.start(self.step)
        with stop_signals.deferred():
            while self.step < self.last_step and not self.stops_early:
                started = self.pace.now()
                self.train_one()
                due = self._due()
                if due:
                    self.engine.wait()
                self.seconds += self.pace.now() - started
                self.pace.took_step(self.step)
                if self.reporter.wants_figures():
                    self._show()
                self._do(due)
                self._estimate()
                number = ranks.any_rank_stops(stop_signals.number)
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
        step, state, recipe = self.step, self.engine.schedule, self.engine.fitted
        last = step == recipe.last_step
        due = {"log"} if last or step % recipe.log_period == 0 else set()
        if last or step % recipe.checkpoint_every == 0:
            due.add("save")
        if self.evaluations and (last or is_evaluated(self.recipe, step, state)):
            due.add("evaluate")
        if not last and recipe.time and ranks.from_first(lambda: self.pace.is_due(step, state)):
            due.add("fit")
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
        if self.stops_early and "log" not in due:
            self._log()
        if "fit" in due and not self.stops_early:
            self._fit()
        if "save" in due or self.stops_early:
            self.save()

    def _fit(self) -> None:
        """Fit the schedule to the time that is left."""
        first = self.engine.schedule.iterations is None
        try:
            iterations = ranks.from_first(lambda: self.pace.fit(self.step, self.engine.schedule))
        except RunError as error:
            raise RunError(f"{error}; {self.run.path} can be deleted") from error
        self.engine.schedule = after_fit(self.recipe, self.engine.schedule, self.step, iterations)
        self.reporter.fitted(self.last_step)
        if first:
            left = max(0.0, self.recipe.time - self.pace.spent())
            self.reporter.say(
                f"the schedule is fitted to {clock(self.recipe.time)}: about {self.last_step:,} steps, "
                f"until {time_of_day(left)}"
            )

    def _estimate(self) -> None:
        """Say once, soon after the start, when the run will end; a run with a time has said it."""
        if not self.recipe.time and self.reporter.wants_estimate():
            left = self.pace.left(self.step, self.engine.schedule)
            if left is not None:
                self.reporter.estimate(left)

    def _is_stuck(self) -> bool:
        """Tell whether `recipe.early_stop` evaluations in a row had no lower validation error."""
        # by what a checkpoint and the metrics hold, so that a resume knows it too
        if not self.recipe.early_stop or self.best is None:
            return False
        best = self.best["step"]
        return ranks.from_first(lambda: self._validations_after(best)) >= self.recipe.early_stop

    def _validations_after(self, step: float) -> int:
        return sum(record["step"] > step for record in self.run.metrics("validation"))

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
        path = ranks.from_first(lambda: find_checkpoint(self.run.checkpoints, "best"))
        if self.stops_early and path is not None:
            self._take_best(path)
        return Trained(
            network=self.engine.evaluated,
            steps=self.step,
            seconds=self.seconds,
            cpu=self.cpu_time(),
            training_error=self.training_error,
            warmup_end=self.engine.schedule.warmup_end,
            best=self.best,
            best_checkpoint=path,
            stopped_early=self.step if self.stops_early else None,
        )

    def cpu_time(self) -> CpuTime:
        """Return the CPU time of the run so far, of all ranks."""
        return of_ranks(ranks.gathered(self.meter.read()))

    def _take_best(self, path: Path) -> None:
        """Take the weights of the best step, and say so."""
        ends = f"step {self.step}: no lower validation error in {self.recipe.early_stop} evaluations"
        try:
            state = ranks.from_first(lambda: load_checkpoint(path))
            self.engine.evaluated.load_state_dict(evaluated_weights(state))
            self.reporter.say(f"{ends}: training ends with the weights of step {step_of(path)}")
        except CheckpointError as error:  # the run itself is good
            self.reporter.say(f"warning: {error}; {ends}, but the last weights are kept")

    def _show(self) -> None:
        """Show the window so far, unless it has no step because it was logged just now."""
        step, seconds = self._logged_at
        if self.step > step:
            speed = self.recipe.batch_size * (self.step - step) / (self.seconds - seconds)
            self.reporter.show(self.step, *self.engine.window.peek(), self.engine.last_learning_rate, speed)

    def _log(self) -> None:
        if self.engine.window.empty:
            return
        loss, error = self.engine.window.read()
        self.training_error = error
        (step, seconds), self._logged_at = self._logged_at, (self.step, self.seconds)
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
        left = (self.last_step - self.step) * per_step
        if self.recipe.time:
            left = max(0.0, self.recipe.time - self.pace.spent())
        self.reporter.trained(self.step, loss, error, rate, images_per_second, left)

    def _evaluate(self) -> None:
        started = self.pace.now()
        for kind, evaluate in self.evaluations.items():
            found = evaluate(self.engine.evaluated)
            self.run.log({"step": self.step, "kind": kind, "loss": found.loss, "error": found.error})
            self.reporter.evaluated(self.step, kind, found.error)
            if kind == "validation":
                self._validated(found.error)
        self.pace.evaluated(self.pace.now() - started)
        self.stops_early = self._is_stuck()

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
        """Save a checkpoint; every rank calls it, and the first one writes.

        Raises:
            NonFiniteLossError: the weights are not finite, and are not saved.
            CheckpointError: it cannot be written.
        """
        self.engine.check_weights_are_finite()
        keep, state = self.recipe.keep_checkpoints if kind == "last" else 1, state_of(self)
        if ranks.is_first():
            save_checkpoint(self.run.checkpoints, kind, self.step, state, keep)
        if kind == "last":
            self.saved = self.step
