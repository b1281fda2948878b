"""One job: bring a file of known checksum from the network into a folder, once, whole, and verified.

Before this: `sources` knows that a data set is in none of the user's folders. After this: `archives` unpacks the file.

Nothing that a server says is believed: what counts is the pinned checksum. The file grows as NAME.part, is resumed
after any interruption, and gets its name only when it is verified.
"""

from __future__ import annotations

import contextlib
import email.message
import email.utils
import errno
import hashlib
import http.client
import json
import os
import random
import re
import shutil
import socket
import ssl
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import IO, cast
from urllib.parse import quote, urljoin, urlsplit

from eyespot.errors import DownloadError, UsageError
from eyespot.files import describe_disk_error, fsync_folder
from eyespot.locks import file_lock

_CHUNK = 1 << 18
# Slower than this over a whole time-out is a stall; telephone modems were faster.
_MIN_BYTES_PER_SECOND = 1000
# A round that got this much further does not count as failed: a bad line may break off a hundred times.
_PROGRESS_BYTES = 1 << 20
_LONGEST_WAIT_SECONDS = 120.0
_MAX_REDIRECTS = 10
_REDIRECTS = {301, 302, 303, 307, 308}
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)")
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}


@dataclass(frozen=True)
class RemoteFile:
    """A file that its publisher offers, pinned by at least one checksum.

    Attributes:
        name: The name it gets in the folder.
        urls: Where it is, https only; several are tried in turn.
        sha256: 64 hexadecimal digits, or None where the publisher gives only an MD5.
        md5: 32 hexadecimal digits, or None.
        size: Length in bytes, or None where unknown.
        insecure_hosts: Hosts that may be asked by plain http: for tests against a server on the same machine only.
    """

    name: str
    urls: tuple[str, ...]
    sha256: str | None = None
    md5: str | None = None
    size: int | None = None
    insecure_hosts: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Refuse what could not be fetched safely."""
        if not re.fullmatch(r"[\w-][\w.+-]{0,199}", self.name):
            raise UsageError(f"{self.name!r} is not a plain file name", where="RemoteFile", remedy="give one")
        if not self.urls:
            raise UsageError("no address is given", where=self.name, remedy="give at least one https address")
        if self.sha256 is None and self.md5 is None:
            raise UsageError("no checksum is given", where=self.name, remedy="give the sha256 or the md5")
        for given, length in ((self.sha256, 64), (self.md5, 32)):
            if given is not None and not re.fullmatch(rf"[0-9a-f]{{{length}}}", given):
                raise UsageError(
                    f"{given!r} is not a checksum of {length} digits", where=self.name, remedy="correct it"
                )


def download(
    remote: RemoteFile,
    folder: Path,
    *,
    max_bytes: int = 20_000_000_000,
    timeout_seconds: float = 30.0,
    retries: int = 4,
    backoff_seconds: float = 1.0,
    progress: Callable[[int, int | None], None] | None = None,
    on_wait: Callable[[], None] | None = None,
    hint: str = "",
) -> Path:
    """Return the verified file in the folder, downloaded if it is not there yet.

    Several processes may ask at once: one downloads, the others wait and find the file. An interrupted download goes on
    where it stopped, if the server can do that and the file there is still the same.

    Args:
        remote: What to fetch, and its checksum.
        folder: Where the file is, or will be; made where missing.
        max_bytes: Nothing longer is accepted.
        timeout_seconds: Longest silence of a server; over this time it must also send 1 kB a second on average.
        retries: Further rounds through all addresses after the first one, as long as none gets 1 MiB further.
        backoff_seconds: Wait after the first round, doubled after each; a server's Retry-After makes it longer.
        progress: Called with (bytes here, bytes in total or None) for each piece.
        on_wait: Called where another process downloads it, and is waited for.
        hint: What else than putting the file into the folder would help, such as `or a folder named by EYESPOT_DATA`.

    Raises:
        DownloadError: There is no network, no address gives the file, it is not the pinned one, the file that is in
            the folder already is not the pinned one, the disk is full, or the folder cannot be written.
    """
    job = _Job(remote, folder, max_bytes, timeout_seconds, retries, backoff_seconds, progress, hint)
    if job.is_there():
        return job.final
    with _disk(folder / f"{remote.name}.lock"), file_lock(folder / f"{remote.name}.lock", on_wait=on_wait):
        if not job.is_there():
            job.run()
    return job.final


class _MirrorError(Exception):
    """One address did not give the file this time.

    Args:
        reason: In words, for the user.
        answered: A server said something, so that there is a network.
        no_route: The host's name or the way to it is not known, which more patience seldom changes.
        lasting: Asking there again is useless.
        spoiled: What has been stored so far is useless.
        retry_after_seconds: How long the server asked us to wait.
    """

    def __init__(
        self,
        reason: str,
        *,
        answered: bool = True,
        no_route: bool = False,
        lasting: bool = False,
        spoiled: bool = False,
        retry_after_seconds: float = 0.0,
    ) -> None:
        super().__init__(reason)
        self.answered = answered
        self.no_route = no_route
        self.lasting = lasting
        self.spoiled = spoiled
        self.retry_after_seconds = retry_after_seconds


class _WrongSumError(_MirrorError):
    """The file came whole, and is not the pinned one."""


@dataclass
class _Job:
    """One call of `download`."""

    remote: RemoteFile
    folder: Path
    max_bytes: int
    timeout_seconds: float
    retries: int
    backoff_seconds: float
    progress: Callable[[int, int | None], None] | None
    hint: str

    def __post_init__(self) -> None:
        self.final = self.folder / self.remote.name
        self.part = _Part(self.final, self.remote)
        self.opener = _opener(self.remote)
        self.failures: dict[str, _MirrorError] = {}  # the last one of each address

    def is_there(self) -> bool:
        """Return whether the file is there and right; a wrong one is an error, since it may be the user's own."""
        with _disk(self.final):
            if not self.final.exists():
                return False
            wrong = _difference(self.final, self.remote)
        if wrong:
            raise DownloadError(
                f"not the published file ({wrong})", where=self.final, remedy="remove it to have it downloaded again"
            )
        return True

    def run(self) -> None:
        """Go round the addresses until one has given the file."""
        self._check_room()
        alive = list(self.remote.urls)
        furthest = self.part.size()
        rounds = wrong_sums = 0
        while True:
            for url in tuple(alive):
                failure = self._try(url)
                if failure is None:
                    return
                self.failures[url] = failure
                if failure.lasting:
                    alive.remove(url)
                wrong_sums += isinstance(failure, _WrongSumError)
            rounds += 1
            if self.part.size() >= furthest + _PROGRESS_BYTES:
                furthest = self.part.size()
                rounds = 1
            no_route = all(failure.no_route for failure in self.failures.values())
            # A wrong sum is tried once more from the start, or at each of several addresses, but not for ever.
            most_rounds = 1 + (min(1, self.retries) if no_route else self.retries) + bool(wrong_sums)
            if not alive or rounds >= most_rounds or wrong_sums >= max(2, len(self.remote.urls)):
                raise self._error("; ".join(self._reason(url) for url in self.failures))
            # Exponentially longer, and not all clients at the same moment.
            wait = self.backoff_seconds * 2.0 ** (rounds - 1) * random.SystemRandom().uniform(0.75, 1.25)
            asked = max(self.failures[url].retry_after_seconds for url in alive)
            time.sleep(max(min(wait, _LONGEST_WAIT_SECONDS), asked))

    def _check_room(self) -> None:
        """Refuse before the first byte what cannot end well."""
        size = self.remote.size
        if size is None:
            return
        if size > self.max_bytes:
            raise self._error(f"it has {size:,} bytes, more than the {self.max_bytes:,} allowed")
        with _disk(self.folder):
            free = shutil.disk_usage(self.folder).free
        if free < (missing := size - self.part.size()):
            raise DownloadError(
                f"the disk is full: {self.remote.name} needs {missing:,} bytes more, {free:,} are free",
                where=self.folder,
                remedy="free some space, or name a folder on a larger disk",
            )

    def _reason(self, url: str) -> str:
        host = f"{urlsplit(url).hostname}: " if len(self.failures) > 1 else ""
        return host + str(self.failures[url])

    def _error(self, reason: str) -> DownloadError:
        remedy = f"put the file into {self.folder}" + (f" {self.hint}" if self.hint else "")
        if self.failures and not any(failure.answered for failure in self.failures.values()):
            remedy = f"no network? {remedy}"
        return DownloadError(
            f"cannot download {self.remote.name} ({reason})", where=", ".join(self.remote.urls), remedy=remedy
        )

    def _try(self, url: str) -> _MirrorError | None:
        """Fetch what is missing from one address, verify, and give the file its name; return what went wrong."""
        try:
            if not self.remote.size or self.part.size() != self.remote.size:
                self._fetch(url)
            with _disk(self.part.path):
                wrong = _difference(self.part.path, self.remote)
                if not wrong:
                    self.part.become(self.final)
            if wrong:
                raise _WrongSumError(wrong, spoiled=True)
        except _MirrorError as failure:
            if failure.spoiled:
                with _disk(self.part.path):
                    self.part.remove()
            return failure
        return None

    def _fetch(self, url: str) -> None:
        """Ask one address for what is missing, and append it to the part."""
        with _disk(self.part.path):
            offset, validator = self.part.resume_point(url)
        headers = {"User-Agent": "eyespot", "Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if validator:
                headers["If-Range"] = validator
        response = self._open(url, headers)
        if response is None:
            return
        with response:
            start, total = self._expectation(response, offset)
            with _disk(self.part.path), self.part.open(start, url, response.headers) as file:
                self._receive(response, file, start, total)

    def _open(self, url: str, headers: dict[str, str]) -> HTTPResponse | None:
        """Return the answer after all redirects, or None where it says that nothing is missing any more."""
        for _ in range(_MAX_REDIRECTS):
            _check_scheme(url, self.remote)
            with _network():
                try:
                    request = urllib.request.Request(url, headers=headers)
                    return cast(HTTPResponse, self.opener.open(request, timeout=self.timeout_seconds))
                except urllib.error.HTTPError as error:
                    error.close()
                    location = error.headers.get("Location", "")
                    if error.code not in _REDIRECTS or not location:
                        have = self.part.size()
                        if error.code == 416 and have and error.headers.get("Content-Range") == f"bytes */{have}":
                            return None
                        raise _refusal(error.code, error.reason, error.headers) from None
                # A location may hold raw bytes, which http.client takes as they are: latin-1.
                url = urljoin(url, quote(location, safe=string.punctuation, encoding="latin-1"))
        raise _MirrorError(f"it redirects more than {_MAX_REDIRECTS} times", lasting=True)

    def _expectation(self, response: HTTPResponse, offset: int) -> tuple[int, int | None]:
        """Return where the answer's content begins, and how long the whole file is if the server says so."""
        if response.status == 206:
            stated = response.headers.get("Content-Range", "")
            match = _CONTENT_RANGE.fullmatch(stated)
            if not offset or match is None or int(match[1]) != offset:
                raise _MirrorError(
                    f"it sends another part than asked for: {stated or 'no Content-Range'}", spoiled=True
                )
            start, total = offset, None if match[2] == "*" else int(match[2])
        else:
            start, total = 0, response.length
        expected = self.remote.size
        if expected is not None and total is not None and total != expected:
            raise _MirrorError(f"it offers {total:,} bytes instead of {expected:,}", lasting=True)
        if total is not None and total > self.max_bytes:
            raise _MirrorError(f"it offers {total:,} bytes, more than the {self.max_bytes:,} allowed", lasting=True)
        return start, total

    def _receive(self, response: HTTPResponse, file: IO[bytes], start: int, total: int | None) -> None:
        """Append the content to the file until it ends, stalls, or gets too long."""
        total = self.remote.size if total is None else total
        most = self.max_bytes if total is None else total
        here = start
        window_start, window_bytes = time.monotonic(), 0
        while True:
            with _network(answered=True):
                # read1 returns what one packet brought; read would wait for the whole piece, however long that takes.
                piece = response.read1(_CHUNK)
            if not piece:
                break
            here += len(piece)
            if here > most:
                raise _MirrorError(f"it sends more than {most:,} bytes", lasting=True, spoiled=True)
            file.write(piece)
            if self.progress is not None:
                self.progress(here, total)
            window_bytes += len(piece)
            elapsed = time.monotonic() - window_start
            if elapsed >= self.timeout_seconds:
                if window_bytes < _MIN_BYTES_PER_SECOND * elapsed:
                    raise _MirrorError(f"it stalls: {window_bytes} bytes in {elapsed:.1f} s")
                window_start, window_bytes = time.monotonic(), 0
        if total is not None and here < total:
            raise _MirrorError(f"it broke off after {here:,} of {total:,} bytes")


class _Part:
    """The file as far as it has come, and a note about where it came from.

    The note, NAME.part.json, holds the pinned checksum, the address, and the ETag or date of the file there: a part of
    another version must not be continued.
    """

    def __init__(self, final: Path, remote: RemoteFile) -> None:
        self.path = final.with_name(final.name + ".part")
        self._note = final.with_name(final.name + ".part.json")
        self._pinned = remote.sha256 or remote.md5

    def size(self) -> int:
        """Return how many bytes are here."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def resume_point(self, url: str) -> tuple[int, str]:
        """Return where to go on, and for If-Range what the file at this address was known by, or nothing."""
        try:
            note = json.loads(self._note.read_bytes())
            if note["pinned"] == self._pinned:
                # Another address has other ETags for the same file; there the checksum alone must do.
                validator = note["validator"] if note["url"] == url else ""
                # It came from a server and goes into a header.
                return self.size(), validator if re.fullmatch(r"[ -~]{1,200}", validator) else ""
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass
        self.remove()
        return 0, ""

    def open(self, start: int, url: str, headers: email.message.Message) -> IO[bytes]:
        """Return the file, open for appending; from the start on, it is a new one with a new note."""
        if start == 0:
            self.remove()
            etag = headers.get("ETag", "")
            # A weak ETag says that two versions mean the same, not that their bytes are.
            validator = etag if etag.startswith('"') else headers.get("Last-Modified", "")
            note = {"pinned": self._pinned, "url": url, "validator": validator}
            self._note.write_text(json.dumps(note), encoding="utf-8")
        return self.path.open("ab")

    def remove(self) -> None:
        """Forget everything: the part first, since without a note it is not continued."""
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)

    def become(self, final: Path) -> None:
        """Give the verified file its name, durably."""
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, final)
        fsync_folder(final.parent)
        self._note.unlink(missing_ok=True)


def _opener(remote: RemoteFile) -> urllib.request.OpenerDirector:
    """Return an opener for http and https alone, which leaves redirects to us."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        # A server on this machine is not asked through the proxy that the environment names.
        urllib.request.ProxyHandler({} if remote.insecure_hosts else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _check_scheme(url: str, remote: RemoteFile) -> None:
    """Refuse everything but https, also in the middle of a chain of redirects."""
    with _network():
        parts = urlsplit(url)
        allowed = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in remote.insecure_hosts)
    if not allowed:
        raise _MirrorError(f"it leads to {url[:200]}, which is not https", lasting=True)


def _refusal(status: int, reason: str, headers: email.message.Message) -> _MirrorError:
    """Return what an answer that is not the file means."""
    wait = 0.0
    stated = headers.get("Retry-After", "").strip()
    if stated.isdigit():
        wait = float(stated)
    elif stated:
        with contextlib.suppress(ValueError, TypeError):
            wait = max(0.0, email.utils.parsedate_to_datetime(stated).timestamp() - time.time())
    words = f"HTTP {status} {reason}".strip()
    if wait > _LONGEST_WAIT_SECONDS:
        return _MirrorError(f"{words}, come back in {wait:.0f} s", lasting=True)
    # 416: the part does not fit what is there now.
    passing = status in _PASSING_STATUS or status == 416
    return _MirrorError(words, lasting=not passing, spoiled=status == 416, retry_after_seconds=wait)


@contextmanager
def _network(*, answered: bool = False) -> Iterator[None]:
    """Turn what the network does into a _MirrorError; `answered` is True once the server has begun to send."""
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, TimeoutError):
            raise _MirrorError("it stalls" if answered else "it does not answer in time", answered=answered) from error
        if isinstance(cause, http.client.HTTPException):
            words = f"it broke off ({type(cause).__name__})"
            raise _MirrorError(words, lasting=isinstance(cause, http.client.InvalidURL)) from error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise _MirrorError(f"its certificate is refused: {cause.verify_message}", lasting=True) from error
        no_route = isinstance(cause, socket.gaierror) or getattr(cause, "errno", None) in _NO_ROUTE
        words = getattr(cause, "strerror", None) or str(cause)
        lasting = isinstance(cause, ValueError) and not isinstance(cause, OSError)
        raise _MirrorError(words, answered=answered, no_route=no_route, lasting=lasting) from error


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn what the disk does into a DownloadError."""
    try:
        yield
    except OSError as error:
        what, remedy = describe_disk_error(error)
        raise DownloadError(f"cannot write the download: {what}", where=path, remedy=remedy) from error


def _digests(path: Path, names: Sequence[str]) -> list[str]:
    """Return the digests of a file in hexadecimal, from one reading."""
    hashes = [hashlib.new(name, usedforsecurity=False) for name in names]
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            for digest in hashes:
                digest.update(piece)
    return [digest.hexdigest() for digest in hashes]


def _difference(path: Path, remote: RemoteFile) -> str:
    """Return in what a file differs from the pinned one, or nothing."""
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        return f"it has {size:,} bytes instead of {remote.size:,}"
    pinned = {name: value for name, value in (("sha256", remote.sha256), ("md5", remote.md5)) if value is not None}
    for name, got in zip(pinned, _digests(path, tuple(pinned)), strict=True):
        if got != pinned[name]:
            return f"its {name} is {got} instead of {pinned[name]}"
    return ""
