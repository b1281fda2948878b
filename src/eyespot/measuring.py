"""A trained model over every split once; on the way, temperature and rule for unknown pictures are fitted on val.

Before this: the weights are final. After this: `finishing` writes what was measured. Nothing is fitted any more when
test is read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eyespot.analysis import words
from eyespot.arrays import Float32Array, Int64Array
from eyespot.config import Config
from eyespot.data.dataset import PackedDataset, SplitName
from eyespot.data.loaders import make_loader
from eyespot.data.splits import Splits
from eyespot.evaluation.calibration import Calibration, fit_temperature, without_val
from eyespot.evaluation.evaluate import Evaluation, evaluation_of
from eyespot.evaluation.evaluate import evaluate as run_once
from eyespot.evaluation.metrics import wilson_interval
from eyespot.evaluation.predictor import Predictor
from eyespot.evaluation.unknown import UnknownScore, least_pictures, pixel_statistics, rows_to_keep
from eyespot.evaluation.views import check_views
from eyespot.opening import Observer
from eyespot.training.features import FeatureStore
from eyespot.training.prepare import read_positions
from eyespot.training.stored_features import FeatureHead, head_outputs
from eyespot.training.transfer import Trained, encode, sources_of

_CHUNK = 1024  # pictures whose pixels are in memory at once


@dataclass(frozen=True)
class Measuring:
    """One pass over each split; on the way the temperature and the rule for unknown pictures are fitted on val.

    Train comes first: some of its pictures are what others are compared with. Val comes next, and test last: nothing
    is fitted any more when it is read.
    """

    packed: PackedDataset
    splits: Splits
    trained: Trained
    config: Config
    watcher: Observer

    def run(
        self, predictor: Predictor, names: Sequence[SplitName]
    ) -> tuple[Predictor, dict[SplitName, Evaluation], dict[str, Any], dict[str, Any]]:
        """Return the predictor as it is shipped, what it says about each split, and how both were fitted."""
        calibration = without_val()
        rule: dict[str, Any] = {"rule": None, "note": self._why_never(names)}
        labels = self.splits.labels(self.packed, "train")
        keep = None
        if not rule["note"]:
            keep = rows_to_keep(labels, predictor.info.num_classes, int(predictor.model.num_features))  # type: ignore[arg-type]
        measured: dict[SplitName, Evaluation] = {}
        for split in names:
            found = self._measure(predictor, split, keep if split == "train" else None)
            if split == "train" and keep is not None:
                predictor = replace(predictor, unknown=self._comparing(predictor, found))
                found = replace(found, kept=None)
            elif split == "val":
                calibration = fit_temperature(found.logits, found.labels)
                info = predictor.info.model_copy(update={"temperature": calibration.temperature})
                if predictor.unknown is not None and found.distances is not None:
                    score, known = predictor.unknown.fitted_to(found.distances, self.config.evaluation.unknown_fraction)
                    info = info.model_copy(update={"unknown": known})
                    predictor = replace(predictor, unknown=score)
                    rule["rule"] = known.model_dump(mode="json")
                predictor = replace(predictor, info=info)
            measured[split] = found
        for split, found in measured.items():  # in the light of what was fitted after they were read
            if split != "test":
                numbers = {"seconds": found.seconds, "views": found.views, "distances": found.distances}
                measured[split] = evaluation_of(predictor, found.logits, found.labels, **numbers)  # type: ignore[arg-type]
        for split, found in measured.items():
            found.metrics.update(measured_as_given(self.packed, self.splits, split, found.logits))
        self._say(calibration, rule, measured)
        return predictor, measured, calibration.as_dict(), rule

    def _why_never(self, names: Sequence[SplitName]) -> str:
        """Return why the model cannot learn to say unknown; empty where it can."""
        fraction = self.config.evaluation.unknown_fraction
        if not fraction:
            return "evaluation.unknown_fraction is 0: the model never says unknown"
        if "val" not in names:
            return "there is no val split to set a threshold on: the model never says unknown"
        count, least = self.splits.count("val"), least_pictures(fraction)
        if count < least:
            return (
                f"{words.plural(count, 'val picture is', 'val pictures are')} too few for a threshold that refuses "
                f"{words.percent(fraction)} of them ({least} are needed): the model never says unknown"
            )
        return ""

    def _comparing(self, predictor: Predictor, found: Evaluation) -> UnknownScore:
        """Return the score that compares with the kept training pictures; without any it is the energy alone."""
        if found.kept is None:
            return UnknownScore({}, 1)
        return UnknownScore.from_rows(*found.kept, num_classes=predictor.info.num_classes)

    def _measure(self, predictor: Predictor, split: SplitName, keep: Int64Array | None) -> Evaluation:
        if self.trained.store is not None and predictor.info.views != "mirror-shift":
            return self._measure_stored(predictor, self.trained.store, split, keep)
        batch_size = self.config.evaluation.batch_size
        return measure(predictor, self.packed, self.splits, split, self.watcher, batch_size=batch_size, keep=keep)

    def _measure_stored(
        self, predictor: Predictor, store: FeatureStore, split: SplitName, keep: Int64Array | None
    ) -> Evaluation:
        """Measure a head on stored features; pictures that no training has seen are encoded now."""
        assert self.trained.encoder is not None
        views = 2 if predictor.info.views == "mirror" else 1
        sources = sources_of(self.splits, split)
        if any(len(store.arrays.get(source, ())) < views for source in sources):
            store = encode(self.trained.encoder, sources, views, self.watcher)
        labels = self.splits.labels(self.packed, split)
        statistics = self._pixel_statistics(predictor, split, keep)
        started = time.perf_counter()
        head = FeatureHead(predictor.model).eval()  # type: ignore[arg-type]
        device = predictor.plan.device
        logits, distances, inputs, done = [], [], [], 0
        for some_logits, some_inputs in head_outputs(
            head, store.parts(self.splits, split), mirror=views == 2, device=device
        ):
            logits.append(some_logits)
            end = done + len(some_logits)
            if keep is not None:
                inputs.append(some_inputs[keep[(keep >= done) & (keep < end)] - done])
            elif predictor.unknown is not None:
                parts = (statistics[done:end], some_logits, some_inputs)
                distances.append(predictor.unknown.distances(*(part.to(device) for part in parts)).cpu())
            done = end
        seconds = time.perf_counter() - started + store.encode_seconds(self.splits, split, views)
        found = evaluation_of(
            predictor,
            torch.cat(logits).numpy(),
            labels,
            seconds=seconds,
            views=predictor.info.views,
            distances=torch.cat(distances).numpy() if distances else None,
        )
        if keep is None or not len(keep):
            return found
        return replace(found, kept=(torch.cat(inputs).numpy(), statistics.numpy()))

    def _pixel_statistics(self, predictor: Predictor, split: SplitName, keep: Int64Array | None) -> Tensor:
        """Return the pixel statistics (N, P) of a split, or of some of its pictures; nothing where nobody asks."""
        if keep is None and predictor.unknown is None:
            return torch.zeros(0, 0)
        places = np.arange(self.splits.count(split)) if keep is None else keep
        found = []
        for start in range(0, len(places), _CHUNK):
            pixels = read_positions(self.packed, self.splits, split, places[start : start + _CHUNK])
            images = predictor.transform(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(predictor.plan.device))
            found.append(pixel_statistics(images).cpu())
        return torch.cat(found) if found else torch.zeros(0, 0)

    def _say(self, calibration: Calibration, rule: Mapping[str, Any], measured: Mapping[SplitName, Evaluation]) -> None:
        """Tell what was fitted, and what it does to pictures that it was not fitted on."""
        if calibration.n:
            told = f"temperature {calibration.temperature:.3g}, fitted on {words.plural(calibration.n, 'val picture')}"
            if "test" in measured:
                after = measured["test"].metrics
                raw = after["uncalibrated"]
                before = f"{words.percent(raw['ece'])} {words.interval(raw['ece_ci95'])}"
                now = f"{words.percent(after['ece'])} {words.interval(after['ece_ci95'])}"
                told += f"; ECE on test {before} before, {now} after (n = {after['n']:,})"
            self.watcher.on_message(f"calibration: {told}")
        if calibration.note:
            self.watcher.on_message(f"note: {calibration.note}")
        if rule["note"]:
            self.watcher.on_message(f"note: {rule['note']}")
        elif "test" in measured:
            found, n = measured["test"].metrics["unknown"], measured["test"].metrics["n"]
            self.watcher.on_message(
                f"unknown: refuses {words.percent(found['refused_fraction'])} of test "
                f"{words.interval(found['refused_ci95'])} (n = {n:,}){words.accuracy_on_the_rest(found)}"
            )


def measured_as_given(packed: PackedDataset, splits: Splits, split: SplitName, logits: Float32Array) -> dict[str, Any]:
    """Return the accuracy of a split against its labels before they were corrected; nothing where none of it was.

    Corrections move the yardstick, and towards the model where models chose what to look at: the figure that can be
    compared with other runs is this one.

    Args:
        packed: The pictures, perhaps under corrected labels.
        splits: Their division.
        split: Which part was measured.
        logits: float32 (N, K), in the order of the split.
    """
    if packed.given_labels is None:
        return {}
    parts = [packed.given_labels[source][rows] for source, rows in splits.indices[split].items()]
    given = np.concatenate(parts)
    corrected = int((given != splits.labels(packed, split)).sum())
    if not corrected:
        return {}
    right = int((logits.argmax(axis=1) == given).sum())
    low, high = wilson_interval(right, len(given))
    figures = {"corrected": corrected, "top1_as_given": right / len(given), "top1_as_given_ci95": [low, high]}
    return {"label_fixes": figures}


def measure(
    predictor: Predictor,
    packed: PackedDataset,
    splits: Splits,
    split: SplitName,
    watcher: Observer,
    *,
    batch_size: int,
    views: str | None = None,
    label_map: Any = None,
    keep: Int64Array | None = None,
) -> Evaluation:
    """Run a model once over a split; see `evaluation.evaluate`."""
    with make_loader(
        packed,
        splits,
        split,
        batch_size=batch_size,
        shuffle=False,
        seed=0,
        drop_last=False,
        device=predictor.plan.device,
        workers=0,
    ) as loader:
        return run_once(
            predictor,
            loader,
            views=check_views(views) if views is not None else predictor.info.views,
            label_map=label_map,
            keep=keep,
            progress=lambda done, total: watcher.on_count(f"measuring {split}", done, total),
        )
