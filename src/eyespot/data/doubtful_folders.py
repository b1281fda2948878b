"""One job: doubt what was taken for classes. Folders of many data sets are splits, pieces, patients or masks instead.

Before this: `folders` found folders with pictures. After this: it reads them as classes, or the user is told why not,
with the next step: mostly a table that says the class (`eyespot data table`). Only names are looked at.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from eyespot.data.dataset import SplitName
from eyespot.data.listing import list_folder
from eyespot.data.names import SPLIT_WORDS, by_split, few, is_litter, safe_text, split_of
from eyespot.errors import DataError, quoted

# With the same folders inside of each, names with such a word in them are doubtful.
_SPLIT_LIKE = re.compile(f"{'|'.join(SPLIT_WORDS)}|batch|eval|fold|hold|part|set|split|trn|tst")
# `alphabet_train` beside `alphabet_test`: the word in a longer name, for names that are the same but for it.
_SPLIT_PART = re.compile(f"(?<![a-z])({'|'.join(SPLIT_WORDS)})(?![a-z])")
# `scan_mask.png` beside `scan.png`, `masks/1.png` beside `images/1.png`: what belongs to segmentation data.
_MASK_NAME = re.compile(r"[-_ .]?masks?(?:[-_ ]?[0-9]+)?", re.IGNORECASE)
_MASK_FOLDER = re.compile("masks?", re.IGNORECASE)
_PICTURE_FOLDERS = ("images", "image", "Images", "imgs", "img", "originals")
# What an archive holds beside its pictures: no classes, where there is nothing else.
PICTURE_PART = re.compile("(?:jpe?g)?images?|imgs?|pictures?|photos?", re.IGNORECASE)
_OTHER_PART = re.compile(
    "annotations?|imagesets|labels?|masks?|trimaps?|segmentation[a-z]*|ground[-_ ]?truth", re.IGNORECASE
)
# What a large data set is cut into for its download: `images_001`, `scans_part_2`, `batch 3`.
_NUMBERED_PART = re.compile(
    r"(.*(?<![a-z]))?(batch|chunk|(?:data)?set|data|folder|images?|imgs?|part|photos?|pictures?|shard|zip)[-_ ]?[0-9]+"
)
_TABLES = (".csv", ".tsv", ".jsonl")
# What competitions hand out beside the table of labels: tables without labels.
_NO_TABLE = re.compile("sample|submission|(?<![a-z])test(?![a-z])")
_DIGITS = re.compile("[0-9]+")
# What pictures may have in common beyond their class, as it stands in their paths: `frame_0012.jpg`, `patient3/1.png`.
_ALIKE = re.compile(r"(?<![a-z])(clip|frame|patient|subject|video)s?[-_ ]?[0-9]+", re.IGNORECASE)


def refuse_no_classes(root: str, folders: Sequence[str]) -> None:
    """Raise where the folders of a data set are named like something else than its classes.

    Args:
        root: The data set.
        folders: Names of the folders in it.

    Raises:
        DataError: Splits, pieces of a download or initials; what to do instead is named.
    """
    _refuse_torn_splits(root, folders)
    _refuse_pieces(root, folders)
    _refuse_initials(root, folders)
    _refuse_hidden_splits(root, folders)
    named = [safe_text(name) for name in folders if split_of(name) and name.casefold() not in SPLIT_WORDS]
    if named:  # a class may be called test, but hardly test_images
        raise DataError(
            f"{named[0]}/ beside {few(safe_text(name) for name in folders if safe_text(name) not in named)}: "
            "a split or a class?",
            where=root,
            remedy="move it elsewhere where it is no class, or call it otherwise",
        )


def note_classes_like_splits(folders: Sequence[str]) -> list[str]:
    """Return a note where a class is called like a split."""
    doubtful = [safe_text(name) for name in folders if split_of(name)]
    if not doubtful:
        return []
    return [f"taken for a class, not for a split, since it holds no class folders: {few(doubtful)}"]


def _refuse_pieces(root: str, folders: Sequence[str]) -> None:
    """Raise where folders taken for classes are named like the pieces of a data set that was cut for its download."""
    found = [_NUMBERED_PART.fullmatch(name.casefold()) for name in folders]
    if len(found) > 1 and len({match and match.groups() for match in found}) == 1 and found[0]:
        raise DataError(
            f"{few(map(safe_text, folders))} are named like pieces of one data set, not like classes",
            where=root,
            remedy=f"make a folder for each class, {by_table(root)}; where they are classes, call them otherwise",
        )


def _refuse_hidden_splits(root: str, folders: Sequence[str]) -> None:
    """Raise where folders taken for classes look like splits or variants of the data: the same class folders in each.

    `fold1` and `fold2`, or `color` and `grayscale` with forty kinds of leaves in each, would become the classes of a
    data set, and nobody would be told. Nor of a hundred patients, `10253` and `10254`, with `0` and `1` in each.
    """
    same: set[str] | None = None
    for name in folders:
        listing = list_folder(os.path.join(root, name))
        if len(listing.folders) == 1 and not listing.pictures:  # `amazon/images`, `webcam/images`
            listing = list_folder(os.path.join(root, name, listing.folders[0]))
        same = set(listing.folders) if same is None else same & set(listing.folders)
        if listing.pictures or len(same) < 2:
            return
    if same is None or len(folders) < 2:
        return
    names = [name.casefold() for name in folders]
    numbered = len({_DIGITS.sub("", name) for name in names}) == 1
    if len(same) <= len(names) and not numbered and not any(map(_SPLIT_LIKE.search, names)):
        return  # apple/ and pear/ with fresh/ and rotten/ in each are classes
    inside = by_split(sorted(same))[0]
    if "train" in inside and len(inside) > 1:  # `folders` will say it better
        return
    outer = "where they are classes, make a CSV that says so (eyespot data table --pattern '^[^/]+')"
    inner = f"eyespot data table {quoted(root)} --pattern '([^/]+)/[^/]+$' --groups '^[^/]+' --out NEW.csv"
    raise DataError(
        f"{few(map(safe_text, folders))} hold no pictures, but all hold folders named "
        f"{few(sorted(map(safe_text, same)))}: which are the classes?",
        where=root,
        remedy=f"where those are, make a CSV that keeps each of the others in one split: {inner}; {outer}"
        if numbered
        else f"give one of them, or name splits train/ and test/; {outer}",
    )


def _refuse_initials(root: str, folders: Sequence[str]) -> None:
    """Raise where folders taken for classes are initials of the classes in them: `a/abbey`, `a/airport`, `b/bar`."""
    if len(folders) < 2 or any(len(name) > 1 for name in folders):
        return
    inside = {name: list_folder(os.path.join(root, name)) for name in folders}
    if all(
        listing.folders and not listing.pictures and all(inner.startswith(name) for inner in listing.folders)
        for name, listing in inside.items()
    ):
        example = f"{folders[0]}/{inside[folders[0]].folders[0]}"
        raise DataError(
            f"the classes seem to be a level deeper, sorted by their initials ({safe_text(example)})",
            where=root,
            remedy=f"make a CSV of path,label: eyespot data table {quoted(root)} --pattern '^./([^/]+)' --out NEW.csv; "
            "where the letters are the classes, with --pattern '^[^/]+'",
        )


def _refuse_torn_splits(root: str, folders: Sequence[str]) -> None:
    """Raise where folders taken for classes have the same name but for train and test or val in it."""
    alike: dict[str, dict[SplitName, str]] = {}
    for name in folders:
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


def refuse_parts(classes: Mapping[str, list[str]], folder: Path, root: str, split_folder: str) -> None:
    """Raise where the folders taken for classes are pictures and what belongs to them, such as `images` and `masks`.

    Args:
        classes: Their pictures, by paths below `root`.
        folder: The data set, for the error.
        root: Where its folders are.
        split_folder: In which of them the classes are; empty where there are no splits.
    """
    names = sorted(classes)
    others = [name for name in names if _OTHER_PART.fullmatch(name)]
    pictures = [name for name in names if PICTURE_PART.fullmatch(name)]
    if others and pictures and len(others) + len(pictures) == len(names):
        if split_folder:
            root = os.path.join(root, split_folder)
        inner = _folder_of_folders([name.removeprefix(f"{split_folder}/") for name in classes[pictures[0]]])
        raise DataError(
            f"folders {few(names)} are no classes",
            where=folder,
            remedy=f"if the classes are in {inner}, give {os.path.join(root, inner)}"
            if inner
            else f"give a folder for each class, {by_table(root, pictures[0])}",
        )


def refuse_wrapper(classes: Mapping[str, list[str]], folder: Path, root: str) -> None:
    """Raise where the only folder with pictures may be one around the classes: others, or a file, are beside it."""
    filled = [name for name, pictures in classes.items() if pictures]
    if len(filled) != 1:
        return
    name, pictures = filled[0], classes[filled[0]]
    empty = [name for name, pictures in classes.items() if not pictures]
    top, inner = pictures[0].split("/")[0], _folder_of_folders(pictures)
    companions = PICTURE_PART.fullmatch(name) or any(_tables(os.path.join(root, other)) for other in empty)
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
        remedy="a classifier needs two or more: one folder (or label) for each class, " + by_table(root, top, empty),
    )


def _folder_of_folders(pictures: Sequence[str]) -> str:
    """Return the folder below which several others hold all these pictures; nothing where there is none."""
    around = os.path.commonpath([os.path.dirname(picture) for picture in pictures]) if pictures else ""
    return "" if any(os.path.dirname(picture) == around for picture in pictures) else around.replace(os.sep, "/")


def by_table(root: str, folder: str = "", beside: Iterable[str] = ()) -> str:
    """Return the next step where no folder says the class: a command, with the table that may say it.

    Args:
        root: The data set.
        folder: Of the pictures, relative to it.
        beside: Folders, relative to it, that a table may be in, too.
    """
    pictures = os.path.normpath(os.path.join(root, folder))
    around = os.path.dirname(root)
    alone = sum(os.path.isdir(os.path.join(around, name)) for name in _names_in(around)) < 2
    outer = [around] if alone else []
    for place in (pictures, os.path.dirname(pictures), root, *(os.path.join(root, name) for name in beside), *outer):
        for name in _tables(place):
            tables = [os.path.join(root, other, name) for other in _names_in(root) if split_of(other)]
            tables = [table for table in tables if os.path.isfile(table)]
            if place != pictures or len(tables) < 2:
                tables = [os.path.join(place, name), "--pictures", pictures]
            command = " ".join(quoted(safe_text(word)) for word in tables)
            return f"or, where {safe_text(name)} says the class: eyespot data table {command} --out NEW.csv"
    return f"or, where names say the class: eyespot data table {quoted(safe_text(pictures))} --out NEW.csv"


def _tables(folder: str) -> list[str]:
    """Return the names of the tables in a folder that may have labels, the likeliest first."""
    names = [name for name in _names_in(folder) if name.endswith(_TABLES) and not _NO_TABLE.search(name.casefold())]
    return sorted(names, key=lambda name: not re.search("train|label|class|meta", name.casefold()))


def _names_in(folder: str) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if not is_litter(name))
    except OSError:  # it only is looked at for a better message
        return []


def note_split_tables(root: str) -> list[str]:
    """Return a note where tables beside the class folders are named after splits: other ones will be drawn."""
    names = [name for name in _names_in(root) if name.endswith(_TABLES)]
    splits = {name: {SPLIT_WORDS[word] for word in _SPLIT_PART.findall(name.casefold())} for name in names}
    tables = [name for name in names if len(splits[name]) == 1]
    if not {"train"} < set().union(*(splits[name] for name in tables)):
        return []
    command = " ".join(quoted(safe_text(os.path.join(root, name))) for name in tables)
    told = f"{few(map(safe_text, tables))} beside the class folders are not read, and other splits are drawn"
    return [f"{told}; where they say the splits: eyespot data table {command} --out NEW.csv"]


def note_alike(classes: Mapping[str, list[str]], root: str) -> list[str]:
    """Return a note where test will be drawn of pictures whose paths speak of films or patients."""
    names = [name for of_class in classes.values() for name in of_class]
    alike = [name for name in names if _ALIKE.search(name.partition("/")[2])]
    if len(alike) * 2 < len(names):
        return []
    command = f"eyespot data table {quoted(safe_text(root))} --pattern '^[^/]+' --groups REGEX --out NEW.csv"
    what = f"{len(alike):,} pictures are named like those of films or patients, {few(map(safe_text, alike))}"
    return [f"{what}: with one of them both in train and in test, test says too much. Splits that keep each: {command}"]


def note_masks(classes: Iterable[Sequence[str]]) -> list[str]:
    """Return a note where pictures of a class are named like the masks of others in it.

    Args:
        classes: The paths of each class's pictures.
    """
    masks = [name for names in classes for name in _masks(names)]
    if not masks:
        return []
    what = f"{len(masks):,} picture{' is' if len(masks) == 1 else 's are'} named like masks of others"
    return [f"{what}, {few(map(safe_text, masks))}: they are classified like any other"]


def _masks(names: Sequence[str]) -> list[str]:
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
