"""The printed layer tables of a publication beside the layers of our networks.

Before this: `schema` holds what is printed. After this: `study` refuses a table that does not fit before any training,
`figures` shows the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eyespot.analysis import words
from eyespot.errors import ConfigError, EyespotError, did_you_mean
from eyespot.studies.schema import PrintedTable, Study

if TYPE_CHECKING:
    from eyespot.models.summary import LayerRow, LayerTable


def check_layer_tables(study: Study) -> None:
    """Refuse tables of networks and layers that do not exist, before hours of training end in a report without them.

    Raises:
        ConfigError: An unknown network, argument or layer; the table is named.
    """
    for table in study.layer_tables:
        try:
            known = _layer_names(table)
        except EyespotError as error:
            raise ConfigError(error.what, where=f"layer table {table.title!r}", remedy=error.remedy) from error
        for part in (*table.frozen, *(line.ours for line in table.rows)):
            if not any(_is_part(name, part) for name in known):
                what = f"{table.model} has no layer {part!r}.{did_you_mean(part, known)}"
                raise ConfigError(what, where=f"layer table {table.title!r}", remedy=f"eyespot models {table.model}")


def _layer_names(table: PrintedTable) -> list[str]:
    """Return the paths of a network's layers; it is built without its numbers, which may be 138 million."""
    import torch

    from eyespot.models.registry import build_model

    with torch.device("meta"):
        model = build_model(table.model, num_classes=10, in_channels=3, size_px=table.size_px, args=table.args)
    return [name for name, _ in model.named_modules() if name]


def _is_part(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def compare_layers(table: PrintedTable) -> dict[str, Any]:
    """Return a printed layer table beside ours, with what does not agree."""
    from eyespot.models.registry import build_model
    from eyespot.models.summary import layer_table

    model = build_model(table.model, num_classes=10, in_channels=3, size_px=table.size_px, args=table.args)
    ours = layer_table(model, in_channels=3, size_px=table.size_px)
    rows = []
    for line in table.rows:
        own = [row for row in ours.rows if _is_part(row.name, line.ours)]
        total = sum(row.total for row in own)
        shape = next((row.output_shape for row in reversed(own) if row.output_shape), ())
        wrong = line.printed - total if line.printed is not None else 0
        rows.append((line.name, " x ".join(map(str, shape)), total, line.printed, wrong))
    printed = [row[3] for row in rows if row[3] is not None]
    return {
        "title": table.title,
        "rows": rows,
        "note": table.note,
        "total": ours.count.total,
        "printed_total": table.printed_total,
        "printed_sum": sum(printed) if len(printed) == len(rows) else None,
        "warnings": [_say_trained(table, ours), *ours.warnings],
    }


def _say_trained(table: PrintedTable, ours: LayerTable) -> str:
    """Return how many of a network's numbers are trained, and where not all of a layer's are."""

    def trained(row: LayerRow) -> int:
        return 0 if any(_is_part(row.name, part) for part in table.frozen) else row.trainable

    parts = []
    for line in table.rows:
        own = [row for row in ours.rows if _is_part(row.name, line.ours)]
        count, total = sum(map(trained, own)), sum(row.total for row in own)
        if count < total:
            parts.append(f"{line.name} {words.whole(count)} of {words.whole(total)}")
    whole = f"Trained: {words.whole(sum(map(trained, ours.rows)))} of {words.whole(ours.count.total)} numbers"
    return f"{whole}: {', '.join(parts)}, and all of the other rows." if parts else f"{whole}."
