"""The server: the answers of predict, every limit with its status, and nothing that a client names is opened."""

from __future__ import annotations

import asyncio
import gc
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import eyespot
from eyespot.analysis import words
from eyespot.deployment import connections
from eyespot.deployment.bodies import read_body
from eyespot.deployment.engine import open_engine
from eyespot.deployment.guard import Door, host_name
from eyespot.deployment.limits import Limits
from eyespot.deployment.problems import Problem
from eyespot.deployment.server import build_app, read_token
from eyespot.errors import ServerError, UsageError
from eyespot.runs import Run

LIMITS = Limits(
    body_bytes=300_000, pictures=4, header_seconds=0.5, body_seconds=0.5, header_bytes=8192, explained_pictures=2
)
TOKEN = "a token of some length"


class Running:
    """A server in a thread, reached over loopback like any other."""

    def __init__(self, engine: Any, limits: Limits = LIMITS, door: Door | None = None) -> None:
        import uvicorn

        self.app = build_app(engine, limits=limits, door=door or Door(log=False))
        protocol: Any = partial(
            connections.BoundedProtocol, bounds=connections.Bounds(limits, self.app.refuse, self.app.note)
        )
        config = uvicorn.Config(self.app, http=protocol, ws="none", log_config=None, access_log=False)
        self.server = uvicorn.Server(config)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.listener]}, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(20)
        self.listener.close()

    def raw(self, request: bytes, *, wait: float = 5.0) -> bytes:
        """Send bytes and return what comes back until the server closes or is silent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=wait) as connection:
            connection.sendall(request)
            answer = b""
            try:
                while piece := connection.recv(65536):
                    answer += piece
                    head, _, body = answer.partition(b"\r\n\r\n")
                    length = re.search(rb"content-length: (\d+)", head.lower())
                    if length and len(body) >= int(length.group(1)):
                        break
            except (TimeoutError, ConnectionError):
                pass
            return answer


@pytest.fixture(scope="module")
def running(trained: Run) -> Iterator[Running]:
    server = Running(open_engine(trained.path, engine="torch"))
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=running.url, timeout=10) as client:
        yield client


def png(seed: int = 0, size: tuple[int, int] = (12, 12)) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


RAW = {"content-type": "application/octet-stream"}


# ------------------------------------------------------------------------------------------------------------- answers


def test_the_answer_is_that_of_predict_bit_for_bit(client: httpx.Client, trained: Run, pictures: Path) -> None:
    predictor = eyespot.load(trained.path)
    for path in sorted(pictures.rglob("*.png"))[::7]:
        expected = {**predictor.predict([path], top_k=2)[0].as_dict(), "source": "picture 1"}
        found = client.post("/v1/predict?top_k=2", content=path.read_bytes(), headers={"content-type": "image/png"})
        assert found.status_code == 200
        assert found.json() == {"predictions": [expected]}


@pytest.mark.parametrize("kind", ["image/jpg", "image/x-png", "IMAGE/*", "", "application/octet-stream"])
def test_the_bytes_say_what_a_picture_is(client: httpx.Client, kind: str) -> None:
    assert client.post("/v1/predict", content=png(1), headers={"content-type": kind}).status_code == 200


def test_several_files_of_which_one_is_bad(client: httpx.Client) -> None:
    files = [
        ("file", ("a/b\\cat.png", png(1), "image/png")),
        ("other", ("bad.png", b"no picture", "image/png")),
        ("file", ("", png(2), "image/png")),
    ]
    found = client.post("/v1/predict", files=files[:2])
    assert [row["source"] for row in found.json()["predictions"]] == ["cat.png", "bad.png"]
    assert [row["error"] for row in found.json()["predictions"]] == [None, "is a text file, not a picture"]
    assert client.post("/v1/predict", files=[files[1]]).status_code == 422


def test_many_at_once_get_their_own_answers(running: Running, client: httpx.Client) -> None:
    pictures = [png(seed) for seed in range(40)]
    alone = [client.post("/v1/predict", content=data, headers=RAW).json()["predictions"][0] for data in pictures]
    found: dict[int, Any] = {}

    def ask(start: int) -> None:
        with httpx.Client(base_url=running.url, timeout=20) as own:
            for number in range(start, 40, 8):
                answer = own.post("/v1/predict", content=pictures[number], headers=RAW)
                found[number] = answer.json()["predictions"][0]

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, expected in enumerate(alone):
        assert found[number]["label"] == expected["label"]
        assert found[number]["prob"] == pytest.approx(expected["prob"], abs=1e-5)


def test_the_other_addresses(client: httpx.Client, trained: Run) -> None:
    model = client.get("/v1/model").json()
    assert model["class_names"] == ["cat", "dog", "eel"]
    assert model["limits"] == {"body_bytes": 300_000, "pictures": 4, "explained_pictures": 2}
    assert model["engine"].startswith("torch, ")
    assert client.get("/healthz").text == client.get("/readyz").text == "ok\n"
    assert "eyespot_batch_pictures_bucket" in client.get("/metrics").text
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/v1/predict", "/v1/model", "/healthz", "/readyz", "/metrics"}
    answers = schema["paths"]["/v1/predict"]["post"]["responses"]["200"]["content"]["application/json"]
    (shown,) = answers["example"]["predictions"]
    described = answers["schema"]["properties"]["predictions"]["items"]
    assert set(described["required"]) <= set(shown) <= set(described["properties"])
    body = schema["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert body["additionalProperties"] is False, "a form with another field is refused"
    page = client.get("/")
    assert "What is in this picture?" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in page.headers
    for part in ("/app.js", "/style.css"):
        assert client.get(part).status_code == 200
        assert not re.search(r"https?://", client.get(part).text), "the page asks nobody else"


@pytest.mark.skipif(shutil.which("node") is None, reason="the page's script runs where there is node")
def test_the_page_writes_shares_as_every_other_place_does() -> None:
    script = (files("eyespot.deployment") / "page" / "app.js").read_text(encoding="utf-8")
    (function,) = re.findall(r"^function hundredths.*?^}", script, re.M | re.S)
    shares = [0.0, 1e-12, 4e-8, 0.0004, 0.01, 0.1234, 0.9412, 0.9997, 0.99998, 0.99999996, 1 - 1e-12, 1.0]
    command = ["node", "-e", f"{function}\nconsole.log({shares}.map(hundredths).join())"]
    written = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    assert written.strip().split(",") == [words.percent(share).removesuffix(" %") for share in shares]


# ----------------------------------------------------------------------------------------------------- hostile requests


def form(*parts: bytes, boundary: bytes = b"x", end: bytes = b"--x--\r\n") -> bytes:
    return b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + end


def file_part(data: bytes = b"d", name: bytes = b"a.png", more: bytes = b"") -> bytes:
    return b'Content-Disposition: form-data; name="file"; filename="' + name + b'"' + more + b"\r\n\r\n" + data


def post(body: bytes, kind: str = "application/octet-stream", path: str = "/v1/predict", **headers: str) -> bytes:
    head = {"host": "localhost", "content-type": kind, "content-length": str(len(body)), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in head.items())
    return f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


FORM = "multipart/form-data; boundary=x"
GET = "GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n"
HOSTILE: dict[str, tuple[bytes, int]] = {
    "empty body": (post(b""), 422),
    "text": (post(b"hello"), 422),
    "json": (post(b'{"a": 1}', "application/json"), 415),
    "deep json": (post(b"[" * 100_000, "application/json"), 415),
    "html": (post(b"<html>", "text/html"), 415),
    "svg": (post(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), 422),
    "url as body": (post(b"http://127.0.0.1/x.png"), 422),
    "path as body": (post(b"/etc/passwd"), 422),
    "file url": (post(b"file:///etc/passwd", "image/png"), 422),
    "urlencoded form": (post(b"url=http://a", "application/x-www-form-urlencoded"), 415),
    "odd type": (post(b"x", "a" * 5000), 415),
    "type with controls": (post(b"x", "image/\x01png"), 400),
    "form without boundary": (post(b"x", "multipart/form-data"), 400),
    "form with a long boundary": (post(b"x", "multipart/form-data; boundary=" + "y" * 200), 400),
    "form of nothing": (post(b"", FORM), 400),
    "form of noise": (post(bytes(range(256)) * 9, FORM), 400),
    "form without end": (post(form(file_part(), end=b""), FORM), 400),
    "form with only an end": (post(b"--x--\r\n", FORM), 422),
    "form with a field": (post(form(b'Content-Disposition: form-data; name="top_k"\r\n\r\n3'), FORM), 422),
    "form without disposition": (post(form(b"A: b\r\n\r\nx"), FORM), 422),
    "form with a huge part header": (post(form(file_part(more=b"\r\nA: " + b"b" * 9000)), FORM), 400),
    "form with many part headers": (post(form(file_part(more=b"\r\nA: b" * 2000)), FORM), 400),
    "form with five files": (post(form(*[file_part()] * 5), FORM), 413),
    "form with a traversing name": (post(form(file_part(name=b"../../etc/passwd")), FORM), 422),
    "form with a null in the name": (post(form(file_part(name=b"a\0b")), FORM), 422),
    "form with a broken name": (post(form(file_part(name=b"\xff\xfe")), FORM), 422),
    "nested form": (
        post(form(b"Content-Type: multipart/mixed; boundary=y\r\n\r\n" + form(b"z", boundary=b"y")), FORM),
        422,
    ),
    "too large": (post(bytes(300_001)), 413),
    "announced too large": (
        b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n",
        413,
    ),
    "length beyond all bounds": (
        b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1" + b"0" * 40 + b"\r\n\r\n",
        400,
    ),
    "negative length": (b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n", 400),
    "two lengths": (
        b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        400,
    ),
    "length and chunks": (
        b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\n"
        b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "bad chunk": (b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 400),
    "slow body": (b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\nabc", 408),
    "slow chunks": (
        b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
        408,
    ),
    "slow headers": (b"POST /v1/predict HTTP/1.1\r\nhost: loc", 408),
    "nothing at all": (b"", 408),
    "endless headers": (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 300_000, 431),
    "long headers in one piece": (b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * 9000 + b"\r\n\r\n", 431),
    "endless first line": (b"GET /" + b"a" * 300_000, 431),
    "another host": (b"GET / HTTP/1.1\r\nhost: evil.example\r\n\r\n", 421),
    "no host": (b"GET / HTTP/1.0\r\n\r\n", 421),
    "no host in HTTP/1.1": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET / HTTP/1.1\r\nhost: evil.example\r\nhost: localhost\r\n\r\n", 400),
    "host that begins well": (b"GET / HTTP/1.1\r\nhost: localhost.evil.example\r\n\r\n", 421),
    "another site's page": (post(b"x", origin="http://evil.example"), 403),
    "null origin": (post(b"x", origin="null"), 403),
    "origin that ends in a bracket": (post(b"x", origin="http://["), 403),
    "origin of no address": (post(b"x", origin="http://[x]"), 403),
    "origin with half a bracket": (post(b"x", origin="http://a]b"), 403),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "unknown method": (b"HACK / HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
    "wrong method": (GET.format("/v1/predict").encode(), 405),
    "delete": (b"DELETE /v1/model HTTP/1.1\r\nhost: localhost\r\n\r\n", 405),
    "unknown path": (GET.format("/v1/models").encode(), 404),
    "traversal": (GET.format("/../../etc/passwd").encode(), 404),
    "encoded traversal": (GET.format("/%2e%2e/%2e%2e/etc/passwd").encode(), 404),
    "a source file": (GET.format("/server.py").encode(), 404),
    "null in the path": (GET.format("/%00").encode(), 404),
    "raw bytes in the path": (b"GET /\xff\xfe HTTP/1.1\r\nhost: localhost\r\n\r\n", 400),
    "absolute address": (b"GET http://127.0.0.1:1/x HTTP/1.1\r\nhost: localhost\r\n\r\n", 404),
    "absolute address beside another host": (b"GET http://[::1]:1/x HTTP/1.1\r\nhost: evil.example\r\n\r\n", 404),
    "absolute address elsewhere": (b"GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\n\r\n", 421),
    "absolute address with a user": (b"GET http://localhost:1@evil.example/ HTTP/1.1\r\nhost: localhost\r\n\r\n", 421),
    "no address": (b"OPTIONS * HTTP/1.1\r\nhost: localhost\r\n\r\n", 404),
    "top_k 0": (post(png(), path="/v1/predict?top_k=0"), 422),
    "top_k text": (post(png(), path="/v1/predict?top_k=many"), 422),
    "top_k huge": (post(png(), path="/v1/predict?top_k=" + "9" * 400), 422),
    "explain nothing": (post(b"", path="/v1/predict?explain=true"), 422),
    "explain no picture": (post(b"x", path="/v1/predict?explain=true"), 422),
    "explain too many": (post(form(*[file_part(png())] * 3), FORM, path="/v1/predict?explain=true"), 413),
    "explain text": (post(png(), path="/v1/predict?explain=%ff"), 422),
    "upgrade": (
        b"GET /v1/predict HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        405,
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_every_hostile_request_has_its_status_and_does_not_hang(running: Running, name: str) -> None:
    request, status = HOSTILE[name]
    started = time.monotonic()
    answer = running.raw(request)
    assert time.monotonic() - started < 5
    assert answer.startswith(b"HTTP/1.1 "), answer
    assert int(answer.split()[1]) == status, answer
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"problem+json" in head
    document = json.loads(body)
    assert document["status"] == status
    assert document["what"]
    assert document["remedy"]


def test_the_server_is_well_after_all_that(client: httpx.Client) -> None:
    assert client.get("/readyz").status_code == 200
    assert client.post("/v1/predict", content=png(), headers=RAW).status_code == 200
    assert "eyespot_waiting_pictures 0.0" in client.get("/metrics").text
    assert "eyespot_waiting_bytes 0.0" in client.get("/metrics").text


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("split", [0, 40, -10])
def test_a_request_that_offers_another_protocol_keeps_its_body(running: Running, chunked: bool, split: int) -> None:
    picture = png()
    length, body = b"content-length: %d" % len(picture), picture
    if chunked:
        length, body = b"transfer-encoding: chunked", b"%x\r\n%s\r\n0\r\n\r\n" % (len(picture), picture)
    head = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
    request = head + length + b"\r\n\r\n" + body
    last = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        connection.sendall(request[:split])
        time.sleep(0.05)
        connection.sendall(request[split:] + request + last)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"] * 3
    assert answer.count(b'"error": null') == 2


def test_thousands_of_such_offers_in_one_piece_are_read_one_after_the_other(running: Running) -> None:
    offer = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: x\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        connection.sendall((offer + b"\r\n") * 2000 + offer + b"connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b"HTTP/1.1 200") == 2001


def test_whoever_asks_without_a_pause_is_not_too_slow(running: Running) -> None:
    request = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        connection.sendall(request[:9])
        for _ in range(
            6
        ):  # each piece ends in the middle of the next request; together they take longer than a head may
            time.sleep(0.15)
            connection.sendall(request[9:] + request[:9])
        connection.sendall(request[9:-2] + b"connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", answer) == [b"200"] * 7


@pytest.mark.parametrize("end", [b"garbage\r\n\r\n", b""])
def test_a_pipeline_that_breaks_off_is_no_defect(
    running: Running, end: bytes, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
            connection.sendall(post(png()) * 3 + end)
    time.sleep(0.3)
    assert "defect" not in capsys.readouterr().err
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_the_refusal_of_a_method_says_the_address_and_the_method_that_it_takes(client: httpx.Client) -> None:
    refused = client.get("/v1/predict").json()
    assert refused["detail"] == "Method Not Allowed in /v1/predict: use POST"
    assert client.get("/v2").json()["detail"] == "Not Found in /v2: see /openapi.json"


@pytest.mark.parametrize(("path", "status"), [("/healthz", 200), ("/", 200), ("/v1/predict", 405), ("/no", 404)])
def test_head_is_get_without_its_body(client: httpx.Client, path: str, status: int) -> None:
    found = client.head(path)
    assert (found.status_code, found.content) == (status, b"")
    assert found.headers["content-length"] == client.get(path).headers["content-length"]


# ------------------------------------------------------------------------------------------------ tokens, hosts, limits


def test_a_token_is_asked_for(trained: Run) -> None:
    server = Running(open_engine(trained.path, engine="torch"), door=Door(token=TOKEN, log=False))
    try:
        with httpx.Client(base_url=server.url) as client:
            for path in ("/v1/model", "/metrics"):
                for wrong in (
                    {},
                    {"authorization": "Bearer nonsense"},
                    {"authorization": TOKEN},
                    {"authorization": "Bearer é"},
                ):
                    refused = client.get(path, headers={k: v.encode("utf-8") for k, v in wrong.items()})
                    assert refused.status_code == 401
                    assert refused.headers["www-authenticate"] == "Bearer"
                assert client.get(path, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
            described = client.get("/openapi.json").json()
            (scheme,) = described["components"]["securitySchemes"].items()
            assert scheme[1] == {"type": "http", "scheme": "bearer"}
            for path, methods in described["paths"].items():
                (operation,) = methods.values()
                assert operation.get("security") == ([{scheme[0]: []}] if "401" in operation["responses"] else None), (
                    path
                )
            assert client.get("/").status_code == client.get("/healthz").status_code == 200
    finally:
        server.close()


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("Localhost:80", "localhost"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]:8000", "::1"),
        ("", ""),
        ("a:", "a"),
        ("a:1@b", "a:1@b"),
    ],
)
def test_the_name_in_a_host_header(header: str, name: str) -> None:
    assert host_name(header) == name


class Slow:
    """An engine that takes its time."""

    can_explain = True

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def decode(self, data: bytes) -> Any:
        return np.zeros((2, 2, 3), np.uint8)

    def predict(self, batch: Any, *, top_k: int) -> Any:
        from eyespot.evaluation.predictor import ClassScore, Prediction

        time.sleep(self.seconds)
        return [Prediction("x", (ClassScore("cat", 1.0),))] * len(batch)

    def explain(self, data: bytes, label: str) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {}

    def describe(self) -> dict[str, Any]:
        return {}


class Held(Slow):
    """Answers nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__(0.0)
        self.go = threading.Event()

    def predict(self, batch: Any, *, top_k: int) -> Any:
        self.go.wait(30)
        return super().predict(batch, top_k=top_k)


