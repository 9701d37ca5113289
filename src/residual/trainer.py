"""Training: one step, the loop around it, and what is saved so that a resume goes on as if never stopped."""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn, cast

import torch
from torch import nn

from .captured import CaptureError, DeviceSteps, can_capture
from .checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from .data import TrainBatches
from .device import synchronize
from .errors import CheckpointError, InterruptedRunError, NonFiniteLossError, RunError
from .evaluation import Evaluation
from .metrics import Window
from .model_folder import check_weights
from .optim import Guard, learning_rate, make_optimizer
from .progress import Reporter
from .recipe import Recipe, differences, from_dict
from .run import Run
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
        evaluations: what gives a figure every `recipe.evaluate_every` steps, under "holdout" (whose best
            step is kept too) or "test".
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
        self.captured = recipe.capture and can_capture(self.device)
        self.forward: nn.Module = network
        if recipe.compile:
            self.forward = cast(nn.Module, torch.compile(network))
        self._device_steps: DeviceSteps | None = None
        self._logged_at = (0, 0.0)
        self._signal: int | None = None

    def fit(self) -> None:
        """Take the steps that are left, then save.

        Raises:
            NonFiniteLossError: a loss was not finite; the last checkpoint stays.
            InterruptedRunError: SIGTERM or SIGINT came; the step was finished and saved.
        """
        self.network.train()
        self._logged_at = (self.step, self.seconds)
        self.reporter.start(self.step, self.recipe.last_step)
        with self._signals():
            while self.step < self.recipe.last_step:
                started = time.perf_counter()
                self.train_one()
                if self._due():
                    self._wait()
                self.seconds += time.perf_counter() - started
                self._after_step()
                if self._signal is not None:
                    self._stop()

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
        return self._signal is not None or any(map(self._every, self._periods()))

    def _periods(self) -> list[int]:
        recipe = self.recipe
        periods = [recipe.log_every, recipe.checkpoint_every]
        periods += [recipe.evaluate_every] if self.evaluations else []
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
        if self._every(recipe.log_every):
            self._log()
        if self._every(recipe.evaluate_every):
            self._evaluate()
        if self._every(recipe.checkpoint_every):
            self._save("last")

    def _stop(self) -> NoReturn:
        """Save, unless this step was saved already, and leave."""
        assert self._signal is not None
        if not self._every(self.recipe.checkpoint_every):
            self._wait()
            self._save("last")
        name = signal.Signals(self._signal).name
        hint = f"'residual train --resume {self.run.path}' goes on"
        raise InterruptedRunError(f"{name} at step {self.step}: saved; {hint}", self._signal)

    def _log(self) -> None:
        loss, error = self.window.read()
        self.training_error = error
        step, seconds = self._logged_at
        self._logged_at = (self.step, self.seconds)
        per_step = (self.seconds - seconds) / max(self.step - step, 1)
        images_per_second = self.recipe.batch_size / per_step
        rate = float(self.optimizer.param_groups[0]["lr"])
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
        self.reporter.trained(self.step, loss, error, images_per_second, left)

    def _evaluate(self) -> None:
        for kind, evaluate in self.evaluations.items():
            found = evaluate()
            self.run.log({"step": self.step, "kind": kind, "loss": found.loss, "error": found.error})
            self.reporter.evaluated(self.step, kind, found.error)
            if kind == "holdout" and (self.best is None or found.error < self.best["error"]):
                self.best = {"step": self.step, "error": found.error}
                self._save("best")

    def _save(self, kind: str) -> None:
        finite = torch.stack([torch.isfinite(p).all() for p in self.network.parameters()])
        if not bool(finite.all()):  # one question to the device
            raise NonFiniteLossError(
                f"the weights of step {self.step} are not finite: not saved, training stopped"
            )
        save_checkpoint(self.run.checkpoints, kind, self.step, self.state())

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
        }

    def resume(self) -> None:
        """Go back to the run's last checkpoint, or to step 0 if there is none.

        Raises:
            CheckpointError: the checkpoint is cut, altered or of another network.
            RunError: the recipe is not the one that the checkpoint was trained with.
        """
        path = find_checkpoint(self.run.checkpoints)
        if path is not None:
            state = load_checkpoint(path)
            changed = differences(from_dict(state["recipe"]), self.recipe)
            if changed:
                raise RunError(f"{self.run.path} was begun with another recipe: {'; '.join(changed)}")
            self._restore(state, str(path))
        self.run.forget_after(self.step)

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

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Let SIGTERM and SIGINT wait until the step is finished; a second one acts at once."""

        def remember(number: int, _: Any) -> None:
            self._signal = number
            signal.signal(number, before[number])

        before: dict[int, Any] = {}
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                before[number] = signal.signal(number, remember)
        except ValueError:  # not in the main thread: signals stay as they are
            pass
        try:
            yield
        finally:
            for restored, handler in before.items():
                signal.signal(restored, handler)
