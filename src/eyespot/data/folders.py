"""One job: find the pictures in class folders, or in train/val/test folders of class folders. Nothing is opened.

Before this: the user's folder, or one that `archives` unpacked. After this: `packing` scans and decodes the files.

What counts as a picture here is decided by name alone (`names`): whoever calls a file `x.jpg` believes it to be a
picture, so the scan that follows has to say so where it is none. What is plainly something else is left out and counted
in a note.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from eyespot.data.dataset import SPLIT_NAMES, Dataset, Items, PathList, SplitName
from eyespot.data.names import (
    SPLIT_WORDS,
    TEXTS,
    check_classes,
    few,
    is_litter,
    make_unique,
    may_be_picture,
    other_kind,
    quoted,
    safe_text,
    split_of,
)
from eyespot.errors import DataError

# With the same folders inside of each, names with such a word in them are doubtful.
_SPLIT_LIKE = re.compile(f"{'|'.join(SPLIT_WORDS)}|batch|eval|fold|hold|part|set|split|trn|tst")
# `alphabet_train` beside `alphabet_test`: the word in a longer name, for names that are the same but for it.
_SPLIT_PART = re.compile(f"(?<![a-z])({'|'.join(SPLIT_WORDS)})(?![a-z])")
# `scan_mask.png` beside `scan.png`, `masks/1.png` beside `images/1.png`: what belongs to segmentation data.
_MASK_NAME = re.compile(r"[-_ .]?masks?(?:[-_ ]?[0-9]+)?", re.IGNORECASE)
_MASK_FOLDER = re.compile("masks?", re.IGNORECASE)
_PICTURE_FOLDERS = ("images", "image", "Images", "imgs", "img", "originals")
# What an archive holds beside its pictures: no classes, where there is nothing else.
_PICTURE_PART = re.compile("(?:jpe?g)?images?|imgs?|pictures?|photos?", re.IGNORECASE)
_OTHER_PART = re.compile(
    "annotations?|imagesets|labels?|masks?|trimaps?|segmentation[a-z]*|ground[-_ ]?truth", re.IGNORECASE
)
# What a large data set is cut into for its download: `images_001`, `scans_part_2`, `batch 3`.
_NUMBERED_PART = re.compile(
    r"(.*(?<![a-z]))?(batch|chunk|(?:data)?set|data|folder|images?|imgs?|part|photos?|pictures?|shard|zip)[-_ ]?[0-9]+"
)
_ARCHIVES = frozenset({"zip", "tar", "tgz", "gz", "bz2", "tbz2", "xz", "txz", "zst", "rar", "7z"})
_TABLES = (".csv", ".tsv", ".jsonl")
# What competitions hand out beside the table of labels: tables without labels.
_NO_TABLE = re.compile("sample|submission|(?<![a-z])test(?![a-z])")
_DIGITS = re.compile("[0-9]+")
# What pictures may have in common beyond their class, as it stands in their paths: `frame_0012.jpg`, `patient3/1.png`.
_ALIKE = re.compile(r"(?<![a-z])(clip|frame|patient|subject|video)s?[-_ ]?[0-9]+", re.IGNORECASE)
# A download folder in a folder in a folder: nobody wraps a data set deeper.
_MAX_WRAPPERS = 5


@dataclass
class _LeftOut:
    """What a walk did not list, for the notes."""

    kinds: Counter[str] = field(default_factory=Counter)
    irregular: list[str] = field(default_factory=list)
    broken_links: list[str] = field(default_factory=list)
    loops: list[str] = field(default_factory=list)
    stray: list[str] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)

    def describe_kinds(self) -> str:
        """Return how many files of which other kinds are no pictures."""
        most = self.kinds.most_common(5)
        kinds = ", ".join(f"{kind if kind in TEXTS else f'.{kind}'} {count:,}" for kind, count in most)
        inside = " (pictures in archives are not looked for: unpack them)" if _ARCHIVES & self.kinds.keys() else ""
        return f"{_files(self.kinds.total())} of other kinds left out: {kinds}{inside}"

    def notes(self) -> list[str]:
        """Return a sentence for each kind of thing."""
        notes = []
        if self.kinds:
            notes.append(self.describe_kinds())
        for names, words in (
            (self.stray, "outside of the class folders left out"),
            (self.irregular, "left out: not a regular file"),
            (self.broken_links, "left out: a link that leads nowhere"),
        ):
            if names:
                notes.append(f"{_files(len(names))} {words}: {few(names)}")
        if self.loops:
            notes.append(f"folders that were read already, or link back to themselves, left out: {few(self.loops)}")
        if self.nested:
            notes.append(f"pictures in folders below a class folder count for that class: {few(self.nested)}")
        return notes


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


@dataclass(frozen=True)
class _Listing:
    """The sorted names of one folder: folders, and files that may be pictures."""

    folders: list[str]
    pictures: list[str]


def read_folder(folder: Path, *, name: str) -> Dataset:
    """Return the data set in a folder of class folders, or of train/, val/ and test/ folders of class folders.

    A single folder around them, as archives often have it, is looked through, and so is a second one of the same split
    in a split folder (`seg_train/seg_train`). Class names are the folder names in NFC,
    sorted by code point, so they are the same on every system; pictures are sorted by class and path. Folders below a
    class folder belong to the class. Links are followed, except to what was read already. Hidden files and the litter
    of systems and editors are not pictures; files of other kinds are counted in a note.

    Args:
        folder: The folder; it is only listed, no file in it is opened.
        name: The data set's name.

    Raises:
        DataError: No class folders, fewer than two classes, a class without pictures, splits with different classes,
            splits inside of class folders, folders that may be splits as well as classes, a folder that cannot be
            read. The folder or class is named.
    """
    left_out = _LeftOut()
    root, top, notes = _unwrap(os.fspath(folder))
    split_folders = _find_splits(root, top)
    found: dict[SplitName, dict[str, list[str]]] = {}
    if split_folders is None:
        _refuse_torn_splits(root, top)
        _refuse_pieces(root, top)
        _refuse_initials(root, top)
        _refuse_hidden_splits(root, top)
        doubtful = [safe_text(name) for name in top.folders if split_of(name)]
        named = [name for name in doubtful if name.casefold() not in SPLIT_WORDS]
        if named:  # a class may be called test, but hardly test_images
            raise DataError(
                f"{named[0]}/ beside {few(safe_text(name) for name in top.folders if name not in named)}: "
                "a split or a class?",
                where=root,
                remedy="move it elsewhere where it is no class, or call it otherwise",
            )
        if doubtful:
            notes.append(f"taken for a class, not for a split, since it holds no class folders: {few(doubtful)}")
        _count_stray(_list(root, "", left_out).pictures, "", left_out)
        notes += _note_split_tables(root)
        found["train"] = _read_classes(root, "", top.folders, left_out)
        if not found["train"]:
            raise _no_classes(folder, top, left_out)
    else:
        notes = _aside(top, split_folders)
        for split, split_folder in split_folders.items():
            listing = _list(os.path.join(root, split_folder), f"{split_folder}/", left_out)
            pictures = _unlabelled(root, split_folder, listing, found.get("train", {}))
            if split != "train" and pictures is not None:
                count = f"{len(pictures):,} picture{'' if len(pictures) == 1 else 's'}" if pictures else "nothing"
                notes.append(f"{split_folder}/ holds {count} and no class folders, so it is not used: no labels")
                continue
            _count_stray(listing.pictures, f"{split_folder}/", left_out)
            classes = _read_classes(root, f"{split_folder}/", listing.folders, left_out)
            if split != "train" and not any(classes.values()):
                notes.append(f"{split_folder}/ holds class folders without pictures, so it is not used")
                continue
            found[split] = classes
    _refuse_parts(found["train"], folder, root if split_folders is None else os.path.join(root, split_folders["train"]))
    if split_folders is None:
        _refuse_wrapper(found["train"], folder, root)
    counts = {split: {kind: len(names) for kind, names in classes.items()} for split, classes in found.items()}
    other_kinds = left_out.describe_kinds() if left_out.kinds else ""
    class_names, class_notes = check_classes(counts, folder, left_out=other_kinds)
    if "test" not in found:
        class_notes = (*class_notes, *_note_alike(found["train"], root))
    masks = [name for classes in found.values() for names in classes.values() for name in _masks(names)]
    if masks:
        what = f"{len(masks):,} picture{' is' if len(masks) == 1 else 's are'} named like masks of others"
        notes.append(f"{what}, {few(map(safe_text, masks))}: they are classified like any other")
    return Dataset(
        name=name,
        class_names=class_names,
        splits={split: _items(root, class_names, found[split]) for split in SPLIT_NAMES if split in found},
        published=False,
        origin=str(folder),
        layout="class folders" if split_folders is None else "split folders",
        notes=(*notes, *class_notes, *left_out.notes()),
    )


def _items(root: str, class_names: Sequence[str], classes: Mapping[str, list[str]]) -> Items:
    """Return one split's pictures, class by class."""
    names: list[str] = []
    counts = []
    for name in class_names:
        names += classes.get(name, ())
        counts.append(len(classes.get(name, ())))
    labels = np.repeat(np.arange(len(class_names), dtype=np.int64), counts)
    return Items(make_unique([safe_text(name) for name in names], names), labels, paths=PathList(root, names))


