"""An ONNX file that anybody may have made: looked at before it is run, and run before it is served.

Before this: `export`, or a stranger. After this: `engine` answers with it.

ONNX Runtime parses the file and computes the graph. What is checked here first is what a graph can do beyond computing:
name files elsewhere, go on without end, or ask for more than the machine has.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from eyespot.data.input_spec import InputSpec
from eyespot.deployment.export import SCORE, open_session
from eyespot.errors import DataError, EyespotError, ModelError, RunError, first_line, require_extra
from eyespot.evaluation.bundle_info import check_class_names

_MOST_BYTES = 2**31 - 1  # a protobuf
_MOST_BESIDE_BYTES = 8 * 2**30  # weights in files of their own
_MOST_CLASSES = 100_000
_MOST_SIZE_PX = 2048
_MOST_TEXT = 4 * 2**20  # of the metadata
_ENDLESS = ("Loop", "Scan")  # no file of eyespot has one
_TELLS = ("architecture", "metrics", "provenance")  # JSON in the metadata that is said as it is
_SAYS = ("preparation", "views", "temperature", "licence", "pretrained", "weights_sha256", "eyespot_version")
_REMEDY = "take a file that eyespot export wrote, or serve the run itself"


@dataclass(frozen=True)
class OnnxFile:
    """A file that was opened, looked at and tried.

    Attributes:
        path: Where it lies.
        session: Of ONNX Runtime.
        class_names: K names, in the order of the outputs.
        spec: How pictures become squares before they go in.
        threshold: Unknown scores above it are unknown; None where the file has no such output.
        is_int8: Whether weights are 8-bit.
        told: What the metadata say beside that, JSON values.
    """

    path: Path
    session: Any
    class_names: tuple[str, ...]
    spec: InputSpec
    threshold: float | None
    is_int8: bool
    told: Mapping[str, Any]


def open_onnx(path: Path, *, threads: int = 0) -> OnnxFile:
    """Return a file of `eyespot export`, ready to answer.

    Args:
        path: The file; it is not trusted.
        threads: For one operation; 0 takes every core.

    Raises:
        RunError: There is no such file, or it cannot be read.
        MissingExtraError: onnx or onnxruntime is not installed.
        ModelError: It is damaged, too large, reaches for files elsewhere, or is not a classifier that eyespot exported.
    """
    model = _parsed(path)
    for graph in _graphs(model):
        for node in graph.node:
            if node.op_type in _ENDLESS:
                raise _foreign(path, f"it has a {node.op_type}, which may never end")
    _check_beside(path, model)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if sum(map(len, metadata.values())) > _MOST_TEXT:
        raise _foreign(path, "its metadata are too long")
    names, spec = _names(path, metadata), _spec(path, metadata)
    outputs = [output.name for output in model.graph.output]
    threshold = _threshold(path, metadata) if SCORE in outputs else None
    is_int8 = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    del model
    session = open_session(path, threads=threads)
    told = {key: metadata[key] for key in _SAYS if key in metadata}
    told |= {key: value for key in _TELLS if (value := _json(metadata.get(key))) is not None}
    found = OnnxFile(path, session, names, spec, threshold, is_int8, told)
    _try(found)
    return found


def _parsed(path: Path) -> Any:
    """Return the protobuf of a file; weights beside it are not read."""
    require_extra("serve", "onnx")
    import onnx

    try:
        size = path.stat().st_size
        if size > _MOST_BYTES:
            raise _foreign(path, f"it has {size:,} bytes, at most {_MOST_BYTES:,} are allowed")
        content = path.read_bytes()
    except OSError as error:
        raise RunError(
            f"cannot read the file ({error.strerror})", where=path, remedy="check its name and permissions"
        ) from error
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf has an exception of its own for each of its engines
        raise ModelError("not an ONNX file, or a damaged one", where=path, remedy="export it again") from error
    if not model.graph.node or not model.graph.output:
        raise ModelError("not an ONNX file, or a damaged one", where=path, remedy="export it again")
    return model


def _graphs(model: Any) -> Iterator[Any]:
    """Yield every graph of a model: its own, those of branches, and the functions."""
    waiting = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def _tensors(model: Any) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from [attribute.t] if attribute.HasField("t") else []
                yield from attribute.tensors


def _check_beside(path: Path, model: Any) -> None:
    """Refuse weights that lie anywhere but beside the file, under a plain name."""
    home = path.resolve().parent
    beside: set[Path] = set()
    for tensor in _tensors(model):
        if tensor.data_location != tensor.EXTERNAL and not tensor.external_data:
            continue
        name = next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        target = home / name
        if not name or Path(name).name != name or "\\" in name or target.is_symlink():
            raise _foreign(path, f"its weights are said to lie in {name[:80]!r}, which is not a file beside it")
        if not target.is_file():
            raise ModelError(f"its weights are missing: {name[:80]!r}", where=path, remedy="copy that file beside it")
        beside.add(target)
    size = sum(target.stat().st_size for target in beside)
    if size > _MOST_BESIDE_BYTES:
        raise _foreign(path, f"its weights have {size:,} bytes, at most {_MOST_BESIDE_BYTES:,} are allowed")


def _names(path: Path, metadata: Mapping[str, str]) -> tuple[str, ...]:
    names = _json(metadata.get("class_names"))
    if (
        not isinstance(names, list)
        or not 2 <= len(names) <= _MOST_CLASSES
        or not all(isinstance(n, str) for n in names)
    ):
        raise _foreign(path, "it does not name its classes")
    try:
        check_class_names(names)
    except DataError as error:
        raise _foreign(path, error.what) from error
    return tuple(names)


def _spec(path: Path, metadata: Mapping[str, str]) -> InputSpec:
    values = _json(metadata.get("input_spec"))
    if not isinstance(values, dict):
        raise _foreign(path, "it does not say how pictures are prepared")
    try:
        spec = InputSpec.from_dict(values)
    except DataError as error:
        raise _foreign(path, error.what) from error
    if (largest := max(spec.size_px, spec.input_px)) > _MOST_SIZE_PX:
        raise _foreign(path, f"it takes images of {largest} px, at most {_MOST_SIZE_PX} are allowed")
    return spec


def _threshold(path: Path, metadata: Mapping[str, str]) -> float:
    try:
        value = float(metadata.get("unknown_threshold", "nan"))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _foreign(path, "it scores unknown pictures and has no threshold for them")
    return value


def _no_number(text: str) -> NoReturn:
    """Refuse NaN and infinity, which JSON does not have: a browser would not read the description with them."""
    raise ValueError(text)


def _json(text: str | None) -> Any:
    try:
        return json.loads(text, parse_constant=_no_number) if text else None
    except (ValueError, RecursionError):
        return None


def _try(file: OnnxFile) -> None:
    """Run it once, on two pictures: inputs, outputs and their shapes are what `eyespot export` writes."""
    size = file.spec.size_px
    try:
        probs, logits, *score = run_file(file, np.zeros((2, size, size, 3), np.uint8))
    except EyespotError:
        raise
    except Exception as error:
        raise _foreign(file.path, f"it does not answer pictures: {first_line(error)}") from error
    shape = (2, len(file.class_names))
    if probs.shape != shape or logits.shape != shape or (score and score[0].shape != (2,)):
        raise _foreign(
            file.path, f"its answers have the shape {list(probs.shape)}, its class names ask for {list(shape)}"
        )


def run_file(file: OnnxFile, images: np.ndarray[Any, np.dtype[np.uint8]]) -> tuple[Any, ...]:
    """Return probs and logits (B, K) and, where the file has it, the unknown score (B,), of uint8 (B, H, W, 3)."""
    wanted = ["probs", "logits"] + ([SCORE] if file.threshold is not None else [])
    return tuple(file.session.run(wanted, {"images": images}))


def _foreign(path: Path, what: str) -> ModelError:
    return ModelError(f"not a classifier that eyespot exported: {what}", where=os.fspath(path), remedy=_REMEDY)
