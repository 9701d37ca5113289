"""Training: one step, the loop around it, and what is saved so that a resume goes on as if never stopped."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, cast

import torch
from torch import nn

from ..data.loader import TrainBatches
from ..errors import CheckpointError, InterruptedRunError, NonFiniteLossError, RunError
from ..evaluation.classification import Evaluation
from ..recipes.schema import Recipe, differences, from_dict
from ..runtime.cpu_time import CpuMeter, CpuTime
from ..runtime.device import synchronize
from ..runtime.progress import Reporter
from ..runtime.signals import stop_signals
from ..zoo.model_folder import check_weights
from .checkpoint import delete_after, find_checkpoint, load_newest, save_checkpoint, step_of
from .cuda_graph import CaptureError, DeviceSteps, can_capture
from .metrics import Window
from .optim import Guard, learning_rate, make_optimizer
from .run_folder import Run
from .step import train_step

STRETCH = 500  # steps that the device's tables hold at most


class Trainer:
    """A run in progress.

    Args:
        recipe: what to train and how; `recipe.last_step` steps are taken.
        network: on the device already.
        batches: where step k's batch comes from.
        run: where metrics and checkpoints go.
        reporter: what is told meanwhile.
        evaluations: what gives a figure every `recipe.evaluation_period` steps, under "validation" (whose
            best step is kept too) or "test".
    """

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        batches: TrainBatches,
        run: Run,
        reporter: Reporter,
        evaluations: Mapping[str, Callable[[], Evaluation]] | None = None,
    ) -> None:
        self.recipe, self.network, self.batches = recipe, network, batches
        self.run, self.reporter, self.evaluations = run, reporter, evaluations or {}
        self.device = batches.split.images.device
        self.optimizer = make_optimizer(network, recipe.optimizer)
        self.guard = Guard(self.optimizer, self.device)
        self.window = Window(self.device)  # since the last log
        self.warmup_window = Window(self.device)  # since the warm-up last looked
        self.step = 0
        self.warmup_end: int | None = None
        self.best: dict[str, float] | None = None
        self.training_error: float | None = None  # of the last window that was logged
        self.seconds = 0.0  # of training alone
        self.meter = CpuMeter()
        self.captured = recipe.capture and can_capture(self.device)
        self.forward: nn.Module = network
        if recipe.compile:
            self.forward = cast(nn.Module, torch.compile(network))
        self._device_steps: DeviceSteps | None = None
        self._logged_at = (0, 0.0)
        self.saved: int | None = None  # the step of the last checkpoint

    def fit(self) -> None:
        """Take the steps that are left, then save.

        Raises:
            NonFiniteLossError: a loss was not finite; the last checkpoint stays.
            InterruptedRunError: SIGTERM or SIGINT came; the step was finished and saved.
        """
        self.network.train()
        self._logged_at = (self.step, self.seconds)
        epochs_per_step = self.recipe.batch_size / len(self.batches.split)
        self.reporter.start(self.step, self.recipe.last_step, epochs_per_step)
        with stop_signals.deferred():
            while self.step < self.recipe.last_step:
                started = time.perf_counter()
                self.train_one()
                if self._due():
                    self._wait()
                self.seconds += time.perf_counter() - started
                if self.reporter.wants_figures():
                    self._show()
                self._after_step()
                if stop_signals.number is not None:
                    self._save_unless_saved()
                    raise self.stopped(stop_signals.number)

    def train_one(self) -> None:
        """Take the next step, and nothing beside it: no log, no evaluation, no checkpoint."""
        if self.captured:
            self._take_captured_step()
        else:
            self._take_eager_step()
        self.step += 1
        self.reporter.advance(self.step)

    def _take_eager_step(self) -> None:
        rate = learning_rate(self.recipe, self.step, self.warmup_end)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        images, labels = self.batches[self.step]
        if not self.recipe.channels_last:
            images = images.contiguous()
        how = (self.recipe.precision, self.recipe.label_smoothing)
        loss, logits = train_step(self.forward, self.optimizer, self.guard, (images, labels), self.step, *how)
        self.window.add(loss, logits, labels)
        if self._warming_up:
            self.warmup_window.add(loss, logits, labels)

    def _take_captured_step(self) -> None:
        if self._device_steps is None:
            warms_up = [self.warmup_window] if self._warming_up else []
            self._device_steps = DeviceSteps(
                self.forward,
                self.optimizer,
                self.guard,
                self.batches,
                [self.window, *warms_up],
                self.recipe,
                STRETCH,
            )
        if self._device_steps.needs(self.step):
            # no further than the next step that is looked at: there a warm-up may end and change the rates
            steps = range(self.step, min(self.step + STRETCH, self._next_due()))
            rates = [learning_rate(self.recipe, step, self.warmup_end) for step in steps]
            self._device_steps.load(self.step, rates)
        try:
            self._device_steps.run()
            return
        except CaptureError as error:
            reason = str(error)
        self.captured, self._device_steps = False, None
        self.reporter.say(f"warning: no CUDA graph, so training is slower ({reason})")
        self.run.note("capture", f"failed: {reason}")
        self._take_eager_step()

    def _wait(self) -> None:
        """Wait for the device, and make sure that all went as the host believes."""
        synchronize(self.device)
        self.guard.check()
        if self._device_steps is not None:
            self._device_steps.check(self.step)

    @property
    def _warming_up(self) -> bool:
        return bool(self.recipe.schedule.warmup_learning_rate) and self.warmup_end is None

    def _every(self, period: int) -> bool:
        return self.step % period == 0 or self.step == self.recipe.last_step

    def _due(self) -> bool:
        """Tell whether the device must be waited for: something will be read, written or evaluated."""
        return stop_signals.number is not None or any(map(self._every, self._periods()))

    def _periods(self) -> list[int]:
        recipe = self.recipe
        periods = [recipe.log_period, recipe.checkpoint_every]
        periods += [recipe.evaluation_period] if self.evaluations else []
        return periods + ([recipe.schedule.warmup_window] if self._warming_up else [])

    def _next_due(self) -> int:
        """Return the first step after this one at which something is due."""
        return min(self.recipe.last_step, *((self.step // period + 1) * period for period in self._periods()))

    def _after_step(self) -> None:
        recipe = self.recipe
        if (
            self._warming_up
            and self.step % recipe.schedule.warmup_window == 0
            and self.warmup_window.read()[1] < recipe.schedule.warmup_error
        ):
            self.warmup_end = self.step
        if self._every(recipe.log_period):
            self._log()
        if self._every(recipe.evaluation_period):
            self._evaluate()
        if self._every(recipe.checkpoint_every):
            self._save("last")

    def _save_unless_saved(self) -> None:
        if self.saved != self.step:
            self._wait()
            self._save("last")

    def stopped(self, number: int) -> InterruptedRunError:
        """Say, of a run that a signal stopped, what is saved and how it goes on."""
        if self.saved is None:
            saved = "no step of it is saved"
        else:
            saved = "saved" if self.saved == self.step else f"saved up to step {self.saved}"
        hint = f"'residual train --resume {self.run.path}' goes on"
        return InterruptedRunError(f"stopped at step {self.step}: {saved}; {hint}", number)

    def _show(self) -> None:
        """Show the window so far, which has a step at least unless it was logged just now."""
        step, seconds = self._logged_at
        if self.step > step:
            speed = self.recipe.batch_size * (self.step - step) / (self.seconds - seconds)
            self.reporter.show(self.step, *self.window.peek(), self._rate(), speed)

    def _rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def _log(self) -> None:
        loss, error = self.window.read()
        self.training_error = error
        step, seconds = self._logged_at
        self._logged_at = (self.step, self.seconds)
        per_step = (self.seconds - seconds) / max(self.step - step, 1)
        images_per_second = self.recipe.batch_size / per_step
        rate = self._rate()
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
            found = evaluate()
            self.run.log({"step": self.step, "kind": kind, "loss": found.loss, "error": found.error})
            self.reporter.evaluated(self.step, kind, found.error)
            if kind == "validation" and (self.best is None or found.error < self.best["error"]):
                self.best = {"step": self.step, "error": found.error}
                self._save("best")

    def _save(self, kind: str) -> None:
        finite = torch.stack([torch.isfinite(p).all() for p in self.network.parameters()])
        if not bool(finite.all()):  # one question to the device
            raise NonFiniteLossError(
                f"the weights of step {self.step} are not finite: not saved, training stopped"
            )
        keep = self.recipe.keep_checkpoints if kind == "last" else 1
        save_checkpoint(self.run.checkpoints, kind, self.step, self.state(), keep)
        if kind == "last":
            self.saved = self.step

    def state(self) -> dict[str, Any]:
        """Return all that a resume needs; what is random follows from the seed and the step."""
        return {
            "recipe": self.recipe.as_dict(),
            "step": self.step,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "window": self.window.sums,
            "warmup_window": self.warmup_window.sums,
            "warmup_end": self.warmup_end,
            "training_error": self.training_error,
            "best": self.best,
            "seconds": self.seconds,
            "cpu_time": asdict(self.meter.read()),
        }

    def resume(self) -> list[str]:
        """Go back to the run's newest checkpoint that can be read, or to step 0 if there is none.

        Returns:
            A line for each thing that the user should know of: damaged or missing checkpoints.

        Raises:
            CheckpointError: every checkpoint is truncated or corrupted, or the newest that can be read is of
                another network.
            RunError: the recipe is not the one that the checkpoint was trained with.
        """
        folder = self.run.checkpoints
        path, state, faults = load_newest(folder)
        notes = [f"warning: {fault}; going back to {path}" for fault in faults]
        if path is not None:
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
        """Choose the best anew if its weights are gone, so that no figure is paired with others."""
        path = find_checkpoint(self.run.checkpoints, "best")
        if self.best is None or (path is not None and step_of(path) == self.best["step"]):
            return []
        step, self.best = self.best["step"], None
        return [f"the best checkpoint, of step {step}, is gone: the best is chosen among the steps to come"]

    def _restore(self, state: dict[str, Any], source: str) -> None:
        check_weights(self.network, state["network"], source)
        self.network.load_state_dict(state["network"])
        try:
            self.optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise CheckpointError(f"{source} holds another optimiser: {error}") from error
        self.window.sums.copy_(state["window"])
        self.warmup_window.sums.copy_(state["warmup_window"])
        for name in ("step", "warmup_end", "training_error", "best", "seconds"):
            setattr(self, name, state[name])
        self.meter.total = CpuTime(**state.get("cpu_time", {}))  # earlier checkpoints have none
        self.saved = self.step