def _list(folder: str, prefix: str, left_out: _LeftOut) -> _Listing:
    """Return the sorted names in one folder, without what is no picture; no file is opened, and links are resolved."""
    folders, pictures = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name = entry.name
                if is_litter(name):
                    continue
                try:
                    if entry.is_dir():
                        folders.append(name)
                        continue
                    regular = entry.is_file()
                except OSError:
                    regular = False
                if not regular:
                    # A FIFO would block whoever opens it, so it must never become an item.
                    broken = entry.is_symlink() and not os.path.exists(entry.path)
                    group = left_out.broken_links if broken else left_out.irregular
                    group.append(safe_text(prefix + name))
                    continue
                other = other_kind(name)
                if other:
                    left_out.kinds[other] += 1
                else:
                    pictures.append(name)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return _Listing(sorted(folders, key=safe_text), sorted(pictures, key=safe_text))


def _unreadable(folder: str, error: OSError) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError("the folder vanished while it was read", where=folder, remedy="start again when it is there")
    reason = error.strerror or type(error).__name__
    return DataError(f"cannot list the folder ({reason})", where=folder, remedy="check its permissions, or its disk")


def _count_stray(pictures: list[str], prefix: str, left_out: _LeftOut) -> None:
    left_out.stray += [safe_text(prefix + name) for name in pictures]