def test_a_full_queue_is_said_at_once_and_what_was_accepted_is_answered_after_a_stop() -> None:
    limits = Limits(waiting_pictures=4, batch_pictures=1)
    held = Held()
    server = Running(held, limits)
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(httpx.post(f"{server.url}/v1/predict", content=b"x", headers=RAW, timeout=10).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while server.app._is_full() is False:
        time.sleep(0.005)
    refused = httpx.post(f"{server.url}/v1/predict", content=b"x", headers=RAW)
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    threading.Timer(0.3, held.go.set).start()
    server.close()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 4


def test_the_rest_of_a_refused_body_is_not_taken_for_a_request() -> None:
    """Refused before its body was read: the body, longer than headers may be, still comes."""
    server = Running(Slow(0.3), Limits(waiting_pictures=1))
    head = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n"
    thread = threading.Thread(target=server.raw, args=(post(b"x"),))
    try:
        thread.start()
        while server.app._is_full() is False:
            time.sleep(0.005)
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(head % 100_001)
            assert connection.recv(65536).startswith(b"HTTP/1.1 503 ")  # not one byte of the body was sent
            for _ in range(10):
                connection.sendall(bytes(10_000))
                time.sleep(0.01)
            connection.sendall(b"x" + GET.format("/healthz").encode())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            thread.join()
            connection.sendall(post(b"x") + GET.format("/healthz").encode())  # pipelined: in their order
            answer = b""
            while answer.count(b"HTTP/1.1 200 ") < 2:
                answer += connection.recv(65536)
            assert answer.index(b"predictions") < answer.index(b"ok\n")
        assert 'status="503"} 1.0' in httpx.get(f"{server.url}/metrics").text
    finally:
        server.close()


@pytest.mark.parametrize(("first", "pause"), [(200_000, 60.0), (200_000, 0.05), (1, 60.0)])
def test_a_body_that_came_nearly_whole_at_once_may_neither_pause_nor_drip(first: int, pause: float) -> None:
    limits = Limits(body_seconds=0.3, body_bytes_per_second=1000, whole_body_seconds=0.6)
    sizes = iter([first])

    async def receive() -> dict[str, Any]:
        size = next(sizes, 0)
        if not size:
            await asyncio.sleep(pause)
        return {"type": "http.request", "body": bytes(size or 1), "more_body": True}

    started = time.monotonic()
    with pytest.raises(Problem, match=r"bytes of the body in .* s: send at least 1,000 bytes a second") as caught:
        asyncio.run(read_body(receive, None, limits, lambda count: None))
    assert caught.value.status == 408
    assert time.monotonic() - started < 15


def test_what_never_becomes_a_request_is_counted_once() -> None:
    server = Running(Slow(0), Limits(header_seconds=0.3, connections=2))
    try:
        server.raw(b"\x16\x03\x01 TLS")
        server.raw(GET.format("/healthz").encode()[:20])  # and no more
        server.raw(b"GET /" + b"a" * 40_000)
        server.raw(b"")  # as a browser connects ahead
        half = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n"
        server.raw(half)
        assert until(lambda: not open_connections(server))
        text = httpx.get(f"{server.url}/metrics").text
        for method, path, status in (
            ("other", "other", 400),
            ("other", "other", 408),
            ("other", "other", 431),
            ("POST", "/v1/predict", 400),
        ):
            assert f'eyespot_requests_total{{method="{method}",path="{path}",status="{status}"}} 1.0' in text
        assert "eyespot_request_seconds_count 4.0" in text
    finally:
        server.close()


def test_an_option_that_there_is_not_is_refused() -> None:
    server = Running(Slow(0), Limits())
    try:
        answer = httpx.post(f"{server.url}/v1/predict?topk=3", content=b"x", headers=RAW)
        assert answer.status_code == 422
        assert answer.json()["detail"] == (
            "unknown option 'topk'. Did you mean 'top_k'? in the query: use top_k and explain"
        )
    finally:
        server.close()


def test_what_was_loaded_can_be_collected_again_when_the_server_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nanobind, in torch's compiler, calls all of it leaked in a page of lines behind the last one."""
    import uvicorn

    def run(server: Any, sockets: Any) -> None:
        assert gc.get_freeze_count() > 0
        raise KeyboardInterrupt

    monkeypatch.setattr(uvicorn.Server, "run", run)
    monkeypatch.setattr("eyespot.deployment.server.open_engine", lambda *_, **__: Slow(0))
    monkeypatch.setattr("eyespot.deployment.server._quiet_libraries", lambda: None)
    monkeypatch.setattr(Slow, "describe", lambda self: {"engine": "none"})
    switch = sys.getswitchinterval()
    try:
        with pytest.raises(KeyboardInterrupt):
            eyespot.serve("anything", port=0)
    finally:
        sys.setswitchinterval(switch)
    assert gc.get_freeze_count() == 0


def test_a_signal_stops_the_export_before_the_first_answer(monkeypatch: pytest.MonkeyPatch, trained: Run) -> None:
    """In another thread it would go on for a minute, and the end of the process would wait for it."""

    def export(*_: Any, **__: Any) -> None:
        assert threading.current_thread() is threading.main_thread()
        raise KeyboardInterrupt

    monkeypatch.setattr("eyespot.deployment.engine.export_onnx", export)
    monkeypatch.setattr("eyespot.deployment.engine._CACHE_VERSION", 0)  # nothing is in the cache
    switch = sys.getswitchinterval()
    try:
        with pytest.raises(KeyboardInterrupt):
            eyespot.serve(trained.path, port=0, device="cpu", engine="onnx")
    finally:
        sys.setswitchinterval(switch)


class Wordy(Slow):
    """An engine that has more to say of itself than sockets hold."""

    def describe(self) -> dict[str, Any]:
        return {"text": "x" * 30_000_000}


def open_connections(server: Running) -> list[Any]:
    return list(server.server.server_state.connections)


def until(true: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.02)
    return true()


def test_a_client_that_never_takes_its_answer_is_cut_off() -> None:
    server = Running(Wordy(0), Limits(leave_seconds=0.5))
    try:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(GET.format("/v1/model").encode())
            assert until(lambda: len(open_connections(server)) == 1)
            assert until(lambda: not open_connections(server)), "it is still there"
        with httpx.Client(base_url=server.url) as client:
            assert len(client.get("/v1/model").content) > 30_000_000  # one that reads gets all of it
    finally:
        server.close()


def test_a_client_that_never_takes_its_answer_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_LEAVE_AT_STOP_SECONDS", 0.3)
    server = Running(Wordy(0), Limits())
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(GET.format("/v1/model").encode())
        assert until(lambda: any(one._cut_timer for one in open_connections(server)))
        started = time.monotonic()
        server.close()
        assert time.monotonic() - started < 10
        assert not server.thread.is_alive()


def test_refusals_that_nobody_takes_do_not_fill_the_memory() -> None:
    server = Running(Slow(0), Limits())
    server.app._is_full = lambda: True
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=0.5) as connection:
            assert until(lambda: len(open_connections(server)) == 1)
            (one,) = open_connections(server)
            requests, sent = post(b"") * 1000, 0

            def send_on() -> bool:
                """Return whether the server takes nothing more: a busy machine may keep it from taking for a while."""
                nonlocal sent
                try:
                    sent += connection.send(requests[sent % len(requests) :])
                except TimeoutError:
                    return one._cut_timer is not None
                return False

            assert until(send_on, 60)
            assert one._cut_timer is not None
            assert one.transport.get_write_buffer_size() < 1_000_000
    finally:
        server.close()


