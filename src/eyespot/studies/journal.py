"""The folder of an experiment: who holds it, what was asked for, and what became of it, line by line.

    OUT/points.json     what was asked for          OUT/journal.jsonl   what became of it

Before this: `runner` begins, ends or loses a point. After this: whoever reads the folder later.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from eyespot.errors import RunError, RunLockedError
from eyespot.files import append_line, describe_disk_error, write_json
from eyespot.locks import file_lock
from eyespot.runs import now
from eyespot.studies.points import Limits, Point

JOURNAL = "journal.jsonl"
POINTS = "points.json"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Hold the experiment's folder against other processes.

    Raises:
        RunError: It cannot be made or written; `RunLockedError` where another process holds it.
    """
    try:
        (folder / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason, remedy = describe_disk_error(error)
        raise RunError(f"cannot make the folder ({reason})", where=folder, remedy=remedy) from error
    lock = file_lock(folder / ".lock", timeout_seconds=0)
    try:
        lock.__enter__()
    except TimeoutError as error:
        raise RunLockedError(
            "another process is running these points",
            where=folder,
            remedy="wait for it, or choose another folder with --out",
        ) from error
    except OSError as error:
        reason, remedy = describe_disk_error(error)
        raise RunError(f"cannot write ({reason})", where=folder, remedy=remedy) from error
    try:
        yield
    finally:
        lock.__exit__(None, None, None)


def note_points(folder: Path, points: Sequence[Point], limits: Limits, chosen: Collection[str]) -> None:
    """Write points.json: what was asked for, for whoever reads the folder later.

    What an earlier call asked for stays where it has left a run that this one does not touch: other seeds, points that
    are not chosen now, and runs with the backbone that stood in for one whose weights cannot be had.
    """
    held = {"minutes": limits.minutes, "epochs_scale": limits.epochs_scale}
    noted = {id_: row for id_, row in _noted(folder).items() if (folder / "runs" / id_ / "config.toml").is_file()}
    for p in points:
        if p.id in noted and (p.not_run or p.id not in chosen):
            continue
        noted[p.id] = {
            "id": p.id,
            "title": p.title,
            "recipe": p.recipe,
            "data": p.data,
            "settings": dict(p.settings),
            "seed": p.seed,
            "limits": held,
        } | ({"not_run": p.not_run} if p.not_run else {})
    write_json(folder / POINTS, {"limits": held, "points": list(noted.values())})


def _noted(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of points.json by their id; none where there is no such file, or it is damaged."""
    try:
        return {row["id"]: row for row in read_points(folder)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def read_points(folder: Path) -> list[dict[str, Any]]:
    """Return what was asked for of each point of an experiment, its `limits` among it.

    Raises:
        OSError, ValueError, KeyError, TypeError, AttributeError: There is no points.json, or it is damaged.
    """
    document = json.loads((folder / POINTS).read_text(encoding="utf-8"))
    shared = document.get("limits") or {}  # of all points, before each had its own
    return [{"limits": shared, **row} for row in document["points"]]


def note_event(folder: Path, point: Point, event: str, **more: float | str) -> None:
    """Add a line to the journal: what has just become of a point."""
    append_line(folder / JOURNAL, json.dumps({"time": now(), "point": point.id, "event": event, **more}))


def read_journal(folder: str | Path) -> list[dict[str, Any]]:
    """Return the lines of an experiment's journal that are whole, in order."""
    try:
        lines = (Path(folder) / JOURNAL).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue  # the disk was full, or the machine lost its power
        if isinstance(row, dict):
            rows.append(row)
    return rows


def last_failure(folder: Path, point_id: str) -> str:
    """Return why a point failed the last time; empty where it did not, or goes on since."""
    own = [row for row in read_journal(folder) if row.get("point") == point_id]
    return str(own[-1].get("reason", "")) if own and own[-1].get("event") == "failed" else ""
