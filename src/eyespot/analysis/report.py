"""The report of a run: everything about it on one page that opens offline, on a phone and on paper.

Before this: the run folder's settings, curves and metrics, and a few pictures. After this: `report.html`.
Here the page's content is chosen and put in words; `templates/report.html.j2` says where on the page it stands.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from eyespot.analysis import charts, words
from eyespot.analysis.cautions import DataCard, count_pictures, find_cautions
from eyespot.analysis.headline import describe_count, describe_top1, describe_views, headline_split
from eyespot.analysis.pages import jpeg_data_uri, render_page, thumbnail, write_page
from eyespot.analysis.target import describe_target
from eyespot.analysis.trust_section import trust_of
from eyespot.analysis.verdict import confused_pairs, judge, sort_findings
from eyespot.analysis.why import Why, panel
from eyespot.arrays import Float32Array, Int64Array, UInt8Array
from eyespot.data.dataset import SPLIT_NAMES
from eyespot.evaluation.metrics import softmax

# A confusion table of more classes cannot be read at one glance, nor fit on paper: a heat map and the worst pairs can.
_MOST_TABLE_CLASSES = 25
_MOST_WIDE_CELLS = 19  # beyond, the cells of the table are narrow, so that it fits its page
_MOST_LISTED = 50
_PAIRS_BESIDE_TABLE, _PAIRS_BESIDE_MAP = 5, 20
# In the range test of the learning rate, as a multiple of the untrained network's.
_HIGHEST_LOSS = 1.5


class Mistake(NamedTuple):
    """One picture that was named wrongly.

    Attributes:
        pixels: uint8 (H, W, C) with C 1 or 3.
        true_name: Its class.
        predicted_name: The class that the model gave.
        prob: Probability that the model gave to it, in [0, 1].
        sample_id: Where the picture is.
    """

    pixels: UInt8Array
    true_name: str
    predicted_name: str
    prob: float
    sample_id: str


@dataclass(frozen=True)
class ReportInput:
    """Everything that a report shows.

    Attributes:
        run_name: Title of the page, such as the name of the run folder.
        config: Every setting, as in `config.toml`.
        provenance: As in `provenance.json`. Shown by name: command, python, platform, processor, cores, versions,
            device, precision, precision_reason, threads, cpu_features, peak_memory_bytes, packing_seconds, started,
            finished, gpu; the rest is listed as it is.
        history: Rows of `history.jsonl`, one an epoch.
        metrics: `metrics.json`; each of `test`, `val` and `train` may be missing.
        class_names: K names in label order.
        data_card: What is known about the data.
        mistakes: The most confident ones, on the split that `headline_split` names.
        augmented: uint8 (M, H, W, C), training pictures as the model gets them, before normalisation.
        augmented_labels: M labels.
        augmentation: What was done to them, in words.
        model: `LayerTable.as_dict()`, or None.
        why: Heat maps of some answers.
        lr_finder: `lr_finder.json`; empty where the recipe gave the learning rate.
    """

    run_name: str
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    class_names: Sequence[str]
    data_card: DataCard
    mistakes: Sequence[Mistake] = ()
    augmented: UInt8Array | None = None
    augmented_labels: Sequence[int] = field(default_factory=tuple)
    augmentation: str = ""
    model: Mapping[str, Any] | None = None
    lr_finder: Mapping[str, Any] = field(default_factory=dict)
    why: Why = field(default_factory=Why)


def most_confident_mistakes(logits: Float32Array, labels: Int64Array, count: int) -> Int64Array:
    """Return the indices int64 of wrongly named pictures, the surest first.

    Args:
        logits: float32 (N, K).
        labels: int64 (N,).
        count: At most so many.
    """
    sureness = softmax(logits).max(axis=1)  # (N,)
    wrong = np.flatnonzero(logits.argmax(axis=1) != labels)
    # Stable: of equally sure mistakes the first in the data comes first, on every machine.
    return wrong[np.argsort(-sureness[wrong], kind="stable")][:count].astype(np.int64)


def collect_mistakes(
    logits: Float32Array,
    labels: Int64Array,
    ids: Sequence[str],
    class_names: Sequence[str],
    read_pixels: Callable[[Int64Array], UInt8Array],
    count: int = 24,
) -> list[Mistake]:
    """Return the most confident mistakes with their pictures.

    Args:
        logits: float32 (N, K).
        labels: int64 (N,).
        ids: N sample ids.
        class_names: K names.
        read_pixels: Takes indices int64 (M,) and returns their pixels uint8 (M, H, W, C); only these are read.
        count: At most so many.
    """
    indices = most_confident_mistakes(logits, labels, count)
    if not len(indices):
        return []
    probs = softmax(logits[indices])
    preds = probs.argmax(axis=1)
    return [
        Mistake(pixels, class_names[labels[index]], class_names[pred], float(prob[pred]), ids[index])
        for pixels, index, pred, prob in zip(read_pixels(indices), indices, preds, probs, strict=True)
    ]


def write_report(inputs: ReportInput, path: Path) -> None:
    """Write the report as one HTML file without any outside request.

    Raises:
        RunError: The file cannot be written.
    """
    write_page(render_report(inputs), path)


def render_report(inputs: ReportInput) -> str:
    """Return the report as the text of an HTML page."""
    metrics, num_classes = inputs.metrics, len(inputs.class_names)
    training = inputs.config.get("training", {})
    verdict = judge(
        inputs.history,
        metrics,
        num_classes=num_classes,
        epochs_planned=int(training.get("epochs", len(inputs.history))),
        class_names=inputs.class_names,
        found_lr=inputs.lr_finder.get("chosen"),
    )
    final = bool(inputs.config.get("data", {}).get("final", False))
    cautions = find_cautions(inputs.data_card, metrics, num_classes=num_classes, final=final)
    split = headline_split(metrics)
    context = {
        "run_name": inputs.run_name,
        "head": _describe_head(metrics),
        "head_kept": _head_kept(metrics),
        "subtitle": _subtitle(inputs),
        "verdict": verdict,
        "top1": words.percent(metrics[split]["top1"]) if split else "",
        "flaw": metrics[split].get("flaw", "") if split else "",
        "findings": sort_findings([*verdict.findings, *describe_target(metrics), *cautions]),
        "figures": _headline_figures(inputs, split),
        "interval_chart": Markup(_interval_chart(metrics, num_classes)),
        "split": split,
        "of_split": f"{split}, n = {words.whole(metrics[split]['n'])}" if split else "",
        "split_table": _split_table(metrics),
        "calibrated": bool(inputs.history and (metrics.get("calibration") or {}).get("n")),
        "curves": _curves(inputs),
        "hardest": words.percent(training["hardest_share"]) if training.get("hardest_share", 1.0) < 1 else "",
        "range_test": _range_test(inputs.lr_finder),
        "confusion": _confusion(metrics, split, inputs.class_names),
        "per_class": _per_class(metrics, split, inputs.class_names),
        "trust": trust_of(metrics, split),
        "mistakes": [_show_mistake(mistake) for mistake in inputs.mistakes],
        "why": panel(inputs.why, jpeg_data_uri),
        "augmented": _augmented(inputs),
        "augmentation": inputs.augmentation[:1].upper() + inputs.augmentation[1:].rstrip("."),
        "data": _data(inputs.data_card, inputs.class_names),
        "model": inputs.model,
        "config": _config(inputs.config, inputs.lr_finder.get("settings", {})),
        "cost": _cost(inputs),
        "recorded": [(key, _spell(value)) for key, value in inputs.provenance.items() if key not in _SHOWN],
        "reproduce": _reproduce(inputs),
    }
    return render_page("report.html.j2", context)


def _subtitle(inputs: ReportInput) -> str:
    """Return data, model, recipe and time in one line."""
    model, recipe = inputs.config.get("model", {}).get("name"), inputs.config.get("name")
    parts = [
        inputs.data_card.get("name"),
        f"model {model}" if model else None,
        f"recipe {recipe}" if recipe else None,
        words.moment(inputs.provenance.get("finished") or inputs.provenance.get("started") or ""),
    ]
    return " · ".join(str(part) for part in parts if part)


def _headline_figures(inputs: ReportInput, split: str | None) -> list[tuple[str, str, str]]:
    """Return (what, value, conditions) of the figures below the verdict."""
    metrics = inputs.metrics
    figures = []
    for name in ("test", "val", "train"):
        if name != split and metrics.get(name):
            found = metrics[name]
            flaw = f"{found['flaw']}; " if found.get("flaw") else ""
            detail = f"{flaw}{words.interval(found['top1_ci95'])}, n = {describe_count(found)}"
            figures.append((f"{name.capitalize()} accuracy", words.percent(found["top1"]), detail))
    if split and metrics[split].get("ece") is not None:
        bounds = metrics[split].get("ece_ci95")
        interval = f"{words.interval(bounds)}, " if bounds else ""
        detail = f"{interval}ECE on {split}, n = {words.whole(metrics[split]['n'])}"
        figures.append(("Confidence is off by", words.points(metrics[split]["ece"]), detail))
    device = " ".join(str(inputs.provenance[key]) for key in ("device", "precision") if inputs.provenance.get(key))
    if metrics.get("train_seconds") is not None:
        epochs = words.plural(len(inputs.history), "epoch")
        if not inputs.history and metrics.get("head"):
            epochs = "encoding, and a head that was solved"
        figures.append(
            ("Training time", words.duration(metrics["train_seconds"]), f"{epochs}{' on ' * bool(device)}{device}")
        )
    rates = [row["images_per_second"] for row in inputs.history if row.get("images_per_second")]
    if rates:
        figures.append(("Training pace", words.whole(float(np.median(rates))), "pictures/s, median of the epochs"))
    if inputs.model and inputs.model.get("parameters") is not None:
        detail = f"{words.whole(inputs.model['trainable'])} trained"
        figures.append(("Parameters", words.whole(inputs.model["parameters"]), detail))
    return figures


def _interval_chart(metrics: Mapping[str, Any], num_classes: int) -> str:
    rows = [
        charts.Interval(
            f"{name} ({metrics[name]['flaw']})" if metrics[name].get("flaw") else name,
            name,
            metrics[name]["top1"],
            *metrics[name]["top1_ci95"],
        )
        for name in ("test", "val", "train")
        if metrics.get(name)
    ]
    if not rows:
        return ""
    return charts.interval_chart(rows, title="Accuracy with 95 % interval by split", chance=1 / num_classes)


def _split_table(metrics: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return one row of figures for each split that was measured."""
    rows = []
    for name in ("test", "val", "train"):
        if not metrics.get(name):
            continue
        found = metrics[name]
        rows.append(
            {
                "split": f"{name} ({found['flaw']})" if found.get("flaw") else name,
                "n": describe_count(found),
                "views": describe_views(found.get("views")) or words.MISSING,
                "top1": f"{words.percent(found['top1'])} {words.interval(found['top1_ci95'])}",
                "top5": words.top5(found),
                "loss": words.decimal(found.get("nll_loss")),
                "ece": words.calibration_error(found.get("ece"), found.get("ece_ci95")),
                "brier": words.decimal(found.get("brier")),
                "rate": words.rate(found.get("images_per_second") or None),
            }
        )
    return rows


