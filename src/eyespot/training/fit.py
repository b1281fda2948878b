"""The training loop: batches and settings in, trained weights out, with nothing lost on the way.

Every random number is a function of (seed, epoch, step): order, augmentation, mixing and dropout are seeded anew at
each step. A resumed run therefore draws what the killed one would have drawn, and no random state has to be saved.
`fit` receives train and val; there is no parameter through which the test split could come in.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from eyespot.config import Config
from eyespot.data.loaders import Batch, Loader
from eyespot.device import ComputePlan, is_memory_error, random_numbers_kept
from eyespot.errors import CheckpointError, DivergedError, Interrupted, MemoryLimitError
from eyespot.evaluation.metrics import wilson_interval
from eyespot.runs import CHECKPOINTS, RunWriter
from eyespot.training.checkpoint import (
    Checkpoint,
    best_path,
    drop_after,
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
from eyespot.training.step import TrainData, compute_loss, descend, draw_inputs, resize_images
from eyespot.training.stopping import collect_signals
from eyespot.training.time_limit import TimeLimit, cooldown_epochs

# On a GPU, looking at the loss waits for it; on a CPU it is free.
_CHECK_EVERY_STEPS = {"cpu": 1}
_CHECK_EVERY_STEPS_ELSEWHERE = 16
_CHANCE_EPOCHS = 3
# Schedules that do not know when the run ends: cut short by a time limit they would stop at a high rate, where the
# weights still jump about.
_OPEN_ENDED = {"constant", "step", "plateau"}


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
    with random_numbers_kept(plan):
        loop = _Loop(model, data, config, plan, writer, observer)
        with collect_signals() as received:
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
        is_mps = plan.device.split(":")[0] == "mps"  # which has no float64
        # Sums stay on the device until somebody looks: float64, so that adding them up is exact enough to compare runs.
        self.sums = torch.zeros(3, dtype=torch.float64, device="cpu" if is_mps else plan.device)
        self.limit = TimeLimit(
            config.training.minutes * 60,
            sizes=config.training.size_schedule,
            full_px=data.eval_transform.spec.input_px,  # what the network sees; a backbone's own size
        )
        self.received: list[int] = []
        self.frozen: bool | None = None  # not yet decided
        self.state = self._restore()
        self.looked_at = self.state.step  # what was restored is known

    # ---- the loop ----

    def run(self, received: list[int]) -> None:
        """Train until the planned epochs are done or something stops it early."""
        settings = self.config.training
        self.received = received
        last_checkpoint = time.perf_counter()
        while not self.state.done:
            started = time.perf_counter()
            for batch in self._batches(self.state.epoch, self.state.step_in_epoch):
                self._step(batch)
                state = self.state
                is_due = time.perf_counter() - last_checkpoint >= settings.checkpoint_minutes * 60
                is_last = state.step_in_epoch == state.steps_per_epoch
                if state.step % self.check_every == 0 or is_last or is_due or received:
                    self._look()  # before the clock is read: its wait for a GPU is the time of the steps
                now = time.perf_counter()
                state.seconds += now - started
                state.epoch_seconds += now - started
                started = now
                self._tell()
                if received:
                    self._save()
                    raise Interrupted(received[0])
                if is_due:
                    self._save()
                    last_checkpoint = started = time.perf_counter()
            self._finish_epoch()
            self._save()
            last_checkpoint = time.perf_counter()
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
        """Bring the sums to the CPU and stop at NaN or Inf; once for each step, since it waits for a GPU.

        Raises:
            DivergedError: The loss of a step since the last look was NaN or infinite.
        """
        if self.looked_at == self.state.step:
            return
        loss_sum, correct, seen = self.sums.tolist()
        if not math.isfinite(loss_sum):
            # The step that was taken last is the first whose loss can show what the steps before it did.
            raise self._diverged("loss", self.state.step - self.check_every)
        self.state.loss_sum, self.state.correct, self.state.seen = loss_sum, int(correct), int(seen)
        self.looked_at = self.state.step

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
            try:
                with self.plan.autocast():
                    # In a progressive run val is seen at the size of the epoch's last step.
                    images = self.data.eval_transform(batch.images)
                    logits = model(resize_images(images, self.config.training.size_schedule, self._progress())).float()
            except (MemoryError, RuntimeError) as error:
                if not is_memory_error(error):
                    raise
                half = max(len(batch.labels) // 2, 1)
                raise MemoryLimitError(
                    f"no memory left for {len(batch.labels)} val pictures at once",
                    remedy=f"close other programs and --resume, or begin again with --set evaluation.batch_size={half}",
                ) from error
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
        state = self.state
        if not self.limit.seconds or state.stopped:
            return
        as_planned = state.done
        if not as_planned:
            cooling = state.cooldown_epochs and state.epoch > state.planned_epochs - state.cooldown_epochs
            if self.config.schedule.name in _OPEN_ENDED and not cooling:
                # The machine may have become faster or slower: until the rate comes down nothing depends on the plan.
                self._plan_cooldown(self.limit.epochs_at_pace(state.epoch, state.seconds))
            else:
                self._shorten()
        if state.done and state.epoch < self.config.training.epochs:
            state.stopped = f"time limit: {self.config.training.minutes:.3g} minutes"
            if not as_planned:
                self.observer.on_message(f"{state.stopped} reached after epoch {state.epoch}")

    def _shorten(self) -> None:
        """Plan as many epochs as fit into the limit at the pace so far, where those planned do not.

        The schedule then ends with them: a run that is stopped before its end is stopped at a high learning rate.
        """
        state, planned = self.state, self.state.planned_epochs
        state.planned_epochs = self.limit.shortened(planned, epoch=state.epoch, seconds=state.seconds)
        if state.epoch < state.planned_epochs < planned:
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
        state.planned_epochs, state.cooldown_epochs = fits, cooldown_epochs(fits, epoch=state.epoch)
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
        chance, n = 1 / self.data.num_classes, loader.num_images
        shares = [row[f"{split}/top1"] for row in state.history]
        bounds = [wilson_interval(round(share * n), n) for share in shares]
        if all(low <= chance for low, _ in bounds):
            low, high = bounds[-1]
            self.observer.on_message(
                f"still at chance level: {100 * shares[-1]:.1f} % [{100 * low:.1f}, {100 * high:.1f}] on {split} "
                f"(n = {n:,}) after {state.epoch} epochs, guessing gives {100 * chance:.1f} %. "
                "Likely causes: learning rate too high or too low "
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
        drop_after(self.folder, step=state.step, epoch=state.best_epoch)
        load_module("model", self.model, checkpoint, self.folder)
        if self.ema is not None:
            load_module("ema", self.ema, checkpoint, self.folder)
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
        fits = max(1, self.limit.epochs_at_pace(1, seconds))
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
        begun = time.perf_counter()
        for batch in self._batches(0, 0):
            started = time.perf_counter()
            self._step(batch)
            self.sums.tolist()  # waits for a GPU
            times.append(time.perf_counter() - started)
            if len(times) >= 50 or (len(times) >= 4 and time.perf_counter() - begun > 5):
                break
        self.model, self.optimizer, self.ema, self.hardest = real
        self.frozen = None  # it was said of the copy
        self.sums.zero_()
        # The first steps choose kernels and fault pages in.
        settled = sorted(times[2:] or times)
        return settled[len(settled) // 2] * self.steps_per_epoch * self.limit.mean_area() / self.limit.first_area()

    def final_model(self) -> nn.Module:
        """Return the network that the recipe asks for at the end: best, averaged or last weights, in eval mode."""
        model, state = self.ema or self.model, self.state
        for group in self.optimizer.param_groups:
            if UNTIL in group:
                for parameter in group["params"]:
                    parameter.requires_grad_(True)  # it stood still in the end, and was trained: so it is counted
        if self.config.training.restore_best and state.best_epoch:
            try:
                checkpoint = read_checkpoint(best_path(self.folder, state.best_epoch))
                if checkpoint.state.get("run") != self.identity:
                    raise CheckpointError("of another run", where=best_path(self.folder, state.best_epoch))
                load_module("model", model, checkpoint, self.folder)
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
