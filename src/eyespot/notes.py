"""What a person writes about a run: notes and tags, in `notes.json` of its folder.

The file is apart from everything that training writes, so that a note can be taken while the run goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from eyespot.config import as_list
from eyespot.errors import RunError, UsageError
from eyespot.files import remedy_for_unreadable, write_json
from eyespot.locks import file_lock
from eyespot.runs import Run, now

NOTES = "notes.json"
_MOST_NOTE_LENGTH = 10_000
_MOST_TAG_LENGTH = 60
_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Note:
    """One note.

    Attributes:
        time: When it was written, UTC, ISO 8601.
        text: What it says.
    """

    time: str
    text: str


@dataclass(frozen=True)
class Annotations:
    """What was written about a run.

    Attributes:
        notes: The oldest first.
        tags: Each once, in alphabetical order.
    """

    notes: tuple[Note, ...] = ()
    tags: tuple[str, ...] = ()


def read_annotations(run: Run) -> Annotations:
    """Return what was written about a run; nothing where nobody has written anything.

    Raises:
        RunError: The file cannot be read, or holds something else.
    """
    path = run.path / NOTES
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        notes = tuple(Note(str(entry["time"]), str(entry["text"])) for entry in value["notes"])
        return Annotations(notes, tuple(str(tag) for tag in value["tags"]))
    except FileNotFoundError:
        return Annotations()
    except OSError as error:
        remedy = remedy_for_unreadable(error, "check the path")
        raise RunError(f"cannot read ({error.strerror})", where=path, remedy=remedy) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RunError(
            f"not the notes of a run ({type(error).__name__})", where=path, remedy="mend the file, or delete it"
        ) from error


def annotate(
    run: str | os.PathLike[str], *, note: str | None = None, tags: Sequence[str] = (), untag: Sequence[str] = ()
) -> Annotations:
    """Add a note and tags to a run, or take tags away; return everything that is written about it then.

    Args:
        run: The run folder, finished or not.
        note: A new note; earlier ones stay.
        tags: Tags to add; one that is there already stays.
        untag: Tags to take away.

    Raises:
        UsageError: An empty or overlong note or tag, a tag with a comma, or one to take away that is not there.
        RunError: No run folder, or it cannot be read or written.
    """
    opened, tags, untag = Run.open(run), as_list(tags), as_list(untag)
    if note is not None and not 0 < len(note.strip()) <= _MOST_NOTE_LENGTH:
        raise UsageError("an empty or overlong note", where=opened.path, remedy=f"1 to {_MOST_NOTE_LENGTH:,} letters")
    for tag in (*tags, *untag):
        if not tag.strip() or len(tag) > _MOST_TAG_LENGTH or "," in tag or not tag.isprintable():
            raise UsageError(
                f"{tag!r} cannot be a tag",
                where=opened.path,
                remedy=f"use 1 to {_MOST_TAG_LENGTH} letters, digits, spaces and signs, but no comma",
            )
    if note is None and not tags and not untag:
        return read_annotations(opened)  # without a lock: whoever only looks may have no right to write here
    try:
        with file_lock(opened.path / f"{NOTES}.lock", timeout_seconds=_LOCK_SECONDS):
            known = read_annotations(opened)
            if absent := [tag for tag in untag if tag not in known.tags]:
                has = ", ".join(known.tags) or "none"
                raise UsageError(f"no tag {absent[0]!r}", where=opened.path, remedy=f"its tags: {has}")
            kept = {*known.tags, *tags} - set(untag)
            notes = known.notes if note is None else (*known.notes, Note(now(), note.strip()))
            written = Annotations(notes, tuple(sorted(kept)))
            if written != known:
                write_json(opened.path / NOTES, asdict(written))
    except TimeoutError as error:
        raise RunError("somebody else is writing its notes", where=opened.path, remedy="try again") from error
    except OSError as error:
        raise RunError(
            f"cannot write notes ({error.strerror})", where=opened.path, remedy="check the folder"
        ) from error
    return written
