from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from eyespot.errors import DataError, UsageError
from eyespot.training import feature_rows, solvers
from eyespot.training.balance import class_weights
from eyespot.training.feature_rows import FeatureRows
from eyespot.training.solvers import (
    ON_NOTHING,
    ON_TENTH,
    ON_VAL,
    LinearHead,
    default_l2_grid,
    solve_linear_head,
)

Array = np.ndarray[Any, Any]


def clouds(
    n: int = 240, d: int = 12, k: int = 4, *, views: int = 1, spread: float = 2.0, seed: int = 0
) -> tuple[tuple[Array, ...], Array]:
    """Return views, float32 (n, d) each, of overlapping classes with correlated features, and labels int64 (n,)."""
    dice = np.random.default_rng(seed)
    labels = np.arange(n) % k
    centres, mixing = dice.normal(size=(k, d)), dice.normal(size=(d, d)) / math.sqrt(d)
    pictures = centres[labels] + spread * dice.normal(size=(n, d)) @ mixing
    arrays = [(pictures + 0.3 * dice.normal(size=(n, d)) + 5).astype(np.float32) for _ in range(views)]
    return tuple(arrays), labels.astype(np.int64)


def split_of(views: tuple[Array, ...], labels: Array, train: slice, val: slice) -> dict[str, list[FeatureRows]]:
    rows = np.arange(len(labels))
    return {
        "train": [FeatureRows(views, rows[train], labels[train])],
        "val": [FeatureRows(views, rows[val], labels[val])] if val != slice(0) else [],
    }


def solve(
    views: tuple[Array, ...],
    labels: Array,
    train: slice = slice(0, 160),
    val: slice = slice(160, None),
    *,
    num_classes: int = 4,
    **options: Any,
) -> LinearHead:
    return solve_linear_head(**split_of(views, labels, train, val), num_classes=num_classes, **options)


def logits_of(head: LinearHead, features: Array) -> Tensor:
    """In float64, so that what is measured is the head."""
    return torch.from_numpy(features).double() @ head.weight.double().T + head.bias.double()


def probs_of(head: LinearHead, features: Array) -> Array:
    return np.asarray(logits_of(head, features).softmax(1))


def standardised(rows: Array) -> tuple[Array, Array, Array]:
    mean, deviation = rows.astype(float).mean(0), rows.astype(float).std(0)
    deviation[deviation == 0] = 1
    return (rows - mean) / deviation, mean, deviation


def steepness(
    head: LinearHead, rows: Array, labels: Array, *, weights: Tensor | None = None, smoothing: float = 0.0
) -> float:
    """Return the norm of the gradient of the loss, each row weighed by its class, and the penalty: 0 at the optimum."""
    x, mean, deviation = standardised(rows)
    weight = (head.weight.double() * torch.from_numpy(deviation)).requires_grad_()
    bias = (head.bias.double() + head.weight.double() @ torch.from_numpy(mean)).requires_grad_()
    losses = F.cross_entropy(
        torch.from_numpy(x) @ weight.T + bias, torch.from_numpy(labels), label_smoothing=smoothing, reduction="none"
    )
    each = torch.ones(len(labels)) if weights is None else weights[labels]
    loss = (losses * each).sum() / each.double().sum()
    gradients = torch.autograd.grad(loss + head.l2 / 2 * weight.square().sum(), [weight, bias])
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


# ------------------------------------------------------------------------------------------------- against scikit-learn


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_it_is_scikit_learns_logistic_regression(l2: float, dtype: type) -> None:
    views, labels = clouds()
    features = views[0].astype(dtype)
    head = solve((features,), labels, l2_grid=[l2])
    x, mean, deviation = standardised(features[:160])
    reference = LogisticRegression(C=1 / (160 * l2), tol=1e-10, max_iter=20_000).fit(x, labels[:160])
    expected = reference.predict_proba((features - mean) / deviation)
    assert np.abs(probs_of(head, features) - expected).max() < 1e-3
    assert head.weight.dtype == head.bias.dtype == torch.float32
    assert (head.weight.shape, head.bias.shape) == ((4, 12), (4,))


