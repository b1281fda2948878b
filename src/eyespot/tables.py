"""Tables on the terminal and their JSON: models, layers, runs, data sets, the cache, a data card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.analysis import words
from eyespot.analysis.headline import describe_top1, headline_split
from eyespot.caches import cache_folder, user_path
from eyespot.data_verbs import look_at_cache
from eyespot.errors import EyespotError, RunError, UsageError, did_you_mean, printable, quoted
from eyespot.notes import read_annotations
from eyespot.runs import Run
from eyespot.terminal import add_row, plain_table, print_json, print_table

if TYPE_CHECKING:
    from eyespot.analysis.cautions import DataCard
    from eyespot.data.dataset import PackedDataset
    from eyespot.data.picture_table import PictureTable

RUN_ORDERS = {
    "created": "created",
    "name": "run",
    "test": "test_top1",
    "val": "val_top1",
    "minutes": "train_seconds",
    "params": "parameters",
}
"""What `eyespot runs --sort` may be, and the value of a row it stands for; the highest comes last."""

_RUN_PLACES = (
    "*",
    "runs/*",
    "*/runs/*",
)  # runs; those of the experiment that the folder is; those of experiments in it
_NUMBERS = ("train_seconds", "parameters", "top1", "val_top1", "test_top1")
_TEXTS = {"data": "dataset", "created": "started"}  # by their names in provenance.json
_MOST_CLASSES = 50
_MOST_SIZES = 5


def show_models(*, json: bool) -> None:
    """Print every network with its parameters at its own size."""
    from eyespot.evaluation.bundle import boxed_names
    from eyespot.models.registry import build_model, model_entry, model_names
    from eyespot.models.summary import count_parameters

    rows: list[dict[str, Any]] = []
    for name in model_names():
        entry = model_entry(name)
        count = count_parameters(build_model(name, num_classes=10, size_px=entry.default_size_px))
        rows.append(
            {
                "name": name,
                "title": entry.title,
                "parameters": count.total,
                "size_px": entry.default_size_px,
                "min_size_px": entry.min_size_px,
                "source": entry.source,
            }
        )
    trained = [_boxed_row(name) for name in boxed_names()]
    rows += trained if json else []
    if json:
        print_json(rows)
        return
    table = plain_table("model", "parameters>", "size>", "smallest>", "what it is", "source")
    for row in rows:
        add_row(
            table,
            row["name"],
            f"{row['parameters']:,}",
            f"{row['size_px']} px",
            f"{row['min_size_px']} px",
            row["title"],
            row["source"],
        )
    print_table(table)
    print(
        "parameters with batch-norm statistics, for 10 classes of RGB pictures of that size\n"
        "and every network of timm as a backbone, such as efficientnet_lite0, resnet50, vgg16\n"
        "layers, arguments and weights: eyespot models NAME"
    )
    for row in trained:
        name = row["name"]
        print(f"trained, ready to use: {name} ({row['title']}), {row['result']}; eyespot predict {name} PICTURE")
        print(f"    on which pixels, and what it is not for: {row['card']}")


def _boxed_row(name: str) -> dict[str, Any]:
    """Return what is known of a model that comes with eyespot."""
    from eyespot.evaluation.bundle import CARD, find_bundle, read_info

    folder = find_bundle(name)
    info = read_info(folder)
    metrics: dict[str, Any] = {split: measured.model_dump() for split, measured in info.metrics.items()}
    split = headline_split(metrics)
    return {
        "name": name,
        "title": f"{info.architecture.name} trained on {info.provenance.dataset}",
        "class_names": list(info.class_names),
        "size_px": info.input.size_px,
        "card": str(folder / CARD),
        "bytes": sum(file.stat().st_size for file in folder.iterdir()),
        "metrics": metrics,
        "result": describe_top1(metrics[split], split) if split else "nothing was measured",
    }


def show_model(name: str, *, size: int | None, classes: int, channels: int, json: bool) -> None:
    """Print one network layer by layer."""
    from eyespot.models.registry import build_model, model_entry
    from eyespot.models.summary import layer_table

    entry = model_entry(name)
    side = size or entry.default_size_px
    found = layer_table(
        build_model(name, num_classes=classes, in_channels=channels, size_px=side), in_channels=channels, size_px=side
    )
    facts = _backbone_rows(name) if entry.is_backbone else {}
    if json:
        print_json({"name": name, "title": entry.title, "source": entry.source, **facts, **found.as_dict()})
        return
    table = plain_table("layer", "kind", "output", "map", "parameters>", "statistics>", "trainable>", "MMAC>")
    for row in found.rows:
        add_row(
            table,
            row.name,
            row.kind,
            " x ".join(map(str, row.output_shape)),
            " x ".join(map(str, row.map_px)) if row.map_px else "",
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.statistics:,}" if row.statistics else "",
            f"{row.trainable:,}" if row.trainable else "",
            f"{row.macs / 1e6:,.2f}" if row.macs else "",
        )
    print(f"{name}: {entry.title}")
    print_table(table)
    count = found.count
    print(
        f"{count.total:,} in all ({count.mib_float32:.2f} MiB in float32): {count.trainable:,} trainable, "
        f"{count.frozen:,} frozen, {count.statistics:,} statistics; {found.macs / 1e6:,.1f} M multiply-adds a picture"
    )
    arguments = ", ".join(f"{key} = {list(v) if isinstance(v, tuple) else v}" for key, v in entry.args.items())
    if facts:
        mean, std = (", ".join(f"{value:g}" for value in facts[key]) for key in ("mean", "std"))
        print(
            f"weights for {facts['size_px']} px ({facts['interpolation']}), mean ({mean}), std ({std}); "
            f"{2 * found.macs / 1e9:,.2f} GFLOP a picture at {side} px"
        )
        print(f"weights from {facts['weights']}; licence {facts['licence']}")
    smallest = facts.get("smallest_px", entry.min_size_px)
    print(f"smallest picture: {smallest} px; arguments: {arguments or 'none'}")
    print(f"source: {entry.source}")
    for warning in found.warnings:
        print(f"warning: {warning}")


def _backbone_rows(name: str) -> dict[str, Any]:
    """Return what is known about a backbone's weights, as JSON values."""
    from eyespot.models.pretrained import backbone_facts, smallest_size_px
    from eyespot.models.weights import describe_sources

    facts = backbone_facts(name)
    return {
        "size_px": facts.size_px,
        "smallest_px": smallest_size_px(facts),
        "mean": list(facts.mean),
        "std": list(facts.std),
        "interpolation": facts.interpolation,
        "weights": describe_sources(facts.name, facts.hub_id),
        "licence": facts.licence,
    }