def _unwrap(root: str) -> tuple[str, _Listing, list[str]]:
    """Return the folder that holds the class or split folders, its listing, and a note where it is an inner one."""
    top = _list(root, "", _LeftOut())
    notes: list[str] = []
    for _ in range(_MAX_WRAPPERS):
        if len(top.folders) != 1 or top.pictures or top.folders[0].casefold() in SPLIT_WORDS:
            break
        inner = os.path.join(root, top.folders[0])
        listing = _list(inner, "", _LeftOut())
        if not listing.folders or listing.pictures:
            break
        notes = [f"the class folders are those in its only folder, {safe_text(top.folders[0])!r}"]
        root, top = inner, listing
    return root, top, notes


def _unlabelled(root: str, split_folder: str, listing: _Listing, classes: Mapping[str, object]) -> list[str] | None:
    """Return the pictures of a split without class folders, which may be `val/images` or `test/test`; else None."""
    if not listing.folders:
        return listing.pictures
    name = listing.folders[0]
    if len(listing.folders) > 1 or listing.pictures or name in classes:
        return None
    inner = _list(os.path.join(root, split_folder, name), "", _LeftOut())
    only_pictures = not inner.folders and bool(_PICTURE_PART.fullmatch(name) or split_of(name))
    return inner.pictures if only_pictures else None


def _find_splits(root: str, top: _Listing) -> dict[SplitName, str] | None:
    """Return the folder of each split, or None where the folders are classes (of which one may well be a train)."""
    by_split, others = _by_split(top.folders)
    if not by_split or (others and "train" not in by_split):
        return None
    if "train" not in by_split:
        names = ", ".join(f"{safe_text(name)}/" for name in top.folders)
        raise DataError(f"{names} without train/", where=root, remedy="add train/ with a folder for each class")
    train = by_split["train"][0]
    listing = _list(os.path.join(root, train), "", _LeftOut())
    if not listing.folders:
        if others and len(by_split) == 1 and train.casefold() in SPLIT_WORDS:  # the vehicle
            return None
        beside = f"; where it is a class, call it otherwise than {train}" if others else ""
        raise DataError(
            f"{safe_text(train)}/ has no class folders",
            where=root,
            remedy=f"make a folder for each class in {train}/, {_by_table(root, train)}{beside}",
        )
    if others and len(by_split) == 1:
        if listing.pictures:
            return None
        raise DataError(
            f"{safe_text(train)}/ with folders in it beside {few(others)}: splits or classes?",
            where=root,
            remedy=f"give {os.path.join(root, train)}, or name the other folders val/ or test/, or {train}/ otherwise",
        )
    for double, same in by_split.items():
        if len(same) > 1:
            raise DataError(f"two folders for the split {double}: {few(same)}", where=root, remedy="keep one of them")
    return {split: _inner_split(root, by_split[split][0], split) for split in SPLIT_NAMES if split in by_split}