def test_a_client_that_sends_all_before_it_reads_gets_its_refusal() -> None:
    server = Running(Slow(0), Limits())
    body = bytes(40 * 1024**2)
    try:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("POST", "/v1/predict", body, RAW)
        answer = connection.getresponse()
        assert answer.status == 413
        assert json.loads(answer.read())["what"] == "a body of more than 32 MB"
        connection.close()
        with pytest.raises(urllib.error.HTTPError, match="413"):  # it asks for the end of the connection
            urllib.request.urlopen(urllib.request.Request(f"{server.url}/v1/predict", body, RAW), timeout=30)
        pieces = (bytes(1024**2) for _ in range(40))  # chunks: nothing is announced
        connection.request("POST", "/v1/predict", pieces, RAW, encode_chunked=True)
        assert connection.getresponse().status == 413
        connection.close()
        assert until(lambda: not open_connections(server))
    finally:
        server.close()


def test_a_refused_body_without_an_end_is_not_read_for_ever() -> None:
    server = Running(Slow(0), Limits(unread_bytes=1_000_000, leave_seconds=0.5))
    endless = b"POST /v1/predict HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999999999\r\n\r\n"
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(endless)
            assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
            with pytest.raises(ConnectionError):
                connection.sendall(bytes(50_000_000))
        with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
            connection.sendall(endless)
            while connection.recv(65536):  # it ends on its own, though nothing more comes
                pass
    finally:
        server.close()


