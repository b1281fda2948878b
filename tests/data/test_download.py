"""A download ends with exactly the pinned bytes or with one clear line, whatever the server and the network do."""

from __future__ import annotations

import contextlib
import email.utils
import errno
import hashlib
import http.server
import io
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eyespot.data import download as module
from eyespot.data.download import RemoteFile, download
from eyespot.errors import DownloadError, UsageError

CONTENT = random.Random(0).randbytes(300_000)
LOCAL = frozenset({"127.0.0.1"})


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_GET(self) -> None:
        with self.site.guard:
            self.site.requests.append((self.path, dict(self.headers)))
            act = self.site.script.pop(0) if self.site.script else serve
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            act(self)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


Act = Callable[[Handler], None]


class Site:
    """A local server: the acts of its script answer one request each, and after them it behaves."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.content = CONTENT
        self.etag = '"v1"'
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.script: list[Act] = []
        self.guard = threading.Lock()
        self.closing = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("H", (Handler,), {"site": self}))
        self.server.daemon_threads = False
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.server.socket = context.wrap_socket(
                self.server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if certificate is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self.server.server_address[1]}/data.bin"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.closing.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def remote(self, **changes: Any) -> RemoteFile:
        values: dict[str, Any] = {
            "name": "data.bin",
            "urls": (self.url,),
            "sha256": hashlib.sha256(self.content).hexdigest(),
            "insecure_hosts": LOCAL,
        }
        return RemoteFile(**(values | changes))

    def ranges(self) -> list[str | None]:
        return [headers.get("Range") for _, headers in self.requests]


# What the server may do


def serve(handler: Handler, most: int | None = None) -> None:
    """Answer as RFC 9110 wants it; with `most`, break off after so many bytes."""
    site = handler.site
    start = 0
    wanted = handler.headers.get("Range")
    if wanted is not None and handler.headers.get("If-Range", site.etag) == site.etag:
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
    if start >= len(site.content):
        handler.send_response(416)
        handler.send_header("Content-Range", f"bytes */{len(site.content)}")
        handler.end_headers()
        return
    handler.send_response(206 if start else 200)
    if start:
        handler.send_header("Content-Range", f"bytes {start}-{len(site.content) - 1}/{len(site.content)}")
    handler.send_header("Content-Length", str(len(site.content) - start))
    if site.etag:
        handler.send_header("ETag", site.etag)
    handler.end_headers()
    body = site.content[start:]
    handler.wfile.write(body if most is None else body[:most])


def cut(after: int) -> Act:
    return lambda handler: serve(handler, most=after)


def hang_up(handler: Handler) -> None:
    """Close without a word."""


def stall(after: int) -> Act:
    def act(handler: Handler) -> None:
        serve(handler, most=after)
        handler.wfile.flush()
        handler.site.closing.wait(10)

    return act


def stall_before_headers(handler: Handler) -> None:
    handler.site.closing.wait(10)


def trickle(handler: Handler) -> None:
    """A byte now and then: no read ever times out."""
    serve(handler, most=0)
    for byte in handler.site.content:
        handler.wfile.write(bytes([byte]))
        if handler.site.closing.wait(0.02):
            return


def status(code: int, **headers: str) -> Act:
    def act(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "5")
        handler.end_headers()
        handler.wfile.write(b"sorry")

    return act


def send(body: bytes, code: int = 200, **headers: str) -> Act:
    """Answer with exactly these headers and this body."""

    def act(handler: Handler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return act


def ignore_range(handler: Handler) -> None:
    del handler.headers["Range"]
    serve(handler)


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not handler.site.closing.is_set():
        handler.wfile.write(bytes(65536))


def chunked(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.send_header("Connection", "close")
    handler.end_headers()
    body = handler.site.content
    for start in range(0, len(body), 100_000):
        piece = body[start : start + 100_000]
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
    handler.wfile.write(b"0\r\n\r\n")


def slowly(handler: Handler) -> None:
    time.sleep(0.3)
    serve(handler)


FLIPPED = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture
def second() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


def fetch(remote: RemoteFile, folder: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {"timeout_seconds": 0.3, "retries": 2, "backoff_seconds": 0.01}
    return download(remote, folder, **(values | changes))


def fails(remote: RemoteFile, folder: Path, match: str, **changes: Any) -> DownloadError:
    """Assert that a download ends in one line and leaves no file that could be taken for whole."""
    with pytest.raises(DownloadError, match=match) as caught:
        fetch(remote, folder, **changes)
    assert "\n" not in str(caught.value)
    assert not (folder / remote.name).exists()
    return caught.value


def clean(folder: Path) -> bool:
    return sorted(path.name for path in folder.iterdir()) == ["data.bin", "data.bin.lock"]


# It goes well


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("act", [serve, chunked, send(CONTENT), send(CONTENT, Content_Length="no number")])
def test_a_file_comes_whole(site: Site, tmp_path: Path, act: Act, size: int | None) -> None:
    site.script = [act]
    seen: list[tuple[int, int | None]] = []
    remote = site.remote(size=size, md5=hashlib.md5(CONTENT, usedforsecurity=False).hexdigest())
    path = fetch(remote, tmp_path / "new" / "folder", progress=lambda *args: seen.append(args))
    assert path == tmp_path / "new" / "folder" / "data.bin"
    assert path.read_bytes() == CONTENT
    assert clean(path.parent)
    assert len(site.requests) == 1
    assert site.ranges() == [None]
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1][0] == len(CONTENT)
    assert {total for _, total in seen} == {len(CONTENT) if size or act is serve else None}


def test_the_second_call_asks_nobody(site: Site, tmp_path: Path) -> None:
    fetch(site.remote(), tmp_path)
    fetch(site.remote(), tmp_path)
    assert len(site.requests) == 1


def test_an_md5_alone_is_enough_and_an_empty_file_is_a_file(site: Site, tmp_path: Path) -> None:
    site.content = b""
    site.script = [send(b"", Content_Length="0")]
    remote = site.remote(sha256=None, md5=hashlib.md5(b"", usedforsecurity=False).hexdigest(), size=0)
    assert fetch(remote, tmp_path).read_bytes() == b""


# It breaks off


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("after", [0, 1, 1000, 65_536, 262_144, len(CONTENT) - 1])
def test_a_broken_off_download_is_resumed_where_it_stopped(
    site: Site, tmp_path: Path, after: int, size: int | None
) -> None:
    site.script = [cut(after)]
    assert fetch(site.remote(size=size), tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, f"bytes={after}-" if after else None]
    assert site.requests[1][1].get("If-Range") == ('"v1"' if after else None)
    assert clean(tmp_path)


def test_breaking_off_again_and_again_does_not_matter_while_it_gets_further(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PROGRESS_BYTES", 10_000)
    site.script = [cut(11_000) for _ in range(20)]
    assert fetch(site.remote(), tmp_path, retries=1).read_bytes() == CONTENT
    assert site.ranges()[1:] == [f"bytes={11_000 * number}-" for number in range(1, 21)]


def test_too_little_progress_ends_after_the_retries_and_is_resumed_by_the_next_call(site: Site, tmp_path: Path) -> None:
    site.script = [cut(1000) for _ in range(3)]
    error = fails(site.remote(), tmp_path, r"it broke off after 3,000 of 300,000 bytes")
    assert "no network" not in str(error)
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:3000]
    assert len(site.requests) == 3
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT
    assert site.ranges()[3] == "bytes=3000-"


def test_silence_before_and_in_the_middle_is_tried_again(site: Site, tmp_path: Path) -> None:
    site.script = [stall_before_headers, stall(5000), hang_up]
    assert fetch(site.remote(), tmp_path, retries=3).read_bytes() == CONTENT
    assert site.ranges() == [None, None, "bytes=5000-", "bytes=5000-"]


def test_only_silence_ends_in_an_error(site: Site, tmp_path: Path) -> None:
    site.script = [stall_before_headers] * 2
    error = fails(site.remote(), tmp_path, "it does not answer in time", retries=1, timeout_seconds=0.1)
    assert "no network?" in error.remedy
    site.script = [stall(10)] * 2
    error = fails(site.remote(), tmp_path, r"\(it stalls\)", retries=1, timeout_seconds=0.1)
    assert "no network?" not in error.remedy


def test_a_trickle_is_a_stall(site: Site, tmp_path: Path) -> None:
    site.script = [trickle]
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT
    assert len(site.requests) == 2
    site.script = [trickle]
    fails(site.remote(), tmp_path / "other", r"it stalls: \d+ bytes in 0\.\d s", retries=0)


def test_a_connection_reset_in_the_middle_is_tried_again(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = http.client.HTTPResponse.read1, []

    def read1(self: http.client.HTTPResponse, size: int = -1) -> bytes:
        calls.append(size)
        if len(calls) == 2:
            raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
        if len(calls) == 4:
            raise http.client.IncompleteRead(b"")
        return real(self, 1000)

    monkeypatch.setattr(http.client.HTTPResponse, "read1", read1)
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=1000-", "bytes=2000-"]


# The server lies, or the file is another one


def test_a_server_that_ignores_ranges_starts_over(site: Site, tmp_path: Path) -> None:
    site.script = [cut(5000), ignore_range]
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=5000-"]


def test_a_file_that_changed_between_attempts_is_not_spliced(site: Site, tmp_path: Path) -> None:
    wanted = site.remote()

    def change(handler: Handler) -> None:
        site.content, site.etag = CONTENT, '"v2"'
        serve(handler)

    site.content = FLIPPED
    site.script = [cut(5000), change]
    assert fetch(wanted, tmp_path).read_bytes() == CONTENT
    assert site.requests[1][1]["If-Range"] == '"v1"'
    assert len(site.requests) == 2


def test_a_splice_of_two_versions_is_noticed_by_its_sum_and_fetched_anew(site: Site, tmp_path: Path) -> None:
    wanted = site.remote()
    site.etag = ""  # nothing that If-Range could name

    def change(handler: Handler) -> None:
        site.content = CONTENT
        serve(handler)

    site.content = FLIPPED
    site.script = [cut(5000), change]
    assert fetch(wanted, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=5000-", None]
    assert "If-Range" not in site.requests[1][1]


def test_a_weak_etag_is_not_used_and_a_date_is(site: Site, tmp_path: Path) -> None:
    date = "Mon, 01 Jan 2024 00:00:00 GMT"
    length = str(len(CONTENT))
    site.script = [send(CONTENT[:99], ETag='W/"v1"', Last_Modified=date, Content_Length=length), ignore_range]
    fetch(site.remote(), tmp_path)
    assert site.requests[1][1]["If-Range"] == date


@pytest.mark.parametrize(
    "stated", ["bytes 0-299999/300000", "bytes 4999-299999/300000", "bytes */300000", "nonsense", None]
)
def test_a_wrong_part_is_not_appended(site: Site, tmp_path: Path, stated: str | None) -> None:
    headers = {} if stated is None else {"Content_Range": stated}
    site.script = [cut(5000), send(CONTENT[5000:], code=206, **headers)]
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=5000-", None]


def test_a_part_that_nobody_asked_for_is_refused(site: Site, tmp_path: Path) -> None:
    site.script = [send(CONTENT, code=206, Content_Range="bytes 0-299999/300000")] * 3
    fails(site.remote(), tmp_path, "it sends another part than asked for")


def test_a_part_of_unknown_total_is_accepted(site: Site, tmp_path: Path) -> None:
    site.script = [cut(5000), send(CONTENT[5000:], code=206, Content_Range="bytes 5000-299999/*")]
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT


def test_a_stated_length_that_is_too_short(site: Site, tmp_path: Path) -> None:
    short = send(CONTENT, Content_Length="1000")
    site.script = [short]  # once is forgiven
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT
    site.script = [short] * 2
    fails(site.remote(), tmp_path / "twice", "its sha256 is [0-9a-f]{64} instead of")
    site.script = [short]
    fails(site.remote(size=len(CONTENT)), tmp_path / "size", "it offers 1,000 bytes instead of 300,000")
    assert site.script == []


def test_a_stated_length_that_is_too_long(site: Site, tmp_path: Path) -> None:
    long = send(CONTENT, Content_Length="400000")
    site.script = [long]
    # The server then says that nothing is missing any more.
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=300000-"]
    site.script = [long]
    fails(site.remote(size=len(CONTENT)), tmp_path / "size", "it offers 400,000 bytes instead of 300,000")


def test_a_body_longer_than_pinned_is_stopped_and_dropped(site: Site, tmp_path: Path) -> None:
    site.script = [send(CONTENT + b"more")]
    fails(site.remote(size=len(CONTENT)), tmp_path, "it sends more than 300,000 bytes")
    assert not (tmp_path / "data.bin.part").exists()


def test_an_endless_body_is_stopped_at_the_cap(site: Site, tmp_path: Path) -> None:
    site.script = [endless]
    error = fails(site.remote(), tmp_path, "it sends more than 1,000,000 bytes", max_bytes=1_000_000)
    assert "put the file into" in error.remedy
    assert len(site.requests) == 1
    assert not (tmp_path / "data.bin.part").exists()


def test_what_is_longer_than_the_cap_is_not_begun(site: Site, tmp_path: Path) -> None:
    fails(site.remote(), tmp_path, "it offers 300,000 bytes, more than the 299,999 allowed", max_bytes=299_999)
    remote = site.remote(size=len(CONTENT))
    fails(remote, tmp_path, "it has 300,000 bytes, more than the 299,999 allowed", max_bytes=299_999)
    assert len(site.requests) == 1
    assert fetch(remote, tmp_path, max_bytes=300_000).exists()


@pytest.mark.parametrize("pinned", ["sha256", "md5"])
def test_a_flipped_bit_is_fetched_once_more_and_then_refused(site: Site, tmp_path: Path, pinned: str) -> None:
    remote = site.remote(sha256=None, md5=hashlib.md5(CONTENT, usedforsecurity=False).hexdigest())
    remote = remote if pinned == "md5" else site.remote()
    site.script = [send(FLIPPED)]
    assert fetch(remote, tmp_path, retries=0).read_bytes() == CONTENT
    assert len(site.requests) == 2
    site.script = [send(FLIPPED)] * 2
    error = fails(remote, tmp_path / "twice", rf"cannot download data\.bin \(its {pinned} is ", retries=9)
    assert str(remote.sha256 or remote.md5) in error.what
    assert len(site.requests) == 4
    assert not (tmp_path / "twice" / "data.bin.part").exists()


def test_both_sums_are_checked(site: Site, tmp_path: Path) -> None:
    fails(site.remote(md5="0" * 32), tmp_path, "its md5 is")


# Answers that are not the file


def test_passing_troubles_are_waited_for(site: Site, tmp_path: Path) -> None:
    site.script = [status(500), status(503), status(429)]
    assert fetch(site.remote(), tmp_path, retries=3).read_bytes() == CONTENT
    assert len(site.requests) == 4


def test_passing_troubles_that_stay_end_after_the_retries(site: Site, tmp_path: Path) -> None:
    site.script = [status(500)] * 9
    error = fails(
        site.remote(), tmp_path, r"cannot download data\.bin \(HTTP 500 Internal Server Error\) in http://127"
    )
    assert "no network" not in error.remedy
    assert len(site.requests) == 3


@pytest.mark.parametrize("code", [401, 403, 404, 410, 451])
def test_a_lasting_refusal_is_not_asked_again(site: Site, tmp_path: Path, code: int) -> None:
    site.script = [status(code)]
    fails(site.remote(), tmp_path, f"HTTP {code}")
    assert len(site.requests) == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_honoured(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_date: bool) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    wait = email.utils.formatdate(time.time() + 40, usegmt=True) if as_date else "37"
    site.script = [status(503, Retry_After=wait), status(503, Retry_After="nonsense")]
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT
    assert 35 < slept[0] <= 40
    assert slept[1] < 1


def test_a_server_that_wants_us_back_tomorrow_is_left(site: Site, tmp_path: Path) -> None:
    site.script = [status(503, Retry_After="86400")]
    fails(site.remote(), tmp_path, "HTTP 503 Service Unavailable, come back in 86400 s")


def test_the_wait_grows_and_differs_between_clients(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(module.time, "sleep", slept.append)
    site.script = [status(500)] * 20
    random.seed(1)
    state = random.getstate()
    fails(site.remote(), tmp_path, "HTTP 500", retries=10, backoff_seconds=1.0)
    assert random.getstate() == state  # the seeds of a training are nobody else's to use
    assert len(slept) == 10
    for number, wait in enumerate(slept):
        assert 0.75 * min(2**number, 120) <= wait <= min(1.25 * 2**number, 120)
    assert len({wait / 2**number for number, wait in enumerate(slept)}) > 5


def test_a_part_that_no_longer_fits_is_dropped(site: Site, tmp_path: Path) -> None:
    site.script = [cut(5000), status(416, Content_Range="bytes */3000")]
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=5000-", None]


# Redirects, https, addresses


def test_redirects_are_followed_with_the_range(site: Site, tmp_path: Path) -> None:
    site.script = [
        status(302, Location="/with space/é"),
        cut(5000),
        status(308, Location=site.url + "?x=1#y"),
        status(301, Location="third"),
    ]
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT
    assert [path for path, _ in site.requests] == [
        "/data.bin",
        "/with%20space/%E9",
        "/data.bin",
        "/data.bin?x=1",
        "/third",
    ]
    assert site.ranges() == [None, None, "bytes=5000-", "bytes=5000-", "bytes=5000-"]


@pytest.mark.parametrize("target", ["http://localhost:1/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x"])
def test_a_redirect_to_anything_but_https_is_refused(site: Site, tmp_path: Path, target: str) -> None:
    site.script = [status(302, Location=target)]
    error = fails(site.remote(), tmp_path, "which is not https")
    assert target in str(error)
    assert len(site.requests) == 1


@pytest.mark.parametrize("target", ["https://[nonsense/x", "https://example.com:port/x"])
def test_a_redirect_to_nonsense_is_refused(site: Site, tmp_path: Path, target: str) -> None:
    site.script = [status(302, Location=target)]
    fails(site.remote(), tmp_path, r"cannot download data\.bin \(")
    assert len(site.requests) == 1


def test_redirects_in_a_circle_end(site: Site, tmp_path: Path) -> None:
    site.script = [status(302, Location="/x")] * 30
    fails(site.remote(), tmp_path, "it redirects more than 10 times")
    assert len(site.requests) == 10


def test_a_redirect_to_nowhere_is_refused(site: Site, tmp_path: Path) -> None:
    site.script = [status(302)]
    fails(site.remote(), tmp_path, "HTTP 302")


def test_plain_http_is_refused_everywhere_by_default(site: Site, tmp_path: Path) -> None:
    fails(site.remote(insecure_hosts=frozenset()), tmp_path, "which is not https")
    fails(site.remote(insecure_hosts=frozenset({"localhost"})), tmp_path, "which is not https")
    assert site.requests == []


def test_the_environment_neither_allows_http_nor_diverts_the_local_server(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fetch(site.remote(), tmp_path).read_bytes() == CONTENT


def test_a_proxy_named_by_the_environment_is_used_for_https(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected = []

    def connect(handler: Handler) -> None:
        connected.append(handler.path)
        handler.send_response(403)
        handler.end_headers()

    monkeypatch.setattr(Handler, "do_CONNECT", connect, raising=False)
    monkeypatch.setenv("https_proxy", site.url)
    monkeypatch.delenv("no_proxy", raising=False)
    remote = site.remote(urls=("https://example.com/data.bin",), insecure_hosts=frozenset())
    fails(remote, tmp_path, "Tunnel connection failed: 403", retries=0)
    assert connected == ["example.com:443"]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program to make a certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", "key", "-out", "cert", "-days", "2", "-subj", "/CN=test"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True, cwd=path.parent)
    path.write_bytes((path.parent / "key").read_bytes() + (path.parent / "cert").read_bytes())
    return path


def test_https_checks_the_certificate_and_never_goes_on_to_http(
    site: Site, tmp_path: Path, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = Site(certificate)
    try:
        remote = secure.remote(insecure_hosts=frozenset())
        error = fails(remote, tmp_path, "its certificate is refused: self.signed certificate")
        assert "no network" not in error.remedy
        assert secure.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        secure.script = [cut(5000)]
        assert fetch(remote, tmp_path, timeout_seconds=2).read_bytes() == CONTENT
        assert secure.ranges() == [None, "bytes=5000-"]
        secure.script = [status(302, Location=site.url)]
        error = fails(remote, tmp_path / "down", "which is not https", timeout_seconds=2)
        assert site.url in str(error)
        assert site.requests == []
    finally:
        secure.close()


# Several addresses


def test_addresses_are_tried_in_turn(site: Site, second: Site, tmp_path: Path) -> None:
    site.script = [status(404)]
    remote = site.remote(urls=(site.url, second.url))
    assert fetch(remote, tmp_path, retries=0).read_bytes() == CONTENT
    assert (len(site.requests), len(second.requests)) == (1, 1)


def test_a_second_address_goes_on_where_the_first_broke_off(site: Site, second: Site, tmp_path: Path) -> None:
    site.script, second.script = [cut(5000), cut(100)], [cut(200), serve]
    second.etag = '"other"'
    assert fetch(site.remote(urls=(site.url, second.url)), tmp_path).read_bytes() == CONTENT
    assert site.ranges() == [None, "bytes=5200-"]
    assert second.ranges() == ["bytes=5000-", "bytes=5300-"]
    assert site.requests[1][1]["If-Range"] == '"v1"'
    assert "If-Range" not in second.requests[0][1]  # the tag is the other server's


def test_a_wrong_file_at_one_address_is_fetched_from_the_other(site: Site, second: Site, tmp_path: Path) -> None:
    site.script = [send(FLIPPED)]
    assert fetch(site.remote(urls=(site.url, second.url)), tmp_path, retries=0).read_bytes() == CONTENT
    assert (len(site.requests), len(second.requests)) == (1, 1)


def test_each_address_is_named_with_its_reason(site: Site, second: Site, tmp_path: Path) -> None:
    site.script, second.script = [status(404)], [send(FLIPPED)] * 9
    error = fails(
        site.remote(urls=(site.url, second.url)), tmp_path, r"127\.0\.0\.1: HTTP 404 Not Found; 127\.0\.0\.1: its"
    )
    assert f"in {site.url}, {second.url}: put the file into {tmp_path}" in str(error)


# No network


def test_without_a_network_one_line_says_where_to_put_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def getaddrinfo(*args: object, **kwargs: object) -> None:
        asked.append(args)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    url = "https://example.com/cifar-10-python.tar.gz"
    remote = RemoteFile("cifar-10-python.tar.gz", (url,), sha256="0" * 64, size=170_498_071)
    error = fails(remote, tmp_path, "cannot", retries=30, hint="or a folder named by EYESPOT_DATA")
    assert str(error) == (
        f"cannot download cifar-10-python.tar.gz (Name or service not known) in {url}: "
        f"no network? put the file into {tmp_path} or a folder named by EYESPOT_DATA"
    )
    assert len(asked) == 2  # more patience would not help


def test_a_closed_port_is_no_network_either_but_is_tried_again(tmp_path: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
        remote = RemoteFile("x", (url,), md5="0" * 32, insecure_hosts=LOCAL)
        error = fails(remote, tmp_path, r"cannot download x \(.*(refused|it does not answer in time)\) in http://127")
        assert error.remedy == f"no network? put the file into {tmp_path}"


# What is in the folder already


def test_a_file_put_there_by_hand_is_checked_and_used_without_a_network(site: Site, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(CONTENT)
    assert fetch(site.remote(), tmp_path) == tmp_path / "data.bin"
    assert site.requests == []
    assert [path.name for path in tmp_path.iterdir()] == ["data.bin"]


@pytest.mark.parametrize(("content", "match"), [(FLIPPED, "its sha256 is"), (b"", "it has 0 bytes instead of 300,000")])
def test_a_wrong_file_there_is_named_and_not_touched(site: Site, tmp_path: Path, content: bytes, match: str) -> None:
    path = tmp_path / "data.bin"
    path.write_bytes(content)
    with pytest.raises(DownloadError, match=match) as caught:
        fetch(site.remote(size=len(CONTENT)), tmp_path)
    assert f"in {path}: remove it" in str(caught.value)
    assert path.read_bytes() == content
    assert site.requests == []


def test_a_part_of_another_version_or_without_its_note_is_not_continued(site: Site, tmp_path: Path) -> None:
    remote = site.remote()
    notes = [
        None,
        "",
        "nonsense",
        "[]",
        '"text"',
        "{}",
        json.dumps({"pinned": "0" * 64, "url": site.url, "validator": '"v1"'}),
        json.dumps({"pinned": remote.sha256, "url": site.url, "validator": 7}),
    ]
    for number, note in enumerate(notes):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "data.bin.part").write_bytes(b"x" * 5000)
        if note is not None:
            (folder / "data.bin.part.json").write_text(note)
        assert fetch(remote, folder, retries=0).read_bytes() == CONTENT
        assert clean(folder)
    assert site.ranges() == [None] * len(notes)


def test_a_note_cannot_bring_a_line_break_into_a_request(site: Site, tmp_path: Path) -> None:
    remote = site.remote()
    note = {"pinned": remote.sha256, "url": site.url, "validator": '"x"\r\nEvil: 1'}
    (tmp_path / "data.bin.part").write_bytes(CONTENT[:5000])
    (tmp_path / "data.bin.part.json").write_text(json.dumps(note))
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == ["bytes=5000-"]
    assert "If-Range" not in site.requests[0][1]


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_whole_part_that_was_not_yet_verified_is_not_fetched_again(
    site: Site, tmp_path: Path, size: int | None
) -> None:
    remote = site.remote(size=size)
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    note = {"pinned": remote.sha256, "url": site.url, "validator": '"v1"'}
    (tmp_path / "data.bin.part.json").write_text(json.dumps(note))
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert site.ranges() == ([] if size else ["bytes=300000-"])
    assert clean(tmp_path)


def test_a_part_that_is_too_long_is_dropped(site: Site, tmp_path: Path) -> None:
    remote = site.remote(size=len(CONTENT))
    (tmp_path / "data.bin.part").write_bytes(CONTENT + b"more")
    note = {"pinned": remote.sha256, "url": site.url, "validator": '"v1"'}
    (tmp_path / "data.bin.part.json").write_text(json.dumps(note))
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


# The disk


class _FullFile(io.BytesIO):
    def write(self, data: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_said_and_leaves_no_file(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Part, "open", lambda *args: _FullFile())
    error = fails(site.remote(), tmp_path, r"cannot write the download: the disk is full in .*data\.bin\.part")
    assert "free some space" in error.remedy
    assert len(site.requests) == 1


def test_too_little_room_is_said_before_the_first_byte(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: real._replace(free=299_999))
    said = r"the disk is full: data\.bin needs 300,000 bytes more, 299,999 are free in .*: free some space"
    fails(site.remote(size=300_000), tmp_path, said)
    assert site.requests == []


def test_a_folder_that_cannot_be_made_is_said(site: Site, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DownloadError, match=r"cannot write the download: .*data\.bin"):
        fetch(site.remote(), tmp_path / "file")
    assert site.requests == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_is_said(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    # Permissions do not bind the administrator, whom containers often run as.
    def mkdir(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    error = fails(site.remote(), tmp_path / "new", "cannot write the download: no right to write")
    assert error.remedy == "change its permissions, or name another folder"
    assert site.requests == []


# Several processes, and killed ones

CALL = """
import sys
from pathlib import Path
from eyespot.data.download import RemoteFile, download
remote = RemoteFile("data.bin", (sys.argv[1],), sha256=sys.argv[2], insecure_hosts=frozenset({"127.0.0.1"}))
print(download(remote, Path(sys.argv[3]), timeout_seconds=10))
"""


def start_process(site: Site, folder: Path) -> subprocess.Popen[str]:
    remote = site.remote()
    command = [sys.executable, "-c", CALL, site.url, str(remote.sha256), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_eight_processes_at_once_make_one_download(site: Site, tmp_path: Path) -> None:
    site.script = [slowly]
    processes = [start_process(site, tmp_path) for _ in range(8)]
    for process in processes:
        out, err = process.communicate(timeout=180)
        assert (process.returncode, out.strip()) == (0, str(tmp_path / "data.bin")), err
    assert site.ranges() == [None]
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert clean(tmp_path)


def test_threads_of_one_process_make_one_download_too(site: Site, tmp_path: Path) -> None:
    site.script = [slowly]
    calls = [{"target": fetch, "args": (site.remote(), tmp_path), "kwargs": {"timeout_seconds": 10}}] * 4
    threads = [threading.Thread(**call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "data.bin").read_bytes() == CONTENT
    assert site.ranges() == [None]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_a_killed_download_is_resumed_and_its_lock_is_free(site: Site, tmp_path: Path) -> None:
    site.content = CONTENT * 4
    site.script = [stall(1_000_000)]
    process = start_process(site, tmp_path)
    part = tmp_path / "data.bin.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    here = part.stat().st_size
    assert 0 < here < len(site.content)
    assert not (tmp_path / "data.bin").exists()
    assert fetch(site.remote(), tmp_path, timeout_seconds=5).read_bytes() == site.content
    assert site.ranges() == [None, f"bytes={here}-"]


# Wrong use


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "../x"}, "is not a plain file name"),
        ({"name": "a/b"}, "is not a plain file name"),
        ({"name": ""}, "is not a plain file name"),
        ({"name": ".."}, "is not a plain file name"),
        ({"urls": ()}, "no address is given"),
        ({"sha256": None}, "no checksum is given"),
        ({"sha256": "abc"}, "'abc' is not a checksum of 64 digits"),
        ({"sha256": "A" * 64}, "is not a checksum of 64 digits"),
        ({"md5": "0" * 33}, "is not a checksum of 32 digits"),
    ],
)
def test_a_remote_file_that_could_not_be_fetched_safely_is_refused(changes: dict[str, Any], match: str) -> None:
    values = {"name": "x", "urls": ("https://example.com/x",), "sha256": "0" * 64} | changes
    with pytest.raises(UsageError, match=match) as caught:
        RemoteFile(**values)
    assert caught.value.remedy
