"""What a path of the user means, where eyespot looks for data, and where it keeps what it derives.

`EYESPOT_DATA`: folders that are only ever read. `EYESPOT_CACHE`: everything that eyespot writes outside of run folders.
"""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from eyespot.errors import UsageError


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path as the user meant it: `~` is the home folder; where nobody has one, a name like others.

    Raises:
        UsageError: It is no path, or an empty one: Python would take the current folder.
    """
    if path == "":
        raise UsageError("an empty path", remedy="name a file or a folder; the current folder is '.'")
    try:
        return Path(os.path.expanduser(path))  # Path.expanduser raises where there is no such user
    except TypeError as error:
        what = f"a {type(path).__name__} where a path is needed"
        raise UsageError(what, remedy="give text or a pathlib.Path") from error


def data_folders() -> tuple[Path, ...]:
    """Return the folders named by EYESPOT_DATA (separated like PATH), in order, existing or not."""
    return tuple(user_path(part) for part in os.environ.get("EYESPOT_DATA", "").split(os.pathsep) if part)


def cache_folder(room: str) -> Path:
    """Return the cache folder for one kind of derived data; it is not created here.

    Args:
        room: `downloads`, `unpacked`, `packed`, `features`, `checks` or `exports`.

    Raises:
        UsageError: Nobody names a place: a container's user may have neither HOME nor an entry that says his home.
    """
    if root := os.environ.get("EYESPOT_CACHE"):
        return user_path(root) / room
    try:
        base = Path(platformdirs.user_cache_dir("eyespot", appauthor=False))
    except RuntimeError:  # of newer releases; older ones return a path that begins with ~
        base = Path("~")
    if not base.is_absolute():
        raise UsageError("no home folder for the cache", remedy="set HOME, or name a folder with EYESPOT_CACHE")
    return base / room
