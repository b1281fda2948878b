"""`eyespot serve`: a model behind HTTP, with a page for people.

Before this: an engine that answers pictures. After this: `POST /v1/predict`, `GET /v1/model`, `/healthz`, `/readyz`,
`/metrics`, `/openapi.json` and the page at `/`.

The way of a request: `connections` (slow, too many) -> `guard` (host, origin, token, full queue) -> here -> `bodies`
(size, time, form) -> `batching` (decode, gather, compute) -> JSON.
"""

from __future__ import annotations

import errno
import gc
import json
import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, nullcontext
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from eyespot import __version__
from eyespot.config import as_list
from eyespot.deployment.batching import Batcher, stand_back
from eyespot.deployment.bodies import FORM_TYPE, RAW_TYPES, HeldBytes, Upload, parse_body, read_body
from eyespot.deployment.engine import Engine, open_engine
from eyespot.deployment.explanations import Explanations
from eyespot.deployment.guard import LOCKED, LOOPBACK_NAMES, PREDICT, Door, Guard, write_log
from eyespot.deployment.limits import Limits
from eyespot.deployment.metrics import Metrics
from eyespot.deployment.problems import Problem, busy
from eyespot.errors import (
    BadImageError,
    CostlyImageError,
    MemoryLimitError,
    ServerError,
    UsageError,
    did_you_mean,
    require_extra,
    whole_number,
)
from eyespot.evaluation.predictor import Prediction

if TYPE_CHECKING:
    from fastapi import FastAPI, Request

TOKEN_VARIABLE = "EYESPOT_TOKEN"
_PAGE = {
    "/": ("index.html", "text/html"),
    "/app.js": ("app.js", "text/javascript"),
    "/style.css": ("style.css", "text/css"),
}
_MIN_TOKEN = 16
_OPTIONS = ("top_k", "explain")  # of a prediction
# The event loop asks for the interpreter after every socket call, and by default waits 5 ms for it behind a decoding
# thread. Median lag of the loop under overload, on a busy machine: 2.3 ms instead of 4.0 to 4.5 (n = 2 each).
_SWITCH_SECONDS = 0.0005


def serve(
    model: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str = "",
    allow_hosts: Sequence[str] = (),
    device: str = "auto",
    engine: str = "auto",
    limits: Limits | None = None,
    log: bool = True,
) -> None:
    """Answer pictures over HTTP until a signal asks for a stop; what was accepted by then is still answered.

    Args:
        model: Run folder, bundle, the name of a model that comes with eyespot, or a file of `eyespot export` (ONNX).
        host: Address to listen on; the default is reachable from this machine alone.
        port: 0 takes a free one, which is told.
        token: What clients must bring as a bearer token; empty asks for none.
        allow_hosts: Further names that the Host header may have, such as that of a proxy's site.
        device: Where to compute.
        engine: `onnx`; `torch`, the very code of `eyespot predict`; or `auto`: ONNX Runtime on a processor where the
            model can be exported, else torch.
        limits: What a client may cost.
        log: Write a line of JSON on stderr for each request.

    Raises:
        ServerError: The address cannot be listened on.
        UsageError: A token that is short or that no client can send, a port that does not exist, an unknown device or
            engine, or an engine that does not run there.
        RunError: There is no model.
        CheckpointError: The bundle is damaged.
        ModelError: The file is damaged or not one of `eyespot export`.
        MissingExtraError: The extra `serve` is not installed.
    """
    require_extra("serve", "uvicorn", "httptools")
    import uvicorn

    from eyespot.deployment.connections import BoundedProtocol, Bounds

    token = token.strip()
    _check_token(token)
    if whole_number("port", port, remedy=(remedy := "use 1 to 65535, or 0 for a free one")) > 65535:
        raise UsageError(f"port is {port}", remedy=remedy)
    limits = limits or Limits()
    sys.setswitchinterval(_SWITCH_SECONDS)
    with _listen(host, port) as listener:  # before the model is read: a port in use is said at once
        with ThreadPoolExecutor(1, initializer=stand_back) as opener:  # the engine's own threads inherit its priority
            opened = open_engine(
                model, device=device, engine=engine, say=lambda text: write_log("note", message=text), opener=opener
            )
        local = host in LOOPBACK_NAMES
        hosts = (*LOOPBACK_NAMES, *map(str.lower, as_list(allow_hosts))) if local or allow_hosts else ()
        app = build_app(opened, limits=limits, door=Door((*hosts, host.lower()) if hosts else (), token, log))
        address = listener.getsockname()
        name = f"[{host}]" if ":" in host else host
        opened.predict([], top_k=1)
        about = opened.describe()
        write_log("listening", url=f"http://{name}:{address[1]}/", model=str(model), engine=about["engine"])
        if not local and not token:
            write_log("warning", message="everybody who can reach this address can use it: set a token")
        _quiet_libraries()
        config = uvicorn.Config(
            app,
            http=cast(Any, partial(BoundedProtocol, bounds=Bounds(limits, app.refuse, app.note))),
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=int(limits.answer_seconds) + 5,
        )
        # A collection that walks through all that torch brought stops every thread for 0.2 s, many times under load.
        gc.collect()
        gc.freeze()
        try:
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            gc.unfreeze()  # what the last collection cannot reach, nanobind calls leaked, in a page of lines


