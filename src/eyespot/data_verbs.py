"""What `eyespot data` does with data sets: list them as a CSV, pack them, show them, clear what was derived from them.

Before this: the command line. After this: `picture_table`, `packing`, `grids`, and the cache folders.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from eyespot.caches import cache_folder, user_path
from eyespot.errors import DataError, UsageError, did_you_mean, whole_number
from eyespot.locks import file_lock
from eyespot.opening import (
    Observer,
    Settings,
    check_settings,
    checked_split,
    choose_recipe,
    divide,
    load_recipe,
    open_data,
    pack_data,
)
from eyespot.terminal import Terminal

if TYPE_CHECKING:
    from eyespot.data.dataset import PackedDataset
    from eyespot.data.picture_table import PictureTable

ROOMS = ("downloads", "unpacked", "packed", "features", "checks", "exports")
"""Kinds of derived data, each a folder in the cache."""

_VERSIONS = 8  # of a picture, itself among them: what a row of small pictures holds

_DERIVED = re.compile(
    r"\.?(?P<base>.+-[0-9a-f]{16,64})"
    r"(\.lock|\.tmp|\.report\.json|\.tmp-\d+-[0-9a-f]{8}|-[\d.]+-v\d+\.npz(\.\d+-[0-9a-f]{8}\.tmp)?)?"
)


def pack(data: str | Path, *, settings: Settings = (), observer: Observer | None = None) -> PackedDataset:
    """Scan, decode and pack a data set now, so that training on it starts at once.

    Args:
        data: As for `train`.
        settings: Changes to the recipe that `train` would choose, such as `input.size_px=64`.
        observer: Told about what happens.

    Raises:
        UsageError: Unknown data or settings.
        DataError: The data cannot be used as they are.
    """
    watcher = observer or Terminal(quiet=True)
    check_settings(settings)
    dataset = open_data(data, watcher)
    return pack_data(dataset, load_recipe(choose_recipe(dataset)[0], settings), watcher)


def show(
    data: str | Path,
    *,
    kind: Literal["per-class", "random", "first"] = "per-class",
    count: int | None = None,
    split: str = "train",
    seed: int = 0,
    recipe: str | Path | None = None,
    settings: Settings = (),
    out: str | Path | None = None,
    observer: Observer | None = None,
) -> Path:
    """Write a grid of pictures and return its path.

    Args:
        data: As for `train`.
        kind: Random pictures of each class, random pictures, or the first ones.
        count: How many (of each class); 10 when left out, and one of each class with a recipe.
        split: From which split.
        seed: Of the choice.
        recipe: Shows each picture as it is and beside that as this recipe's augmentation makes it for the network.
        settings: Changes to that recipe.
        out: PNG or HTML file; `NAME-SPLIT.png` in the current folder when left out.
        observer: Told about what happens.

    Raises:
        UsageError: Unknown data, a negative seed, a file that is neither PNG nor HTML, a PNG among the pictures,
            settings without a recipe, or a recipe for another split than train.
        ConfigError: An unknown recipe, settings that do not validate, or an augmentation that pictures do not allow.
        DataError: There is no such split.
    """
    from eyespot.analysis.grids import pick_first, pick_per_class, pick_random, write_grid
    from eyespot.training.prepare import read_pixels
    from eyespot.training.preview import preview_augmentation

    watcher = observer or Terminal(quiet=True)
    name, seed = checked_split(split), whole_number("seed", seed)
    if recipe and name != "train":
        raise UsageError(f"a recipe and the {name} split", remedy="only train is augmented: leave one of them out")
    if settings and not recipe:
        raise UsageError("settings without a recipe", remedy="name the recipe that they change")
    path = None if out is None else user_path(out)
    if path is not None and path.suffix.lower() not in (".png", ".html", ".htm"):
        raise UsageError(
            f"cannot write pictures as {path.suffix or path.name!r}", where=path, remedy="use .png or .html"
        )
    dataset = open_data(data, watcher)
    if name not in dataset.splits:
        raise DataError(f"no {split} split", where=dataset.name, remedy=f"there is {', '.join(dataset.splits)}")
    path = path or Path(f"{Path(dataset.name).stem or 'pictures'}-{split}.png")
    pictures = Path(dataset.origin)
    if path.suffix.lower() == ".png" and pictures.is_dir() and path.resolve().is_relative_to(pictures.resolve()):
        raise UsageError("the grid would lie among the pictures", where=path, remedy="choose another with --out")
    config = load_recipe(recipe or choose_recipe(dataset)[0], settings)
    config = config.model_copy(update={"data": config.data.model_copy(update={"on_bad_image": "skip"})})
    packed = pack_data(dataset, config, watcher)
    labels = packed.splits[name].labels
    count = count or (1 if recipe and kind == "per-class" else 10)
    if kind == "per-class":
        indices = pick_per_class(labels, count, seed=seed)
    elif kind == "random":
        indices = pick_random(len(labels), count, seed=seed)
    else:
        indices = pick_first(len(labels), count)
    names = [dataset.class_names[label] for label in labels[indices]]
    if recipe:
        splits = divide(packed, config, watcher)
        pixels, told = preview_augmentation(packed, splits, config, indices, versions=_VERSIONS, seed=seed)
        watcher.on_message(f"training pictures: {told}")
        versions = len(pixels) // len(indices)
        title = f"{dataset.name}, train: as they are on the left, and as recipe {config.name} trains on them"
        rows = [row for row in names for _ in range(versions)]
        write_grid(pixels, [""] * len(pixels), path, columns=versions, title=title, row_names=rows)
        return path.resolve()
    by_class = kind == "per-class"
    write_grid(
        read_pixels(packed, name, indices),
        [""] * len(names) if by_class else names,
        path,
        columns=min(count, 12) if by_class else min(len(names), 8),
        title=f"{dataset.name}, {split}: {len(indices):,} of {len(labels):,} pictures ({kind.replace('-', ' ')})",
        row_names=names if by_class else None,
    )
    return path.resolve()


def tabulate(
    source: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    pattern: str | None = None,
    pictures: str | Path | None = None,
    columns: str | None = None,
    groups: str | None = None,
    seed: int = 0,
) -> PictureTable:
    """Write a CSV that can be trained on, and return what is in it.

    Args:
        source: A folder whose pictures are named after their class, or a table of pictures and classes; or several
            tables, one of each split.
        out: The CSV; it must not be there yet.
        pattern: For a folder: a regular expression whose first group is the class.
        pictures: For a table: the folder of the pictures; its own when left out.
        columns: For a table: `PICTURE,CLASS`, the names of its columns.
        groups: What tells the groups apart that no split may tear: a table's column, or a regular expression. Then 10 %
            of the pictures become val and 10 % test.
        seed: Of that draw.

    Raises:
        UsageError: An option that does not go with the source, or a file that is there already.
        DataError: The source does not say the classes, or its groups cannot be divided.
    """
    from eyespot.data.picture_table import (
        keep_groups_together,
        label_by_names,
        label_by_table,
        label_by_tables,
        write_table,
    )

    sources = [user_path(one) for one in ([source] if isinstance(source, (str, os.PathLike)) else source)]
    if not sources:
        raise UsageError("no table named", remedy="give a folder, a table, or a table of each split")
    source, out = sources[0], user_path(out)
    for one in sources[1:]:
        if not (source.is_file() and one.is_file()):
            raise UsageError(
                "several sources have to be tables, one of each split", where=one, remedy="name one folder"
            )
    if source.is_dir():
        if pictures is not None or columns is not None:
            raise UsageError("--pictures and --columns are for tables", where=source, remedy="leave them out")
        found = label_by_names(source, pattern, groups)
    elif source.is_file():
        if pattern is not None:
            raise UsageError("--pattern is for folders", where=source, remedy="leave it out, or name a folder")
        named = tuple(columns.split(",")) if columns is not None else None
        if named is not None and len(named) != 2:
            raise UsageError(f"--columns {columns}", where=source, remedy="give two names, such as id,breed")
        folder = None if pictures is None else user_path(pictures)
        if folder is not None and not folder.is_dir():
            raise UsageError("--pictures is no folder", where=folder, remedy="name the folder of the table's pictures")
        if len(sources) > 1:
            found = label_by_tables(sources, folder, named, groups)
        else:
            found = label_by_table(source, folder or source.parent, named, groups)
    else:
        raise UsageError("no such folder or table", where=source, remedy="check the path")
    if groups is not None:
        found = keep_groups_together(found, seed=seed, where=source)
    write_table(found, out)
    return found


# ------------------------------------------------------------------------------------------------------------ the cache


@dataclass(frozen=True)
class Room:
    """What one room of the cache holds.

    Attributes:
        name: One of `ROOMS`.
        folder: Where it is.
        files: How many files eyespot keeps there, before it was cleared.
        bytes: Their size.
        kept: Names of entries that were not deleted: in use, or not written by eyespot.
    """

    name: str
    folder: Path
    files: int
    bytes: int
    kept: tuple[str, ...] = ()


def look_at_cache(rooms: Sequence[str] = (), *, clear: bool = False) -> list[Room]:
    """Return what the cache holds, and clear it if asked.

    Only what bears a name that eyespot gives is counted and deleted, and nothing that another process is making:
    EYESPOT_CACHE may name a folder that holds other things, too.

    Args:
        rooms: Some of `ROOMS`; all when left out.
        clear: Delete it; it will be made again when it is needed.

    Raises:
        UsageError: An unknown room.
        DataError: Something cannot be deleted.
    """
    for name in rooms:
        if name not in ROOMS:
            raise UsageError(
                f"unknown room {name!r} of the cache.{did_you_mean(name, ROOMS)}", remedy=f"use {', '.join(ROOMS)}"
            )
    return [_look_at_room(name, clear=clear) for name in rooms or ROOMS]


def _look_at_room(name: str, *, clear: bool) -> Room:
    folder = cache_folder(name)
    if not folder.is_dir():
        return Room(name, folder, 0, 0)
    base_of = _download_base if name == "downloads" else _derived_base
    ours: dict[str, list[Path]] = {}  # base name -> everything that belongs to one derived thing
    kept = []
    for entry in sorted(folder.iterdir()):
        base = base_of(entry.name)
        if base is None or entry.is_symlink():
            kept.append(entry.name)
        else:
            ours.setdefault(base, []).append(entry)
    files = [path for entries in ours.values() for entry in entries for path in _files(entry)]
    size = sum(map(_bytes_of, files))
    if clear:
        kept += [base for base, entries in ours.items() if not _delete(folder / f"{base}.lock", entries)]
    return Room(name, folder, len(files), size, tuple(kept) if clear else ())


def _derived_base(name: str) -> str | None:
    """Return the name of the derived thing that an entry belongs to, or None for what eyespot did not write."""
    match = _DERIVED.fullmatch(name)
    return match["base"] if match else None


def _download_base(name: str) -> str | None:
    """Return the published file or data set that an entry of the downloads belongs to, or None."""
    from eyespot.data.published import PUBLISHED

    known = {file.name for published in PUBLISHED.values() for file in published.files} | set(PUBLISHED)
    base = name
    for ending in (".json", ".part", ".lock"):
        base = base.removesuffix(ending)
    return base if base in known else None


def _files(entry: Path) -> list[Path]:
    """Return the files of an entry; links count as files and are never followed."""
    if entry.is_symlink() or not entry.is_dir():
        return [entry]
    return [
        Path(folder, name)
        for folder, folders, files in os.walk(entry)  # passes over what another process removes meanwhile
        for name in (*files, *(name for name in folders if os.path.islink(os.path.join(folder, name))))
    ]


def _bytes_of(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:  # the process that made it has finished, or tidied up
        return 0


def _delete(lock: Path, entries: Sequence[Path]) -> bool:
    """Delete what belongs to one derived thing, and return False where a process is making it."""
    inner = [path for entry in entries if entry.is_dir() for path in entry.glob("*.lock")]
    try:
        for path in [lock, *inner]:
            with file_lock(path, timeout_seconds=0):
                pass
        with file_lock(lock, timeout_seconds=0):
            for entry in entries:
                if entry != lock:
                    _remove(entry)
            if os.name == "posix":  # who waits for it sees that it is gone, and makes another
                lock.unlink(missing_ok=True)
        if os.name != "posix":  # an open file stays there
            lock.unlink(missing_ok=True)
    except TimeoutError:
        return False
    except OSError as error:
        raise DataError(
            f"cannot delete ({error.strerror or error})", where=error.filename, remedy="check its permissions"
        ) from error
    return True


def _remove(entry: Path) -> None:
    """Remove an entry; a folder loses its name first, or what a kill leaves of it would be taken for the whole."""
    if not entry.is_dir():
        entry.unlink()
        return
    half = entry.with_name(f"{entry.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    if _derived_base(half.name) is not None:  # not of what is a leftover already
        entry = entry.rename(half)
    shutil.rmtree(entry)
