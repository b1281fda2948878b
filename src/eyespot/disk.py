"""One job: what a disk does to us, in words that a user can act on, and folders that survive a power cut.

Before this: nothing. After this: `data.download` and `data.archives` write what they fetch and unpack.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


def describe_disk_error(error: OSError) -> tuple[str, str]:
    """Return what went wrong with a disk and the next step, as two phrases.

    Args:
        error: What opening, writing or renaming raised.
    """
    if error.errno in _FULL:
        return "the disk is full", "free some space, or name a folder on a larger disk"
    if error.errno in _FORBIDDEN:
        return f"no right to write ({error.strerror})", "change its permissions, or name another folder"
    return error.strerror or str(error), "check the path and the disk"


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable, where the system can do that.

    Args:
        folder: The folder in which something was just renamed.
    """
    if os.name == "nt":  # pragma: no cover  # Windows cannot open folders
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # pragma: no cover  # some network file systems refuse; the rename itself has succeeded
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
