"""The training loop: batches and settings in, trained weights out, with nothing lost on the way.

Every random number is a function of (seed, epoch, step): order, augmentation, mixing and dropout are seeded anew at
each step. A resumed run therefore draws what the killed one would have drawn, and no random state has to be saved.
`fit` receives train and val; there is no parameter through which the test split could come in.
"""

from __future__ import annotations

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from eyespot.arrays import Int64Array
from eyespot.config import Config
from eyespot.data.loaders import Batch, Loader
from eyespot.data.transforms import EvalTransform, TrainTransform, mix_batch
from eyespot.device import ComputePlan, is_memory_error
from eyespot.errors import CheckpointError, DivergedError, Interrupted, MemoryLimitError
from eyespot.runs import CHECKPOINTS, RunWriter
from eyespot.seeds import derive_seed
from eyespot.training.checkpoint import (
    Checkpoint,
    best_path,
    drop_best_after,
    latest_checkpoint,
    load_module,
    load_optimizer,
    module_tensors,
    optimizer_state,
    prune,
    read_checkpoint,
    step_path,
    write_checkpoint,
)
from eyespot.training.hardest import HardestPictures
from eyespot.training.optim import UNTIL, build_optimizer
from eyespot.training.schedules import PlateauState, schedule_factor

# On a GPU, looking at the loss waits for it; on a CPU it is free.
_CHECK_EVERY_STEPS = {"cpu": 1}
_CHECK_EVERY_STEPS_ELSEWHERE = 16
_CHANCE_EPOCHS = 3
_IMBALANCE = 3  # times the pictures of the smallest class: what `class_balance = "auto"` puts up with
# Ctrl-C, a cluster's warning, a terminal that was closed, and a batch system's warning.
_STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
# Schedules that do not know when the run ends. Cut short by a time limit they would stop at a high rate, where the
# weights still jump about: the last part of the time is used to bring it down (arXiv:2405.18392).
_OPEN_ENDED = {"constant", "step", "plateau"}
_COOLDOWN_SHARE = 0.3
_LIMIT_SHARE = 0.97  # of a time limit is planned for: checkpoints take some, and a machine may slow down


class Observer(Protocol):
    """What watches a run: the terminal, a test, a notebook."""

    def on_step(self, state: TrainState, *, loss: float | None, top1: float | None) -> None:
        """Called after each step; loss and accuracy of the epoch so far where they are known."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Called with the row that was added to the history."""

    def on_message(self, text: str) -> None:
        """Called with a sentence that the user should read."""


@dataclass
class TrainState:
    """The plain numbers that must survive a kill, beside the tensors.

    Attributes:
        planned_epochs: Epochs that this run will have; fixed before the first step.
        steps_per_epoch: Optimizer steps in each.
        cooldown_epochs: At the end of a run that a time limit cut short: epochs in which the rate falls to zero.
        epoch: Finished epochs.
        step_in_epoch: Steps taken in the epoch under way.
        step: Steps taken in all.
        loss_sum: Sum of the loss over the pictures of this epoch.
        correct: Right answers among them, on augmented pictures.
        seen: Their number.
        seconds: Training time so far, without evaluation.
        epoch_seconds: The part of it in this epoch.
        best: Best monitored value so far, smaller is better.
        best_epoch: Its epoch, counted from 1; 0 before the first.
        plateau: Numbers of the plateau schedule.
        history: Rows of the finished epochs.
        stopped: Why training ended before the planned epochs; empty if it did not.
    """

    planned_epochs: int
    steps_per_epoch: int
    cooldown_epochs: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seen: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    best: float | None = None
    best_epoch: int = 0
    plateau: dict[str, Any] = field(default_factory=lambda: PlateauState().as_dict())
    history: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = ""

    @property
    def total_steps(self) -> int:
        """Return the optimizer steps of the whole run."""
        return self.planned_epochs * self.steps_per_epoch

    @property
    def done(self) -> bool:
        """Return whether no step is left to take."""
        return bool(self.stopped) or self.epoch >= self.planned_epochs


