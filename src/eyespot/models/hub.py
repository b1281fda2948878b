"""One job: bring a file of weights from the Hugging Face hub or its cache, whole and verified.

Before this: `weights` has decided that the hub is asked. After this: the file is checked like any other.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eyespot import __version__
from eyespot.errors import first_line
from eyespot.files import describe_disk_error
from eyespot.models.weight_files import MAX_BYTES, file_sha256

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

_HUB_TRIES = 3
_HUB_WAIT_SECONDS = 1.0
_REACH_SECONDS = 3.0  # to see whether there is a network at all
_PORTS = {"http": 80, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_NO_ROOM = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}


class HubError(Exception):
    """Why the hub did not give a file; `passing` where another attempt may end better."""

    def __init__(self, words: str, *, passing: bool = False) -> None:
        super().__init__(words)
        self.passing = passing


def has_file(hub_id: str) -> bool:
    """Return whether the cache has the weights of a repository, without asking the network."""
    return _cached(hub_id, "model.safetensors") is not None


def is_reachable() -> bool:
    """Return whether the hub can be asked: it is not turned off, and a connection can be opened."""
    # It reads its environment variables when it is imported, which is not to happen before they are needed.
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with socket.create_connection(_first_stop(constants.ENDPOINT), timeout=_REACH_SECONDS):
            return True
    except (OSError, ValueError):  # ValueError: an address that is none
        return False


def address(hub_id: str) -> str:
    """Return the address of a repository."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{hub_id}"


def fetch(hub_id: str, filenames: list[str]) -> tuple[Path, str]:
    """Return the first of some files that a repository has, in the cache of huggingface_hub, with its name.

    Raises:
        HubError: The hub has none of them; or it cannot be reached, and the cache has none either.
    """
    with _quiet():
        cached = [(path, filename) for filename in filenames if (path := _cached(hub_id, filename)) is not None]
        try:
            for filename in filenames:
                # With a copy at hand, nobody has to wait for a hub that does not answer at once.
                metadata = _ask_hub(hub_id, filename, tries=1 if cached else _HUB_TRIES)
                if metadata is not None:
                    return _download(hub_id, filename, metadata), filename
        except HubError as error:
            for path, filename in cached:
                if _is_intact(path, None):
                    return path, filename
                _forget(path)
                raise HubError(f"{error}; the copy in the cache was damaged, and is removed") from error
            raise
        raise HubError(f"HTTP 404: the repository has no {' and no '.join(filenames)}")


def _first_stop(address: str) -> tuple[str, int]:
    """Return host and port to which a connection is opened for an address: its own, or those of the user's proxy.

    Raises:
        ValueError: An address that is none.
    """
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(address)
    proxies = getproxies()  # HTTPS_PROXY and the like, or the system's settings
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(parts.netloc.rpartition("@")[2]):  # no_proxy
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub from printing a line for every attempt: one error says it all."""
    from huggingface_hub.utils import logging as hub_logging  # sets its level when it is imported, so not later

    level = hub_logging.get_verbosity()
    hub_logging.set_verbosity(max(level, logging.ERROR))
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)


def _cached(hub_id: str, filename: str) -> Path | None:
    """Return the cache's copy of a file, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    with _as_hub_error():
        path = try_to_load_from_cache(hub_id, filename)
    return Path(path) if isinstance(path, str) else None


