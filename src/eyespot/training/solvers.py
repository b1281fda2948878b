"""Train a linear head to its optimum: multinomial logistic regression on cached features, with nothing to tune.

Before this: a frozen backbone has written the features of every picture, possibly in several views, to memory-mapped
arrays. After this: `LinearHead` holds the weights of the model's classifier for the raw features.

The problem is convex, so there is no learning rate, no batch size and no number of epochs. The one setting, the
penalty, is chosen on val: a path of fits from a strong penalty to weak ones, each of which starts where the last ended.

Letters: n pictures, N rows (pictures times views), D features, K classes, B rows of a block.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eyespot.errors import DataError, UsageError
from eyespot.seeds import derive_seed
from eyespot.training.feature_rows import FeatureRows, StandardRows, check_rows, dense

Progress: TypeAlias = Callable[[int, int], None]

# Up to this many features the curvature is a full matrix of D x D; its Cholesky factor costs D^3 / 3.
_CURVATURE_FEATURES = 4096
# The stop: half the Newton decrement, an estimate of how far the loss (nats) lies above its minimum. On the path it
# need only rank penalties; since a weak one changes little, it is also held against this share of the penalty's term.
_PATH_TOLERANCE = 1e-4
_PATH_SHARE = 1e-2
_LAST_TOLERANCE = 1e-10
_MAX_ITERATIONS = 500
_LINE_TRIALS = 30
_PAIRS = 20
# Pairs of steps and gradients are two more copies of the weights each: with very many classes fewer are kept.
_PAIRS_NUMBERS = 2**26
# The logit of a class without pictures, where the others' sum to zero: a probability under 3e-9.
_ABSENT_LOGIT = -20.0

ON_VAL = "val"
ON_TENTH = "a tenth of train held out"
ON_NOTHING = "nothing: no class has two pictures"


@dataclass(frozen=True)
class PathPoint:
    """What one penalty gave.

    Attributes:
        l2: The penalty.
        train_loss: Mean cross entropy over the rows it was fitted to, nats, weighted as in training; without label
            smoothing and without the penalty, so that it can be held against `val_loss`.
        train_top1: Share of these rows whose label has the highest logit, in [0, 1].
        val_loss: The same mean over the pictures it was judged on, first view only; None where there were none.
        val_top1: Their accuracy in [0, 1]; None likewise.
        iterations: Steps of the optimizer; each costs one or a few passes over the training rows.
    """

    l2: float
    train_loss: float
    train_top1: float
    val_loss: float | None
    val_top1: float | None
    iterations: int


@dataclass(frozen=True)
class LinearHead:
    """A trained linear classifier: `features @ weight.T + bias` are the logits of raw features.

    Attributes:
        weight: float32 (K, D).
        bias: float32 (K,).
        l2: The penalty that was chosen.
        path: Every penalty that was tried, strong to weak. The point of the chosen one describes this head, unless
            `chosen_on` is not val: then a last point describes it, the refit on all of train.
        iterations: Steps of the optimizer in all fits together.
        chosen_on: Whose loss chose the penalty: `val`, or in words what stood in for it.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    path: tuple[PathPoint, ...]
    iterations: int
    chosen_on: str