def read_token(path: Path | None) -> str:
    """Return the token of a file, or of the environment; never of the command line, which everybody can see.

    Args:
        path: The file; None reads the variable EYESPOT_TOKEN.

    Raises:
        UsageError: The file cannot be read or is empty.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        token = path.read_text(encoding="utf-8-sig").strip()  # Notepad puts a byte order mark before it
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(f"cannot read the token ({reason})", where=path, remedy="write the token into it") from error
    if not token:
        raise UsageError("no token", where=path, remedy="write the token into it")
    return token


def _check_token(token: str) -> None:
    """Refuse a token that is easily guessed, or that the header Authorization cannot carry."""
    if not (token.isascii() and token.isprintable()):
        raise UsageError(
            "a token with a line break, or a character that is not printable ASCII: no client can send it",
            remedy=f"use {_MIN_TOKEN} or more random letters and digits on one line",
        )
    if token and len(token) < _MIN_TOKEN:
        raise UsageError(f"a token of {len(token)} characters", remedy=f"use {_MIN_TOKEN} or more random ones")


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except ValueError as error:  # an empty part, or one of more than 63 characters
        where = f"{host}:{port}"
        raise ServerError("cannot listen (no host name)", where=where, remedy="use another --host") from error
    except (OSError, OverflowError) as error:
        raise ServerError(
            f"cannot listen ({error})", where=f"{host}:{port}", remedy="use another --host or --port"
        ) from error
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        used = getattr(error, "errno", None) == errno.EADDRINUSE
        what = "the port is in use" if used else f"cannot listen ({getattr(error, 'strerror', None) or error})"
        remedy = (
            f"use another one, for example --port {port + 1 if port < 65535 else 0}"
            if used
            else "use another --host or --port"
        )
        raise ServerError(what, where=f"{host}:{port}", remedy=remedy) from error
    return listener


class _JsonHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        write_log("server", level=record.levelname.lower(), message=record.getMessage()[:500])


def _quiet_libraries() -> None:
    """Have what libraries say as JSON like everything else: errors only, since any client can cause warnings."""
    for name in ("uvicorn.error", "python_multipart", "asyncio"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [_JsonHandler()], False
        logger.setLevel(logging.ERROR)


# --------------------------------------------------------------------------------------------------- the application


def build_app(engine: Engine, *, limits: Limits | None = None, door: Door | None = None) -> Guard:
    """Return the ASGI application.

    Args:
        engine: Decodes and computes.
        limits: What a client may cost.
        door: Who may come in.

    Raises:
        MissingExtraError: The extra `serve` is not installed.
    """
    require_extra("serve", "python_multipart", "fastapi")
    from fastapi import FastAPI

    limits, door = limits or Limits(), door or Door()
    metrics = Metrics()
    batcher, held = Batcher(engine, limits, metrics), HeldBytes(limits.waiting_bytes)
    explanations = Explanations(engine, limits)
    metrics.watch(lambda: batcher.waiting, lambda: held.count)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        batcher.start()
        yield
        batcher.stop()
        explanations.stop()

    app = FastAPI(
        title="eyespot",
        version=__version__,
        summary="Says what is in pictures.",
        docs_url=None,  # FastAPI's page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    described = {"version": __version__, "limits": _told(limits), **engine.describe()}
    _add_predict(app, batcher, explanations, held, limits, metrics)
    _add_others(app, batcher, metrics, described)
    _add_problems(app)
    _complete_description(app, with_token=bool(door.token))
    return Guard(app, door, metrics, lambda: batcher.is_full)


def _complete_description(app: FastAPI, *, with_token: bool) -> None:
    """Put into the interface's description what FastAPI does not: the token, and what is null in the example."""
    described = app.openapi()
    answers = described["paths"][PREDICT]["post"]["responses"]["200"]["content"]["application/json"]
    answers["example"] = {"predictions": [_ANSWER]}  # FastAPI drops its `error`, which an answer must have
    if with_token:
        described["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        for path, methods in described["paths"].items():
            if path.startswith(LOCKED):
                for operation in methods.values():
                    operation["security"] = [{"token": []}]


def _told(limits: Limits) -> dict[str, int]:
    return {
        "body_bytes": limits.body_bytes,
        "pictures": limits.pictures,
        "explained_pictures": limits.explained_pictures,
    }


def _add_predict(
    app: FastAPI, batcher: Batcher, explanations: Explanations, held: HeldBytes, limits: Limits, metrics: Metrics
) -> None:
    from fastapi import Query, Request, Response

    async def predict(
        request: Request,
        top_k: int = 5,
        explain: bool = False,
    ) -> Response:
        """Say what is in one or several pictures."""
        _check_options(request.query_params)
        if explain:
            with explanations.places(1):  # whether there are any is said before a body is read
                pass
        with held.reserve() as take:
            body = await read_body(request.receive, _length(request), limits, take)
            uploads = parse_body(request.headers.get("content-type", ""), body, limits)
            del body
            with explanations.places(len(uploads)) if explain else nullcontext():
                found = await batcher.answer([upload.data for upload in uploads], top_k=top_k)
                rows = [_row(upload, answer, top_k) for upload, answer in zip(uploads, found, strict=True)]
                if explain:
                    good = [(row, upload.data) for row, upload in zip(rows, uploads, strict=True) if not row["error"]]
                    maps = await explanations.answer([(data, row["label"]) for row, data in good])
                    for (row, _), heat in zip(good, maps, strict=True):
                        row["heatmap"] = heat
        for row in rows:
            outcome = "bad" if row["error"] else "unknown" if row.get("unknown") else "answered"
            metrics.pictures.labels(outcome).inc()
        if all(row["error"] for row in rows):
            raise _all_bad(uploads, found)
        return Response(json.dumps({"predictions": rows}), media_type="application/json")

    # The annotations are text, and FastAPI looks for their names in the module, where nothing heavy is imported.
    predict.__annotations__ = {
        "request": Request,
        "top_k": Annotated[int, Query(ge=1, le=1000, description="How many classes an answer lists.")],
        "explain": Annotated[
            bool, Query(description="Ask for a heat map of each picture; 501 where the server makes none.")
        ],
    }
    app.add_api_route(
        PREDICT,
        predict,
        methods=["POST"],
        response_model=None,
        responses=_PREDICT_RESPONSES,
        openapi_extra={"requestBody": _BODY},
    )


def _check_options(given: Iterable[str]) -> None:
    """Refuse an option that there is not: ignored, it would be answered as if nothing had been asked."""
    for name in given:
        if name not in _OPTIONS:
            raise Problem(
                422,
                f"unknown option {name[:80]!r}.{did_you_mean(name[:80], _OPTIONS)}",
                where="the query",
                remedy=f"use {' and '.join(_OPTIONS)}",
            )


def _length(request: Request) -> int | None:
    text = request.headers.get("content-length", "")
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _row(upload: Upload, answer: Prediction | BadImageError, top_k: int) -> dict[str, Any]:
    if isinstance(answer, BadImageError):
        return Prediction(upload.name, (), answer.what).as_dict()
    row = answer.as_dict()
    return {**row, "source": upload.name, "top": row["top"][:top_k]}


def _all_bad(uploads: Sequence[Upload], found: Sequence[Prediction | BadImageError]) -> Problem:
    """Return the refusal of a request in which no picture can be read."""
    first = next(error for error in found if isinstance(error, BadImageError))
    status, remedy = 422, "send a picture as JPEG or PNG"
    if isinstance(first, CostlyImageError):
        status, remedy = 413, "send a smaller or simpler one"
    others = f" (and {len(uploads) - 1} more)" if len(uploads) > 1 else ""
    return Problem(status, f"{uploads[0].name} {first.what}{others}", remedy=remedy)


def _add_others(app: FastAPI, batcher: Batcher, metrics: Metrics, described: dict[str, Any]) -> None:
    from fastapi import Response

    async def model() -> Response:
        """Say which model answers: classes, input, measured accuracy, limits."""
        return Response(json.dumps(described), media_type="application/json")

    async def healthz() -> Response:
        """Say that the process lives."""
        return Response("ok\n", media_type="text/plain")

    async def readyz() -> Response:
        """Say whether pictures are answered."""
        if not batcher.is_alive:
            raise busy("the threads that answer are not running")
        return Response("ok\n", media_type="text/plain")

    async def prometheus() -> Response:
        """Give counters for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    model_response: dict[int | str, Any] = {
        200: {"content": {"application/json": {"example": {"num_classes": 2, "class_names": ["cat", "dog"]}}}}
    }
    text: dict[int | str, Any] = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}
    app.add_api_route(
        "/v1/model",
        model,
        methods=["GET"],
        response_model=None,
        responses=_with_problems(model_response, 401, 403, 421),
    )
    app.add_api_route("/healthz", healthz, methods=["GET"], response_model=None, responses=_with_problems(text, 421))
    app.add_api_route("/readyz", readyz, methods=["GET"], response_model=None, responses=_with_problems(text, 421, 503))
    app.add_api_route(
        "/metrics", prometheus, methods=["GET"], response_model=None, responses=_with_problems(text, 401, 421)
    )
    for path, (file, kind) in _PAGE.items():
        content = resources.files("eyespot.deployment").joinpath("page").joinpath(file).read_bytes()
        app.add_api_route(path, _static(content, kind), methods=["GET"], response_model=None, include_in_schema=False)


def _static(content: bytes, kind: str) -> Any:
    from fastapi import Response

    async def page() -> Response:
        return Response(content, media_type=kind)

    return page


def _add_problems(app: FastAPI) -> None:
    """Have every refusal in the one form."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.responses import Response

    def respond(problem: Problem) -> Response:
        content = json.dumps(problem.as_dict())
        return Response(content, problem.status, problem.headers, "application/problem+json")

    async def refused(request: Any, error: Any) -> Response:
        return respond(error)

    async def invalid(request: Any, error: Any) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return respond(Problem(422, f"{name}: {first['msg']}", where="the query", remedy="see /openapi.json"))

    async def http(request: Any, error: Any) -> Response:
        headers = error.headers or {}
        remedy = f"use {headers['Allow']}" if "Allow" in headers else "see /openapi.json"
        response = respond(Problem(error.status_code, str(error.detail), where=request.url.path[:200], remedy=remedy))
        response.headers.update(headers)
        return response

    async def no_memory(request: Any, error: Any) -> Response:
        return respond(busy("no memory left for this batch"))

    async def failed(request: Any, error: Any) -> Response:  # `Guard` logs it
        return respond(Problem(500, "the server failed", remedy="look into its log"))

    app.add_exception_handler(Exception, failed)
    app.add_exception_handler(Problem, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(MemoryLimitError, no_memory)


# ---------------------------------------------------------------------------------------------------------- OpenAPI

_ANSWER = {
    "source": "cat.jpg",
    "label": "cat",
    "prob": 0.93,
    "top": [{"name": "cat", "prob": 0.93}, {"name": "dog", "prob": 0.07}],
    "unknown": False,
    "unknown_score": -0.7,
    "error": None,
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "what", "where", "remedy"],
    "properties": {
        **{name: {"type": "string"} for name in ("type", "title", "detail", "what", "remedy")},
        "status": {"type": "integer"},
        "where": {"type": ["string", "null"]},
    },
}
_SCORE_SCHEMA = {
    "type": "object",
    "required": ["name", "prob"],
    "properties": {"name": {"type": "string"}, "prob": {"type": "number", "minimum": 0, "maximum": 1}},
}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_CHECKED = ("prob", "covered_share", "prob_covered", "prob_covered_elsewhere")
_HEATMAP_SCHEMA = {
    "type": "object",
    "description": "Where the picture speaks for its label; only with explain.",
    "required": ["image", "label", "method", "check"],
    "properties": {
        "image": {"type": "string", "description": "The map over the picture: a PNG as a data URI."},
        "label": {"type": "string"},
        "method": {"type": "string"},
        "check": {
            "type": ["object", "null"],
            "description": "What covering the hottest places does to the probability, and other places instead.",
            "properties": {**dict.fromkeys(_CHECKED, _SHARE), "passed": {"type": "boolean"}},
        },
    },
}
_PREDICTION_SCHEMA = {
    "type": "object",
    "required": ["source", "label", "prob", "top", "error"],
    "properties": {
        "source": {"type": "string"},
        "label": {"type": ["string", "null"]},
        "prob": {"type": ["number", "null"]},
        "top": {"type": "array", "items": _SCORE_SCHEMA},
        "error": {"type": ["string", "null"]},
        "unknown": {"type": ["boolean", "null"]},
        "unknown_score": {"type": ["number", "null"]},
        "heatmap": _HEATMAP_SCHEMA,
    },
}
_WHY = {
    400: "A broken form, or the client left.",
    401: "No valid token.",
    403: "A request from the page of another site.",
    405: "Another method.",
    408: "A slow body.",
    413: "A body, a picture or a number of pictures over the limits.",
    415: "A body of another type.",
    421: "An unknown Host.",
    422: "No picture that can be read, or a wrong option.",
    501: "The server cannot do this.",
    503: "The queue is full: try again after Retry-After.",
}


def _with_problems(responses: dict[int | str, Any], *statuses: int) -> dict[int | str, Any]:
    content = {"application/problem+json": {"schema": _PROBLEM_SCHEMA}}
    return {**responses, **{status: {"description": _WHY[status], "content": content} for status in statuses}}


_PREDICT_RESPONSES = _with_problems(
    {
        200: {
            "description": "An answer for each picture, in their order; `error` where one of several cannot be read.",
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["predictions"],
                        "properties": {"predictions": {"type": "array", "items": _PREDICTION_SCHEMA}},
                    },
                    "example": {"predictions": [_ANSWER]},
                }
            },
        }
    },
    *_WHY,
)
_FORM_SCHEMA = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {"file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}},
}
_BODY = {
    "required": True,
    "content": {
        FORM_TYPE: {"schema": _FORM_SCHEMA},
        **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in RAW_TYPES},
    },
}
