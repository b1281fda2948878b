"""One job: let exactly one process or thread at a time do something to a file or folder.

Before this: nothing. After this: `data.download`, `data.archives`, packing and run folders hold a lock while they
write, and temporary files are told from those that killed processes left. The operating system keeps the lock, so it is
gone with the process that held it, however that process ended.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

if sys.platform == "win32":
    import msvcrt

    # Windows locks are mandatory: a byte far behind the end of the file leaves the file itself readable.
    _LOCKED_BYTE = 1 << 30

    def _try_lock(descriptor: int) -> bool:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        # flock, not lockf: lockf does not keep two threads apart, and closing any other handle would drop it.
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


_held: set[int] = set()
_fork_handler_set = False


def _close_in_child() -> None:
    """Close the locks that a forked child inherited: otherwise its life would prolong its dead parent's lock."""
    for descriptor in _held:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


def _watch_forks() -> None:
    """Make forked children close inherited locks; once a process, and not at import."""
    global _fork_handler_set
    if not _fork_handler_set and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_in_child)
        _fork_handler_set = True


def _is_current(descriptor: int, path: Path) -> bool:
    """Return whether the opened lock file is still the one at `path`; somebody may have cleared the folder."""
    if os.name == "nt":  # there nobody removes an open file, and some drives number each opening anew
        return True
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


@contextmanager
def file_lock(
    path: Path,
    *,
    timeout_seconds: float | None = None,
    poll_seconds: float = 0.05,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold an exclusive lock for the length of the `with` block, against other processes and other threads.

    It is not re-entrant: taking it twice in one thread waits for itself. The file is created with its folder where
    missing, stays empty, and is left in place, because removing it would let two holders in.

    Args:
        path: The lock file, by habit NAME.lock beside what it protects.
        timeout_seconds: Longest wait; 0 tries once, None waits for ever.
        poll_seconds: Time between two tries.
        on_wait: Called once, where somebody else holds it: the user should not look at a command that says nothing.

    Raises:
        TimeoutError: Somebody else held it all the time.
        OSError: The file cannot be created, or its file system has no locks.
    """
    _watch_forks()
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    owner = os.getpid()
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        _held.add(descriptor)
        got = False
        try:
            if on_wait is not None and not (got := _try_lock(descriptor)):
                on_wait()
                on_wait = None
            got = got or _wait(descriptor, deadline, poll_seconds)
            if not got:
                raise TimeoutError(f"{path} is held by another process or thread")
            if _is_current(descriptor, path):
                yield
                return
        finally:
            # In a forked child the descriptor is closed already, and its number may be somebody else's by now.
            if os.getpid() == owner:
                if got:
                    _unlock(descriptor)
                _held.discard(descriptor)
                os.close(descriptor)


def _wait(descriptor: int, deadline: float | None, poll_seconds: float) -> bool:
    """Return True as soon as the lock is got, False after the deadline."""
    while not _try_lock(descriptor):
        left = poll_seconds if deadline is None else deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(poll_seconds, left))
    return True


# ---------------------------------------------------------------------------------------- what goes with its process


@contextmanager
def temporary_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a new hidden file beside `path`, which is removed at the end if it still has its first name.

    What killed processes left under such a name is removed first: the system lets go of their files, and the living
    hold theirs.

    Args:
        path: What the file may become.

    Raises:
        OSError: The folder cannot be written.
    """
    _remove_unheld(path.parent, re.compile(rf"\.{re.escape(path.name)}\.\d+-[0-9a-f]{{8}}\.tmp"))
    while True:
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            with open(temporary, "xb") as file:
                if os.name != "posix" or _hold(file.fileno(), temporary):
                    yield file
                    return
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


@contextmanager
def temporary_folder(parent: Path, start: str, end: str = "", *, mode: int = 0o777) -> Iterator[Path]:
    """Make a new folder, which is removed at the end if it still has its first name.

    What killed processes left under such a name is removed first, as `temporary_file` does it.

    Args:
        parent: Where; it exists.
        start: Of the name, before 8 hexadecimal digits; nobody else gives such names.
        end: Of the name.
        mode: Of the folder, before the umask.

    Raises:
        OSError: `parent` cannot be written.
    """
    _remove_unheld(parent, re.compile(rf"{re.escape(start)}[0-9a-f]{{8}}{re.escape(end)}"))
    owner = os.getpid()
    while True:
        folder = parent / f"{start}{secrets.token_hex(4)}{end}"
        folder.mkdir(mode=mode)
        descriptor = os.open(folder, os.O_RDONLY) if os.name == "posix" else None  # Windows cannot open folders
        if descriptor is not None:
            _held.add(descriptor)
        try:
            if descriptor is None or _hold(descriptor, folder):
                yield folder
                return
        finally:
            if os.getpid() == owner:
                shutil.rmtree(folder, ignore_errors=True)
                if descriptor is not None:
                    _held.discard(descriptor)
                    os.close(descriptor)


def _hold(descriptor: int, path: Path) -> bool:
    """Hold something new as long as it is open; return False where it was taken for a leftover before it was held."""
    _watch_forks()
    try:
        got = _try_lock(descriptor)
    except OSError:
        return True  # a file system without locks: there nobody removes anything
    return got and _is_current(descriptor, path)


def _remove_unheld(folder: Path, name: re.Pattern[str]) -> None:
    """Remove what has such a name and is held by nobody. Windows keeps it: there an open file cannot be renamed."""
    if os.name != "posix":
        return
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            if name.fullmatch(entry):
                with contextlib.suppress(OSError):
                    _remove_if_unheld(folder / entry)


def _remove_if_unheld(path: Path) -> None:
    # Neither a link is followed nor a pipe waited for: others may write in this folder, too.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not _try_lock(descriptor):
            return
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    finally:
        os.close(descriptor)