def show_runs(folder: Path, *, json: bool, sort: str = "created", tag: str | None = None) -> None:
    """Print the runs in a folder.

    Args:
        folder: Holds the run folders, and those of studies and ablations, which have their runs in `runs/`.
        json: As one JSON document.
        sort: A key of `RUN_ORDERS`; runs without that figure come first.
        tag: Only runs with this tag.
    """
    if sort not in RUN_ORDERS:
        raise UsageError(
            f"unknown order {sort!r}.{did_you_mean(sort, RUN_ORDERS)}", where="--sort", remedy=", ".join(RUN_ORDERS)
        )
    folder = user_path(folder)
    if not folder.is_dir():
        raise RunError("no such folder", where=folder, remedy="name the folder that holds the run folders")
    found = (path.parent for where in _RUN_PLACES for path in folder.glob(f"{where}/config.toml"))
    rows = [_run_row(path, path.relative_to(folder).as_posix()) for path in found]
    rows = [row for row in rows if tag is None or tag in row["tags"]]
    key = RUN_ORDERS[sort]
    rows.sort(key=lambda row: (row[key] is not None, row[key], row["run"]))
    if json:
        print_json(rows)
        return
    if not rows:
        tagged = f" with the tag {printable(tag)}" if tag is not None else ""
        print(f"no runs in {printable(str(folder))}{tagged}: eyespot train writes one, eyespot note tags one")
        return
    table = plain_table("run", "recipe", "data", "parameters>", "epochs>", "training>", "val>", "result", "tags")
    for row in rows:
        took = words.duration(row["train_seconds"])
        size = "" if row["parameters"] is None else f"{row['parameters']:,}"
        epochs = str(row["epochs"] or "")  # a head that was solved had none
        cells = (row["run"], row["recipe"], row["data"], size, epochs, took, row["val"], row["result"])
        add_row(table, *cells, ", ".join(row["tags"]))
    print_table(table)