def _head_kept(metrics: Mapping[str, Any]) -> bool:
    """Return whether the epochs trained another network than the one that was measured."""
    return bool((metrics.get("head") or {}).get("kept"))


def _describe_head(metrics: Mapping[str, Any]) -> str:
    """Return how a head was solved on frozen features, in sentences; empty where it was not."""
    head = metrics.get("head")
    if not head:
        return ""
    encoding, solving = words.duration(head["encode_seconds"]), words.duration(head["solve_seconds"])
    return (
        "The head was solved, not trained in epochs: multinomial logistic regression on the features of the "
        "frozen backbone. "
        f"Its L2 penalty {head['l2']:.1e} is the best of {len(head['path'])} on {head['chosen_on']}. "
        f"Encoding the pictures took {encoding} when it was done, solving {solving}."
    )


def _curves(inputs: ReportInput) -> list[Markup]:
    """Return the charts of loss, accuracy and learning rate; those without a figure are left out."""
    loss, accuracy = (
        [charts.series_of(inputs.history, f"{split}/{key}", split, split) for split in ("train", "val")]
        for key in ("loss", "top1")
    )
    mark = _best_epoch(inputs)
    drawn = (
        charts.line_chart(
            loss,
            title="Loss",
            x_label="epoch",
            write_y=words.axis_number,
            log_y=charts.loss_is_logarithmic(loss),
            mark_x=mark,
        ),
        charts.line_chart(
            accuracy,
            title="Accuracy",
            x_label="epoch",
            write_y=words.axis_percent,
            mark_x=mark,
        ),
        charts.line_chart(
            [charts.series_of(inputs.history, "lr", "lr", "lr")],
            title="Learning rate",
            x_label="epoch",
            write_y=words.axis_number,
            height=150,
        ),
    )
    return [Markup(svg) for svg in drawn]


