"""One job: find the pictures in class folders, or in train/val/test folders of class folders. Nothing is opened.

Before this: the user's folder, or one that `archives` unpacked. After this: `packing` scans and decodes the files.

What counts as a picture here is decided by name alone (`names`): whoever calls a file `x.jpg` believes it to be a
picture, so the scan that follows has to say so where it is none. What is plainly something else is left out and counted
in a note.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eyespot.data.dataset import SPLIT_NAMES, Dataset, Items, PathList, SplitName
from eyespot.data.doubtful_folders import (
    PICTURE_PART,
    by_table,
    note_alike,
    note_classes_like_splits,
    note_masks,
    note_split_tables,
    refuse_no_classes,
    refuse_parts,
    refuse_wrapper,
)
from eyespot.data.listing import LeftOut, Listing, count_files, folder_identity, list_folder
from eyespot.data.names import (
    SPLIT_WORDS,
    by_split,
    check_classes,
    few,
    make_unique,
    may_be_picture,
    safe_text,
    split_of,
)
from eyespot.errors import DataError

# A download folder in a folder in a folder: nobody wraps a data set deeper.
_MAX_WRAPPERS = 5


def read_folder(folder: Path, *, name: str) -> Dataset:
    """Return the data set in a folder of class folders, or of train/, val/ and test/ folders of class folders.

    A single folder around them, as archives often have it, is looked through, and so is a second one of the same split
    in a split folder (`seg_train/seg_train`). Class names are the folder names in NFC,
    sorted by code point, so they are the same on every system; pictures are sorted by class and path. Folders below a
    class folder belong to the class. Links are followed, except to folders around them and to what was read in the same
    class. Hidden files and the litter of systems and editors are not pictures; files of other kinds are counted in a
    note.

    Args:
        folder: The folder; it is only listed, no file in it is opened.
        name: The data set's name.

    Raises:
        DataError: No class folders, fewer than two classes, a class without pictures, splits with different classes,
            splits inside of class folders, folders that may be splits as well as classes, a folder that cannot be
            read. The folder or class is named.
    """
    left_out = LeftOut()
    root, top, notes = _unwrap(os.fspath(folder))
    split_folders = _find_splits(root, top)
    found: dict[SplitName, dict[str, list[str]]] = {}
    if split_folders is None:
        refuse_no_classes(root, top.folders)
        notes += note_classes_like_splits(top.folders)
        _count_stray(list_folder(root, "", left_out).pictures, "", left_out)
        notes += note_split_tables(root)
        found["train"] = _read_classes(root, "", top.folders, left_out)
        if not found["train"]:
            raise _no_classes(folder, top, left_out)
    else:
        notes = _aside(top, split_folders)
        for split, split_folder in split_folders.items():
            listing = list_folder(os.path.join(root, split_folder), f"{split_folder}/", left_out)
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
    refuse_parts(found["train"], folder, root, "" if split_folders is None else split_folders["train"])
    if split_folders is None:
        refuse_wrapper(found["train"], folder, root)
    counts = {split: {kind: len(names) for kind, names in classes.items()} for split, classes in found.items()}
    other_kinds = left_out.describe_kinds() if left_out.kinds else ""
    class_names, class_notes = check_classes(counts, folder, left_out=other_kinds)
    if "test" not in found:
        class_notes = (*class_notes, *note_alike(found["train"], root))
    class_notes = (*class_notes, *note_masks(names for classes in found.values() for names in classes.values()))
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


def _count_stray(pictures: list[str], prefix: str, left_out: LeftOut) -> None:
    left_out.stray += [safe_text(prefix + name) for name in pictures]


def _unwrap(root: str) -> tuple[str, Listing, list[str]]:
    """Return the folder that holds the class or split folders, its listing, and a note where it is an inner one."""
    top = list_folder(root)
    notes: list[str] = []
    for _ in range(_MAX_WRAPPERS):
        if len(top.folders) != 1 or top.pictures or top.folders[0].casefold() in SPLIT_WORDS:
            break
        inner = os.path.join(root, top.folders[0])
        listing = list_folder(inner)
        if not listing.folders or listing.pictures:
            break
        notes = [f"the class folders are those in its only folder, {safe_text(top.folders[0])!r}"]
        root, top = inner, listing
    return root, top, notes


def _unlabelled(root: str, split_folder: str, listing: Listing, classes: Mapping[str, object]) -> list[str] | None:
    """Return the pictures of a split without class folders, which may be `val/images` or `test/test`; else None."""
    if not listing.folders:
        return listing.pictures
    name = listing.folders[0]
    if len(listing.folders) > 1 or listing.pictures or name in classes:
        return None
    inner = list_folder(os.path.join(root, split_folder, name))
    only_pictures = not inner.folders and bool(PICTURE_PART.fullmatch(name) or split_of(name))
    return inner.pictures if only_pictures else None


def _find_splits(root: str, top: Listing) -> dict[SplitName, str] | None:
    """Return the folder of each split, or None where the folders are classes (of which one may well be a train)."""
    folders_of, others = by_split(top.folders)
    if not folders_of or (others and "train" not in folders_of):
        return None
    if "train" not in folders_of:
        names = ", ".join(f"{safe_text(name)}/" for name in top.folders)
        raise DataError(f"{names} without train/", where=root, remedy="add train/ with a folder for each class")
    train = folders_of["train"][0]
    listing = list_folder(os.path.join(root, train))
    if not listing.folders:
        if others and len(folders_of) == 1 and train.casefold() in SPLIT_WORDS:  # the vehicle
            return None
        beside = f"; where it is a class, call it otherwise than {train}" if others else ""
        raise DataError(
            f"{safe_text(train)}/ has no class folders",
            where=root,
            remedy=f"make a folder for each class in {train}/, {by_table(root, train)}{beside}",
        )
    if others and len(folders_of) == 1:
        if listing.pictures:
            return None
        raise DataError(
            f"{safe_text(train)}/ with folders in it beside {few(others)}: splits or classes?",
            where=root,
            remedy=f"give {os.path.join(root, train)}, or name the other folders val/ or test/, or {train}/ otherwise",
        )
    for double, same in folders_of.items():
        if len(same) > 1:
            raise DataError(f"two folders for the split {double}: {few(same)}", where=root, remedy="keep one of them")
    return {split: _inner_split(root, folders_of[split][0], split) for split in SPLIT_NAMES if split in folders_of}


def _inner_split(root: str, split_folder: str, split: SplitName) -> str:
    """Return the folder that holds the classes: `seg_train/seg_train` where archives wrap a split once more."""
    listing = list_folder(os.path.join(root, split_folder))
    if len(listing.folders) == 1 and not listing.pictures and split_of(listing.folders[0]) == split:
        inner = f"{split_folder}/{listing.folders[0]}"
        # Otherwise it is a class that happens to be called train.
        if list_folder(os.path.join(root, inner)).folders:
            return inner
    return split_folder


def _aside(top: Listing, split_folders: Mapping[SplitName, str]) -> list[str]:
    """Return notes on what lies beside the split folders."""
    notes = []
    used = {split: folder.partition("/")[0] for split, folder in split_folders.items()}
    others = [safe_text(name) for name in top.folders if name not in used.values()]
    if others:
        notes.append(f"folders beside {used['train']}/ left out: {few(others)}")
    if top.pictures:
        notes.append(f"{count_files(len(top.pictures))} beside {used['train']}/ left out: {few(top.pictures)}")
    return notes


def _read_classes(root: str, prefix: str, folders: list[str], left_out: LeftOut) -> dict[str, list[str]]:
    """Return class name -> sorted paths relative to `root`, for the class folders in `root/prefix`."""
    classes: dict[str, list[str]] = {}
    above = {folder_identity(root), folder_identity(os.path.join(root, prefix))}
    beside = frozenset(folders)
    for folder in folders:
        # Two folder names that look alike (composed and decomposed accents) are one class.
        names = classes.setdefault(safe_text(folder), [])
        names += _walk_class(root, prefix + folder, above, beside, left_out)
    for names in classes.values():
        names.sort(key=safe_text)
    return classes


def _walk_class(
    root: str, class_folder: str, above: set[tuple[object, ...]], beside: frozenset[str], left_out: LeftOut
) -> list[str]:
    """Return the pictures in a class folder and below it, as paths relative to `root` with forward slashes."""
    found: list[str] = []
    seen = set(above)
    waiting = [class_folder]
    while waiting:
        here = waiting.pop()
        folder = os.path.join(root, here)
        identity = folder_identity(folder)
        if identity in seen:
            left_out.loops.append(safe_text(here))
            continue
        seen.add(identity)
        listing = list_folder(folder, f"{here}/", left_out)
        _check_no_splits(root, here, listing)
        if here == class_folder:
            _check_no_copy(root, class_folder, listing, beside)
        elif listing.pictures:
            left_out.nested.append(safe_text(here))
        found += [f"{here}/{name}" for name in listing.pictures]
        waiting += [f"{here}/{name}" for name in reversed(listing.folders)]
    return found


def _check_no_splits(root: str, class_folder: str, listing: Listing) -> None:
    """Raise where a class folder, or one below it, holds the splits: `data/data/train` beside `test/`, too."""
    inside = {split: names[0] for split, names in by_split(listing.folders)[0].items()}
    if "train" in inside and len(inside) > 1 and _holds_pictures(os.path.join(root, class_folder)):
        have = f"{class_folder}/{inside['train']}"
        remedy = f"turn them round: {safe_text(inside['train'] + '/' + class_folder)}"
        if list_folder(os.path.join(root, have)).folders:  # `data/train/cat` beside `docs/`
            remedy = f"give {safe_text(os.path.join(root, class_folder))} if that is the data set, or {remedy}"
        elif PICTURE_PART.fullmatch(class_folder):  # `images/train` beside `labels/train`, of object detection
            raise DataError(
                f"{safe_text(have)} has no class folders",
                where=root,
                remedy=f"make a folder for each class in it, {by_table(root, have)}",
            )
        raise DataError(f"the splits are inside of the class folders ({safe_text(have)})", where=root, remedy=remedy)


def _holds_pictures(folder: str) -> bool:
    seen = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        if any(map(may_be_picture, names)):
            return True
        if (identity := folder_identity(here)) in seen:  # a link to a folder around it
            folders.clear()
        seen.add(identity)
    return False


def _check_no_copy(root: str, class_folder: str, listing: Listing, beside: frozenset[str]) -> None:
    """Raise where a class folder holds no pictures, but the classes that are beside it: archives hold data twice."""
    again = sorted(beside.intersection(listing.folders), key=safe_text)
    if len(again) > 1 and not listing.pictures:
        inner = os.path.join(root, class_folder)
        raise DataError(
            f"{safe_text(class_folder)}/ holds folders named like the classes beside it: {few(map(safe_text, again))}",
            where=root,
            remedy=f"remove it if it is a copy of them, or give {safe_text(inner)} alone",
        )


def _no_classes(folder: Path, top: Listing, left_out: LeftOut) -> DataError:
    if top.pictures:
        return DataError(
            f"{len(top.pictures):,} pictures but no class folders",
            where=folder,
            remedy=f"expected folders named after the classes, such as cat/ and dog/, {by_table(os.fspath(folder))}",
        )
    remedy = "expected folders named after the classes"
    if left_out.kinds:
        return DataError(f"no class folders; {left_out.describe_kinds()}", where=folder, remedy=remedy)
    return DataError("an empty folder", where=folder, remedy=remedy)
