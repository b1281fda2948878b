"""`eyespot predict`: pictures named on the command line in, answers on stdout, complaints on stderr."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from eyespot.evaluation.predictor import Picture, Prediction, find_pictures, load_predictor
from eyespot.terminal import print_json


def print_predictions(
    run: Path, pictures: Sequence[str], *, top: int, form: Literal["text", "json", "csv"], device: str = "auto"
) -> int:
    """Print an answer for each picture and return how many could not be answered.

    Args:
        run: Run folder or bundle.
        pictures: Files, folders (searched for pictures), or `-` for the bytes of one picture on stdin.
        top: How many classes to name.
        form: Lines for people, one JSON document, or CSV.
        device: Where to compute.

    Raises:
        RunError: There is no model in `run`.
        DataError: A folder holds no pictures.
    """
    predictor = load_predictor(run, device=device)
    names, sources = _collect(pictures)
    answers = predictor.predict(sources, top_k=top)
    rows = list(zip(names, answers, strict=True))
    {"text": _print_text, "json": _print_json, "csv": _print_csv}[form](rows)
    failed = [(name, answer) for name, answer in rows if answer.error is not None]
    for name, answer in failed:
        print(f"error: {answer.error} in {_printable(name)}: repair or leave out the file", file=sys.stderr)
    return len(failed)


def _collect(pictures: Sequence[str]) -> tuple[list[str], list[Picture]]:
    """Return a name and a source for each picture; folders are searched."""
    names: list[str] = []
    sources: list[Picture] = []
    for given in pictures:
        if given == "-":
            names.append("-")
            sources.append(sys.stdin.buffer.read())
            continue
        for path in find_pictures(given):
            names.append(str(path))
            sources.append(path)
    return names, sources


def _print_text(rows: Sequence[tuple[str, Prediction]]) -> None:
    for name, answer in rows:
        if answer.error is None:
            told = "  ".join(f"{score.name} {score.prob:.1%}" for score in answer.top)
            print(f"{_printable(name)}: {told}")


def _print_json(rows: Sequence[tuple[str, Prediction]]) -> None:
    print_json([{**answer.as_dict(), "source": _printable(name)} for name, answer in rows])


def _print_csv(rows: Sequence[tuple[str, Prediction]]) -> None:
    ranks = max((len(answer.top) for _, answer in rows), default=0)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(["picture", *(f"{column}{rank}" for rank in range(1, ranks + 1) for column in ("label", "prob")), "error"])
    for name, answer in rows:
        cells = [cell for score in answer.top for cell in (score.name, f"{score.prob:.6f}")]
        writer.writerow([_printable(name), *cells, *[""] * (2 * ranks - len(cells)), answer.error or ""])


def _printable(name: str) -> str:
    """Return a file name without what would move the cursor or break the line; undecodable bytes are shown as such."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in name)