def _by_split(folders: Sequence[str]) -> tuple[dict[SplitName, list[str]], list[str]]:
    """Return the folders that are named after each split, and the others.

    Beside `test`, `test_images` is one of the others: what a plain name says needs no guess.
    """
    plain = {SPLIT_WORDS[name.casefold()] for name in folders if name.casefold() in SPLIT_WORDS}
    by_split: dict[SplitName, list[str]] = {}
    others = []
    for name in folders:
        split = split_of(name)
        if split is None or (split in plain and name.casefold() not in SPLIT_WORDS):
            others.append(name)
        else:
            by_split.setdefault(split, []).append(name)
    return by_split, others


def _inner_split(root: str, split_folder: str, split: SplitName) -> str:
    """Return the folder that holds the classes: `seg_train/seg_train` where archives wrap a split once more."""
    listing = _list(os.path.join(root, split_folder), "", _LeftOut())
    if len(listing.folders) == 1 and not listing.pictures and split_of(listing.folders[0]) == split:
        inner = f"{split_folder}/{listing.folders[0]}"
        # Otherwise it is a class that happens to be called train.
        if _list(os.path.join(root, inner), "", _LeftOut()).folders:
            return inner
    return split_folder


def _refuse_pieces(root: str, top: _Listing) -> None:
    """Raise where folders taken for classes are named like the pieces of a data set that was cut for its download."""
    found = [_NUMBERED_PART.fullmatch(name.casefold()) for name in top.folders]
    if len(found) > 1 and len({match and match.groups() for match in found}) == 1 and found[0]:
        raise DataError(
            f"{few(map(safe_text, top.folders))} are named like pieces of one data set, not like classes",
            where=root,
            remedy=f"make a folder for each class, {_by_table(root)}; where they are classes, call them otherwise",
        )


def _refuse_hidden_splits(root: str, top: _Listing) -> None:
    """Raise where folders taken for classes look like splits or variants of the data: the same class folders in each.

    `fold1` and `fold2`, or `color` and `grayscale` with forty kinds of leaves in each, would become the classes of a
    data set, and nobody would be told. Nor of a hundred patients, `10253` and `10254`, with `0` and `1` in each.
    """
    same: set[str] | None = None
    for name in top.folders:
        listing = _list(os.path.join(root, name), "", _LeftOut())
        if len(listing.folders) == 1 and not listing.pictures:  # `amazon/images`, `webcam/images`
            listing = _list(os.path.join(root, name, listing.folders[0]), "", _LeftOut())
        same = set(listing.folders) if same is None else same & set(listing.folders)
        if listing.pictures or len(same) < 2:
            return
    if same is None or len(top.folders) < 2:
        return
    names = [name.casefold() for name in top.folders]
    numbered = len({_DIGITS.sub("", name) for name in names}) == 1
    if len(same) <= len(names) and not numbered and not any(map(_SPLIT_LIKE.search, names)):
        return  # apple/ and pear/ with fresh/ and rotten/ in each are classes
    inside = _by_split(sorted(same))[0]
    if "train" in inside and len(inside) > 1:  # `_check_no_splits` will say it better
        return
    outer = "where they are classes, make a CSV that says so (eyespot data table --pattern '^[^/]+')"
    inner = f"eyespot data table {quoted(root)} --pattern '([^/]+)/[^/]+$' --groups '^[^/]+' --out NEW.csv"
    raise DataError(
        f"{few(map(safe_text, top.folders))} hold no pictures, but all hold folders named "
        f"{few(sorted(map(safe_text, same)))}: which are the classes?",
        where=root,
        remedy=f"where those are, make a CSV that keeps each of the others in one split: {inner}; {outer}"
        if numbered
        else f"give one of them, or name splits train/ and test/; {outer}",
    )


