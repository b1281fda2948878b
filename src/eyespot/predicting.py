"""`eyespot predict`: pictures named on the command line in, answers on stdout or in a CSV file, complaints on stderr.

Pictures are found, decoded and answered a few at a time, so that a folder of a million needs no more memory than one of
a hundred, and the first answers are there before the last picture is found.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from eyespot.analysis import words
from eyespot.answer_file import AnswerFile, check_target, csv_row
from eyespot.arrays import UInt8Array
from eyespot.caches import user_path
from eyespot.data.csvfile import is_address
from eyespot.data.decode_limits import MAX_FILE_BYTES
from eyespot.data.decode_pool import LOOK_SECONDS, STALL_SECONDS, core_count
from eyespot.data.pictures import pixels_of
from eyespot.data.stream_workers import StreamWorkers
from eyespot.data.walking import NO_PICTURES_REMEDY, walk_pictures
from eyespot.errors import BadImageError, DataError, EyespotError, UsageError, printable
from eyespot.evaluation.predictor import Prediction, Predictor, load_predictor
from eyespot.evaluation.views import Views, check_views
from eyespot.files import checked_page
from eyespot.terminal import Terminal, flush_output, is_terminal, print_json

if TYPE_CHECKING:
    from eyespot.analysis.gallery import Gallery

Form = Literal["text", "json", "csv"]
Asking = Literal["auto", "never"]

_BATCH = 128  # answered together; as in Predictor.predict, so that the same pictures get the same digits
_PIECE = 32  # decoded by one process at a time: a batch of photographs would keep one busy for seconds
_AHEAD = 3  # batches that are being decoded or computed while one is answered
_GALLERY_CLASSES = 5  # with each picture, or as many as are asked for
_GALLERY_DRAWS = 4  # random places that each heat map is checked against
_FOR_PROCESSES = 1000  # fewer pictures are decoded before two Pythons with numpy have started
_COMPUTED_AT_ONCE = 8  # batches: each needs the memory of a forward pass
_SMALL_PX = 64  # larger images keep all threads busy in one forward pass, and need its memory once for each


class Asked(NamedTuple):
    """One thing that gets an answer.

    Attributes:
        name: As it was given, or found below what was given.
        data: Bytes from stdin; None reads the file `name`.
        error: Why there cannot be one, where that is known already.
        remedy: What to do about the error.
    """

    name: str
    data: bytes | None = None
    error: str | None = None
    remedy: str = "repair it or leave it out"


def print_predictions(
    run: Path,
    pictures: Sequence[str],
    *,
    top: int,
    form: Form,
    device: str = "auto",
    views: str | None = None,
    unknown: Asking = "auto",
    fit: str | None = None,
    gallery: Path | None = None,
) -> int:
    """Print an answer for each picture and return how many could not be answered.

    Args:
        run: Run folder or bundle.
        pictures: Files, folders (searched for pictures), or `-` for the bytes of one picture on stdin.
        top: How many classes to name.
        form: Lines for people, one JSON document, or CSV.
        device: Where to compute.
        views: Test-time views; None takes the model's own.
        unknown: `never`: nothing is called unknown.
        fit: How pictures that are not square become square, as for `load_predictor`.
        gallery: A page to write with each picture, its answer and its heat map, of as many pictures as have room.

    Raises:
        RunError: There is no model in `run`, or the page cannot be written.
        UsageError: Unknown views, or no place for the page.
    """
    gallery = None if gallery is None else checked_page(gallery)
    checked = None if views is None else check_views(views)
    predictor = load_predictor(run, device=device, unknown=unknown, fit=fit)
    page = _new_gallery(run, predictor) if gallery is not None else None
    failed = 0
    documents: list[dict[str, Any]] = []
    if form == "csv":
        _print_csv_row(_columns(predictor, top))
    # A bar between the answers would be in their way.
    with Terminal(quiet=form != "json" and is_terminal(sys.stdout)) as terminal:
        done = 0
        for batch in answers(predictor, collect(pictures), top=top, views=checked):
            for asked, answer in batch:
                if form == "json":
                    documents.append(answer.as_dict())
                elif form == "csv":
                    _print_csv_row(_cells(answer, min(top, predictor.info.num_classes)))
                elif answer.error is None:
                    print(f"{printable(answer.source)}: {describe_answer(answer)}")
                if answer.error is not None:
                    failed += 1
                    terminal.close_bar()
                    error = DataError(f"{answer.source} {answer.error}", remedy=asked.remedy)
                    print(f"error: {error}", file=sys.stderr)
            flush_output()
            if page is not None:
                _show(page, predictor, batch, checked, max(top, _GALLERY_CLASSES))
            done += len(batch)
            terminal.on_count("predicting", done, None)
        if page is not None and gallery is not None:
            page.write(gallery)
            terminal.close_bar()
            terminal.say(f"gallery: {gallery}")
    if form == "json":
        print_json(documents)
    return failed


def _new_gallery(run: Path, predictor: Predictor) -> Gallery:
    from eyespot.analysis.gallery import Gallery

    return Gallery("Pictures and their answers", f"{run.name}, {predictor.info.architecture.name}")


def _show(
    page: Gallery, predictor: Predictor, batch: Sequence[tuple[Asked, Prediction]], views: Views | None, top: int
) -> None:
    """Put answered pictures on the page while it has room; they are decoded once more, at their own size."""
    from eyespot.analysis.explain import explain_pictures

    shown: list[Asked] = []
    for asked, answer in batch:
        if answer.error is not None:
            page.fail(asked.name, answer.error)
        elif len(shown) < page.room:
            shown.append(asked)
        else:
            page.leave_out(1)
    named = [(asked.name, asked.name if asked.data is None else asked.data) for asked in shown]
    page.add(explain_pictures(predictor, named, draws=_GALLERY_DRAWS, views=views, top_k=top))


def write_predictions(
    run: Path,
    pictures: Sequence[str],
    out: Path,
    *,
    top: int,
    device: str = "auto",
    views: str | None = None,
    unknown: Asking = "auto",
    fit: str | None = None,
) -> int:
    """Write a CSV file with a row for each picture, going on where a killed command stopped.

    Args:
        run: Run folder or bundle.
        pictures: Files and folders.
        out: The file. Its last column is `error`; a bad picture has a row like any other.
        top: How many classes to name.
        device: Where to compute.
        views: Test-time views; None takes the model's own.
        unknown: `never`: nothing is called unknown.
        fit: How pictures that are not square become square, as for `load_predictor`.

    Returns:
        How many pictures could not be answered.

    Raises:
        RunError: There is no model in `run`, or the file cannot be written or belongs to something else.
        DataError: The pictures have changed since the file was begun.
        UsageError: `-` among the pictures, unknown views, or no place for a file.
    """
    if "-" in pictures:
        raise UsageError("- (stdin) with --csv FILE", where="the command line", remedy="use --csv - for it")
    out = user_path(out)  # the shell leaves the ~ of --csv=~/answers.csv
    check_target(out)
    checked = None if views is None else check_views(views)
    predictor = load_predictor(run, device=device, unknown=unknown, fit=fit)
    job = {
        "weights_sha256": predictor.info.weights_sha256,
        "info_sha256": predictor.info.info_sha256,
        "pictures": [os.path.abspath(os.path.expanduser(given)) for given in pictures],
        "names": list(pictures),
        "top": top,
        "views": checked or predictor.info.views,
        "unknown": unknown,
        "fit": fit,
        "computed": [predictor.plan.device, predictor.plan.precision],
    }
    ranks = min(top, predictor.info.num_classes)
    with (
        Terminal() as terminal,
        terminal.says_how_to_go_on(lambda: "the same command goes on"),
        AnswerFile(out, _columns(predictor, top), job, batch_rows=_BATCH) as file,
    ):
        waiting = _after(file, collect(pictures))
        if file.rows:
            terminal.on_message(f"{file.rows:,} pictures are answered in {out}; going on behind them")
        try:
            for batch in answers(predictor, waiting, top=top, views=checked):
                rows = [csv_row(_cells(answer, ranks)) for _, answer in batch]
                file.append(rows, failed=sum(answer.error is not None for _, answer in batch))
                terminal.on_count("predicting", file.rows, None)
        except DataError as error:
            remedy = "; ".join(filter(None, [error.remedy, "the same command goes on"]))
            raise DataError(error.what, where=error.where, remedy=remedy) from error
        file.finish()
        terminal.close_bar()
        bad = f"; {words.plural(file.failed, 'picture')} without an answer: see the column error" if file.failed else ""
        terminal.say(f"{words.plural(file.rows, 'row')} in {out}{bad}")
    return file.failed


def _after(file: AnswerFile, asked: Iterator[Asked]) -> Iterator[Asked]:
    """Return what has no row that stays, having compared what has one."""
    again = []
    for number, row in enumerate(file.answered()):
        found = next(asked, None)
        cell = b"" if found is None else csv_row([found.name])[:-1] + b","
        if found is None or not (row.startswith(cell) or cell.startswith(row)):  # the last one may be torn
            raise file.mismatch(None if found is None else found.name)
        if number >= file.rows:
            again.append(found)
    return chain(again, asked)


def collect(pictures: Iterable[str]) -> Iterator[Asked]:
    """Yield what is to be answered: files as they are given, and the pictures in folders, in a fixed order."""
    stdin_read, once = False, "stdin carries one picture"
    for given in pictures:
        if given == "-":
            yield Asked("-", error="is there twice", remedy=once) if stdin_read else _from_stdin()
            stdin_read = True
        elif missing := find_missing(given):
            yield missing
        elif not os.path.isdir(given):
            yield Asked(given)
        else:
            yield from _in_folder(given)


def _from_stdin() -> Asked:
    """Return the picture on stdin, or why there is none."""
    remedy = "send the bytes of a picture, as in: eyespot predict RUN - < picture.jpg"
    if sys.stdin is None:
        return Asked("-", error="cannot be read: stdin is closed", remedy=remedy)
    try:
        # One byte over the limit is enough for the decoder to refuse it, as it refuses such a file.
        return Asked("-", sys.stdin.buffer.read(MAX_FILE_BYTES + 1))
    except (OSError, ValueError) as error:  # open for writing only, or closed
        return Asked("-", error=f"cannot be read: {getattr(error, 'strerror', None) or error}", remedy=remedy)


def find_missing(given: str) -> Asked | None:
    """Return why nothing can be seen at a path; None where there is something, if only a link that leads nowhere."""
    if is_address(given):
        return Asked(given, error="is an address, which is never fetched", remedy="download it and give the file")
    try:
        os.lstat(given)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return Asked(given, error="does not exist", remedy="check the path")
    except OSError as error:
        reason = f"cannot be reached ({error.strerror})"
        return Asked(given, error=reason, remedy="check the path and the permissions of its folders")
    return None


def _in_folder(folder: str) -> Iterator[Asked]:
    empty = True
    permissions = "check its permissions"
    try:
        for path, error in walk_pictures(folder):
            empty = False
            yield Asked(path, error=error, remedy=permissions) if error else Asked(path)
    except DataError as error:
        yield Asked(folder, error=error.what, remedy=permissions)
        return
    if empty:
        yield Asked(folder, error="holds no pictures", remedy=NO_PICTURES_REMEDY)


# ------------------------------------------------------------------------------------------------------ the conveyor


def answers(
    predictor: Predictor, asked: Iterable[Asked], *, top: int, views: Views | None = None
) -> Iterator[list[tuple[Asked, Prediction]]]:
    """Yield answers in the order of the questions, a batch at a time; the next ones are decoded meanwhile.

    Memory holds a few batches of squares, however many pictures come.

    Args:
        predictor: The model.
        asked: Any number of pictures.
        top: How many classes an answer lists.
        views: Test-time views; None takes the model's own.

    Raises:
        MemoryLimitError: Memory ran out.
        TrainingError: The model answers NaN.
        DataError: A decoding process was killed, or hangs.
    """
    waiting = iter(asked)
    first = list(islice(waiting, _FOR_PROCESSES))
    everything = chain(first, waiting)
    with ExitStack() as held:
        few = len(first) < _FOR_PROCESSES or not sys.executable
        computing = None if few else held.enter_context(_compute_threads(predictor))
        decoder = _Threads(predictor) if few else _Processes(predictor)
        held.callback(decoder.close)  # before the threads that wait for it
        queue: deque[Callable[[], list[tuple[Asked, Prediction]]]] = deque()
        while True:
            while len(queue) <= _AHEAD and (batch := list(islice(everything, _BATCH))):
                answered = partial(_answered, predictor, batch, decoder.submit(batch), top, views)
                queue.append(answered if computing is None else computing.submit(answered).result)
            if not queue:
                return
            yield queue.popleft()()


@contextmanager
def _compute_threads(predictor: Predictor) -> Iterator[ThreadPoolExecutor | None]:
    """Yield threads that answer a batch each, or None where one batch after the other is as fast.

    torch shares every operation of a small network among its threads, which then wait for each other, turning, on cores
    that the decoding processes need. One batch after the other, `spot` took 49 s of processor time for 10,000 pictures
    with two threads and 16 s with one (n = 1, one view, two cores that others used too). The answers are the same.
    """
    import torch

    threads = torch.get_num_threads()
    at_once = min(threads, _COMPUTED_AT_ONCE)
    if at_once < 2 or predictor.plan.device != "cpu" or predictor.info.input.input_px > _SMALL_PX:
        yield None
        return
    pool = ThreadPoolExecutor(
        at_once, "eyespot-compute", initializer=torch.set_num_threads, initargs=(threads // at_once,)
    )
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(threads)  # what threads set counts for all that are started later


def _answered(
    predictor: Predictor, batch: Sequence[Asked], decoding: _Decoding, top: int, views: Views | None
) -> list[tuple[Asked, Prediction]]:
    decoded = decoding.result()
    good = [pixels for pixels in decoded if not isinstance(pixels, str)]
    known = iter(predictor.predict_pixels(good, top_k=top, views=views))
    return [
        (
            asked,
            Prediction(asked.name, (), pixels) if isinstance(pixels, str) else replace(next(known), source=asked.name),
        )
        for asked, pixels in zip(batch, decoded, strict=True)
    ]


class _Decoding(NamedTuple):
    """The pieces of a batch that is being decoded, each as a function that waits for it."""

    pieces: list[Callable[[], list[UInt8Array | str]]]

    def result(self) -> list[UInt8Array | str]:
        """Wait, and return pixels uint8 (S, S, C) or a reason for each picture."""
        return [decoded for piece in self.pieces for decoded in piece()]


class _Threads:
    """Decodes in this process: right for a few pictures."""

    def __init__(self, predictor: Predictor) -> None:
        self._spec = predictor.info.input
        self._pool = ThreadPoolExecutor(core_count(), thread_name_prefix="eyespot-decode")

    def submit(self, batch: Sequence[Asked]) -> _Decoding:
        return _Decoding([self.submit_piece([asked]).result for asked in batch])

    def submit_piece(self, piece: Sequence[Asked]) -> Future[list[UInt8Array | str]]:
        return self._pool.submit(self._decode, piece)

    def _decode(self, batch: Sequence[Asked]) -> list[UInt8Array | str]:
        return [self._one(asked) for asked in batch]

    def _one(self, asked: Asked) -> UInt8Array | str:
        if asked.error is not None:
            return asked.error
        try:
            return pixels_of(asked.name if asked.data is None else asked.data, self._spec)
        except BadImageError as error:
            return error.what

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Processes:
    """Decodes in processes: for many small pictures, whose decoding is mostly Python."""

    def __init__(self, predictor: Predictor) -> None:
        self._here = _Threads(predictor)
        self._format = predictor.info.input.row_format
        self._workers = StreamWorkers(self._format, core_count(), squares=True)
        self._signs = 0  # of life: pieces that are done, and seconds in which one of a piece's pictures was

    def submit(self, batch: Sequence[Asked]) -> _Decoding:
        pieces = [batch[start : start + _PIECE] for start in range(0, len(batch), _PIECE)]
        return _Decoding([partial(self._wait, self._piece(piece), piece) for piece in pieces])

    def _wait(self, decoding: Future[list[UInt8Array | str]], piece: Sequence[Asked]) -> list[UInt8Array | str]:
        """Return what a piece became, unless no process has finished any picture for too long."""
        quiet, signs = 0.0, self._signs
        while not wait([decoding], timeout=LOOK_SECONDS).done:
            quiet, signs = (quiet + LOOK_SECONDS if signs == self._signs else 0.0), self._signs
            if quiet >= STALL_SECONDS:
                self._workers.close()
                others = f" or one of the {len(piece) - 1} pictures after it" if len(piece) > 1 else ""
                raise DataError(
                    f"the decoding workers have finished no picture for {STALL_SECONDS:g} s",
                    where=f"{piece[0].name}{others}",
                    remedy="see whether the drive with the pictures answers",
                )
        return decoding.result()

    def _alive(self) -> None:
        self._signs += 1

    def _piece(self, piece: Sequence[Asked]) -> Future[list[UInt8Array | str]]:
        if any(asked.data is not None or asked.error is not None for asked in piece):
            return self._here.submit_piece(piece)
        size = self._format.size_px
        squares = np.empty((len(piece), size, size, self._format.channels), np.uint8)
        done: Future[list[UInt8Array | str]] = Future()

        def deliver(future: Future[dict[int, str]]) -> None:
            try:
                bad = future.result()
            except EyespotError as error:
                remedy = "free some memory or take that picture away"
                done.set_exception(DataError(error.what, where=error.where, remedy=remedy))
            else:
                done.set_result([bad.get(place, squares[place]) for place in range(len(piece))])
            self._alive()

        names = [asked.name for asked in piece]
        self._workers.submit(names, squares, self._alive).add_done_callback(deliver)
        return done

    def close(self) -> None:
        self._workers.close()
        self._here.close()


# -------------------------------------------------------------------------------------------------------------- rows


def _columns(predictor: Predictor, top: int) -> list[str]:
    ranks = range(1, min(top, predictor.info.num_classes) + 1)
    scores = [f"{column}{rank}" for rank in ranks for column in ("label", "prob")]
    return ["picture", *scores, "unknown", "unknown_score", "error"]


def _cells(answer: Prediction, ranks: int) -> list[str]:
    cells = [cell for score in answer.top for cell in (score.name, f"{score.prob:.6f}")]
    known = "" if answer.unknown is None else str(answer.unknown).lower()
    score = "" if answer.unknown_score is None else f"{answer.unknown_score:.4f}"
    return [answer.source, *cells, *[""] * (2 * ranks - len(cells)), known, score, answer.error or ""]


def describe_answer(answer: Prediction, *, top: int | None = None) -> str:
    """Return an answer for people: the best classes, behind a word of warning where the picture is unknown.

    Args:
        answer: One that is no error.
        top: How many classes at most; None for all in the answer.
    """
    told = "  ".join(f"{score.name} {words.percent(score.prob)}" for score in answer.top[:top])
    return f"unknown (nearest: {told})" if answer.unknown else told


def _print_csv_row(cells: Sequence[str]) -> None:
    print(csv_row(cells).decode(), end="")