def test_weights_are_scikit_learns_sample_weights() -> None:
    views, labels = clouds()
    labels = np.where(np.arange(len(labels)) % 3 > 0, 0, labels)  # class 0 is in the majority
    weights = class_weights(labels[:160], 4, "loss")
    assert weights is not None
    head = solve(views, labels, l2_grid=[1e-2], class_weights=weights)
    x, mean, deviation = standardised(views[0][:160])
    each = weights.double().numpy()[labels[:160]]
    reference = LogisticRegression(C=1 / (each.sum() * 1e-2), tol=1e-10, max_iter=20_000)
    reference.fit(x, labels[:160], sample_weight=each)
    expected = reference.predict_proba((views[0] - mean) / deviation)
    assert np.abs(probs_of(head, views[0]) - expected).max() < 1e-3
    plain = solve(views, labels, l2_grid=[1e-2])
    assert probs_of(head, views[0])[:, 0].mean() < probs_of(plain, views[0])[:, 0].mean() - 0.1
    # Only the weights' proportions count.
    again = solve(views, labels, l2_grid=[1e-2], class_weights=weights * 7)
    assert np.abs(probs_of(head, views[0]) - probs_of(again, views[0])).max() < 1e-3


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(4, 60),
    d=st.integers(1, 30),
    k=st.integers(2, 5),
    views=st.integers(1, 3),
    l2=st.sampled_from([1.0, 1e-1, 1e-2, 1e-3]),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
@example(n=5, d=7, k=5, views=2, l2=1e-3, smoothing=0.5, weighted=True, seed=7)  # its last gains drown in float32
def test_torchs_own_loss_has_no_slope_at_the_solution(
    n: int, d: int, k: int, views: int, l2: float, smoothing: float, weighted: bool, seed: int
) -> None:
    arrays, labels = clouds(n, d, k, views=views, seed=seed)
    weights = torch.rand(k, generator=torch.Generator().manual_seed(seed)) + 0.2 if weighted else None
    head = solve(
        arrays, labels, slice(None), slice(0), num_classes=k, l2_grid=[l2], class_weights=weights,
        label_smoothing=smoothing,
    )  # fmt: skip
    rows, seen = np.concatenate(arrays), np.tile(labels, views)
    assert steepness(head, rows, seen, weights=weights, smoothing=smoothing) < 1e-3 * math.sqrt(l2) + 1e-5


# ----------------------------------------------------------------------------------------- what the answer depends on


@pytest.mark.parametrize("turn", [1e-1, 1e-2, 1e-3, 1e-5])
def test_a_way_that_falls_steeply_at_first_and_then_rises_slowly_is_gone_down(
    turn: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As where one picture of a class weighs as much as all of another: no step was found, and the head stayed at zero.
    def loss_at(place: Tensor) -> Tensor:
        return 30 * turn * F.softplus(-place.double() / turn) + 5 * place

    def evaluate(solver: Any, parameters: Tensor, l2: float) -> solvers._Value:
        place = parameters.clone().requires_grad_()
        loss = loss_at(place).sum()
        (slope,) = torch.autograd.grad(loss, place)
        return solvers._Value(parameters, loss.item(), 0.0, slope, slope, 1.0)

    monkeypatch.setattr(solvers._Solver, "_evaluate", evaluate)
    solver: Any = object.__new__(solvers._Solver)
    start = evaluate(solver, torch.zeros(1, 1), 0.0)
    descent = start.gradient.item()
    assert descent == pytest.approx(-10)
    found = solver._search(start, torch.ones(1, 1), descent, 0.0)
    assert found is not None
    assert found.loss < start.loss
    assert abs(found.gradient.item()) < 0.9 * abs(descent)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x * 1e6,
        lambda x: x * 1e-6,
        lambda x: x * 1e-30,
        lambda x: x - 40,
        lambda x: x * np.logspace(-4, 4, x.shape[1]) + np.linspace(-3, 3, x.shape[1]),
    ],
    ids=["huge", "tiny", "hardly a number", "moved", "each its own"],
)
def test_the_scale_of_the_features_does_not_matter(change: Callable[[Array], Array]) -> None:
    views, labels = clouds()
    changed = change(views[0].astype(float)).astype(np.float32)
    before, after = solve(views, labels), solve((changed,), labels)
    assert after.l2 == before.l2
    assert np.isfinite(after.weight.numpy()).all()
    assert np.abs(probs_of(after, changed) - probs_of(before, views[0])).max() < 1e-3