@dataclass(frozen=True)
class TrainData:
    """What the loop may see: train, and val to select on. There is no test.

    Attributes:
        train: Shuffled batches.
        val: Batches in order; None with --final.
        train_transform: Augmentation, then normalisation.
        eval_transform: Normalisation only; the object that is stored with the model.
        num_classes: K.
        class_weights: float32 (K,) on the device, what a picture of each class counts in the loss; None: all the same.
    """

    train: Loader
    val: Loader | None
    train_transform: TrainTransform
    eval_transform: EvalTransform
    num_classes: int
    class_weights: torch.Tensor | None = None

    @property
    def batch_size(self) -> int:
        """Return the pictures of a full step: all of train, where the recipe asks for more than there are."""
        return min(self.train.batch_size, self.train.num_images)


@dataclass(frozen=True)
class FitResult:
    """What training left.

    Attributes:
        model: The network to evaluate and to ship: averaged or best weights where the recipe says so.
        state: Counters and history at the end.
    """

    model: nn.Module
    state: TrainState


def fit(
    model: nn.Module,
    data: TrainData,
    config: Config,
    *,
    plan: ComputePlan,
    writer: RunWriter,
    observer: Observer,
) -> FitResult:
    """Train a model, from the newest checkpoint in the run folder or from the start.

    Args:
        model: On `plan.device`, float32 weights, as initialised for `config.training.seed`.
        data: Loaders and transforms.
        config: The recipe.
        plan: Device and precision.
        writer: The locked run folder.
        observer: Told about steps, epochs and messages.

    Raises:
        DivergedError: The loss is NaN or infinite; the last good checkpoint stays.
        MemoryLimitError: Memory ran out.
        CheckpointError: The run folder's checkpoints are damaged or of another model.
        Interrupted: SIGINT, SIGTERM, SIGHUP or SIGUSR1 came; a checkpoint is written.
    """
    with torch.random.fork_rng(devices=[], enabled=True):
        loop = _Loop(model, data, config, plan, writer, observer)
        with _signals() as received:
            loop.run(received)
        if received:  # during the very last write
            raise Interrupted(received[0])
        return FitResult(loop.final_model(), loop.state)