def _range_test(found: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the chart of the search for the learning rate and what it means; None where there was none."""
    if not found.get("losses"):
        return None
    rates, chosen = found["rates"], float(found["chosen"])

    def series(values: Sequence[float], *, points: bool) -> charts.Series:
        # What diverges would press all the rest to the floor of the chart.
        shown = [value if value < _HIGHEST_LOSS * found["untrained"] else math.nan for value in values]
        return charts.Series("loss", "lr", rates, shown, points=points)

    chart = charts.line_chart(
        [series(found["losses"], points=True), series(found["smoothed"], points=False)],
        title=f"Range test of the learning rate, logarithmic axis, {chosen:g} chosen",
        x_label="learning rate",
        write_y=words.axis_number,
        log_x=True,
        mark_x=(chosen, f"chosen: {chosen:g}") if rates[0] <= chosen <= rates[-1] else None,
    )
    told = (
        f"Before the training, a copy of the network took {words.plural(len(rates), 'step')} at a rate that rose from"
        f" {words.learning_rate(rates[0])} to {words.learning_rate(rates[-1])}. Points: the loss of each batch, as far"
        " as the chart reaches. Line: the same, smoothed and without the chance of which pictures were drawn."
    )
    if not found["found"]:
        return {"chart": Markup(chart), "text": f"{told} No rate made it fall, so the run got a usual one, {chosen:g}."}
    told += (
        f" It falls steepest at {words.learning_rate(found['steepest'])} and is lowest at"
        f" {words.learning_rate(found['lowest'])}; the run got {chosen:g},"
        " the middle of the stretch over which it falls."
    )
    if found["diverges"] is not None:
        told += f" From {words.learning_rate(found['diverges'])} on it is worse than before any training."
    return {"chart": Markup(chart), "text": told}


def _best_epoch(inputs: ReportInput) -> tuple[float, str] | None:
    """Return the epoch that the recipe's own measure calls the best, and its label; None without val."""
    training = inputs.config.get("training", {})
    key = training.get("monitor", "val/loss")
    sign = 1 if key.endswith("loss") else -1
    rows = [
        (sign * row[key], index, row.get("epoch", index + 1))
        for index, row in enumerate(inputs.history)
        if row.get(key) is not None and math.isfinite(row[key])
    ]
    if len(rows) < 2:
        return None
    epoch = min(rows)[2]
    was_kept = training.get("restore_best") and inputs.metrics.get("best_epoch", epoch) == epoch
    kept = " (kept)" if was_kept and not _head_kept(inputs.metrics) else ""
    return float(epoch), f"best {key}: epoch {epoch:g}{kept}"


def _confusion(metrics: Mapping[str, Any], split: str | None, names: Sequence[str]) -> dict[str, Any] | None:
    """Return the confusion matrix as a table of cells up to 25 classes, as a heat map beyond, and the worst pairs."""
    if split is None or metrics[split].get("confusion") is None:
        return None
    matrix = np.asarray(metrics[split]["confusion"], dtype=np.int64)
    table = len(names) <= _MOST_TABLE_CLASSES
    pairs = [
        {
            "first": names[pair.first],
            "second": names[pair.second],
            "there": _of(pair.first_as_second, pair.first_count),
            "back": _of(pair.second_as_first, pair.second_count),
        }
        for pair in confused_pairs(matrix, _PAIRS_BESIDE_TABLE if table else _PAIRS_BESIDE_MAP)
    ]
    return {
        "names": names,
        "cells": charts.confusion_cells(matrix) if table else None,
        "many": len(names) > _MOST_WIDE_CELLS,
        "map": None if table else Markup(charts.heat_map(matrix, names)),
        "pairs": pairs,
        "mistakes": words.plural(int(matrix.sum() - np.trace(matrix)), "mistake"),
    }


def _of(count: int, n: int) -> str:
    """Return `3 of 25`, or a dash for a class without pictures."""
    return f"{words.whole(count)} of {words.whole(n)}" if n else words.MISSING


def _per_class(metrics: Mapping[str, Any], split: str | None, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each class, the lowest F1 first and those without pictures last."""
    if split is None or not metrics[split].get("per_class") or metrics[split].get("confusion") is None:
        return []
    figures = metrics[split]["per_class"]
    matrix = np.asarray(metrics[split]["confusion"], dtype=np.int64)
    rows = []
    for index, name in enumerate(names):
        found = figures.get(name)
        if found is None:
            continue
        right, there, said = int(matrix[index, index]), int(matrix[index].sum()), int(matrix[:, index].sum())
        wrong = matrix[index].copy()
        wrong[index] = 0
        other = int(wrong.argmax())
        rows.append(
            {
                "name": name,
                "n": words.whole(there),
                "recall": words.share(right, there),
                "said": words.whole(said),
                "precision": words.share(right, said),
                # Of a class without pictures nothing was measured: 0 % would be a figure.
                "f1": words.percent(found["f1"]) if there else words.MISSING,
                "share": found["f1"],
                "taken_for": f"{names[other]} ({words.whole(int(wrong[other]))})" if wrong[other] else words.MISSING,
                "measured": there > 0,
            }
        )
    return sorted(rows, key=lambda row: (not row["measured"], row["share"]))


def _show_mistake(mistake: Mistake) -> dict[str, Any]:
    return {
        **thumbnail(mistake.pixels),
        "true": mistake.true_name,
        "predicted": mistake.predicted_name,
        "prob": words.percent(mistake.prob),
        "id": mistake.sample_id,
    }


def _augmented(inputs: ReportInput) -> list[dict[str, Any]]:
    if inputs.augmented is None:
        return []
    return [
        {**thumbnail(pixels), "name": inputs.class_names[label]}
        for pixels, label in zip(inputs.augmented, inputs.augmented_labels, strict=True)
    ]


def _data(card: DataCard, names: Sequence[str]) -> dict[str, Any]:
    """Return the data card: facts in words, counts by class and split, and what the scan found."""
    counts = card.get("counts", {})
    splits = [split for split in SPLIT_NAMES if split in counts]
    sizes = [f"{width} x {height} ({words.whole(number)})" for width, height, number in card.get("sizes", ())]
    modes = [f"{mode} ({words.whole(number)})" for mode, number in card.get("modes", {}).items()]
    shape, packed = card.get("packed_shape"), card.get("packed_bytes", 0)
    packed_words = ""
    if shape:
        place = words.size(packed) if packed else "streamed from the files"
        how = ", ".join(filter(None, (card.get("fit"), card.get("interpolation"))))
        packed_words = (
            f"{shape[1]} x {shape[0]} px, {words.plural(shape[2], 'channel')}, {place}{'; ' * bool(how)}{how}"
        )
    facts = [
        ("Data set", card.get("name")),
        ("Read from", card.get("origin")),
        ("Layout", card.get("layout")),
        ("Pictures", words.whole(count_pictures(card)) if counts else None),
        ("Classes", words.whole(len(names))),
        ("Sizes", _some(sizes, 6)),
        ("Colour modes", _some(modes, 8)),
        ("Packed as", packed_words),
        ("Preparation", card.get("preparation")),
        ("Files that cannot be used", words.whole(len(card.get("bad", ())))),
        ("Pictures there more than once", words.whole(card.get("duplicates", 0))),
        ("Pictures in more than one split", words.whole(card.get("leaks", 0))),
        ("Content fingerprint", card.get("fingerprint")),
    ]
    bad = list(card.get("bad", ()))
    return {
        "facts": [(name, value) for name, value in facts if value],
        "splits": splits,
        "totals": [words.whole(sum(counts[split].values())) for split in splits],
        "rows": [(name, [words.whole(counts[split].get(name, 0)) for split in splits]) for name in names],
        "bad": bad[:_MOST_LISTED],
        "bad_more": max(0, len(bad) - _MOST_LISTED),
        "groups": [
            (title, [" = ".join(group) for group in examples])
            for title, examples in (
                ("Examples of the same picture in two splits", card.get("leak_examples", ())),
                ("Examples of pictures that are there more than once", card.get("duplicate_examples", ())),
            )
            if examples
        ],
    }


def _some(texts: Sequence[str], most: int) -> str:
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more


def _config(config: Mapping[str, Any], found: Mapping[str, float]) -> dict[str, Any]:
    """Return the settings: those that differ from eyespot's defaults first, then all by section.

    Args:
        config: As in config.toml.
        found: Learning rates that were searched for, by their keys in `[optimizer]`.
    """
    from eyespot.config import Config

    defaults = _flatten(Config().model_dump(mode="json"))
    settings = _flatten(config)
    settings |= {
        f"optimizer.{key}": f"{settings.get(f'optimizer.{key}')}, found {rate:.3g}" for key, rate in found.items()
    }
    changed = [
        (key, value, defaults.get(key, words.MISSING))
        for key, value in settings.items()
        if value != defaults.get(key) and key not in {"name", "description"}
    ]
    sections: dict[str, list[tuple[str, str]]] = {}
    for key, value in settings.items():
        section, dot, name = key.partition(".")
        sections.setdefault(section if dot else "recipe", []).append((name or section, value))
    return {"changed": changed, "sections": sections, "description": config.get("description", "")}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return `section.key` -> value as TOML would write it, or nearly."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = (
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            )
    return flat


# How the entries of provenance.json are called on the page; the others keep their own names.
_PROVENANCE_TITLES = {
    "device": "Device",
    "gpu": "GPU",
    "precision": "Precision",
    "precision_reason": "Why this precision",
    "processor": "Processor",
    "cores": "Cores",
    "threads": "Threads",
    "cpu_features": "Processor features",
    "platform": "System",
    "started": "Started",
    "finished": "Finished",
}
_SHOWN = {*_PROVENANCE_TITLES, "python", "versions", "command", "peak_memory_bytes", "packing_seconds"}


def _cost(inputs: ReportInput) -> list[tuple[str, str]]:
    """Return what the run took, and on what."""
    metrics, provenance = inputs.metrics, inputs.provenance
    rows = (
        [("Training", words.duration(metrics.get("train_seconds")))] if metrics.get("train_seconds") is not None else []
    )
    for name in ("test", "val", "train"):
        found = metrics.get(name) or {}
        if found.get("seconds"):
            pace = words.rate(found.get("images_per_second"))
            rows.append(
                (
                    f"Measuring {name}",
                    f"{words.duration(found['seconds'])} for {words.whole(found['n'])} pictures, {pace}",
                )
            )
    if provenance.get("packing_seconds"):
        rows.append(("Scanning and packing", words.duration(provenance["packing_seconds"])))
    if provenance.get("peak_memory_bytes"):
        rows.append(("Peak memory", words.size(provenance["peak_memory_bytes"])))
    for key, title in _PROVENANCE_TITLES.items():
        if provenance.get(key):
            value = _spell(provenance[key])
            rows.append((title, words.moment(value) if key in {"started", "finished"} else value))
    versions = {"python": provenance["python"]} if provenance.get("python") else {}
    versions |= provenance.get("versions") or {}
    if versions:
        rows.append(("Versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return rows


def _spell(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(_spell(item) for item in value)
    return json.dumps(value, ensure_ascii=False, default=str)


def _reproduce(inputs: ReportInput) -> dict[str, Any]:
    """Return the commands that lead to this run again, and what the result depends on."""
    versions = inputs.provenance.get("versions") or {}
    pinned = [f"{name}=={version}" for name, version in versions.items() if version != "not installed"]
    return {
        "install": f"pip install {' '.join(pinned)}" if pinned else "",
        "command": _spell(inputs.provenance.get("command", "")),
        "fingerprint": inputs.data_card.get("fingerprint", ""),
        "seed": _spell(inputs.config.get("training", {}).get("seed", "")),
        "headline": describe_top1(inputs.metrics[split], split) if (split := headline_split(inputs.metrics)) else "",
    }