def _run_row(folder: Path, name: str) -> dict[str, Any]:
    """Return one line of the list; a damaged run says so instead of hiding the others."""
    row: dict[str, Any] = {"run": name, "recipe": "", "data": "", "epochs": 0, "train_seconds": None}
    row |= {"top1": None, "split": None, "finished": False, "created": None, "parameters": None}
    row |= {"val_top1": None, "test_top1": None, "val": "", "tags": [], "notes": []}
    try:
        run = Run.open(folder)
        metrics, split, annotations = run.metrics, headline_split(run.metrics), read_annotations(run)
        found = {
            "recipe": run.config.name,
            "data": run.provenance.get("dataset", ""),
            "epochs": len(run.history),
            "train_seconds": metrics.get("train_seconds"),
            "finished": run.finished,
            "created": run.provenance.get("started"),
            "parameters": run.provenance.get("parameters"),
            "tags": list(annotations.tags),
            "notes": [note.text for note in annotations.notes],
            "result": f"{'metrics.json is missing' if run.finished else 'not finished'}: eyespot train --resume --out "
            f"{quoted(str(folder))}",
        }
        found |= {f"{name}_top1": metrics[name]["top1"] for name in ("val", "test") if name in metrics}
        if "val" in metrics and split != "val":
            val = metrics["val"]
            found["val"] = (
                f"{words.percent(val['top1'])} {words.interval(val['top1_ci95'])} (n = {words.whole(val['n'])})"
            )
        if split is not None:
            found |= {"top1": metrics[split]["top1"], "split": split, "result": describe_top1(metrics[split], split)}
        _check_kinds(found, folder)
        row |= found
    except (EyespotError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        row["result"] = f"damaged: {error}"
    return row


def _check_kinds(row: Mapping[str, Any], folder: Path) -> None:
    """Refuse what a table cannot show or be sorted by.

    Raises:
        RunError: What should be a number or text is something else.
    """
    for key, value in row.items():
        if key in _NUMBERS:
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            right, kind = value is None or is_number, "a number"
        else:
            right, kind = key not in _TEXTS or isinstance(value, str) or (key == "created" and value is None), "text"
        if not right:
            raise RunError(
                f"{_TEXTS.get(key, key)} is {repr(value)[:40]}, not {kind}",
                where=folder,
                remedy="restore its metrics.json and provenance.json, or train again",
            )


def show_datasets(*, json: bool) -> None:
    """Print the named data sets and where they were found."""
    from eyespot.data.sources import absent_folders, describe_datasets

    rows = describe_datasets()
    if json:
        print_json(rows)
        return
    table = plain_table("data set", "pictures>", "size", "classes>", "found", "source")
    for row in rows:
        add_row(
            table, row["name"], f"{row['pictures']:,}", row["size"], str(row["classes"]), row["found"], row["source"]
        )
    print_table(table)
    if lost := absent_folders():
        print(f"note: {lost}")


def print_pack(packed: PackedDataset, *, json: bool) -> None:
    """Print what a data set was packed to."""
    pictures = sum(len(split) for split in packed.splits.values())
    streamed = any(split.pixels is None for split in packed.splits.values())
    if json:
        facts = {"pictures": pictures, "size_px": packed.size_px, "channels": packed.channels, "streamed": streamed}
        print_json({**facts, "seconds": packed.seconds, "fingerprint": packed.fingerprint})
        return
    how = "scanned" if streamed else "packed"
    took = f"{how} in {words.duration(packed.seconds)}" if packed.seconds else f"{how} already"
    later = ", to be streamed from the files" if streamed else ""
    height, width, channels = packed.row_format.shape
    shape = f"{width} x {height} x {channels}"
    print(f"{words.plural(pictures, 'picture')} of {shape}, {took}{later}; fingerprint {packed.fingerprint}")


def show_cache(*, rooms: Sequence[str], clear: bool, json: bool) -> None:
    """Print what the cache holds, or clear it."""
    found = look_at_cache(rooms, clear=clear)
    root = cache_folder("packed").parent
    if json:
        rows = [{"room": r.name, "files": r.files, "bytes": r.bytes, "kept": r.kept} for r in found]
        print_json({"folder": str(root), "cleared": clear, "rooms": rows})
        return
    print(f"{root}{' (cleared)' if clear else ''}")
    for room in found:
        print(f"{room.name:<12} {room.files:>9,} files  {words.size(room.bytes):>10}")
    for room in found:
        for name in room.kept:
            print(f"kept, in use or not eyespot's: {printable(str(room.folder / name))}")


def print_picture_table(found: PictureTable, path: Path, *, json: bool) -> None:
    """Print the classes of a CSV that was made, what was left out, and how to go on."""
    counts = found.counts
    if json:
        print_json({"path": str(path), "pictures": len(found.rows), "classes": counts, "notes": list(found.notes)})
        return
    print(f"{words.plural(len(found.rows), 'picture')} of {words.plural(len(counts), 'class', 'classes')}:")
    table = plain_table("class", "pictures>")
    for name, count in list(counts.items())[:_MOST_CLASSES]:
        add_row(table, name, words.whole(count))
    if len(counts) > _MOST_CLASSES:
        add_row(table, f"... and {words.whole(len(counts) - _MOST_CLASSES)} more classes")
    print_table(table)
    for note in found.notes:
        print(printable(f"note: {note}"))
    print(printable(f"{path}: look at it, then: eyespot train {quoted(str(path))}"))


def print_data_card(card: DataCard, decisions: Sequence[str]) -> None:
    """Print what a scan found, and what must be decided before training."""
    print(printable(f"{card['name']}: {card['layout']}, from {card['origin']}"))
    counts = card["counts"]
    names = list(dict.fromkeys(name for of_split in counts.values() for name in of_split))
    table = plain_table("class", *(f"{split}>" for split in counts))
    for name in names[:_MOST_CLASSES]:
        add_row(table, name, *(words.whole(of_split.get(name, 0)) for of_split in counts.values()))
    if len(names) > _MOST_CLASSES:
        add_row(table, f"... and {words.whole(len(names) - _MOST_CLASSES)} more classes")
    add_row(table, "all", *(words.whole(sum(of_split.values())) for of_split in counts.values()), style="bold")
    print_table(table)
    sizes = [f"{width} x {height} ({count:,})" for width, height, count in card["sizes"]]
    print(f"sizes: {', '.join(sizes[:_MOST_SIZES])}{', ...' if len(sizes) > _MOST_SIZES else ''}")
    print(f"modes: {', '.join(f'{mode} ({count:,})' for mode, count in card['modes'].items())}")
    print(
        f"bad files: {len(card['bad']):,}; groups of equal pictures: {card['duplicates']:,}, "
        f"across splits: {card['leaks']:,}, with different labels: {card['conflicts']:,}"
    )
    for note in card["notes"]:
        print(printable(f"note: {note}"))
    for decision in decisions:
        print(printable(f"to decide: {decision}"))
    if not decisions:
        print("nothing has to be decided before training")
