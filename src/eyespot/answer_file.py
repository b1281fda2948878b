"""A CSV file of answers that a kill cannot harm: rows are appended a batch at a time, and it is known what they answer.

Before this: `predicting` has answers. After this: `out.csv`, and while it is not finished `out.csv.journal` beside it,
which says of which model and which pictures it is.

The pictures come in a fixed order, so the rows that are there say where to go on. Each is compared with the picture
that should stand there: a row is neither repeated nor left out, and a folder that has changed in between, or a file of
somebody else in this place, is noticed. Then a torn last row, and the rows of a batch of which only some were written,
are taken off: the file that results is the same to the last byte as that of an undisturbed run.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from eyespot.errors import DataError, RunError, UsageError
from eyespot.files import describe_disk_error, fsync_folder
from eyespot.locks import file_lock

_SYNC_SECONDS = 5.0  # what a power cut may take; a kill takes nothing
_TORN_BYTES = 65536  # of a last row without an end; more than any name of a picture has
_ESCAPE = re.compile(r"[\ud800-\udfff]|\\ud[89a-f][0-9a-f]{2}")


def csv_row(cells: Sequence[str]) -> bytes:
    r"""Return one row, quoted as CSV does it.

    Bytes of a file name that are no text become escapes such as `\udcff`. In such a cell, and in one that reads as if
    it had them, every backslash is doubled: no two names have the same cell. Elsewhere a backslash is a backslash.
    """
    buffer = io.StringIO()
    escaped = [cell.replace("\\", "\\\\") if _ESCAPE.search(cell) else cell for cell in cells]
    csv.writer(buffer, lineterminator="\r\n").writerow(escaped)  # with "\n" it would not quote a name with "\r"
    return (buffer.getvalue().removesuffix("\r\n") + "\n").encode("utf-8", "backslashreplace")


def check_target(path: Path) -> None:
    """Refuse a place where no CSV file can be, before anything is computed.

    Raises:
        UsageError: A folder, a device or a pipe is there.
    """
    if os.path.isdir(path):
        raise UsageError(f"{str(path)!r} is a folder, not a CSV file", remedy="name a file in it")
    if os.path.exists(path) and not os.path.isfile(path):
        remedy = "name another, or print the rows with --csv -"
        raise UsageError(f"{str(path)!r} is not a regular file", remedy=remedy)


class AnswerFile:
    """A CSV file that is being filled; a context manager, which holds it against a second process.

    Args:
        path: The file; one that is there is gone on with where its journal is there too.
        columns: Names for the first line; the first column is the picture, the last one the error.
        job: JSON values that say what is answered by what; a file with another job is refused.
        batch_rows: Rows that are answered together: the file is cut back to a multiple of it.

    Attributes:
        rows: Rows that are there.
        failed: How many of them have an error.

    Raises:
        RunError: Somebody else writes the file, it is finished, it belongs to another job, or it cannot be written.
    """

    def __init__(self, path: Path, columns: Sequence[str], job: dict[str, Any], *, batch_rows: int) -> None:
        self.path = path
        self.rows = self.failed = 0
        self._journal = path.with_name(f"{path.name}.journal")
        self._head = csv_row(columns)
        self._job = json.dumps(job, sort_keys=True)
        self._batch_rows = batch_rows
        self._synced = time.monotonic()
        self._finished = False
        self._held = ExitStack()

    def __enter__(self) -> AnswerFile:
        """Lock the file, begin it or check what it is of."""
        if os.path.exists(self.path) and not os.path.exists(self._journal):
            raise RunError("the file is there already", where=self.path, remedy="give another name, or delete it")
        try:
            self._held.enter_context(file_lock(self._journal, timeout_seconds=0))
            self._begin()
            self._file = self._held.enter_context(open(self.path, "r+b", buffering=0))
        except TimeoutError as error:
            raise RunError(
                "another process writes it", where=self.path, remedy="wait for it, or give another name"
            ) from error
        except OSError as error:
            self._held.close()
            raise self._unwritable(error) from error
        except BaseException:
            self._held.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()
        if self._finished:  # not before the lock is gone: Windows keeps open files
            self._journal.unlink(missing_ok=True)

    def answered(self) -> Iterator[bytes]:
        """Yield each row that is there, also what is to be cut off behind the first `rows`; then cut it off.

        The last one may be torn. To be read to its end before the first `append`.
        """
        self._file.seek(len(self._head))
        whole = end = len(self._head)
        failed = failed_whole = 0
        for rows, record in enumerate(_records(self._file), start=1):
            end += len(record)
            failed += not record.endswith(b",\n")
            if rows % self._batch_rows == 0:
                whole, failed_whole, self.rows = end, failed, rows
        self._file.seek(len(self._head))
        yield from _records(self._file)
        self._file.seek(end)
        if torn := self._file.read(_TORN_BYTES).partition(b"\0")[0]:
            yield torn
        self.failed = failed_whole
        self._file.truncate(whole)
        self._file.seek(whole)

    def append(self, rows: Sequence[bytes], *, failed: int) -> None:
        """Write a batch of rows with one write.

        Raises:
            RunError: The disk is full; the file ends with the row before.
        """
        data = b"".join(rows)
        size = self._file.tell()
        try:
            if self._file.write(data) != len(data):
                data = data[self._file.tell() - size :]
                if self._file.write(data) != len(data):  # a full disk takes a part, and then says why it takes no more
                    raise OSError("the disk took a part of a batch")
            if time.monotonic() - self._synced > _SYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(size)
            raise self._unwritable(error) from error
        self.rows += len(rows)
        self.failed += failed

    def finish(self) -> None:
        """Say that nothing is missing: the journal goes.

        Raises:
            RunError: The disk is full, or the file is not in its place any more.
        """
        try:
            os.fsync(self._file.fileno())
            in_place = os.name == "nt" or os.path.samestat(os.fstat(self._file.fileno()), os.stat(self.path))
        except FileNotFoundError:
            in_place = False
        except OSError as error:
            raise self._unwritable(error) from error
        if not in_place:  # the answers are in a file that somebody moved away or deleted
            what = "the file was moved, replaced or deleted while it was written"
            raise RunError(what, where=self.path, remedy="the same command begins again")
        self._finished = True

    def mismatch(self, name: str | None) -> DataError:
        """Return the error for a row that is not of the picture `name`, which should be there; None: there is none."""
        what = "there are fewer" if name is None else f"one is new or gone near {name}"
        rows = f"the first {self.rows:,} rows" if self.rows else "its rows"
        return DataError(
            f"the pictures are not those that {rows} answer ({what})",
            where=self.path,
            remedy="give another name, or delete it to begin again",
        )

    def _begin(self) -> None:
        """Write the journal and the first line, or compare the journal that is there."""
        found = self._journal.read_text(encoding="utf-8", errors="replace")
        there = b""
        if self.path.exists():
            with open(self.path, "rb") as file:
                there = file.read(len(self._head))
        if there and found != self._job:
            raise RunError(
                "it was begun with another model, other pictures or other options",
                where=self.path,
                remedy=f"give them again, give another name, or delete it and {self._journal.name}",
            )
        if not self._head.startswith(there.rstrip(b"\0")):
            raise RunError(
                f"it is not the file that {self._journal.name} is of",
                where=self.path,
                remedy=f"give another name, or delete {self._journal.name} and move it away",
            )
        if there == self._head:
            return
        with open(self._journal, "r+b") as journal:
            journal.write(self._job.encode())
            journal.truncate()
            os.fsync(journal.fileno())
        with open(self.path, "wb") as file:
            file.write(self._head)
            os.fsync(file.fileno())
        fsync_folder(self.path.parent)

    def _unwritable(self, error: OSError) -> RunError:
        reason, remedy = describe_disk_error(error)
        return RunError(f"cannot write ({reason})", where=self.path, remedy=f"{remedy}; the same command goes on")


def _records(file: io.FileIO) -> Iterator[bytes]:
    """Yield whole rows; a quoted cell may hold line breaks. Ends at a torn row, or at the zeros of a power cut."""
    record, quotes = b"", 0
    with open(file.fileno(), "rb", closefd=False) as lines:
        for line in lines:
            record += line
            quotes += line.count(b'"')
            if b"\0" in line:
                return
            if line.endswith(b"\n") and quotes % 2 == 0:
                yield record
                record, quotes = b"", 0