def test_line_breaks_for_ever_are_no_request(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), timeout=5) as connection:
        connection.sendall(GET.format("/healthz").encode())
        connection.recv(65536)
        connection.sendall(b"\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 408 ")


def test_heat_maps_have_a_short_queue_of_their_own() -> None:
    server = Running(Slow(0.3), Limits(waiting_explanations=1, explained_pictures=1))
    explained = f"{server.url}/v1/predict?explain=true"
    statuses: list[int] = []
    thread = threading.Thread(
        target=lambda: statuses.append(httpx.post(explained, content=b"x", headers=RAW, timeout=10).status_code)
    )
    try:
        thread.start()
        time.sleep(0.1)
        refused = httpx.post(explained, content=b"x", headers=RAW)
        assert refused.status_code == 503
        assert refused.json()["what"] == "the queue for heat maps is full"
        assert httpx.post(f"{server.url}/v1/predict", content=b"x", headers=RAW).status_code == 200
        thread.join()
        assert statuses == [200]
    finally:
        server.close()
    server = Running(Slow(0.3), Limits(answer_seconds=0.4))
    try:
        late = httpx.post(f"{server.url}/v1/predict?explain=true", files=[("file", ("a", b"x"))] * 3)
        assert late.status_code == 503
        assert late.json()["what"] == "no heat map within 0.4 s"
    finally:
        server.close()