def _refuse_initials(root: str, top: _Listing) -> None:
    """Raise where folders taken for classes are initials of the classes in them: `a/abbey`, `a/airport`, `b/bar`."""
    if len(top.folders) < 2 or any(len(name) > 1 for name in top.folders):
        return
    inside = {name: _list(os.path.join(root, name), "", _LeftOut()) for name in top.folders}
    if all(
        listing.folders and not listing.pictures and all(inner.startswith(name) for inner in listing.folders)
        for name, listing in inside.items()
    ):
        example = f"{top.folders[0]}/{inside[top.folders[0]].folders[0]}"
        raise DataError(
            f"the classes seem to be a level deeper, sorted by their initials ({safe_text(example)})",
            where=root,
            remedy=f"make a CSV of path,label: eyespot data table {quoted(root)} --pattern '^./([^/]+)' --out NEW.csv; "
            "where the letters are the classes, with --pattern '^[^/]+'",
        )


def _refuse_torn_splits(root: str, top: _Listing) -> None:
    """Raise where folders taken for classes have the same name but for train and test or val in it."""
    alike: dict[str, dict[SplitName, str]] = {}
    for name in top.folders:
        words = set(_SPLIT_PART.findall(name.casefold()))
        if len(words) == 1 and split_of(name) is None:  # a class may be called train
            alike.setdefault(_SPLIT_PART.sub("*", name.casefold()), {})[SPLIT_WORDS[words.pop()]] = name
    for splits in alike.values():
        if "train" in splits and len(splits) > 1:
            raise DataError(
                f"{few(map(safe_text, splits.values()))} are named like splits: which are the classes?",
                where=root,
                remedy="name splits train/ and test/, and classes otherwise, or give "
                + safe_text(os.path.join(root, splits["train"])),
            )


def _by_table(root: str, folder: str = "", beside: Iterable[str] = ()) -> str:
    """Return the next step where no folder says the class: a command, with the table that may say it.

    Args:
        root: The data set.
        folder: Of the pictures, relative to it.
        beside: Folders, relative to it, that a table may be in, too.
    """
    pictures = os.path.normpath(os.path.join(root, folder))
    around = os.path.dirname(root)
    outer = (
        [around] if [name for name in _names_in(around) if os.path.isdir(os.path.join(around, name))][1:] == [] else []
    )
    for place in (pictures, os.path.dirname(pictures), root, *(os.path.join(root, name) for name in beside), *outer):
        for name in _tables(place):
            tables = [os.path.join(root, other, name) for other in _names_in(root) if split_of(other)]
            tables = [table for table in tables if os.path.isfile(table)]
            if place != pictures or len(tables) < 2:
                tables = [os.path.join(place, name), "--pictures", pictures]
            command = " ".join(quoted(safe_text(word)) for word in tables)
            return f"or, where {safe_text(name)} says the class: eyespot data table {command} --out NEW.csv"
    return f"or, where names say the class: eyespot data table {quoted(safe_text(pictures))} --out NEW.csv"


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not is_litter(name))
    except OSError:  # it only is looked at for a better message
        return []


def _note_split_tables(root: str) -> list[str]:
    """Return a note where tables beside the class folders are named after splits: other ones will be drawn."""
    names = [name for name in _names_in(root) if name.endswith(_TABLES)]
    splits = {name: {SPLIT_WORDS[word] for word in _SPLIT_PART.findall(name.casefold())} for name in names}
    tables = [name for name in names if len(splits[name]) == 1]
    if not {"train"} < set().union(*(splits[name] for name in tables)):
        return []
    command = " ".join(quoted(safe_text(os.path.join(root, name))) for name in tables)
    told = f"{few(map(safe_text, tables))} beside the class folders are not read, and other splits are drawn"
    return [f"{told}; where they say the splits: eyespot data table {command} --out NEW.csv"]


def _tables(folder: str) -> list[str]:
    """Return the names of the tables in a folder that may have labels, the likeliest first."""
    names = [name for name in _names_in(folder) if name.endswith(_TABLES) and not _NO_TABLE.search(name.casefold())]
    return sorted(names, key=lambda name: not re.search("train|label|class|meta", name.casefold()))


