"""Training: one step, the loop around it, and what is saved so that a resume goes on as if never stopped."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from .data import TrainBatches
from .device import autocast, synchronize
from .errors import CheckpointError, InterruptedRunError, NonFiniteLossError, RunError
from .evaluation import Evaluation
from .metrics import Window
from .model_folder import load_weights
from .optim import Guard, learning_rate, make_optimizer
from .progress import Reporter
from .recipe import Recipe, differences, from_dict
from .run import Run


def train_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    guard: Guard,
    batch: tuple[Tensor, Tensor],
    step: int,
    precision: str = "float32",
) -> tuple[Tensor, Tensor]:
    """Take one step; the guard keeps a loss that is not finite away from the weights.

    Returns:
        The mean cross-entropy, a scalar, and the scores [B, classes], both on the device.
    """
    images, labels = batch
    with autocast(images.device, precision):
        logits = network(images)
    loss = F.cross_entropy(logits.float(), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    guard.watch(loss.detach(), step)
    optimizer.step()
    optimizer.zero_grad()
    return loss.detach(), logits.detach()


class Trainer:
    """A run in progress.

    Args:
        recipe: what to train and how; `recipe.last_step` steps are taken.
        network: on the device already.
        batches: where step k's batch comes from.
        run: where metrics and checkpoints go.
        reporter: what is told meanwhile.
        evaluate: gives a figure for the curve every `recipe.evaluate_every` steps, None for none.
        curve: what `evaluate` measures, "test" or "holdout"; a hold-out's best step is kept too.
    """

    def __init__(
        self,
        recipe: Recipe,
        network: nn.Module,
        batches: TrainBatches,
        run: Run,
        reporter: Reporter,
        evaluate: Callable[[], Evaluation] | None = None,
        curve: str = "test",
    ) -> None:
        self.recipe, self.network, self.batches = recipe, network, batches
        self.run, self.reporter, self.evaluate, self.curve = run, reporter, evaluate, curve
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
                self._train_one()
                due = self._due()
                if due:
                    synchronize(self.device)
                self.seconds += time.perf_counter() - started
                self._act(due)
                if self._signal is not None:
                    name = signal.Signals(self._signal).name
                    hint = f"'residual train --resume {self.run.path}' goes on"
                    raise InterruptedRunError(f"{name} at step {self.step}: saved; {hint}", self._signal)

    def _train_one(self) -> None:
        rate = learning_rate(self.recipe, self.step, self.warmup_end)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        batch = self.batches[self.step]
        if not self.recipe.channels_last:
            batch = (batch[0].contiguous(), batch[1])
        loss, logits = train_step(
            self.network, self.optimizer, self.guard, batch, self.step, self.recipe.precision
        )
        self.window.add(loss, logits, batch[1])
        if self._warming_up:
            self.warmup_window.add(loss, logits, batch[1])
        self.step += 1
        if self.device.type == "cpu":  # elsewhere a look at the flag would wait for the device
            self.guard.check()
        self.reporter.advance(self.step)

    @property
    def _warming_up(self) -> bool:
        return bool(self.recipe.schedule.warmup_learning_rate) and self.warmup_end is None

    def _due(self) -> set[str]:
        """Name what is to be done after the step just taken."""
        recipe, last = self.recipe, self.step == self.recipe.last_step
        periods = {
            "log": recipe.log_every,
            "save": recipe.checkpoint_every,
            **({"evaluate": recipe.evaluate_every} if self.evaluate else {}),
        }
        due = {action for action, period in periods.items() if last or self.step % period == 0}
        if self._warming_up and self.step % recipe.schedule.warmup_window == 0:
            due.add("warmup")
        return due | ({"save"} if self._signal is not None else set())

    def _act(self, due: set[str]) -> None:
        if due:
            self.guard.check()
        if "warmup" in due and self.warmup_window.read()[1] < self.recipe.schedule.warmup_error:
            self.warmup_end = self.step
        if "log" in due:
            self._log()
        if "evaluate" in due:
            self._evaluate()
        if "save" in due:
            self._save("last")

    def _log(self) -> None:
        loss, error = self.window.read()
        self.training_error = error
        step, seconds = self._logged_at
        self._logged_at = (self.step, self.seconds)
        per_step = (self.seconds - seconds) / max(self.step - step, 1)
        images_per_second = self.recipe.batch_size / per_step
        rate = self.optimizer.param_groups[0]["lr"]
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
        assert self.evaluate is not None
        found = self.evaluate()
        self.run.log({"step": self.step, "kind": self.curve, "loss": found.loss, "error": found.error})
        self.reporter.evaluated(self.step, self.curve, found.error)
        if self.curve == "holdout" and (self.best is None or found.error < self.best["error"]):
            self.best = {"step": self.step, "error": found.error}
            self._save("best")

    def _save(self, kind: str) -> None:
        if not all(bool(torch.isfinite(p).all()) for p in self.network.parameters()):
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
        load_weights(self.network, state["network"], source)
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