def test_an_answer_that_takes_too_long_and_a_defect_of_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    server = Running(Slow(0.5), Limits(answer_seconds=0.1))
    try:
        assert httpx.post(f"{server.url}/v1/predict", content=b"x", headers=RAW).status_code == 503
    finally:
        server.close()
    server = Running(Slow(-1), Limits())
    try:
        found = httpx.post(f"{server.url}/v1/predict", content=b"x", headers=RAW)
        assert found.status_code == 500
        assert found.headers["content-type"] == "application/problem+json"
        assert found.json()["detail"] == "the server failed: look into its log"
        assert "sleep" not in found.text
        assert "sleep length must be non-negative" in capsys.readouterr().err
        assert httpx.get(f"{server.url}/readyz").status_code == 200
    finally:
        server.close()


# ----------------------------------------------------------------------------------------------------- the command line


def test_a_token_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EYESPOT_TOKEN", raising=False)
    assert read_token(None) == ""
    monkeypatch.setenv("EYESPOT_TOKEN", f" {TOKEN}\n")
    assert read_token(None) == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert read_token(tmp_path / "token") == TOKEN
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UsageError, match=r"no token in .*empty: write the token into it"):
        read_token(tmp_path / "empty")
    with pytest.raises(UsageError, match=r"cannot read the token \(No such file or directory\)"):
        read_token(tmp_path / "none")
    with pytest.raises(UsageError, match="a token of 3 characters: use 16 or more"):
        eyespot.serve(tmp_path, token="abc")


