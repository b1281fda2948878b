"""What names say: which files may be pictures, which folders are splits, which classes are odd; and names as safe text.

Before this: the names that a folder, an archive or a table has. After this: `folders`, `csvfile`, `npz` and `walking`
agree on them. No file is opened.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

from eyespot.data.dataset import SplitName
from eyespot.errors import DataError, did_you_mean

SPLIT_WORDS: Mapping[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}

# How data sets are handed out: `training_set`, `Train_Images`, `images-val`, `seg_test`, `trainset`, `val2017`,
# `test1`. Nothing else may stand beside the word: `test_tube` and `training_shoes` are things that a class is named
# after.
_KIND = "(?:data)?set|data|images?|imgs?|pictures?|photos?"
_SPLIT_FOLDER = re.compile(
    f"(?:(?:seg|{_KIND})[-_ ])?({'|'.join(SPLIT_WORDS)})(?:[-_ ]?(?:{_KIND}))?(?:[-_ ]?[0-9]{{1,4}})?"
)

# A constant rather than Pillow's own list: what counts as a picture must not depend on the installed version. Behind
# the formats that Pillow reads come those that people take for pictures; the scan says that it cannot decode them.
_PICTURES = (
    "apng avif avifs blp bmp bw cur dcx dds dib eps fli flc ftc ftu fit fits gbr gif icb icns ico iim im j2c j2k jfif "
    "jp2 jpc jpe jpeg jpf jpg jpx mpo msp palm pbm pcd pcx pfm pgm png pnm ppm ps psd pxr qoi ras rgb rgba sgi tga tif "
    "tiff vda vst wal webp wmf emf xbm xpm "
    "3fr ai arw cr2 cr3 dcm dng erf exr hdr heic heif hif jxl jxr kdc mrw nef nrw orf pdf pef raf raw rw2 srw svg svgz "
    "x3f xcf"
)
PICTURE_EXTENSIONS = frozenset(_PICTURES.split())

_LITTER = frozenset(
    {
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
        "__macosx",
        "@eadir",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "__pycache__",
    }
)
# Texts that data sets bring; a folder may be a class that is called so.
TEXTS = frozenset({"licence", "license", "readme"})

# What programs write where there is no label; a class may well be called so, too.
_NO_LABEL = frozenset(["nan", "NaN", "NAN", "NA", "N/A", "n/a", "#N/A", "<NA>", "null", "NULL", "None", "-1"])
_UNLABELLED = re.compile("(?:un|no[-_ ]?)label(?:l?ed)?", re.IGNORECASE)  # as tools for labelling name a folder
_BETWEEN_LABELS = re.compile(r"[|;,&+\s]+")
_NUMBER = re.compile(r"[-+]?[0-9]{1,15}(?:\.[0-9]{1,15})?")
_EXTENSION = re.compile(r"(?=.*[a-z])[a-z0-9]{1,8}")
_UNSAFE = re.compile("[\\\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def safe_text(name: str) -> str:
    r"""Return a file name as text that JSON, UTF-8 and a terminal can take, and that no other name becomes.

    Accents are composed (NFC), so that a folder copied from a Mac keeps its ids. Line breaks, control characters and
    bytes that are no UTF-8 become `\x0a` or `\xff`; a backslash is doubled.
    """
    if not name.isascii():
        name = unicodedata.normalize("NFC", name)
    return _UNSAFE.sub(_escaped, name)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    if match.group() == "\\":
        return "\\\\"
    # How Python shows a byte of a file name that is no UTF-8.
    return f"\\x{code - 0xDC00 if 0xDC80 <= code <= 0xDCFF else code:02x}"


def few(names: Iterable[str], most: int = 3) -> str:
    """Return `'a', 'b', 'c' and 4 more`."""
    listed = list(names)
    text = ", ".join(repr(name) for name in listed[:most])
    return f"{text} and {len(listed) - most:,} more" if len(listed) > most else text


def make_unique(ids: list[str], names: Sequence[str]) -> list[str]:
    """Return ids without doubles: where names differ only in how accents are composed, later ones are spelled out."""
    if len(set(ids)) == len(ids):
        return ids
    seen: set[str] = set()
    unique = []
    for identity, name in zip(ids, names, strict=True):
        if identity in seen:
            # No other id holds a single backslash before such a code.
            identity = name.replace("\\", "\\\\").encode("ascii", "backslashreplace").decode("ascii")
        seen.add(identity)
        unique.append(identity)
    return unique


def may_be_picture(name: str) -> bool:
    """Return whether a file is taken for a picture by its name alone; without an extension its bytes will decide."""
    return not is_litter(name) and not other_kind(name)


def is_litter(name: str) -> bool:
    """Return whether a file or folder is hidden, a system's litter, or an editor's leftover."""
    return name[0] == "." or name[-1] == "~" or (name[0] == "#" and name[-1] == "#") or name.casefold() in _LITTER


def other_kind(name: str) -> str:
    """Return the extension of a file that is plainly no picture (of a README its name), or nothing where it may be."""
    stem, _, extension = name.rpartition(".")
    if not stem and name.casefold() in TEXTS:
        return name.casefold()
    return _other_extension(extension) if stem else ""


@functools.lru_cache(maxsize=1000)
def _other_extension(extension: str) -> str:
    extension = extension.strip().lower()
    # `scan.2024.05` or `photo.final version` have no extension: the first bytes decide at the scan.
    return extension if extension not in PICTURE_EXTENSIONS and _EXTENSION.fullmatch(extension) else ""


def split_of(name: str) -> SplitName | None:
    """Return the split that a folder is named after, as `train`, `Test_Images` or `trainset` are; None for a class."""
    found = _SPLIT_FOLDER.fullmatch(name.casefold())
    return SPLIT_WORDS[found[1]] if found else None


def by_split(folders: Sequence[str]) -> tuple[dict[SplitName, list[str]], list[str]]:
    """Return the folders that are named after each split, and the others.

    Beside `test`, `test_images` is one of the others: what a plain name says needs no guess.
    """
    plain = {SPLIT_WORDS[name.casefold()] for name in folders if name.casefold() in SPLIT_WORDS}
    found: dict[SplitName, list[str]] = {}
    others = []
    for name in folders:
        split = split_of(name)
        if split is None or (split in plain and name.casefold() not in SPLIT_WORDS):
            others.append(name)
        else:
            found.setdefault(split, []).append(name)
    return found, others


def splits_of_paths(paths: Sequence[str]) -> list[SplitName | None]:
    """Return for each path the split that a folder of it is named after, as in `photos/train/cat/1.jpg`.

    Folders that all paths begin with say nothing. Nothing is said of any path where train and another split are not
    both among them.

    Args:
        paths: N paths with forward slashes.
    """
    parents = [path.rpartition("/")[0] for path in paths]
    folders = sorted(parent.split("/") for parent in {*parents})  # few, where pictures are many
    shared = 0
    while len(folders) > 1 and folders[0][shared : shared + 1] == folders[-1][shared : shared + 1] != []:
        shared += 1
    found: dict[str, SplitName | None] = {
        "/".join(names): next((split for name in names[shared:] if (split := split_of(name))), None)
        for names in folders
    }
    if not {"train"} < {split for split in found.values() if split}:
        return [None] * len(paths)
    return [found[parent] for parent in parents]


def check_classes(
    counts: Mapping[SplitName, Mapping[str, int]], where: object, *, left_out: str = ""
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sorted class names, and notes on what is odd about the classes.

    Args:
        counts: Pictures per split and class; "train" is always there.
        where: Folder or file, for error messages.
        left_out: Which files were left out, for classes that have nothing else.

    Raises:
        DataError: Fewer than two classes, a class without training pictures, or a class that training does not have.
    """
    train = counts["train"]
    class_names = tuple(sorted(train))
    empty = [name for name in class_names if not train[name]]
    besides = f"; {left_out}" if left_out else ""
    if empty and len(empty) < len(class_names):
        what = f"class {empty[0]!r} has" if len(empty) == 1 else f"{len(empty)} classes ({few(empty)}) have"
        remedy = "add pictures or remove the folder"
        raise DataError(f"{what} no training pictures{besides}", where=where, remedy=remedy)
    if empty or not class_names:
        remedy = "put each class's pictures in its folder"
        raise DataError(f"no pictures at all{besides}", where=where, remedy=remedy)
    if len(class_names) == 1:
        raise DataError(
            f"only one class, {class_names[0]!r}",
            where=where,
            remedy="a classifier needs two or more: one folder (or label) for each class",
        )
    notes = []
    for split, of_split in counts.items():
        unknown = sorted(name for name, count in of_split.items() if count and name not in train)
        if unknown:
            raise DataError(
                f"class {unknown[0]!r} is in {split} but not in train.{did_you_mean(unknown[0], class_names)}",
                where=where,
                remedy=f"give it training pictures, rename it, or remove it from {split}",
            )
        missing = [name for name in class_names if not of_split.get(name)]
        if missing:
            notes.append(f"{split} has no pictures of {_classes(missing)}")
    return class_names, (*notes, *_odd_classes(class_names, train))