def _refuse_parts(classes: Mapping[str, list[str]], folder: Path, root: str) -> None:
    """Raise where the folders taken for classes are pictures and what belongs to them, such as `images` and `masks`."""
    names = sorted(classes)
    others = [name for name in names if _OTHER_PART.fullmatch(name)]
    pictures = [name for name in names if _PICTURE_PART.fullmatch(name)]
    if others and pictures and len(others) + len(pictures) == len(names):
        inner = _folder_of_folders(classes[pictures[0]])
        raise DataError(
            f"folders {few(names)} are no classes",
            where=folder,
            remedy=f"if the classes are in {inner}, give {os.path.join(root, inner)}"
            if inner
            else f"give a folder for each class, {_by_table(root, pictures[0])}",
        )


def _folder_of_folders(pictures: Sequence[str]) -> str:
    """Return the folder below which several others hold all these pictures; nothing where there is none."""
    around = os.path.commonpath([os.path.dirname(picture) for picture in pictures]) if pictures else ""
    return "" if any(os.path.dirname(picture) == around for picture in pictures) else around.replace(os.sep, "/")


def _refuse_wrapper(classes: Mapping[str, list[str]], folder: Path, root: str) -> None:
    """Raise where the only folder with pictures may be one around the classes: others, or a file, are beside it."""
    filled = [name for name, pictures in classes.items() if pictures]
    if len(filled) != 1:
        return
    name, pictures = filled[0], classes[filled[0]]
    empty = [name for name, pictures in classes.items() if not pictures]
    top, inner = pictures[0].split("/")[0], _folder_of_folders(pictures)
    companions = _PICTURE_PART.fullmatch(name) or any(_tables(os.path.join(root, other)) for other in empty)
    if empty and not inner and not companions:
        return  # `check_classes` will say it
    what = f"only {name}/ holds pictures, beside {few(empty)}" if empty else f"only one class, {name!r}"
    if inner:
        inside = sorted({picture[len(inner) + 1 :].split("/")[0] for picture in pictures})
        raise DataError(
            f"{what}, which holds the folders {few(map(safe_text, inside))}" if not empty else what,
            where=folder,
            remedy=f"if the classes are in it, give {os.path.join(root, inner)}",
        )
    raise DataError(
        what,
        where=folder,
        remedy="a classifier needs two or more: one folder (or label) for each class, " + _by_table(root, top, empty),
    )


def _aside(top: _Listing, split_folders: Mapping[SplitName, str]) -> list[str]:
    """Return notes on what lies beside the split folders."""
    notes = []
    used = {split: folder.partition("/")[0] for split, folder in split_folders.items()}
    others = [safe_text(name) for name in top.folders if name not in used.values()]
    if others:
        notes.append(f"folders beside {used['train']}/ left out: {few(others)}")
    if top.pictures:
        notes.append(f"{_files(len(top.pictures))} beside {used['train']}/ left out: {few(top.pictures)}")
    return notes


def _read_classes(root: str, prefix: str, folders: list[str], left_out: _LeftOut) -> dict[str, list[str]]:
    """Return class name -> sorted paths relative to `root`, for the class folders in `root/prefix`."""
    classes: dict[str, list[str]] = {}
    above = {_identity(root), _identity(os.path.join(root, prefix))}
    beside = frozenset(folders)
    for folder in folders:
        # Two folder names that look alike (composed and decomposed accents) are one class.
        names = classes.setdefault(safe_text(folder), [])
        names += _walk_class(root, prefix + folder, above, beside, left_out)
    for names in classes.values():
        names.sort(key=safe_text)
    return classes


def _note_alike(classes: Mapping[str, list[str]], root: str) -> list[str]:
    """Return a note where test will be drawn of pictures whose paths speak of films or patients."""
    names = [name for of_class in classes.values() for name in of_class]
    alike = [name for name in names if _ALIKE.search(name.partition("/")[2])]
    if len(alike) * 2 < len(names):
        return []
    command = f"eyespot data table {quoted(safe_text(root))} --pattern '^[^/]+' --groups REGEX --out NEW.csv"
    what = f"{len(alike):,} pictures are named like those of films or patients, {few(map(safe_text, alike))}"
    return [f"{what}: with one of them both in train and in test, test says too much. Splits that keep each: {command}"]