def test_a_token_that_no_client_can_send_is_refused_and_a_byte_order_mark_is_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "marked").write_bytes(b"\xef\xbb\xbf" + TOKEN.encode() + b"\r\n")
    assert read_token(tmp_path / "marked") == TOKEN
    for token in (f"{TOKEN}\n{TOKEN}", f"{TOKEN}\tx", "schlüssel mit umlaut", f"\ufeff{TOKEN}"):
        with pytest.raises(UsageError, match=r"no client can send it: use 16 or more random letters") as caught:
            eyespot.serve(tmp_path, token=token)
        assert token not in str(caught.value)


def test_a_port_in_use_is_one_clear_line(trained: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServerError, match=f"the port is in use in 127.0.0.1:{port}: use another one, for example"):
            eyespot.serve(trained.path, port=port)
    with pytest.raises(ServerError, match="cannot listen"):
        eyespot.serve(trained.path, host="nowhere.invalid")
    for host in ("my..host", "a" * 64):
        with pytest.raises(ServerError, match=rf"cannot listen \(no host name\) in {host}:8000: use another --host"):
            eyespot.serve(trained.path, host=host)
    for port in (-1, 65536, 70000):
        with pytest.raises(UsageError, match=f"port is {port}: use 1 to 65535, or 0 for a free one"):
            eyespot.serve(trained.path, port=port)