class _Loop:
    """One run of the loop: the tensors and numbers that a step reads and writes."""

    def __init__(
        self,
        model: nn.Module,
        data: TrainData,
        config: Config,
        plan: ComputePlan,
        writer: RunWriter,
        observer: Observer,
    ) -> None:
        self.model, self.data, self.config, self.plan = model, data, config, plan
        self.writer, self.observer = writer, observer
        self.folder = writer.path / CHECKPOINTS
        self.identity = writer.identity()
        self.optimizer = build_optimizer(model, config.optimizer, batch_size=data.batch_size)
        self.ema = copy.deepcopy(model).requires_grad_(False) if config.training.ema_decay else None
        # At least one, and never more than the loader has: an epoch of the hardest is rounded to whole batches.
        self.steps_per_epoch = max(1, round(config.training.hardest_share * data.train.steps_per_epoch))
        self.hardest = _hardest(data.train, self.steps_per_epoch, config, plan)
        self.check_every = _CHECK_EVERY_STEPS.get(plan.device, _CHECK_EVERY_STEPS_ELSEWHERE)
        # Sums stay on the device until somebody looks: float64, so that adding them up is exact enough to compare runs.
        self.sums = torch.zeros(3, dtype=torch.float64, device="cpu" if plan.device == "mps" else plan.device)
        self.received: list[int] = []
        self.frozen: bool | None = None  # not yet decided
        self.state = self._restore()

    # ---- the loop ----

    def run(self, received: list[int]) -> None:
        """Train until the planned epochs are done or something stops it early."""
        settings = self.config.training
        self.received = received
        last_checkpoint = time.monotonic()
        while not self.state.done:
            started = time.monotonic()
            for batch in self._batches(self.state.epoch, self.state.step_in_epoch):
                self._step(batch)
                now = time.monotonic()
                self.state.seconds += now - started
                self.state.epoch_seconds += now - started
                started = now
                if self.state.step % self.check_every == 0 or received:
                    self._look()
                self._tell()
                if received:
                    self._save()
                    raise Interrupted(received[0])
                if now - last_checkpoint >= settings.checkpoint_minutes * 60:
                    self._save()
                    last_checkpoint = started = time.monotonic()
            self._finish_epoch()
            self._save()
            last_checkpoint = time.monotonic()
            if received:
                raise Interrupted(received[0])

    def _batches(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """Return the batches of an epoch from a step on: all pictures, or the hardest."""
        order = self.hardest.order(epoch) if self.hardest else None
        return self.data.train.batches(epoch, first_step=first_step, order=order)

    def _step(self, batch: Batch) -> None:
        """Take one optimizer step on one batch."""
        config, state = self.config, self.state
        try:
            images, targets = draw_inputs(
                batch, self.data, config, step=state.step, epoch=state.epoch, progress=self._progress()
            )
            self._set_learning_rate()
            self._thaw()
            loss, logits = compute_loss(self.model, images, targets, self.data, config, self.plan, step=state.step)
            descend(self.model, self.optimizer, loss, clip_norm=config.training.clip_norm)
            self._average()
        except (MemoryError, RuntimeError) as error:
            if not is_memory_error(error):
                raise
            half = max(config.training.batch_size // 2, 1)
            raise MemoryLimitError(
                f"no memory left at batch size {config.training.batch_size}",
                remedy=f"try --set training.batch_size={half}",
            ) from error
        logits = logits.detach()
        if self.hardest:
            self.hardest.note(batch.indices, logits, batch.labels)
        correct = (logits.argmax(1) == batch.labels).sum()
        size = len(batch.labels)
        here = self.sums.device  # an Apple GPU has no float64
        loss, correct = loss.detach().to(here), correct.to(here)
        self.sums += torch.stack([loss.double() * size, correct.double(), correct.new_full((), size).double()])
        state.step += 1
        state.step_in_epoch += 1

    def _thaw(self) -> None:
        """Keep a backbone frozen for the first epochs, where the recipe wants it."""
        settings, state = self.config, self.state
        if not settings.training.freeze_epochs:
            return
        frozen = state.step < settings.training.freeze_epochs * state.steps_per_epoch
        if frozen != self.frozen:
            self.frozen = frozen
            mode, until = ("features", "") if frozen else (settings.model.mode, settings.model.freeze_until)
            self.model.freeze(mode, until)  # type: ignore[operator]

    def _progress(self) -> float:
        """Return how much of the run is over at the step that is being taken; after an epoch that is its last one."""
        state = self.state
        return (state.step - (state.step_in_epoch == state.steps_per_epoch)) / state.total_steps

    def _set_learning_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(group, self.state.step)
            if UNTIL in group:
                # What stands still needs no gradient: those of the stem are 6 % of a step of `spot`.
                for parameter in group["params"]:
                    parameter.requires_grad_(group["lr"] > 0)

    def _learning_rate(self, group: Mapping[str, Any], step: int) -> float:
        """Return a parameter group's rate for a step, which follows from the plan and not from what was set before."""
        state = self.state
        peak: float = group["peak_lr"]
        if UNTIL in group:
            until: float = group[UNTIL]
            return peak * max(0.0, 1 - step / max(until * state.total_steps, 1))
        factor = schedule_factor(
            step, total_steps=state.total_steps, steps_per_epoch=state.steps_per_epoch, settings=self.config.schedule
        )
        factor *= float(state.plateau["factor"])
        if state.cooldown_epochs:
            factor *= min(1.0, (state.total_steps - step) / (state.cooldown_epochs * state.steps_per_epoch))
        return peak * factor

    @torch.no_grad()
    def _average(self) -> None:
        """Move the averaged weights towards the current ones."""
        if self.ema is None:
            return
        # A long average would remember the random start: the decay grows with the steps, as in TensorFlow's EMA.
        decay = min(self.config.training.ema_decay, (1 + self.state.step) / (10 + self.state.step))
        for average, current in zip(self.ema.parameters(), self.model.parameters(), strict=True):
            average.lerp_(current, 1 - decay)
        for kept, buffer in zip(self.ema.buffers(), self.model.buffers(), strict=True):
            kept.copy_(buffer)

    def _look(self) -> None:
        """Bring the sums to the CPU and stop at NaN or Inf.

        Raises:
            DivergedError: The loss of a step since the last look was NaN or infinite.
        """
        loss_sum, correct, seen = self.sums.tolist()
        if not math.isfinite(loss_sum):
            # The step that was taken last is the first whose loss can show what the steps before it did.
            raise self._diverged("loss", self.state.step - self.check_every)
        self.state.loss_sum, self.state.correct, self.state.seen = loss_sum, int(correct), int(seen)

    def _diverged(self, what: str, good: int) -> DivergedError:
        """Return the error for a loss that is no number, with the checkpoint that a later finite loss speaks for.

        Args:
            what: Which loss.
            good: The step after which the weights may be spoilt.
        """
        kept = [
            path for path in sorted(self.folder.glob("step-*.ckpt")) if path.name < step_path(self.folder, good).name
        ]
        rate = self._learning_rate(self.optimizer.param_groups[0], max(self.state.step - 1, 0))
        return DivergedError(
            f"the {what} is NaN or infinite at learning rate {rate:.3g}",
            where=f"step {self.state.step} (epoch {self.state.epoch + 1})",
            remedy=f"lower optimizer.lr (try {self.config.optimizer.peak_lr / 10:.1g}) or set training.clip_norm=1; "
            f"the last good checkpoint is {kept[-1].name if kept else 'the start'}",
        )

    def _tell(self) -> None:
        state = self.state
        known = state.seen > 0
        self.observer.on_step(
            state,
            loss=state.loss_sum / state.seen if known else None,
            top1=state.correct / state.seen if known else None,
        )

    # ---- the end of an epoch ----

    def _finish_epoch(self) -> None:
        """Evaluate on val, write the history row, and decide whether to go on."""
        self._look()
        state = self.state
        row: dict[str, Any] = {
            "epoch": state.epoch + 1,
            "step": state.step,
            "seconds": round(state.seconds, 3),
            # Of the last step: after a resume at the very end of an epoch nobody has set it.
            "lr": self._learning_rate(self.optimizer.param_groups[0], state.step - 1),
            "train/loss": state.loss_sum / state.seen,
            "train/top1": state.correct / state.seen,
            "images_per_second": round(state.seen / max(state.epoch_seconds, 1e-9), 1),
        }
        if self.data.val is not None:
            row["val/loss"], row["val/top1"] = self._evaluate(self.data.val)
            if not math.isfinite(row["val/loss"]):
                raise self._diverged("loss on val", state.step)
            self._judge(row)
        state.history.append(row)
        state.epoch += 1
        state.step_in_epoch = 0
        state.loss_sum, state.correct, state.seen, state.epoch_seconds = 0.0, 0, 0, 0.0
        self.sums.zero_()
        if self.hardest:
            self.hardest.end_epoch()
        self._keep_to_minutes()
        self._warn_at_chance()
        self.writer.add_epoch(row)
        self.observer.on_epoch(row)

    @torch.no_grad()
    def _evaluate(self, loader: Loader) -> tuple[float, float]:
        """Return mean loss (nats, no smoothing) and accuracy over a split, every image once."""
        model = self.ema or self.model
        model.eval()
        loss_sum, correct, seen = 0.0, 0, 0
        for batch in loader.batches(0):
            with self.plan.autocast():
                # In a progressive run val is seen at the size of the epoch's last step.
                images = self.data.eval_transform(batch.images)
                logits = model(_resize(images, self.config.training.size_schedule, self._progress()))
            logits = logits.float()
            loss_sum += F.cross_entropy(logits, batch.labels, reduction="sum").cpu().double().item()
            correct += int((logits.argmax(1) == batch.labels).sum())
            seen += len(batch.labels)
            if self.received:
                # The last step of the epoch is taken: resumed, the epoch ends with this measurement.
                self._save()
                raise Interrupted(self.received[0])
        return loss_sum / seen, correct / seen

    def _judge(self, row: dict[str, Any]) -> None:
        """Keep the best weights, cut the rate on a plateau, stop when val has not improved for long."""
        settings, state = self.config.training, self.state
        value = row[settings.monitor] if settings.monitor == "val/loss" else -row[settings.monitor]
        if state.best is None or value < state.best:
            state.best, state.best_epoch = value, row["epoch"]
            if settings.restore_best:
                weights = module_tensors("model", self.ema or self.model)
                best = Checkpoint(weights, {"run": self.identity, "epoch": row["epoch"]})
                write_checkpoint(best_path(self.folder, row["epoch"]), best)
        elif settings.early_stopping_epochs and row["epoch"] - state.best_epoch >= settings.early_stopping_epochs:
            state.stopped = f"early stop: {settings.monitor} was best at epoch {state.best_epoch}"
            self.observer.on_message(state.stopped)
        if self.config.schedule.name == "plateau":
            plateau = PlateauState(**state.plateau)
            if plateau.update(value, self.config.schedule, peak_lr=self.config.optimizer.peak_lr):
                self.observer.on_message(f"plateau: learning rate x {plateau.factor:.3g} from epoch {row['epoch'] + 1}")
            state.plateau = plateau.as_dict()

    def _keep_to_minutes(self) -> None:
        """Plan the rest of a run with a time limit after each epoch, and stop where another epoch would pass it."""
        limit, state = self.config.training.minutes * 60, self.state
        if not limit or state.stopped:
            return
        as_planned = state.done
        if not as_planned:
            cooling = state.cooldown_epochs and state.epoch > state.planned_epochs - state.cooldown_epochs
            if self.config.schedule.name in _OPEN_ENDED and not cooling:
                # The machine may have become faster or slower: until the rate comes down nothing depends on the plan.
                self._plan_cooldown(max(state.epoch, math.floor(limit * _LIMIT_SHARE / state.seconds * state.epoch)))
            else:
                self._shorten(limit)
        if state.done and state.epoch < self.config.training.epochs:
            state.stopped = f"time limit: {self.config.training.minutes:.3g} minutes"
            if not as_planned:
                self.observer.on_message(f"{state.stopped} reached after epoch {state.epoch}")

    def _shorten(self, limit: float) -> None:
        """Plan as many epochs as fit into the limit at the pace so far, where those planned do not.

        The schedule then ends with them: a run that is stopped before its end is stopped at a high learning rate.
        """
        state, planned = self.state, self.state.planned_epochs
        pace = state.seconds / (state.epoch * self._mean_area(0.0, state.epoch / planned))

        def end(epochs: int) -> float:
            rest = epochs - state.epoch
            return state.seconds + (pace * rest * self._mean_area(state.epoch / epochs, 1.0) if rest else 0.0)

        if end(planned) <= limit:
            return
        fits = range(state.epoch + 1, planned)
        state.planned_epochs = max((epochs for epochs in fits if end(epochs) <= limit), default=state.epoch)
        if state.planned_epochs > state.epoch:
            self.observer.on_message(
                f"slower than planned: {state.planned_epochs} of {planned} epochs fit into "
                f"{self.config.training.minutes:.3g} minutes"
            )

    def _plan_cooldown(self, fits: int) -> None:
        """Let the last part of the epochs that fit bring the learning rate down, if not all of the recipe's fit."""
        state = self.state
        if fits >= self.config.training.epochs:
            state.planned_epochs, state.cooldown_epochs = self.config.training.epochs, 0
            return
        state.planned_epochs = fits
        state.cooldown_epochs = min(max(1, round(_COOLDOWN_SHARE * fits)), fits - state.epoch)
        if 0 < state.cooldown_epochs == fits - state.epoch:
            self.observer.on_message(
                f"time limit: the learning rate goes down to zero in the last {state.cooldown_epochs} of {fits} epochs"
            )

    def _warn_at_chance(self) -> None:
        """Say it in plain words when the network has learned nothing for a while."""
        state = self.state
        # Of the hardest pictures fewer are right than of all.
        split, loader = ("val", self.data.val) if self.hardest else ("train", self.data.train)
        if state.epoch != _CHANCE_EPOCHS or loader is None:
            return
        chance = 1 / self.data.num_classes
        noise = 3 * math.sqrt(chance * (1 - chance) / loader.num_images)
        if all(row[f"{split}/top1"] < chance + noise for row in state.history):
            self.observer.on_message(
                f"still at chance level: {state.history[-1][f'{split}/top1']:.1%} on {split} after {state.epoch} "
                f"epochs, guessing gives {chance:.1%}. Likely causes: learning rate too high or too low "
                f"(optimizer.lr = {self.config.optimizer.peak_lr:g}), labels that do not belong to the pictures, or a "
                "network too deep to start."
            )

    # ---- checkpoints ----

    def _save(self) -> None:
        """Write a checkpoint of a state that was looked at."""
        self._look()
        tensors = module_tensors("model", self.model)
        if self.ema is not None:
            tensors |= module_tensors("ema", self.ema)
        if self.hardest:
            tensors |= self.hardest.tensors()
        slots, numbers = optimizer_state(self.optimizer)
        state = {
            "run": self.identity,
            "train": asdict(self.state),
            "optimizer": numbers,
            "threads": torch.get_num_threads(),
        }
        write_checkpoint(step_path(self.folder, self.state.step), Checkpoint(tensors | slots, state))
        prune(self.folder)

    def _restore(self) -> TrainState:
        """Return the state of the newest whole checkpoint, with its tensors put in place, or a fresh one."""
        checkpoint, complaints = latest_checkpoint(self.folder)
        for complaint in complaints:
            self.observer.on_message(f"passed over a checkpoint: {complaint}")
        steps = self.steps_per_epoch
        if checkpoint is None:
            self.writer.restore_history([])  # of an epoch that ended without its checkpoint
            return TrainState(planned_epochs=self._planned_epochs(), steps_per_epoch=steps)
        if checkpoint.state.get("run") != self.identity:
            raise CheckpointError(
                "the checkpoint is of another run, or config.toml or split.json were changed since",
                where=self.folder,
                remedy="put the files of the run back, or train again; a resumed run keeps its settings",
            )
        try:
            state = TrainState(**checkpoint.state["train"])
        except (KeyError, TypeError) as error:
            raise CheckpointError("written by another version", where=self.folder, remedy="train again") from error
        if state.steps_per_epoch != steps:
            raise CheckpointError(
                f"the checkpoint has {state.steps_per_epoch} steps an epoch, these data and settings have {steps}",
                where=self.folder,
                remedy="resume with the data and recipe the run was started with",
            )
        drop_best_after(self.folder, state.best_epoch)
        load_module("model", self.model, checkpoint)
        if self.ema is not None:
            load_module("ema", self.ema, checkpoint)
        if self.hardest:
            self.hardest.load(checkpoint.tensors)
        load_optimizer(self.optimizer, checkpoint, checkpoint.state["optimizer"])
        self.sums.copy_(torch.tensor([state.loss_sum, state.correct, state.seen], dtype=torch.float64))
        self.writer.restore_history(state.history)
        if checkpoint.state.get("threads") != torch.get_num_threads():
            self.observer.on_message("resumed with another number of threads: the result can differ in the last bits")
        if state.done:
            self.observer.on_message("training was complete; measuring again")
        else:
            self.observer.on_message(
                f"resumed after step {state.step} (epoch {state.epoch + 1} of {state.planned_epochs})"
            )
        return state

    def _planned_epochs(self) -> int:
        """Return how many epochs to train: those of the recipe, or what fits into the time limit."""
        settings = self.config.training
        if not settings.minutes or self.config.schedule.name in _OPEN_ENDED:
            return settings.epochs
        seconds = self._measure_epoch()
        fits = max(1, math.floor(settings.minutes * 60 * _LIMIT_SHARE / seconds))
        if fits < settings.epochs:
            self.observer.on_message(
                f"{settings.minutes:.3g} minutes are enough for {fits} of {settings.epochs} epochs "
                f"({seconds:.1f} s each)"
            )
        return min(fits, settings.epochs)

    def _measure_epoch(self) -> float:
        """Return the seconds that a full-size epoch takes, measured on copies that are thrown away."""
        real = (self.model, self.optimizer, self.ema, self.hardest)
        self.model = copy.deepcopy(self.model)
        self.optimizer = build_optimizer(self.model, self.config.optimizer, batch_size=self.data.batch_size)
        self.ema = self.hardest = None
        # A frozen backbone's steps are the cheaper ones: those after it are measured.
        first = round(self.config.training.freeze_epochs * self.steps_per_epoch)
        self.state = TrainState(planned_epochs=10**9, steps_per_epoch=self.steps_per_epoch, step=first)
        times = []
        begun = time.monotonic()
        for batch in self._batches(0, 0):
            started = time.monotonic()
            self._step(batch)
            self.sums.tolist()  # waits for a GPU
            times.append(time.monotonic() - started)
            if len(times) >= 50 or (len(times) >= 4 and time.monotonic() - begun > 5):
                break
        self.model, self.optimizer, self.ema, self.hardest = real
        self.frozen = None  # it was said of the copy
        self.sums.zero_()
        # The first steps choose kernels and fault pages in.
        settled = sorted(times[2:] or times)
        return settled[len(settled) // 2] * self.steps_per_epoch * self._relative_cost()

    def _relative_cost(self) -> float:
        """Return the mean cost of a step under progressive sizes, as a share of a measured, first, step."""
        return self._mean_area(0.0, 1.0) / self._mean_area(0.0, 0.0)

    def _mean_area(self, start: float, end: float) -> float:
        """Return the mean area of the pictures between two shares of the run, as a share of the full one."""
        full = self.data.eval_transform.spec.input_px  # what the network sees; a backbone's own size
        entries = [(0.0, full), *self.config.training.size_schedule, (1.0, full)]
        found = 0.0
        for (first, size), (last, _) in pairwise(entries):
            area = (min(size, full) / full) ** 2
            if start == end and first <= start < last:
                return area
            found += area * max(0.0, min(last, end) - max(first, start))
        return found / (end - start)

    def final_model(self) -> nn.Module:
        """Return the network that the recipe asks for at the end: best, averaged or last weights, in eval mode."""
        model, state = self.ema or self.model, self.state
        if self.config.training.restore_best and state.best_epoch:
            try:
                checkpoint = read_checkpoint(best_path(self.folder, state.best_epoch))
                if checkpoint.state.get("run") != self.identity:
                    raise CheckpointError("of another run", where=best_path(self.folder, state.best_epoch))
                load_module("model", model, checkpoint)
            except CheckpointError as error:
                # Of an epoch that no step checkpoint leads back to: what is left is better than nothing, and said.
                self.observer.on_message(
                    f"the weights of the best epoch, {state.best_epoch}, are lost ({error.what}): "
                    f"those of the last one, {state.epoch}, are taken instead"
                )
                state.best_epoch = state.epoch
        return model.eval()


def _hardest(train: Loader, steps: int, config: Config, plan: ComputePlan) -> HardestPictures | None:
    """Return what chooses each epoch's pictures; None where it shows them all."""
    if config.training.hardest_share == 1:
        return None
    return HardestPictures(
        train.num_images, steps, batch_size=train.batch_size, seed=config.training.seed, device=plan.device
    )


def draw_inputs(
    batch: Batch, data: TrainData, config: Config, *, step: int, epoch: int, progress: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the network sees of a batch at a training step: augmented, normalised, resized and mixed.

    Args:
        batch: From the training loader.
        data: For its augmentation and number of classes.
        config: The recipe.
        step: Steps taken before; with the seed it decides augmentation and mixing.
        epoch: Finished epochs, for augmentation that alternates.
        progress: Share of the run that is over, in [0, 1], for progressive sizes.

    Returns:
        Images float32 (B, C, S, S), and targets float32 (B, K), each row with the sum 1.
    """
    settings = config.training
    # On the CPU: the same draws on every device, and a GPU need not be waited for.
    generator = torch.Generator()
    generator.manual_seed(derive_seed(settings.seed, "augment", step))
    images = data.train_transform(batch.images, batch.labels, generator=generator, epoch=epoch, indices=batch.indices)
    images = _resize(images, settings.size_schedule, progress)
    targets = F.one_hot(batch.labels, data.num_classes).to(images.dtype)  # (B, K)
    if settings.mixup_alpha or settings.cutmix_alpha:
        images, targets = mix_batch(
            images,
            targets,
            mixup_alpha=settings.mixup_alpha,
            cutmix_alpha=settings.cutmix_alpha,
            generator=generator,
        )
    return images, targets


def compute_loss(
    model: nn.Module,
    images: torch.Tensor,
    targets: torch.Tensor,
    data: TrainData,
    config: Config,
    plan: ComputePlan,
    *,
    step: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the loss of a training step, float32 (), and its logits, float32 (B, K).

    Args:
        model: Put into training mode.
        images: float32 (B, C, S, S).
        targets: float32 (B, K).
        data: For the weights of the classes.
        config: The recipe.
        plan: Device and precision.
        step: Steps taken before; with the seed it decides the dropout.
    """
    # Dropout and everything else that asks torch for randomness: a function of (seed, step).
    _seed_torch(derive_seed(config.training.seed, "dropout", step), plan.device)
    model.train()
    with plan.autocast():
        logits = model(images)  # (B, K)
    logits = logits.float()
    smoothing = config.training.label_smoothing
    if data.class_weights is None:
        return F.cross_entropy(logits, targets, label_smoothing=smoothing), logits
    # torch would weigh each class's share of a smoothed target: a rare class then has the most of every picture's.
    weighted = targets * data.class_weights
    spread = smoothing / targets.shape[1] * weighted.sum(1, keepdim=True)
    return F.cross_entropy(logits, (1 - smoothing) * weighted + spread), logits


def descend(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, *, clip_norm: float) -> None:
    """Take an optimizer step down the gradient of a loss; a `clip_norm` of 0 clips nothing."""
    loss.backward()  # type: ignore[no-untyped-call]
    if clip_norm:
        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _resize(images: torch.Tensor, size_schedule: Sequence[tuple[float, int]], progress: float) -> torch.Tensor:
    """Return the images at the side that progressive training asks for at a share of the run."""
    side = images.shape[-1]
    for share, size in size_schedule:
        if progress >= share:
            side = size
    if side >= images.shape[-1]:
        return images
    smaller = F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return smaller.contiguous(memory_format=torch.channels_last)


def _seed_torch(seed: int, device: str) -> None:
    """Seed the generators that a model on a device draws from.

    Not `torch.manual_seed`: for every kind of accelerator that is not in use it keeps a formatted stack trace, a
    millisecond a step (profile of 300 steps of `dll2018`, of 14 ms each).
    """
    torch.default_generator.manual_seed(seed)
    kind = device.split(":")[0]
    if kind == "cuda":
        torch.cuda.manual_seed_all(seed)  # the other one seeds the current GPU, which may not be this
    elif kind == "mps":
        torch.mps.manual_seed(seed)


@contextmanager
def stop_signals() -> Iterator[Callable[[], None]]:
    """Collect the signals that ask for an orderly stop, for work outside of the loop.

    Yields:
        A function that raises Interrupted once such a signal has come.
    """
    with _signals() as received:

        def check() -> None:
            if received:
                raise Interrupted(received[0])

        yield check
        check()  # one that came after the work had looked the last time


def is_balanced(config: Config, labels: Int64Array) -> bool:
    """Return whether the pictures of rare classes count more in the loss.

    Args:
        config: The recipe.
        labels: int64 (N,), of train.
    """
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    wanted = config.training.class_balance
    return wanted == "loss" or (wanted == "auto" and counts.max() > _IMBALANCE * counts.min())


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect the signals that ask for an orderly stop; a second Ctrl-C stops at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals can only be caught in the main thread
        return

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    # Windows has two of them. What is ignored stays so: under `nohup`, or in the background of a script.
    numbers = [getattr(signal, name) for name in _STOP_SIGNALS if hasattr(signal, name)]
    numbers = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
