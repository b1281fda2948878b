"""Tables on the terminal and their JSON: models, layers, runs, data sets, the cache, a data card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.analysis import words
from eyespot.analysis.verdict import describe_top1, headline_split
from eyespot.caches import cache_folder
from eyespot.data_verbs import look_at_cache
from eyespot.errors import EyespotError, RunError
from eyespot.runs import Run
from eyespot.terminal import add_row, plain_table, print_json, print_table, printable

if TYPE_CHECKING:
    from eyespot.analysis.cautions import DataCard

_MOST_CLASSES = 50
_MOST_SIZES = 5


def show_models(*, json: bool) -> None:
    """Print every network with its parameters at its own size."""
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
    if json:
        print_json(rows)
        return
    table = plain_table("model", "parameters>", "size>", "smallest>", "what it is", "source")
    for row in rows:
        add_row(table, row["name"], f"{row['parameters']:,}", f"{row['size_px']} px", f"{row['min_size_px']} px", row["title"], row["source"])
    print_table(table)
    print("parameters with batch-norm statistics, for 10 classes of RGB pictures at that size; layers: eyespot models NAME")


def show_model(name: str, *, size: int | None, classes: int, channels: int, json: bool) -> None:
    """Print one network layer by layer."""
    from eyespot.models.registry import build_model, model_entry
    from eyespot.models.summary import layer_table

    entry = model_entry(name)
    side = size or entry.default_size_px
    found = layer_table(
        build_model(name, num_classes=classes, in_channels=channels, size_px=side), in_channels=channels, size_px=side
    )
    if json:
        print_json({"name": name, "title": entry.title, "source": entry.source, **found.as_dict()})
        return
    table = plain_table("layer", "kind", "output", "map", "parameters>", "statistics>", "trainable>", "MMAC>")
    for row in found.rows:
        add_row(table, row.name,
            row.kind,
            " x ".join(map(str, row.output_shape)),
            " x ".join(map(str, row.map_px)) if row.map_px else "",
            f"{row.parameters:,}" if row.parameters else "",
            f"{row.statistics:,}" if row.statistics else "",
            f"{row.trainable:,}" if row.trainable else "",
            f"{row.macs / 1e6:,.2f}" if row.macs else "",
        )
    Console().print(f"{name}: {entry.title}", highlight=False)
    print_table(table)
    count = found.count
    print(
        f"{count.total:,} in all ({count.mib_float32:.2f} MiB in float32): {count.trainable:,} trainable, "
        f"{count.frozen:,} frozen, {count.statistics:,} statistics; {found.macs / 1e6:,.1f} million multiply-adds a picture"
    )
    print(f"smallest picture: {entry.min_size_px} px; arguments: {', '.join(f'{k} = {v}' for k, v in entry.args.items()) or 'none'}")
    print(f"source: {entry.source}")
    for warning in found.warnings:
        print(f"warning: {warning}")


def show_runs(folder: Path, *, json: bool) -> None:
    """Print the runs in a folder, the newest last."""
    if not folder.is_dir():
        raise RunError("no such folder", where=folder, remedy="name the folder that holds the run folders")
    rows = [_run_row(path.parent) for path in sorted(folder.glob("*/config.toml"), key=lambda path: path.stat().st_mtime)]
    if json:
        print_json(rows)
        return
    table = plain_table("run", "recipe", "data", "epochs>", "training>", "result")
    for row in rows:
        add_row(table, row["run"], row["recipe"], row["data"], str(row["epochs"]), words.duration(row["train_seconds"]), row["result"]
        )
    print_table(table)


def _run_row(folder: Path) -> dict[str, Any]:
    """Return one line of the list; a damaged run says so instead of hiding the others."""
    row: dict[str, Any] = {"run": folder.name, "recipe": "", "data": "", "epochs": "", "train_seconds": None, "top1": None}
    try:
        run = Run.open(folder)
        metrics = run.metrics
        split = headline_split(metrics)
        row |= {
            "recipe": run.config.name,
            "data": run.provenance.get("dataset", ""),
            "epochs": len(run.history),
            "train_seconds": metrics.get("train_seconds"),
            "top1": metrics[split]["top1"] if split else None,
            "result": describe_top1(metrics[split], split) if split else "not finished: eyespot train --resume --out ...",
        }
    except EyespotError as error:
        row["result"] = f"damaged: {error}"
    return row


def show_datasets(*, json: bool) -> None:
    """Print the named data sets and where they were found."""
    from eyespot.data.sources import describe_datasets

    rows = describe_datasets()
    if json:
        print_json(rows)
        return
    table = plain_table("data set", "pictures>", "size", "classes>", "found", "source")
    for row in rows:
        add_row(table, row["name"], f"{row['pictures']:,}", row["size"], str(row["classes"]), row["found"], row["source"])
    print_table(table)


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


def print_data_card(card: dict[str, Any], decisions: list[str]) -> None:
    """Print what a scan found, and what must be decided before training."""
    print(f"{card['name']}: {card['layout']}, from {card['origin']}")
    splits = list(card["counts"])
    table = plain_table("class", *(f"{split}>" for split in splits))
    names = list(dict.fromkeys(name for counts in card["counts"].values() for name in counts))
    for name in names[:50]:
        add_row(table, name, *(f"{card['counts'][split].get(name, 0):,}" for split in splits))
    add_row(table, "all", *(f"{sum(card['counts'][split].values()):,}" for split in splits), style="bold")
    print_table(table)
    if len(names) > 50:
        print(f"... and {len(names) - 50} more classes")
    sizes = ", ".join(f"{width} x {height} ({count:,})" for width, height, count in card["sizes"][:5])
    print(f"sizes: {sizes}{', ...' if len(card['sizes']) > 5 else ''}")
    print(f"modes: {', '.join(f'{mode} ({count:,})' for mode, count in card['modes'].items())}")
    print(
        f"bad files: {len(card['bad']):,}; groups of equal pictures: {card['duplicates']:,}, "
        f"across splits: {card['leaks']:,}, with different labels: {card['conflicts']:,}"
    )
    for note in card["notes"]:
        print(f"note: {note}")
    for decision in decisions:
        print(f"to decide: {decision}")
    if not decisions:
        print("nothing has to be decided before training")