def test_raw_features_times_the_weights_are_the_logits() -> None:
    views, labels = clouds()
    head = solve(views, labels)
    logits = torch.from_numpy(views[0][160:]) @ head.weight.T + head.bias  # float32, as a model computes it
    chosen = next(point for point in head.path if point.l2 == head.l2)
    assert F.cross_entropy(logits, torch.from_numpy(labels[160:])).item() == pytest.approx(chosen.val_loss, abs=1e-5)
    assert (logits.argmax(1).numpy() == labels[160:]).mean() == pytest.approx(chosen.val_top1)
    logits = torch.from_numpy(views[0][:160]) @ head.weight.T + head.bias
    assert F.cross_entropy(logits, torch.from_numpy(labels[:160])).item() == pytest.approx(chosen.train_loss, abs=1e-5)
    assert (logits.argmax(1).numpy() == labels[:160]).mean() == pytest.approx(chosen.train_top1)


def test_the_order_of_rows_views_and_sources_does_not_matter() -> None:
    views, labels = clouds(views=2)
    val = [FeatureRows(views, np.arange(160, 240), labels[160:])]
    rows = np.random.default_rng(1).permutation(160)
    front, back = rows[:50], rows[50:]
    trains = {
        "plain": [FeatureRows(views, np.arange(160), labels[:160])],
        "shuffled": [FeatureRows(views, rows, labels[rows])],
        "views": [FeatureRows(views[::-1], rows, labels[rows])],
        "sources": [FeatureRows(views, front, labels[front]), FeatureRows(views, back, labels[back])],
        "copied": [
            FeatureRows(tuple(view[front] for view in views), np.arange(50), labels[front]),
            FeatureRows(views, back, labels[back]),
        ],
    }
    heads = {name: solve_linear_head(train, val, num_classes=4, l2_grid=[1e-2]) for name, train in trains.items()}
    expected = probs_of(heads["plain"], views[0])
    for name, head in heads.items():
        assert head.l2 == heads["plain"].l2, name
        assert np.abs(probs_of(head, views[0]) - expected).max() < 1e-3, name


def test_all_views_train_and_only_the_first_one_judges() -> None:
    views, labels = clouds(views=2)
    head = solve(views, labels, l2_grid=[1e-2])
    rows, seen = np.concatenate([view[:160] for view in views]), np.tile(labels[:160], 2)
    assert steepness(head, rows, seen) < 1e-4
    loss = F.cross_entropy(logits_of(head, views[0][160:]), torch.from_numpy(labels[160:])).item()
    assert head.path[0].val_loss == pytest.approx(loss, abs=1e-5)


def test_the_last_fit_forgets_the_path() -> None:
    views, labels = clouds(400, 60, 4)
    path = solve(views, labels, slice(0, 300), slice(300, None))
    alone = solve(views, labels, slice(0, 300), slice(300, None), l2_grid=[path.l2])
    assert len(path.path) > 3
    assert np.abs(probs_of(path, views[0]) - probs_of(alone, views[0])).max() < 1e-3


