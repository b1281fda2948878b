"""`eyespot predict`: pictures named on the command line in, answers on stdout, complaints on stderr.

Pictures are answered a few at a time, so that a folder of a million needs no more memory than one of a hundred, and the
first answers are there before the last picture is read.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from eyespot.analysis import words
from eyespot.errors import DataError, EyespotError
from eyespot.evaluation.predictor import Picture, Prediction, Predictor, find_pictures, load_predictor
from eyespot.terminal import Terminal, flush_output, print_json, printable

Form = Literal["text", "json", "csv"]
Answer = tuple[str, Prediction]
"""The name of a picture as it was given, and what it shows."""

_CHUNK = 256


def print_predictions(run: Path, pictures: Sequence[str], *, top: int, form: Form, device: str = "auto") -> int:
    """Print an answer for each picture and return how many could not be answered.

    Args:
        run: Run folder or bundle.
        pictures: Files, folders (searched for pictures), or `-` for the bytes of one picture on stdin.
        top: How many classes to name.
        form: Lines for people, one JSON document, or CSV.
        device: Where to compute.

    Raises:
        RunError: There is no model in `run`.
    """
    predictor = load_predictor(run, device=device)
    ranks = min(top, predictor.info.num_classes)
    found, failures = _collect(pictures)
    failed = len(failures)
    documents: list[dict[str, Any]] = []
    if form == "csv":
        columns = [f"{column}{rank}" for rank in range(1, ranks + 1) for column in ("label", "prob")]
        _print_csv_row(["picture", *columns, "error"])
    # A bar between the answers would be in their way.
    with Terminal(quiet=form != "json" and _is_terminal(sys.stdout)) as terminal:
        for start in range(0, len(found), _CHUNK):
            answers = _answer(predictor, found[start : start + _CHUNK], top)
            for name, answer in answers:
                if form == "json":
                    documents.append({**answer.as_dict(), "source": name})
                elif form == "csv":
                    _print_csv_row(_csv_cells(name, answer, ranks))
                elif answer.error is None:
                    told = "  ".join(f"{score.name} {words.percent(score.prob)}" for score in answer.top)
                    print(f"{printable(name)}: {told}")
                if answer.error is not None:
                    failed += 1
                    terminal.close_bar()
                    _complain(DataError(f"{name} {answer.error}", remedy="repair it or leave it out"))
            flush_output()
            terminal.on_count("predicting", start + len(answers), len(found))
    if form == "json":
        print_json(documents)
    for failure in failures:
        _complain(failure)
    return failed


def _answer(predictor: Predictor, pictures: Sequence[Path | None], top: int) -> list[Answer]:
    """Return a name and an answer for each picture; None stands for the one on stdin."""
    sources: list[Picture] = [sys.stdin.buffer.read() if path is None else path for path in pictures]
    names = ["-" if path is None else str(path) for path in pictures]
    return list(zip(names, predictor.predict(sources, top_k=top), strict=True))


def _collect(pictures: Sequence[str]) -> tuple[list[Path | None], list[EyespotError]]:
    """Return the pictures, None for stdin, and the folders that hold none or cannot be listed."""
    found: list[Path | None] = []
    failures: list[EyespotError] = []
    for given in pictures:
        if given == "-":
            found.append(None)
            continue
        try:
            found += find_pictures(given)
        except DataError as error:
            failures.append(error)
    return found, failures


def _complain(error: EyespotError) -> None:
    print(f"error: {error}", file=sys.stderr)


def _csv_cells(name: str, answer: Prediction, ranks: int) -> list[str]:
    cells = [cell for score in answer.top for cell in (score.name, f"{score.prob:.6f}")]
    return [name, *cells, *[""] * (2 * ranks - len(cells)), answer.error or ""]


def _print_csv_row(cells: Sequence[str]) -> None:
    """Print one row; broken bytes of a file name become escapes, all else is quoted as CSV does it."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(cells)
    print(buffer.getvalue().encode("utf-8", "backslashreplace").decode(), end="")


def _is_terminal(stream: Any) -> bool:
    return stream is not None and stream.isatty()
