"""Unknown pictures: the score, its threshold, its file, and what a prediction says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from eyespot.errors import CheckpointError, UsageError
from eyespot.evaluation.bundle import CARD, UNKNOWN, load_bundle, load_unknown, read_info, save_bundle
from eyespot.evaluation.bundle_info import BundleInfo
from eyespot.evaluation.predictor import Predictor, load_predictor
from eyespot.evaluation.unknown import (
    Scaling,
    UnknownRule,
    UnknownScore,
    least_pictures,
    num_pixel_statistics,
    pixel_statistics,
    rows_to_keep,
    unknown_metrics,
)

NewInfo = Callable[..., BundleInfo]
NewModel = Callable[..., nn.Module]


def drawings(count: int, seed: int, side: int = 8) -> torch.Tensor:
    """Return uint8 (N, 3, S, S): pictures of smooth colours."""
    dice = torch.Generator().manual_seed(seed)
    base = torch.randint(60, 200, (count, 3, 1, 1), generator=dice)
    return (base + torch.randint(-20, 20, (count, 3, side, side), generator=dice)).clamp(0, 255).to(torch.uint8)


@pytest.fixture
def knowing(predictor: Predictor) -> Predictor:
    """Return a predictor that has seen 60 training and 99 val pictures."""
    train = predictor.outputs(drawings(60, 0), features=True)
    score = UnknownScore.from_rows(train.features.numpy(), train.pixels.numpy(), 3)
    val = replace(predictor, unknown=score).outputs(drawings(99, 1)).distances.numpy()
    fitted, rule = score.fitted_to(val, 0.05)
    return replace(predictor, unknown=fitted, info=predictor.info.model_copy(update={"unknown": rule}))


def put(bundle: Path, predictor: Predictor) -> Path:
    save_bundle(bundle, predictor.model, predictor.info, unknown=predictor.unknown)
    return bundle


class TestScore:
    def test_against_a_computation_by_hand(self, knowing: Predictor) -> None:
        assert knowing.unknown is not None
        pixels = drawings(5, 7)
        images = knowing.transform(pixels)
        with torch.no_grad():
            logits = knowing.model(images)
            features = knowing.model.forward_head(knowing.model.forward_features(images), pre_logits=True)
        found = knowing.outputs(pixels).distances.numpy()
        rows = {name: tensor.float().numpy() for name, tensor in knowing.unknown.state_dict().items()}
        np.testing.assert_allclose(found[:, 0], -np.log(np.exp(logits.numpy()).sum(1)), rtol=1e-3)
        unit = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
        k = knowing.unknown.neighbours
        cosines = -np.sort(-(unit @ rows["features"].T), axis=1)
        np.testing.assert_allclose(found[:, 1], 1 - cosines[:, k - 1], atol=1e-4)
        seen = (pixel_statistics(images).numpy() - rows["pixel_mean"]) / rows["pixel_std"]
        apart = np.sort(np.linalg.norm(seen[:, None] - rows["pixels"][None], axis=2), axis=1)
        np.testing.assert_allclose(found[:, 2], apart[:, k - 1], atol=1e-2)

    def test_logits_are_those_without_it(self, knowing: Predictor) -> None:
        pixels = drawings(4, 3)
        for views in ("none", "mirror"):
            alone = replace(knowing, unknown=None).batch_logits(pixels, views=views)
            assert torch.equal(knowing.outputs(pixels, views=views).logits, alone)

    def test_five_in_a_hundred_of_its_own_kind_are_refused(self, knowing: Predictor) -> None:
        own = knowing.predict_pixels(list(drawings(400, 5).permute(0, 2, 3, 1).numpy()))
        refused = sum(answer.unknown is True for answer in own) / 400
        assert 0.005 <= refused <= 0.12

    def test_noise_and_black_pictures_are_refused(self, knowing: Predictor) -> None:
        dice = np.random.default_rng(0)
        noise = list(dice.integers(0, 256, (50, 8, 8, 3), dtype=np.uint8))
        assert np.mean([answer.unknown for answer in knowing.predict_pixels(noise)]) > 0.9
        black = knowing.predict_pixels([np.zeros((8, 8, 3), np.uint8)])[0]
        assert black.unknown is True
        assert black.unknown_score is not None
        assert np.isfinite(black.unknown_score)

    def test_the_threshold_is_the_conformal_quantile(self) -> None:
        score = UnknownScore({}, 1)
        distances = np.arange(99, dtype=np.float32)[:, None]
        fitted, rule = score.fitted_to(distances, 0.05)
        scores = fitted.total(torch.from_numpy(distances)).numpy()
        assert (scores > rule.threshold).sum() == 4  # 95 of 100, the new one among them, are not above it
        assert rule.sha256 == ""
        assert (rule.n, rule.rows, rule.num_features) == (99, 0, 0)

    @pytest.mark.parametrize("n", [19, 40])
    def test_of_new_pictures_no_more_are_refused_though_val_is_small_and_has_outliers(self, n: int) -> None:
        dice = np.random.default_rng(0)
        refused = []
        for _ in range(300):
            val, new = (np.exp(dice.standard_normal((count, 2))).astype(np.float32) for count in (n, 200))
            parts = {"energy": Scaling(weight=1, centre=0, scale=1), "features": Scaling(weight=1, centre=0, scale=1)}
            fitted, rule = UnknownScore({"features": torch.zeros(1, 1)}, 1, parts).fitted_to(val, 0.05)  # type: ignore[arg-type]
            refused.append((fitted.total(torch.from_numpy(new)).numpy() > rule.threshold).mean())
        assert 0.03 < np.mean(refused) <= 0.05

    @pytest.mark.parametrize(("fraction", "least"), [(0.05, 19), (0.1, 9), (0.01, 99)])
    def test_least_pictures(self, fraction: float, least: int) -> None:
        assert least_pictures(fraction) == least

    def test_it_runs_as_one_graph(self, knowing: Predictor) -> None:
        assert knowing.unknown is not None
        images = knowing.transform(drawings(3, 4))
        parts = (images, torch.randn(3, 3), torch.randn(3, 8))
        program = torch.export.export(knowing.unknown, parts)
        torch.testing.assert_close(program.module()(*parts), knowing.unknown(*parts))

    @pytest.mark.parametrize("side", [1, 2, 5, 32, 65, 224])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_statistics_of_any_size_are_finite(self, side: int, channels: int) -> None:
        found = pixel_statistics(torch.rand(2, channels, side, side))
        assert found.shape == (2, num_pixel_statistics(channels, side))
        assert torch.isfinite(found).all()
        flat = pixel_statistics(torch.zeros(1, channels, side, side))
        assert torch.equal(flat, torch.zeros_like(flat))


class TestRows:
    def test_spread_over_classes_and_data(self) -> None:
        labels = np.repeat([0, 1], [9000, 1000])
        kept = rows_to_keep(labels, 2, 16)
        assert (len(kept), kept[0], kept[-1]) == (1600, 0, 9999)
        assert np.bincount(labels[kept]).tolist() == [800, 800]
        assert (np.diff(kept) > 0).all()

    def test_few_pictures_wide_features_many_classes(self) -> None:
        assert len(rows_to_keep(np.array([0, 0, 1]), 3, 8)) == 3
        assert len(rows_to_keep(np.zeros(5000, np.int64), 2, 2048)) == 512
        assert len(rows_to_keep(np.zeros(0, np.int64), 1000, 512)) == 0

    def test_more_classes_than_room_are_compared_with_some_of_the_data(self) -> None:
        labels = np.repeat(np.arange(1000), 5)
        kept = rows_to_keep(labels, 1000, 512)
        assert (len(kept), kept[0], kept[-1]) == (1600, 0, 4999)
        assert np.bincount(labels[kept], minlength=1000).min() >= 1
        assert len(rows_to_keep(labels, 1000, 25_088)) == 83
        assert rows_to_keep(np.arange(900), 900, 8).tolist() == list(range(900))


class TestFile:
    def test_the_bundle_gives_the_same_answers(self, bundle: Path, knowing: Predictor) -> None:
        loaded = load_predictor(put(bundle, knowing), device="cpu")
        loaded = replace(loaded, plan=knowing.plan)
        pictures = list(drawings(6, 8).permute(0, 2, 3, 1).numpy())
        assert loaded.predict_pixels(pictures) == knowing.predict_pixels(pictures)
        assert (bundle / UNKNOWN).stat().st_size <= knowing.info.unknown.max_bytes  # type: ignore[union-attr]

    def test_nobody_asks(self, bundle: Path, knowing: Predictor) -> None:
        never = load_predictor(put(bundle, knowing), device="cpu", unknown="never")
        answer = never.predict_pixels([np.zeros((8, 8, 3), np.uint8)])[0]
        assert (answer.unknown, answer.unknown_score) == (None, None)
        with pytest.raises(UsageError, match="unknown = 'always': use auto or never"):
            load_predictor(bundle, unknown="always")  # type: ignore[arg-type]

    def test_a_bundle_of_the_first_version(self, bundle: Path) -> None:
        import json

        from eyespot.evaluation.bundle import INFO
        from eyespot.evaluation.bundle_info import _digest

        values = json.loads((bundle / INFO).read_text(encoding="utf-8"))
        del values["unknown"]
        values |= {"format_version": 1, "unknown_threshold": None}
        values["info_sha256"] = _digest(values)
        (bundle / INFO).write_text(json.dumps(values), encoding="utf-8")
        assert read_info(bundle).unknown is None
        answer = load_predictor(bundle).predict_pixels([np.zeros((8, 8, 3), np.uint8)])[0]
        assert answer.label is not None
        assert answer.unknown is None

    @pytest.mark.parametrize("damage", ["missing", "flipped", "truncated", "longer"])
    def test_damage_is_one_clear_line(self, damage: str, bundle: Path, knowing: Predictor) -> None:
        path = put(bundle, knowing) / UNKNOWN
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        elif damage == "flipped":
            path.write_bytes(content[:-3] + bytes([content[-3] ^ 1]) + content[-2:])
        else:
            path.write_bytes(content[:-1] if damage == "truncated" else content + bytes(10_000))
        with pytest.raises(CheckpointError, match=r"unknown\.safetensors: (take the bundle again|a bundle is)") as info:
            load_predictor(bundle)
        assert "\n" not in str(info.value)

    @pytest.mark.parametrize("wrong", ["pickle", "dtype", "shape", "nan", "name"])
    def test_what_a_stranger_sealed(self, wrong: str, bundle: Path, knowing: Predictor) -> None:
        tensors = load(knowing.unknown.content())  # type: ignore[union-attr]
        if wrong == "dtype":
            tensors["features"] = tensors["features"].float()
        elif wrong == "shape":
            tensors["features"] = tensors["features"][:-1].contiguous()
        elif wrong == "nan":
            tensors["pixel_mean"][0] = float("nan")
        elif wrong == "name":
            tensors["../x"] = torch.zeros(1)
        content = b"\x80\x04." if wrong == "pickle" else save(tensors)
        put(bundle, knowing)
        info = load_bundle(bundle)[1]
        rule = info.unknown.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})  # type: ignore[union-attr]
        (bundle / UNKNOWN).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"not a safetensors file|does not fit the model"):
            load_unknown(bundle, info.model_copy(update={"unknown": rule}))

    def test_a_rule_for_another_network(self, bundle: Path, knowing: Predictor) -> None:
        put(bundle, knowing)
        train = np.zeros((60, 5), np.float32)
        score = UnknownScore.from_rows(train + np.eye(60, 5, dtype=np.float32), np.zeros((60, 0), np.float32), 3)
        fitted, rule = score.fitted_to(np.random.default_rng(0).random((30, 2), dtype=np.float32), 0.05)
        info = knowing.info.model_copy(update={"unknown": rule})
        save_bundle(bundle, knowing.model, info, unknown=fitted)
        with pytest.raises(CheckpointError, match="compares 5 numbers where the model has 8"):
            load_predictor(bundle)

    def test_the_card_is_part_of_a_bundle(self, bundle: Path, knowing: Predictor) -> None:
        save_bundle(bundle, knowing.model, knowing.info, unknown=knowing.unknown, card="# cats\n")
        assert (bundle / CARD).read_text(encoding="utf-8") == "# cats\n"
        put(bundle, knowing)
        assert not (bundle / CARD).exists()


def test_what_it_does_to_a_split() -> None:
    _, rule = UnknownScore({}, 1).fitted_to(np.arange(99, dtype=np.float32)[:, None], 0.05)
    scores = np.array([0.0, 0.1, 9.0, 9.0], np.float32)
    found = unknown_metrics(scores, rule, np.array([0, 1, 1, 1]), np.array([0, 0, 1, 0]))
    assert (found["refused"], found["accepted"], found["accepted_top1"]) == (2, 2, 0.5)
    assert sum(found["histogram"]["right"]) + sum(found["histogram"]["wrong"]) == 4
    none = unknown_metrics(scores[2:], rule, np.array([1, 1]), np.array([1, 0]))
    assert (none["accepted"], none["accepted_top1"], none["accepted_top1_ci95"]) == (0, None, None)


def test_rows_and_their_digest_come_together(knowing: Predictor) -> None:
    rule = knowing.info.unknown
    assert rule is not None
    with pytest.raises(ValueError, match="rows and no digest"):
        UnknownRule.model_validate({**rule.model_dump(), "sha256": ""})