def test_the_same_input_gives_the_same_bits_from_a_memory_map(tmp_path: Path) -> None:
    views, labels = clouds(views=2)
    for number, view in enumerate(views):
        np.save(tmp_path / f"{number}.npy", view.astype(np.float16))
    maps = tuple(np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(2))
    heads = [solve(maps, labels, slice(None), slice(0), seed=3) for _ in range(2)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert torch.equal(heads[0].bias, heads[1].bias)
    assert heads[0].path == heads[1].path


def test_columns_of_a_wider_map_are_features_too() -> None:
    (view,), labels = clouds(d=24)
    cut, copied = solve((view[:, 6:18],), labels), solve((view[:, 6:18].copy(),), labels)
    assert torch.equal(cut.weight, copied.weight)


@pytest.mark.parametrize("limit", ["no copy", "small blocks", "no oneDNN", "many features"])
def test_the_ways_to_compute_it_agree(limit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    views, labels = clouds(views=2)
    expected = solve(views, labels, l2_grid=[1e-2])
    if limit == "no copy":
        monkeypatch.setattr(feature_rows, "COPY_LIMIT_BYTES", 0)
    if limit in ("no copy", "small blocks"):
        monkeypatch.setattr(feature_rows, "_BLOCK_NUMBERS", 12 * 7)
    if limit == "no oneDNN":
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    if limit == "many features":
        monkeypatch.setattr(solvers, "_CURVATURE_FEATURES", 4)
    head = solve(views, labels, l2_grid=[1e-2])
    assert head.l2 == expected.l2
    assert np.abs(probs_of(head, views[0]) - probs_of(expected, views[0])).max() < 1e-3


def test_it_works_where_gradients_are_off() -> None:
    views, labels = clouds()
    with torch.no_grad():
        head = solve(views, labels, l2_grid=[1e-2])
    assert torch.equal(head.weight, solve(views, labels, l2_grid=[1e-2]).weight)
    assert not head.weight.requires_grad


# -------------------------------------------------------------------------------------------- the choice of the penalty


def test_the_penalty_with_the_least_val_loss_wins_and_the_path_ends_early() -> None:
    views, labels = clouds(200, 80, 4, spread=8.0)  # few pictures, many features: weak penalties overfit
    grid = tuple(10.0 ** (-half / 2) for half in range(11))  # 1, 0.32, 0.1, ..., 1e-5
    head = solve(views, labels, slice(0, 100), slice(100, None), l2_grid=grid)
    losses = [point.val_loss for point in head.path]
    best = min(losses, key=lambda loss: math.inf if loss is None else loss)
    assert [point.l2 for point in head.path] == list(grid[: len(head.path)])
    assert len(head.path) == losses.index(best) + 3 < len(grid)
    assert head.l2 == head.path[losses.index(best)].l2
    assert head.chosen_on == ON_VAL
    assert head.iterations == sum(point.iterations for point in head.path)
    assert all(later.train_loss < before.train_loss for before, later in zip(head.path, head.path[1:], strict=False))


def test_the_default_penalties_are_the_same_for_the_sum_over_any_number_of_pictures() -> None:
    assert default_l2_grid(100)[0] == pytest.approx(31.62, rel=1e-3)
    assert np.allclose(np.array(default_l2_grid(100)) * 100, np.array(default_l2_grid(45_000)) * 45_000)
    views, labels = clouds(200, 80, 4)
    head = solve(views, labels, slice(0, 100), slice(100, None))
    assert [point.l2 for point in head.path] == list(default_l2_grid(100)[: len(head.path)])


def test_on_a_tie_the_stronger_penalty_wins() -> None:
    # One class: every penalty gives the same loss, 0.
    views, labels = clouds(60, 5, 1)
    head = solve(views, labels, slice(0, 40), slice(40, None), num_classes=1, l2_grid=[1e-3, 1.0, 1e-2, 1e-2])
    assert head.l2 == 1.0
    assert [point.l2 for point in head.path] == [1.0, 1e-2, 1e-3]
    assert head.path[0].val_loss == 0.0


def test_without_val_a_tenth_chooses_and_all_of_train_is_fitted() -> None:
    views, labels = clouds(views=2)
    head = solve(views, labels, slice(None), slice(0))
    assert head.chosen_on == ON_TENTH == "a tenth of train held out"
    tried, last = head.path[:-1], head.path[-1]
    assert last.l2 == head.l2
    assert last.val_loss is last.val_top1 is None
    assert all(point.val_loss is not None for point in tried)
    assert head.l2 == min(tried, key=lambda point: point.val_loss or 0).l2
    assert steepness(head, np.concatenate(views), np.tile(labels, 2)) < 1e-4
    loss = F.cross_entropy(logits_of(head, np.concatenate(views)), torch.from_numpy(np.tile(labels, 2))).item()
    assert last.train_loss == pytest.approx(loss, abs=1e-5)


@given(counts=st.lists(st.integers(0, 40), min_size=1, max_size=6), cut=st.floats(0, 1), seed=st.integers(0, 99))
def test_the_tenth_is_stratified_and_no_picture_is_on_both_sides(counts: list[int], cut: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    view, middle = np.zeros((len(labels), 1), np.float32), int(cut * len(labels))
    rows = np.random.default_rng(0).permutation(len(labels))
    parts = [FeatureRows((view, view), rows[side], labels[side]) for side in (slice(middle), slice(middle, None))]
    kept, held = solvers._hold_out_tenth(parts, len(counts), seed)
    assert sorted(int(row) for part in kept + held for row in part.rows) == list(range(len(labels)))
    assert all(len(part.views) == 2 for part in kept)
    assert all(len(part.views) == 1 for part in held)
    for part in kept + held:
        assert all(
            labels[np.flatnonzero(rows == row)] == label for row, label in zip(part.rows, part.labels, strict=True)
        )
    for label, count in enumerate(counts):
        share = sum(int((part.labels == label).sum()) for part in held)
        assert share == (max(1, round(count / 10)) if count > 1 else 0)


def test_the_seed_draws_the_tenth() -> None:
    views, labels = clouds()
    parts = [FeatureRows(views, np.arange(240), labels)]
    held = [solvers._hold_out_tenth(parts, 4, seed)[1][0].rows.tolist() for seed in (0, 0, 1)]
    assert held[0] == held[1] != held[2]


def test_progress_only_rises_and_ends_at_the_total() -> None:
    views, labels = clouds(200, 80, 4)
    for val in (slice(100, None), slice(0)):
        calls: list[tuple[int, int]] = []
        solve(views, labels, slice(0, 100), val, progress=lambda done, total, calls=calls: calls.append((done, total)))
        assert {total for _, total in calls} == {len(default_l2_grid(100)) + 1}
        assert [done for done, _ in calls] == sorted({done for done, _ in calls})
        assert calls[0][0] == 0
        assert calls[-1][0] == calls[-1][1]


# --------------------------------------------------------------------------------------------------------- odd features


def test_a_class_without_pictures_is_never_predicted() -> None:
    views, labels = clouds(k=3)
    with_gaps = np.array([1, 3, 6])[labels]
    head, plain = solve(views, with_gaps, num_classes=8), solve(views, labels, num_classes=3)
    probs = probs_of(head, views[0])
    assert head.l2 == plain.l2
    assert np.abs(probs[:, [1, 3, 6]] - probs_of(plain, views[0])).max() < 1e-4
    assert probs[:, [0, 2, 4, 5, 7]].max() < 3e-9
    assert np.isfinite(head.bias.numpy()).all()


def test_a_class_only_in_val_or_of_weight_zero() -> None:
    views, labels = clouds(k=4)
    train, val = np.flatnonzero(labels[:160] != 2), np.arange(160, 240)
    parts = [FeatureRows(views, train, labels[train])], [FeatureRows(views, val, labels[val])]
    head = solve_linear_head(*parts, num_classes=4)
    assert probs_of(head, views[0])[:, 2].max() < 3e-9
    weights = torch.tensor([1.0, 1, 0, 1])
    ignored = solve(views, labels, class_weights=weights)
    assert probs_of(ignored, views[0])[:, 2].max() < 3e-9
    # The scale differs a little: the ignored pictures have a share in it.
    assert np.abs(probs_of(ignored, views[0]) - probs_of(solve_linear_head(
        *parts, num_classes=4, class_weights=weights, l2_grid=[ignored.l2]), views[0])).max() < 0.1  # fmt: skip


def test_smoothing_does_not_call_pictures_a_rare_class() -> None:
    # 40 to 1: weighed class by class, a smoothed target would have more of the rare class than of its own.
    apart = np.arange(205) % 41 == 0
    labels = apart.astype(np.int64)
    views = (np.random.default_rng(0).normal(size=(205, 6)).astype(np.float32) + 8 * apart[:, None].astype(np.float32),)
    weights = class_weights(labels, 2, "loss")
    head = solve(views, labels, slice(None), slice(0), num_classes=2, class_weights=weights, label_smoothing=0.1)
    assert (logits_of(head, views[0]).argmax(1).numpy() == labels).all()


def test_smoothing_gives_absent_classes_their_share() -> None:
    views, labels = clouds(k=2)
    head = solve(views, labels, num_classes=4, label_smoothing=0.2, l2_grid=[1.0])
    probs = probs_of(head, views[0][:160])
    assert probs.mean(0) == pytest.approx([0.45, 0.45, 0.05, 0.05], abs=1e-3)


@pytest.mark.parametrize("k", [1, 5])
def test_a_single_class_in_train(k: int) -> None:
    views, labels = clouds(30, 6, 1)
    head = solve(views, labels + k - 1, slice(0, 20), slice(20, None), num_classes=k)
    assert (probs_of(head, views[0]).argmax(1) == k - 1).all()


@pytest.mark.parametrize("val", [slice(0), slice(4, 8)])
def test_one_picture_a_class(val: slice) -> None:
    views, labels = clouds(8, 50, 4, spread=0.1)
    head = solve(views, labels, slice(0, 4), val)
    assert (probs_of(head, views[0]).argmax(1) == labels).all()
    assert head.chosen_on == (ON_VAL if val.stop else ON_NOTHING)
    assert len(head.path) == (11 if val.stop else 1)


def one_feature(x: Array, labels: Array) -> Array:
    return x[:, :1]


def duplicated(x: Array, labels: Array) -> Array:
    return np.concatenate([x, x, x], 1)


def with_constants(x: Array, labels: Array) -> Array:
    x = x.copy()
    x[:, 3], x[:, 5] = 0.1, 1e6
    return x


def separable(x: Array, labels: Array) -> Array:
    return np.asarray(x + 50 * np.eye(x.shape[1])[labels], dtype=np.float32)


def nothing_but_constants(x: Array, labels: Array) -> Array:
    return np.full_like(x, 0.3)


def far_out(x: Array, labels: Array) -> Array:
    x = x.copy()
    x[7] *= 1e6  # one picture dominates every mean and deviation
    return x


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("change", [one_feature, duplicated, with_constants, separable, nothing_but_constants, far_out])
def test_odd_features_are_fitted(change: Callable[[Array, Array], Array], smoothing: float) -> None:
    views, labels = clouds()
    x = change(views[0], labels)
    head = solve((x,), labels, label_smoothing=smoothing)
    assert np.isfinite(head.weight.numpy()).all()
    assert steepness(head, x[:160], labels[:160], smoothing=smoothing) < 1e-4
    assert all(math.isfinite(point.train_loss) and math.isfinite(point.val_loss or 0) for point in head.path)


def test_a_constant_feature_has_no_weight_even_where_val_differs() -> None:
    (view,), labels = clouds()
    view[:160, 3] = 0.1
    view[160:, 3] = 1e4
    head = solve((view,), labels)
    assert (head.weight[:, 3] == 0).all()


# ------------------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("row", "view", "words"), [(17, 1, "row 17 in view 1 .* in train"), (200, 0, "row 200 .* in val")]
)
def test_a_feature_that_is_no_number_is_named_with_its_split(value: float, row: int, view: int, words: str) -> None:
    views, labels = clouds(views=2)
    views[view][row, 4] = value
    with pytest.raises(DataError, match=words):
        solve(views, labels)


def test_a_bad_row_is_named_with_its_source() -> None:
    views, labels = clouds()
    bad = tuple(view.copy() for view in views)
    bad[0][5, 0] = np.nan
    rows = np.array([9, 5])
    train = [FeatureRows(views, np.arange(40), labels[:40]), FeatureRows(bad, rows, labels[rows])]
    with pytest.raises(DataError, match="row 5 in view 0 of source 1"):
        solve_linear_head(train, [], num_classes=4)


def test_a_bad_row_of_val_that_is_only_in_an_unused_view_does_not_matter() -> None:
    views, labels = clouds(views=2)
    views[1][200, 4] = np.nan
    assert solve(views, labels).chosen_on == ON_VAL


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"l2_grid": []}, "l2_grid"),
        ({"l2_grid": [1.0, 0.0]}, "l2_grid"),
        ({"l2_grid": [math.nan]}, "l2_grid"),
        ({"label_smoothing": 1.0}, "label_smoothing is 1"),
        ({"label_smoothing": -0.1}, "label_smoothing is -0.1"),
        ({"num_classes": 3}, "labels 0 to 3 for 3 classes in train"),
        ({"num_classes": 0}, "num_classes is 0"),
        ({"class_weights": torch.ones(3)}, "class_weights"),
        ({"class_weights": torch.tensor([1.0, -1, 1, 1])}, "class_weights"),
        ({"class_weights": torch.tensor([1.0, math.nan, 1, 1])}, "class_weights"),
        ({"train": slice(0, 0)}, "no rows to train on"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, Any], words: str) -> None:
    views, labels = clouds()
    with pytest.raises(UsageError, match=words):
        solve(views, labels, **options)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v, r, y: ((), r, y), "views of shapes"),
        (lambda v, r, y: ((v[0], v[0][:-1]), r, y), "views of shapes"),
        (lambda v, r, y: ((v[0][:, 0],), r, y), "views of shapes"),
        (lambda v, r, y: ((v[0].astype(np.float64),), r, y), "float64"),
        (lambda v, r, y: (v, r[:-1], y), "rows .* and labels"),
        (lambda v, r, y: (v, r + 240, y), "rows 240 to 299 of 240"),
        (lambda v, r, y: (v, r - 1, y), "rows -1 to 58 of 240"),
        (lambda v, r, y: (v, r, y - 1), "labels -1 to 2"),
        (lambda v, r, y: ((v[0][:, :5],), r, y), "features beside"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(split: str, change: Callable[..., Any], words: str) -> None:
    views, labels = clouds()
    rows = np.arange(60)
    parts = {"train": [FeatureRows(views, rows, labels[:60])] * 2, "val": [FeatureRows(views, rows, labels[:60])]}
    parts[split][-1] = FeatureRows(*change(views, rows, labels[:60]))
    with pytest.raises(UsageError, match=f"{words}.* in {split}"):
        solve_linear_head(**parts, num_classes=4)


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_split_without_weight_is_refused(split: str) -> None:
    views, labels = clouds(k=2)
    ones = np.flatnonzero(labels == 1)
    train = [
        FeatureRows(
            views, ones if split == "train" else np.arange(240), labels[ones if split == "train" else slice(None)]
        )
    ]
    val = [FeatureRows(views, ones, labels[ones])]
    with pytest.raises(DataError, match=f"weight 0 in {split}"):
        solve_linear_head(train, val, num_classes=2, class_weights=torch.tensor([1.0, 0.0]))