def test_a_log_that_cannot_be_written_changes_no_answer(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(running.app, "_door", Door())
    monkeypatch.setattr(running.app, "_is_full", lambda: True)
    for stderr in (closed, Full()):
        monkeypatch.setattr(sys, "stderr", stderr)
        monkeypatch.setattr(running.app, "_told", 0.0)
        assert running.raw(post(png())).startswith(b"HTTP/1.1 503 ")
        assert running.raw(GET.format("/healthz").encode()).startswith(b"HTTP/1.1 200 ")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_the_command_serves_tells_where_and_ends_on_a_signal(trained: Run) -> None:
    call = [sys.executable, "-m", "eyespot", "serve", str(trained.path), "--port", "0", "--engine", "torch"]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        assert line["event"] == "listening"
        deadline = time.monotonic() + 20
        while True:
            try:
                found = httpx.post(f"{line['url']}v1/predict", content=png(), headers=RAW)
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
        assert found.status_code == 200
        noise = {"content-type": "multipart/form-data; boundary=x"}
        assert httpx.post(f"{line['url']}v1/predict", content=bytes(99), headers=noise).status_code == 400
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 143
    logged = [json.loads(line) for line in rest.splitlines()[:2]]  # nothing between, whatever clients send
    told = [(line["method"], line["path"], line["status"]) for line in logged]
    assert told == [("POST", "/v1/predict", 200), ("POST", "/v1/predict", 400)]
    assert "Traceback" not in rest