def _masks(names: list[str]) -> list[str]:
    """Return the pictures of a class that are named like the mask of another one in it."""
    candidates = [name for name in names if "mask" in name.casefold()]
    if not candidates:
        return []
    stems = {os.path.splitext(name)[0] for name in names}
    return [name for name in candidates if not stems.isdisjoint(_unmasked(os.path.splitext(name)[0]))]


def _unmasked(stem: str) -> list[str]:
    """Return what the picture of a mask may be called, without extension; nothing where the name speaks of no mask."""
    *folders, last = stem.split("/")
    found = ["/".join([*folders, base]) for base in [_MASK_NAME.sub("", last)] if base != last]
    for place, folder in enumerate(folders):
        if _MASK_FOLDER.fullmatch(folder):
            found += ["/".join([*folders[:place], other, *folders[place + 1 :], last]) for other in _PICTURE_FOLDERS]
    return found


def _walk_class(
    root: str, class_folder: str, above: set[tuple[int, int]], beside: frozenset[str], left_out: _LeftOut
) -> list[str]:
    """Return the pictures in a class folder and below it, as paths relative to `root` with forward slashes."""
    found: list[str] = []
    seen = set(above)
    waiting = [class_folder]
    while waiting:
        here = waiting.pop()
        folder = os.path.join(root, here)
        identity = _identity(folder)
        if identity in seen:
            left_out.loops.append(safe_text(here))
            continue
        seen.add(identity)
        listing = _list(folder, f"{here}/", left_out)
        _check_no_splits(root, here, listing)
        if here == class_folder:
            _check_no_copy(root, class_folder, listing, beside)
        elif listing.pictures:
            left_out.nested.append(safe_text(here))
        found += [f"{here}/{name}" for name in listing.pictures]
        waiting += [f"{here}/{name}" for name in reversed(listing.folders)]
    return found


def _identity(folder: str) -> tuple[int, int]:
    """Return what stays the same however a folder is reached."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return status.st_dev, status.st_ino


def _check_no_splits(root: str, class_folder: str, listing: _Listing) -> None:
    """Raise where a class folder, or one below it, holds the splits: `data/data/train` beside `test/`, too."""
    inside = {split: names[0] for split, names in _by_split(listing.folders)[0].items()}
    if "train" in inside and len(inside) > 1 and _holds_pictures(os.path.join(root, class_folder)):
        have = f"{class_folder}/{inside['train']}"
        remedy = f"turn them round: {safe_text(inside['train'] + '/' + class_folder)}"
        if _list(os.path.join(root, have), "", _LeftOut()).folders:  # `data/train/cat` beside `docs/`
            remedy = f"give {safe_text(os.path.join(root, class_folder))} if that is the data set, or {remedy}"
        elif _PICTURE_PART.fullmatch(class_folder):  # `images/train` beside `labels/train`, of object detection
            raise DataError(
                f"{safe_text(have)} has no class folders",
                where=root,
                remedy=f"make a folder for each class in it, {_by_table(root, have)}",
            )
        raise DataError(f"the splits are inside of the class folders ({safe_text(have)})", where=root, remedy=remedy)


def _holds_pictures(folder: str) -> bool:
    return any(may_be_picture(name) for _, _, names in os.walk(folder, followlinks=True) for name in names)


def _check_no_copy(root: str, class_folder: str, listing: _Listing, beside: frozenset[str]) -> None:
    """Raise where a class folder holds no pictures, but the classes that are beside it: archives hold data twice."""
    again = sorted(beside.intersection(listing.folders), key=safe_text)
    if len(again) > 1 and not listing.pictures:
        inner = os.path.join(root, class_folder)
        raise DataError(
            f"{safe_text(class_folder)}/ holds folders named like the classes beside it: {few(map(safe_text, again))}",
            where=root,
            remedy=f"remove it if it is a copy of them, or give {safe_text(inner)} alone",
        )


def _no_classes(folder: Path, top: _Listing, left_out: _LeftOut) -> DataError:
    if top.pictures:
        return DataError(
            f"{len(top.pictures):,} pictures but no class folders",
            where=folder,
            remedy=f"expected folders named after the classes, such as cat/ and dog/, {_by_table(os.fspath(folder))}",
        )
    remedy = "expected folders named after the classes"
    if left_out.kinds:
        return DataError(f"no class folders; {left_out.describe_kinds()}", where=folder, remedy=remedy)
    return DataError("an empty folder", where=folder, remedy=remedy)