def solve_linear_head(
    train: Sequence[FeatureRows],
    val: Sequence[FeatureRows],
    *,
    num_classes: int,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    l2_grid: Sequence[float] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LinearHead:
    """Return the linear head with the least penalised cross entropy on train, the penalty chosen by val's loss.

    It minimises `sum(w[y] * cross_entropy) / sum(w[y]) + l2 / 2 * ||W||^2` over all rows of all views. `W` belongs to
    features standardised to mean 0 and deviation 1 over these rows, so that the penalty means the same whatever the
    features' scale; the bias is free. The standardisation is folded into what is returned. The penalty with the
    smallest val loss wins, on a tie the stronger one; the path ends early at the second one in a row that is no better.

    Without val a tenth of each class of train stands in for it, with all its views on the same side; the head is then
    fitted again to all of train. Where no class has two pictures, the strongest penalty is taken.

    The same input, seed and number of threads give the same bits. Computed on the CPU; beside the features' own pages
    it needs one float32 copy of the training rows, or none above `COPY_LIMIT_BYTES`.

    Args:
        train: The training rows; the seen rows of all views count alike.
        val: The rows that judge, by their first view; empty where everything is trained on.
        num_classes: K. A class without pictures gets a probability under 3e-9 everywhere.
        class_weights: float (K,), not negative, for example from `balance`; None weights all alike. They
            weight val's loss, too.
        label_smoothing: In [0, 1), the share of a target that goes to all classes alike; a row's class weight is that
            of its label. val's loss is never smoothed.
        l2_grid: Penalties to try, above 0, in any order; None takes `default_l2_grid`.
        seed: Draws the tenth.
        progress: Told (done, all) after each fit; jumps where the path ends early.

    Raises:
        DataError: A feature is NaN or infinite, or a split's classes all have the weight 0.
        UsageError: Shapes, dtypes, rows, labels or settings that cannot be.

    Source:
        Standardise, L-BFGS and choose the penalty on held-out data: the linear evaluation of Kornblith, Shlens and Le,
        "Do Better ImageNet Models Transfer Better?", CVPR 2019. Changed: the early end of the path, and `_minimise`.
    """
    task = _Task.of(train, num_classes, class_weights, label_smoothing)
    grid = _checked_grid(default_l2_grid(sum(map(len, train))) if l2_grid is None else l2_grid)
    if progress is not None:
        progress(0, len(grid) + 1)
    check_rows(val, num_classes, "val", width=train[0].views[0].shape[1])
    fitted, judges, chosen_on = train, _first_views(val), ON_VAL
    if sum(map(len, judges)):
        _check_weight(task.weights, judges, "val")
    else:
        fitted, judges = _hold_out_tenth(train, num_classes, seed)
        chosen_on = ON_TENTH if judges else ON_NOTHING

    solver = _Solver.of(fitted, task)
    path: list[PathPoint] = []
    l2, judge = grid[0], None
    if judges:
        judge = StandardRows.read(
            judges, "val" if chosen_on == ON_VAL else "train", num_classes=num_classes, scale=solver.rows.scale
        )
        path, l2 = _walk(solver, judge, grid, progress)
    if chosen_on == ON_VAL:
        at = [point.l2 for point in path].index(l2)
        last = solver.fit(l2, judge, last=True)
        path[at] = replace(last, iterations=path[at].iterations + last.iterations)
    else:
        start = solver.parameters
        del solver  # its copy of the rows, before the next one is made
        solver = _Solver.of(train, task, start)
        path.append(solver.fit(l2, None, last=True))
    if progress is not None:
        progress(len(grid) + 1, len(grid) + 1)
    weight, bias = solver.rows.scale.fold(task.all_classes(solver.parameters))
    return LinearHead(weight, bias, l2, tuple(path), sum(point.iterations for point in path), chosen_on)


def default_l2_grid(num_pictures: int) -> tuple[float, ...]:
    """Return the penalties that are tried: half decades, from 3162 to 0.03 for the sum over the pictures.

    What a penalty means for a mean loss depends on the number of pictures, what it means for their sum hardly does (it
    is scikit-learn's 1 / C): the best one lay at 300 for 10,000 CIFAR-10 pictures (JPEG 75) with 1,280 features and at
    450 for 45,000 with 2,560.

    Args:
        num_pictures: n, 1 or more.
    """
    return tuple(10.0 ** (3.5 - half / 2) / num_pictures for half in range(11))


def _walk(
    solver: _Solver, judge: StandardRows, grid: Sequence[float], progress: Progress | None
) -> tuple[list[PathPoint], float]:
    """Fit from strong to weak penalties, leave the solver at the best one, return all points and the best penalty."""
    path: list[PathPoint] = []
    best, best_loss, best_parameters = 0, math.inf, solver.parameters
    for place, l2 in enumerate(grid):
        point = solver.fit(l2, judge, last=False)
        path.append(point)
        assert point.val_loss is not None
        if point.val_loss < best_loss:  # false for NaN, and on a tie: the stronger penalty keeps its place
            best, best_loss, best_parameters = place, point.val_loss, solver.parameters
        ended = place - best == 2
        if progress is not None:
            progress(len(grid) if ended else place + 1, len(grid) + 1)
        if ended:
            break
    solver.parameters = best_parameters
    return path, path[best].l2


@dataclass(frozen=True)
class _Task:
    """What is asked of the logits.

    The parameters of a fit are float32 (A, D + 1), the bias in the last column. A is the number of classes that have a
    share in the loss: the optimum of any other has a bias of minus infinity, on the way to which a solver would waste
    its steps.

    Attributes:
        num_classes: K.
        active: int64 (A,), the classes that have a share.
        place: int64 (K,), where in `active` a class is; 0 for those that are not.
        weights: float32 (K,).
        smoothing: In [0, 1).
    """

    num_classes: int
    active: Tensor
    place: Tensor
    weights: Tensor
    smoothing: float

    @classmethod
    def of(
        cls, train: Sequence[FeatureRows], num_classes: int, class_weights: Tensor | None, smoothing: float
    ) -> _Task:
        """Check the settings and the training rows, and return the task.

        Raises:
            DataError: All classes of train have the weight 0.
            UsageError: Something else that cannot be.
        """
        if num_classes < 1:
            raise UsageError(f"num_classes is {num_classes}", remedy="give the number of classes, 1 or more")
        if not 0 <= smoothing < 1:
            raise UsageError(f"label_smoothing is {smoothing:g}", remedy="use 0 or more, and less than 1")
        check_rows(train, num_classes, "train")
        weights = torch.ones(num_classes) if class_weights is None else class_weights.detach().cpu().float()
        if weights.shape != (num_classes,) or not bool((weights.isfinite() & (weights >= 0)).all()):
            raise UsageError(
                f"class_weights {weights.tolist()}", remedy=f"give {num_classes} finite numbers, 0 or more"
            )
        _check_weight(weights, train, "train")
        counts = torch.zeros(num_classes)
        for part in train:
            counts += torch.bincount(torch.from_numpy(part.labels), minlength=num_classes)
        active = (weights * counts + smoothing).nonzero().flatten()
        place = torch.zeros(num_classes, dtype=torch.int64)
        place[active] = torch.arange(len(active))
        return cls(num_classes, active, place, weights, smoothing)

    def all_classes(self, parameters: Tensor) -> Tensor:
        """Return float32 (K, D + 1) for parameters (A, D + 1).

        The logits of the A classes are shifted so that they sum to zero in every row, which changes no probability and
        can only lower the penalty; then their largest is above 0, and a constant says where the absent ones are.
        """
        every = torch.zeros(self.num_classes, parameters.shape[1])
        every[:, -1] = _ABSENT_LOGIT
        every[self.active] = parameters - parameters.mean(0)
        return every

    def measure(self, rows: StandardRows, parameters: Tensor) -> tuple[float, float]:
        """Return mean loss (nats, weighted, not smoothed) and top-1 in [0, 1] of parameters (A, D + 1) over rows."""
        every = self.all_classes(parameters)
        weight, bias = every[:, :-1].contiguous(), every[:, -1].contiguous()
        loss_sum, hits = 0.0, 0
        for at, x in rows:
            logits, labels = dense(F.linear(x, weight, bias)), rows.labels[at]  # (B, K)
            apart = logits.logsumexp(1) - logits.gather(1, labels[:, None])[:, 0]
            loss_sum += (self.weights[labels] * apart).sum(dtype=torch.float64).item()
            hits += int((logits.argmax(1) == labels).sum())
        total = self.weights[rows.labels].sum(dtype=torch.float64).item()
        return (loss_sum / total if total else math.nan), hits / len(rows.labels)


@dataclass(frozen=True)
class _Value:
    """The objective at one place.

    Attributes:
        parameters: float32 (A, D + 1).
        loss: With the penalty.
        penalty: The penalty's term alone.
        slope: float32 (A, D + 1), the gradient of the loss without the penalty.
        gradient: float32 (A, D + 1), with the penalty.
        curvature: Mean of p (1 - p) over rows and classes, scaled so that two classes at one half give one half.
    """

    parameters: Tensor
    loss: float
    penalty: float
    slope: Tensor
    gradient: Tensor
    curvature: float


@dataclass
class _Solver:
    """L-BFGS over one set of training rows, which keeps what it learned about the curvature from fit to fit.

    Two things make a fit short. The first guess of the inverse Hessian is no multiple of the identity but
    `(c X'X + l2 I)^-1` with X'X from a sample of the rows and c the mean of p (1 - p): features of a network are
    strongly correlated. And the pairs of steps and gradients of the last penalty serve the next one, since only the
    known term `l2 * step` in them changes. On two views of 10,000 CIFAR-10 pictures (JPEG 75) with 1,280 features, nine
    penalties took 167 passes without either, 128 with the second, 69 with both.

    Attributes:
        rows: What is fitted.
        task: What is asked.
        parameters: float32 (A, D + 1), where the last fit ended.
        pairs: (step, difference of the gradients without the penalty), newest last.
        gram: float32 (D, D), mean of x x' over a sample; None where there are too many features.
        own: float32 (N,), what a row's own class weighs in its targets.
        shared: float32 (N,), what each of the classes weighs in a row's targets beside that; 0 without smoothing.
        places: int64 (N, 1), a row's class among the A.
        total: The sum of the rows' weights.
    """

    rows: StandardRows
    task: _Task
    parameters: Tensor
    pairs: list[tuple[Tensor, Tensor]]
    gram: Tensor | None
    own: Tensor
    shared: Tensor
    places: Tensor
    total: float

    @classmethod
    def of(cls, parts: Sequence[FeatureRows], task: _Task, start: Tensor | None = None) -> _Solver:
        """Read the rows and return a solver that begins at `start` (A, D + 1), or at zero."""
        rows = StandardRows.read(parts, "train", num_classes=task.num_classes)
        width = len(rows.scale.mean)
        if start is None:
            start = torch.zeros(len(task.active), width + 1)
        gram = None
        if width <= _CURVATURE_FEATURES:
            sample = rows.sample(2 * width)  # ten times as many saved one pass in twenty
            gram = sample.T @ sample / len(sample)
        weights = task.weights[rows.labels]
        return cls(
            rows,
            task,
            start,
            [],
            gram,
            own=(1 - task.smoothing) * weights,
            shared=task.smoothing / task.num_classes * weights,
            places=task.place[rows.labels][:, None],
            total=weights.sum(dtype=torch.float64).item(),
        )

    def fit(self, l2: float, judge: StandardRows | None, *, last: bool) -> PathPoint:
        """Minimise from where the last fit ended, and return what came of it; `last` goes to convergence."""
        iterations = self._minimise(l2, last)
        train_loss, train_top1 = self.task.measure(self.rows, self.parameters)
        val_loss, val_top1 = (None, None) if judge is None else self.task.measure(judge, self.parameters)
        return PathPoint(l2, train_loss, train_top1, val_loss, val_top1, iterations)

    def _minimise(self, l2: float, last: bool) -> int:
        """Move `parameters` to the minimum and return the number of steps.

        Source:
            Nocedal and Wright, "Numerical Optimization", 2nd edition, algorithms 7.4 and 7.5.
        """
        value = self._evaluate(self.parameters, l2)
        guess = self._guess(value.curvature, l2)
        iterations = 0
        while iterations < _MAX_ITERATIONS:
            direction = self._quasi_newton(value.gradient, l2, guess).neg_()
            descent = _dot(value.gradient, direction)
            tolerance = _LAST_TOLERANCE
            if not last:
                tolerance = max(tolerance, min(_PATH_TOLERANCE, _PATH_SHARE * value.penalty))
            if not -descent / 2 > tolerance:  # true for NaN
                break
            found = self._search(value, direction, descent, l2)
            if found is None:
                # Either the pairs mislead, or float32 has no better place to offer.
                if not self.pairs:
                    break
                self.pairs.clear()
                continue
            step, change = found.parameters - value.parameters, found.slope - value.slope
            if _dot(step, change) > 0:
                self.pairs.append((step, change))
                del self.pairs[: -max(2, min(_PAIRS, _PAIRS_NUMBERS // (2 * step.numel())))]
            value = found
            iterations += 1
        self.parameters = value.parameters
        return iterations

    def _evaluate(self, parameters: Tensor, l2: float) -> _Value:
        """Return loss and gradient at parameters (A, D + 1): one pass over the rows."""
        weight = parameters[:, :-1].clone(memory_format=torch.contiguous_format).requires_grad_()
        bias = parameters[:, -1].clone().requires_grad_()
        sums = torch.zeros(2, dtype=torch.float64)  # loss, curvature; in float32 the line search would see noise
        for at, x in self.rows:
            own, shared, places = self.own[at], self.shared[at], self.places[at]
            with torch.enable_grad():
                outputs = dense(F.linear(x, weight, bias))  # (B, A)
            logits = outputs.detach()
            logsum = logits.logsumexp(1)
            losses = logsum - logits.gather(1, places)[:, 0]
            sums[0] += (own * losses).sum(dtype=torch.float64)
            probs = (logits - logsum[:, None]).exp_()
            spread = 1 - probs.square().sum(1)
            if self.task.smoothing:
                whole = shared * self.task.num_classes  # with smoothing all classes are active
                sums[0] += (whole * logsum - shared * logits.sum(1)).sum(dtype=torch.float64)
                sums[1] += (whole * spread).sum(dtype=torch.float64)
                apart = probs * (own + whole)[:, None] - shared[:, None]
            else:
                apart = probs.mul_(own[:, None])
            sums[1] += (own * spread).sum(dtype=torch.float64)
            outputs.backward(apart.scatter_add_(1, places, -own[:, None]))  # type: ignore[no-untyped-call]
        assert weight.grad is not None
        assert bias.grad is not None
        loss, curvature = (sums / self.total).tolist()
        slope = torch.cat([weight.grad, bias.grad[:, None]], 1).div_(self.total)
        penalty = l2 / 2 * parameters[:, :-1].square().sum(dtype=torch.float64).item()
        gradient = slope + l2 * _without_bias(parameters)
        return _Value(parameters, loss + penalty, penalty, slope, gradient, curvature / max(len(bias) - 1, 1))

    def _guess(self, curvature: float, l2: float) -> Callable[[Tensor], Tensor]:
        """Return the first guess of the inverse Hessian, a map from (A, D + 1) to (A, D + 1)."""
        curvature = max(curvature, 1e-6)
        if self.gram is None:
            return lambda v: v / curvature
        width = len(self.gram)
        ridge = l2 + 1e-7 * curvature * width
        while True:
            matrix = curvature * self.gram
            matrix.diagonal().add_(ridge)
            factor, failed = torch.linalg.cholesky_ex(matrix)
            if not failed:
                break
            ridge *= 10  # float32 and a weak penalty; a worse guess costs passes, not the result
        return lambda v: torch.cat([torch.cholesky_solve(v[:, :-1].T, factor).T, v[:, -1:] / curvature], 1)

    def _quasi_newton(self, gradient: Tensor, l2: float, guess: Callable[[Tensor], Tensor]) -> Tensor:
        """Return an estimate of the inverse Hessian times the gradient, (A, D + 1)."""
        rest, done = gradient, []
        for step, change in reversed(self.pairs):
            change = change + l2 * _without_bias(step)
            size = _dot(step, change)
            share = _dot(step, rest) / size
            rest = rest - share * change
            done.append((step, change, size, share))
        result = guess(rest)
        if done:
            _, change, size, _ = done[0]
            result = result * (size / _dot(change, guess(change)))
        for step, change, size, share in reversed(done):
            result = result + (share - _dot(change, result) / size) * step
        return result

    def _search(self, start: _Value, direction: Tensor, descent: float, l2: float) -> _Value | None:
        """Return a place on the way along `direction` that meets the Wolfe conditions, None where there is none.

        The loss is convex, so the derivative along the way alone tells a step that is too short from one too long.
        """
        length, low, low_descent = 1.0, 0.0, descent
        high, high_descent = math.inf, 0.0
        moved = 0  # how often in a row one end of the bracket has: a straight line misleads where few rows weigh much
        noise = 1e-7 * (1 + abs(start.loss))  # of float32, when the rows are few
        for _ in range(_LINE_TRIALS):
            value = self._evaluate(start.parameters + length * direction, l2)
            slope = _dot(value.gradient, direction)
            if not (slope <= -0.5 * descent and value.loss <= start.loss + 1e-4 * length * descent + noise):
                high, high_descent, moved = length, slope, max(moved, 0) + 1
            elif slope < 0.9 * descent:
                low, low_descent, moved = length, slope, min(moved, 0) - 1
            else:
                return value
            if math.isinf(high):
                length *= 2.5
                continue
            # Where the derivative would be zero if it were a straight line, but well within the bracket.
            straight = abs(moved) < 3 and high_descent > low_descent
            share = low_descent / (low_descent - high_descent) if straight else 0.5
            length = low + (high - low) * min(0.9, max(0.1, share))
        return None


def _dot(a: Tensor, b: Tensor) -> float:
    return float((a * b).sum(dtype=torch.float64))


def _without_bias(parameters: Tensor) -> Tensor:
    """Return a copy of (A, D + 1) whose last column, which no penalty touches, is 0."""
    parameters = parameters.clone()
    parameters[:, -1] = 0
    return parameters


def _hold_out_tenth(
    parts: Sequence[FeatureRows], num_classes: int, seed: int
) -> tuple[list[FeatureRows], list[FeatureRows]]:
    """Return the parts without a tenth of each class, and that tenth, first view only; one picture always stays."""
    labels = np.concatenate([part.labels for part in parts])
    dice = np.random.default_rng(derive_seed(seed, "tenth"))
    held = np.zeros(len(labels), dtype=bool)
    for label in range(num_classes):
        places = np.flatnonzero(labels == label)
        count = max(1, round(len(places) / 10)) if len(places) > 1 else 0
        held[dice.permutation(places)[:count]] = True
    masks = np.split(held, np.cumsum([len(part) for part in parts])[:-1])
    kept = [part.pick(~mask) for part, mask in zip(parts, masks, strict=True)]
    if not held.any():
        return kept, []
    return kept, _first_views([part.pick(mask) for part, mask in zip(parts, masks, strict=True)])


def _first_views(parts: Sequence[FeatureRows]) -> list[FeatureRows]:
    return [replace(part, views=part.views[:1]) for part in parts]


def _checked_grid(l2_grid: Sequence[float]) -> list[float]:
    """Return the penalties without repeats, the strongest first."""
    if not l2_grid or not all(math.isfinite(l2) and l2 > 0 for l2 in l2_grid):
        raise UsageError(f"l2_grid is {list(l2_grid)}", remedy="give one or more finite numbers above 0")
    return sorted(set(l2_grid), reverse=True)


def _check_weight(weights: Tensor, parts: Sequence[FeatureRows], split: str) -> None:
    if not any(bool(weights[torch.from_numpy(part.labels)].any()) for part in parts):
        raise DataError("every picture is of a class with weight 0", where=split, remedy="give other class weights")