def _odd_classes(class_names: Sequence[str], train: Mapping[str, int]) -> list[str]:
    """Return notes on classes of one picture, and on names that look as if they were no classes or one class twice."""
    notes = []
    single = [name for name in class_names if train[name] == 1]
    if single:
        notes.append(f"only one training picture of {_classes(single)}")
    by_case: dict[str, list[str]] = {}
    for name in class_names:
        by_case.setdefault("".join(name.casefold().split()), []).append(name)
    for names in by_case.values():
        if len(names) > 1:
            how = "upper and lower case" if len({name.casefold() for name in names}) == 1 else "case or spaces"
            notes.append(f"classes that differ only in {how}: {few(names)}")
    by_number: dict[float, list[str]] = {}
    for name in class_names:
        if _NUMBER.fullmatch(name):
            by_number.setdefault(float(name), []).append(name)
    for names in by_number.values():
        if len(names) > 1:
            notes.append(f"classes that are the same number: {few(names)}")
    decimal = [name for name in class_names if _NUMBER.fullmatch(name) and float(name) % 1]
    if decimal:
        example = f"classes that are numbers with decimals, such as {decimal[0]!r}"
        notes.append(f"{example}: each is a class of its own, and no quantity is estimated")
    parts = {name: {*_BETWEEN_LABELS.split(name)} for name in class_names}
    several = [name for name in class_names if len(parts[name]) > 1 and parts[name] <= parts.keys()]
    if several:
        together = f"classes that are other classes together: {few(several)}"
        notes.append(f"{together}; each is a class of its own, and a picture is given one")
    unnamed = [name for name in class_names if name in _NO_LABEL or _UNLABELLED.fullmatch(name)]
    if unnamed:
        what = "is a class that is" if len(unnamed) == 1 else "are classes that are"
        notes.append(f"{few(unnamed)} {what} named as if there were no label: where that is so, remove the pictures")
    return notes


def _classes(names: Sequence[str]) -> str:
    return f"class {names[0]!r}" if len(names) == 1 else f"{len(names):,} classes: {few(names)}"