def _ask_hub(hub_id: str, filename: str, *, tries: int) -> HfFileMetadata | None:
    """Return what the hub says about a file, or None where the repository has no such file.

    hf_hub_download would ask by itself, but then a hub that does not answer keeps the user waiting for six minutes, and
    a file of any size is downloaded.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    for attempt in range(tries):
        try:
            with _as_hub_error():
                metadata = get_hf_file_metadata(hf_hub_url(hub_id, filename), timeout=constants.HF_HUB_ETAG_TIMEOUT)
            break
        except HubError as error:
            response = getattr(error.__cause__, "response", None)
            if getattr(response, "status_code", None) == 404 and _error_code(response) in ("", "EntryNotFound"):
                return None
            if not error.passing or attempt + 1 == tries:
                raise
            time.sleep(_HUB_WAIT_SECONDS * 2**attempt)
    if not metadata.commit_hash or not metadata.etag:
        raise HubError("it does not answer as a hub does: is HF_ENDPOINT right?")
    if metadata.size is None or metadata.size > MAX_BYTES:
        size = "an unknown number of" if metadata.size is None else f"{metadata.size:,}"
        raise HubError(f"{filename} has {size} bytes, and at most {MAX_BYTES:,} are allowed")
    return metadata


def _download(hub_id: str, filename: str, metadata: HfFileMetadata) -> Path:
    """Return the file in the cache, verified; downloaded again where the copy there is damaged."""
    from huggingface_hub import hf_hub_download

    for _ in range(2):
        with _as_hub_error():
            path = Path(hf_hub_download(hub_id, filename, library_name="eyespot", library_version=__version__))
        if _is_intact(path, metadata.etag):
            return path
        _forget(path)
    raise HubError(f"the SHA-256 of {filename} is not the one that the hub states")


def _is_intact(path: Path, etag: str | None) -> bool:
    """Return whether a file in the cache has the SHA-256 that it is known by; True where it is known by something else.

    The entry of the cache is a link to blobs/ETAG, and the ETag of a large file on the hub is its SHA-256. Where links
    are not possible (Windows), only what the hub just said is known.
    """
    with _as_hub_error():
        stated = Path(os.readlink(path)).name if path.is_symlink() else etag or ""
        return not re.fullmatch(r"[0-9a-f]{64}", stated) or file_sha256(path) == stated


def _forget(path: Path) -> None:
    """Remove a damaged file and the links to it from the cache, so that the next attempt downloads it."""
    with contextlib.suppress(OSError):
        chain = [path]
        while chain[-1].is_symlink():
            chain.append(chain[-1].parent / os.readlink(chain[-1]))
        for link in reversed(chain):
            link.unlink(missing_ok=True)


@contextmanager
def _as_hub_error() -> Iterator[None]:
    """Say in words what the hub, the network or the disk did.

    Which classes are raised depends on the HTTP library that this version of huggingface_hub uses (requests, httpx,
    httpx2): so all are caught, and told apart by what they have in common.
    """
    try:
        yield
    except Exception as error:
        raise _hub_error(error) from error


def _hub_error(error: Exception) -> HubError:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    chain = list(_chain(error))
    names = " ".join(type(link).__name__ for link in chain)
    if isinstance(status, int):
        phrase = HTTPStatus(status).phrase if status in list(HTTPStatus) else ""
        words = f"HTTP {status} {phrase}".strip()
        code = _error_code(response)
        if code == "GatedRepo":
            words += ": its terms have to be accepted on the hub first, then `hf auth login`"
        elif code == "RepoNotFound" or status in (401, 403):
            words += ": there is no such repository, or it needs `hf auth login`"
        return HubError(words, passing=status in _PASSING_STATUS)
    if "OfflineMode" in names:
        return HubError("HF_HUB_OFFLINE is set, and the cache has no copy")
    for link in chain:
        if isinstance(link, OSError) and link.errno in _NO_ROOM and link.filename is not None:
            return HubError(f"cannot write {link.filename}: {describe_disk_error(link)[0]}")
    if "Timeout" in names:
        return HubError("it does not answer in time", passing=True)
    if "ProtocolError" in names or "Consistency check failed" in str(error) or "ChunkedEncoding" in names:
        return HubError("it broke off", passing=True)
    # At the bottom lies what the system said: "Connection refused", "Name or service not known".
    said = [link.strerror for link in chain if isinstance(link, OSError) and link.strerror]
    return HubError(said[-1] if said else first_line(error), passing=bool(said) or "Connect" in names)


def _error_code(response: Any) -> str:
    """Return the hub's own word for what is wrong, or nothing."""
    return str(getattr(response, "headers", {}).get("X-Error-Code") or "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, at most twenty."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
