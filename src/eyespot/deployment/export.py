"""A bundle becomes a file that others run: ONNX, a torch program, or the bundle on its own; compared before it stays.

Before this: `bundle`. After this: ONNX Runtime, torch, or a browser, with nothing of eyespot installed.

Every file that holds a graph is run on pictures before it gets its name. One whose answers are not those of the
predictor is never written, so a file that exists is a file that was compared.
"""

from __future__ import annotations

import ast
import contextlib
import errno
import io
import json
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch

from eyespot.analysis import words
from eyespot.arrays import Int64Array, UInt8Array
from eyespot.deployment.graph import ShippedClassifier
from eyespot.device import ComputePlan, is_memory_error
from eyespot.errors import EyespotError, MemoryLimitError, ModelError, RunError, UsageError, first_line, require_extra
from eyespot.evaluation.bundle import load_bundle, load_unknown, read_card, save_bundle
from eyespot.evaluation.bundle_info import BundleInfo
from eyespot.evaluation.metrics import wilson_interval
from eyespot.evaluation.predictor import Predictor, load_predictor
from eyespot.files import describe_disk_error, fsync_folder
from eyespot.locks import temporary_folder
from eyespot.models.folding import folded

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Format: TypeAlias = Literal["onnx", "torch", "safetensors"]
FORMATS: tuple[Format, ...] = ("onnx", "torch", "safetensors")

MOST_DIFFERENCE = 1e-3  # of a probability, float
MOST_SCORE_DIFFERENCE = 1e-3  # of an unknown score, as a share of it or of 1, whichever is more; float
MOST_LOST_TOP1 = 0.005  # of accuracy, int8
MOST_MOVED_REFUSALS = 0.01  # of the share of pictures called unknown, int8

SCORE = "unknown_score"
_OPSET = 18
_ONE_FILE_BYTES = 2**31 - 2**24  # a protobuf ends at 2 GiB; weights beyond that lie beside it
_BATCH = 64
_BLOCK_BYTES = 2**24
_NOTE = (
    "images: uint8 RGB, (batch, height, width, 3), any size, all pictures of a batch of the same. "
    "probs: float32 (batch, classes), rows sum to 1; logits: float32 (batch, classes), before the temperature."
)
_SCORE_NOTE = " unknown_score: float32 (batch,); above unknown_threshold a picture is unlike those of training."


@dataclass(frozen=True)
class Exported:
    """What was written, and how far it is from the predictor.

    Attributes:
        path: The file, or the folder of a bundle.
        format: `onnx`, `torch` or `safetensors`.
        bytes: Size, weights beside the file counted in.
        pictures: Pictures on which it was compared.
        difference: Largest difference of a probability on them, 0 to 1; None for a bundle, whose weights are a copy.
        top1: Accuracies of the predictor and of the file, 0 to 1; None where no labels were at hand.
        top1_pictures: Labelled pictures that the accuracies are of.
        top1_split: Where these are from: `val`, or `train` of a run without val.
        int8: Whether weights and activations are 8-bit.
        score_difference: Largest difference of an unknown score, as a share of the score or of 1, whichever is more;
            None where the file has no such output.
        refused: Shares of the labelled pictures that the predictor and the file call unknown, 0 to 1; None likewise.
    """

    path: Path
    format: Format
    bytes: int
    pictures: int
    difference: float | None
    top1: tuple[float, float] | None = None
    top1_pictures: int = 0
    top1_split: str = ""
    int8: bool = False
    score_difference: float | None = None
    refused: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**asdict(self), "path": str(self.path)}

    def describe(self) -> str:
        """Return the result in a line."""
        size = f"{self.path}: {self.bytes / 1e6:.1f} MB"
        return size if self.difference is None else f"{size}; {self.describe_answers()}"

    def describe_answers(self) -> str:
        """Return how far the answers are from the predictor's."""
        told = f"probabilities differ by at most {self.difference:.1e} on {self.pictures} pictures"
        n = self.top1_pictures
        for what, shares in (
            (f"top-1 on {self.top1_split}", self.top1),
            (f"called unknown on {self.top1_split}", self.refused),
        ):
            if shares is not None:
                before, after = (
                    f"{100 * value:.2f} % {words.interval(wilson_interval(round(value * n), n))}" for value in shares
                )
                told += f"; {what} {before} -> {after} (n = {n:,})"
        return told


@dataclass(frozen=True)
class Agreement:
    """How far the answers of a file are from the predictor's; see `Exported`."""

    pictures: int
    difference: float
    score_difference: float | None
    top1: tuple[float, float] | None = None
    refused: tuple[float, float] | None = None


@dataclass(frozen=True)
class Labelled:
    """Pictures of a run's data as they were packed: uint8 (N, S, S, C), with labels int64 (N,) and the split's name."""

    images: UInt8Array
    labels: Int64Array
    split: str


# --------------------------------------------------------------------------------------------------------- the formats


def export_onnx(
    folder: Path,
    path: Path,
    *,
    pictures: Sequence[UInt8Array],
    int8: bool = False,
    calibration: UInt8Array | None = None,
    labelled: Labelled | None = None,
) -> Exported:
    """Write a bundle as an ONNX file that takes pictures and gives probabilities.

    Args:
        folder: The bundle.
        path: The file; refused where it exists.
        pictures: uint8 RGB (H, W, 3) each, on which file and predictor are compared.
        int8: Quantise weights (per channel) and activations to 8 bits.
        calibration: uint8 (N, S, S, C) of the training split, from which ranges of activations are taken; for `int8`.
        labelled: Pictures on which accuracies are compared; needed for `int8`.

    Raises:
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        CheckpointError: The bundle is damaged.
        ModelError: The network cannot be exported, or the file's answers are not the predictor's.
        MemoryLimitError: Memory ran out.
        RunError: The file exists, or cannot be written.
    """
    _need("onnx", "onnx_ir", "onnxscript", "onnxruntime")
    _refuse_existing(path)
    predictor = _float_predictor(folder)
    with _place(path) as beside:
        draft = beside / path.name
        _write_onnx(predictor, draft)
        if int8:
            if calibration is None or labelled is None:
                raise UsageError("int8 without pictures to calibrate on", remedy="export a run whose data are at hand")
            _quantise(draft, _as_rgb(calibration))
        session = open_session(draft)
        found = _agreement(predictor, lambda batch: _run_onnx(session, batch), pictures, labelled)
        _check(path, found, labelled, int8=int8)
        size = sum(file.stat().st_size for file in beside.iterdir())
    return _exported(path, "onnx", size, found, labelled, int8=int8)


def export_torch(
    folder: Path, path: Path, *, pictures: Sequence[UInt8Array], labelled: Labelled | None = None
) -> Exported:
    """Write a bundle as a program that `torch.export.load` reads, with the signature of the ONNX file.

    Args:
        folder: The bundle.
        path: The file; refused where it exists.
        pictures: uint8 RGB (H, W, 3) each, on which file and predictor are compared.
        labelled: Pictures on which accuracies are compared as well.

    Raises:
        CheckpointError: The bundle is damaged.
        ModelError: The network cannot be exported, or the file's answers are not the predictor's.
        MemoryLimitError: Memory ran out.
        RunError: The file exists, or cannot be written.
    """
    _refuse_existing(path)
    predictor = _float_predictor(folder)
    with _place(path) as beside:
        draft = beside / path.name
        with _quiet():
            notes = {f"{name}.txt": text for name, text in describe(predictor.info).items()}
            # torch's own writer ends the whole process, with a C++ stack, where the disk is full.
            content = io.BytesIO()
            torch.export.save(_program(predictor), content, extra_files=notes)
            draft.write_bytes(content.getbuffer())
            module = torch.export.load(draft).module()

        found = _agreement(predictor, _answers_of(module), pictures, labelled)
        _check(path, found, labelled)
        size = draft.stat().st_size
    return _exported(path, "torch", size, found, labelled)


def export_bundle(
    folder: Path,
    path: Path,
    *,
    half: bool = False,
    pictures: Sequence[UInt8Array] = (),
    labelled: Labelled | None = None,
) -> Exported:
    """Write a bundle as a bundle of its own, without the run around it.

    Args:
        folder: The bundle.
        path: The new folder; refused where it exists.
        half: Keep matrices and filters in float16, half the size; compared with the model, which the card says.
        pictures: uint8 RGB (H, W, 3) each, on which the two are compared; for `half`.
        labelled: Pictures on which accuracies are compared as well; for `half`.

    Raises:
        CheckpointError: The bundle is damaged, or has values that float16 cannot hold.
        ModelError: In float16 the answers are not the predictor's.
        RunError: The folder exists, or cannot be written.
    """
    _refuse_existing(path)
    model, info = load_bundle(folder)
    unknown, card, found = load_unknown(folder, info), read_card(folder), None
    if half:
        info = info.model_copy(update={"weights_dtype": "float16"})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary_folder(path.parent, f".{path.name}-", ".tmp") as beside:
                save_bundle(beside / path.name, model, info, unknown=unknown)
                rounded = _float_predictor(beside / path.name)
        except OSError as error:
            raise _disk_error(error, path) from error
        network = ShippedClassifier(rounded.model, rounded.info, rounded.unknown).eval()
        found = _agreement(_float_predictor(folder), _answers_of(network), pictures, labelled)
        _check(path, found, labelled, half=True)
    told = None if found is None else _exported(path, "safetensors", 0, found, labelled)
    if card and told is not None:
        rounded_to = f"The figures above are those of float32 weights. In float16 {told.describe_answers()}."
        card = f"{card.rstrip()}\n\n## Rounded weights\n\n{rounded_to}\n"
    save_bundle(path, model, info, unknown=unknown, card=card)
    size = sum(file.stat().st_size for file in path.iterdir())
    return Exported(path, "safetensors", size, 0, None) if told is None else replace(told, bytes=size)


def _answers_of(network: Any) -> Callable[[UInt8Array], tuple[Any, ...]]:
    """Return what runs a network of torch as a file is run: a batch in, its outputs as arrays."""

    def answer(batch: UInt8Array) -> tuple[Any, ...]:
        with torch.no_grad():
            return tuple(part.numpy() for part in network(torch.from_numpy(np.array(batch))))

    return answer


def describe(info: BundleInfo) -> dict[str, str]:
    """Return what a file says about itself: text by key, JSON where it is a list or an object."""
    rule = info.unknown
    unknown = {}
    if rule is not None:
        unknown = {"unknown_threshold": repr(rule.threshold), "unknown_fraction": repr(rule.fraction)}
    return {
        **unknown,
        "class_names": json.dumps(info.class_names, ensure_ascii=False),
        "input": _NOTE + (_SCORE_NOTE if unknown else ""),
        "input_spec": json.dumps(info.input.as_dict()),
        "preparation": f"inside the file: {info.eval_transform}",
        "views": info.views,
        "temperature": repr(info.temperature),
        "metrics": json.dumps({split: measured.model_dump(mode="json") for split, measured in info.metrics.items()}),
        "licence": info.pretrained.licence if info.pretrained else "that of the pictures it was trained on",
        "pretrained": info.pretrained.source if info.pretrained else "no: trained from random weights",
        "provenance": json.dumps(info.provenance.model_dump(mode="json"), ensure_ascii=False),
        "architecture": json.dumps(info.architecture.model_dump(mode="json"), ensure_ascii=False),
        "weights_sha256": info.weights_sha256,
        "eyespot_version": info.eyespot_version,
    }


# ------------------------------------------------------------------------------------------------------------- writing


def _float_predictor(folder: Path) -> Predictor:
    plan = ComputePlan("cpu", "float32", "files are compared in float32")
    return replace(load_predictor(folder, device="cpu"), plan=plan)


def _program(predictor: Predictor) -> ExportedProgram:
    """Return the whole network as torch traced it: batch, height and width are free."""
    info = predictor.info
    side = info.input.input_px
    plain = predictor.model.to(memory_format=torch.contiguous_format)
    images = torch.rand(2, info.input.channels, side, side, generator=torch.Generator().manual_seed(0))
    model = folded(plain, images)
    network = ShippedClassifier(model, info, predictor.unknown).eval()
    free = torch.export.Dim.DYNAMIC
    example = torch.zeros(2, side + 7, side + 5, 3, dtype=torch.uint8)
    try:
        with torch.no_grad():
            return torch.export.export(
                network, (example,), dynamic_shapes=({0: free, 1: free, 2: free, 3: torch.export.Dim.STATIC},)
            )
    except Exception as error:
        raise _cannot_export(info, error) from error


def _write_onnx(predictor: Predictor, path: Path) -> None:
    import onnx_ir

    info = predictor.info
    with _quiet():
        program = _program(predictor)
        try:
            found = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["images"],
                output_names=_output_names(info),
                opset_version=_OPSET,
                verbose=False,
            )
        except Exception as error:
            raise _cannot_export(info, error) from error
        assert found is not None
        graph = found.model.graph
        graph.inputs[0].shape = onnx_ir.Shape(["batch", "height", "width", 3])
        for output in graph.outputs:
            output.shape = onnx_ir.Shape(["batch"] if output.name == SCORE else ["batch", info.num_classes])
        found.model.metadata_props.update(describe(info))
        payload = sum(tensor.nbytes for tensor in predictor.model.state_dict().values())
        found.save(path, external_data=payload > _ONE_FILE_BYTES)


def _output_names(info: BundleInfo) -> list[str]:
    return ["probs", "logits"] if info.unknown is None else ["probs", "logits", SCORE]


def _cannot_export(info: BundleInfo, error: Exception) -> EyespotError:
    cause: BaseException | None = error
    while cause is not None and not is_memory_error(cause):
        cause = cause.__cause__
    if cause is not None:
        remedy = "close other programs, or export it on a machine with more"
        return MemoryLimitError("no memory left for the export", remedy=remedy)
    return ModelError(
        f"{info.architecture.name} cannot be exported ({first_line(error)})",
        remedy="use --format safetensors, which every network has",
    )


def _quantise(path: Path, images: UInt8Array) -> None:
    """Replace a float ONNX file by its 8-bit version: QDQ, weights per channel, ranges from pictures."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
        def __init__(self) -> None:
            self.batches = iter(images[start : start + _BATCH] for start in range(0, len(images), _BATCH))

        def get_next(self) -> dict[str, UInt8Array] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch}

    nodes = onnx.load(path, load_external_data=False).graph.node
    kinds = ["Conv", "Gemm", "MatMul"]
    exact = [node.name for node in nodes if _parts_of(node) & {"preparation", "unknown"}]
    whole = path.with_name("whole.onnx")
    os.replace(path, whole)
    _try_room(path.parent, 2 * whole.stat().st_size)
    with _quiet(), _temporary_files_in(path.parent):
        quantize_static(
            whole,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=kinds,
            nodes_to_exclude=exact,  # resizing, and the distances of the unknown score
        )
    whole.unlink()


def _try_room(folder: Path, size: int) -> None:
    """Find out that the disk is full before a library does: onnx cuts its files off there, and says nothing.

    Raises:
        OSError: The disk does not take so many bytes more.
    """
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for start in range(0, size, _BLOCK_BYTES):
            block = bytes(min(_BLOCK_BYTES, size - start))
            if file.write(block) != len(block):  # a full disk takes a part first
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _parts_of(node: Any) -> set[str]:
    """Return the names of the modules of `ShippedClassifier` that an ONNX node comes from."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "[]")
    return set(ast.literal_eval(scopes))


# ------------------------------------------------------------------------------------------------------------ comparing


def open_session(path: Path, *, threads: int = 0) -> Any:
    """Return an ONNX Runtime session on the CPU.

    Args:
        path: The file.
        threads: For one operation; 0 takes every core.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        ModelError: It is no ONNX file, or one that ONNX Runtime cannot run.
    """
    _need("onnxruntime")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    # Threads that wait in a loop for the next call take the cores from those that decode and answer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # plans memory for one shape, and each batch has another
    try:
        return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        what = f"ONNX Runtime cannot open the file ({first_line(error)})"
        raise ModelError(what, where=path, remedy="export it again") from error


def _run_onnx(session: Any, batch: UInt8Array) -> tuple[Any, ...]:
    """Return probs, logits and, where the file has it, the unknown score."""
    return tuple(session.run(None, {"images": batch}))


def _agreement(
    predictor: Predictor, answer: Any, pictures: Sequence[UInt8Array], labelled: Labelled | None
) -> Agreement:
    """Return how far a file's answers are from the predictor's: picture by picture, and on labelled ones."""
    worst, worst_score = 0.0, None if predictor.unknown is None else 0.0
    expected = predictor.predict_probs(list(pictures))
    scores = [found.unknown_score for found in predictor.predict(list(pictures), top_k=1)]
    for picture, wanted, score in zip(pictures, expected, scores, strict=True):
        found = answer(picture[None])
        # np.maximum, unlike max, keeps NaN.
        worst = float(np.maximum(worst, np.abs(found[0][0].astype(np.float64) - wanted).max()))
        if worst_score is not None and score is not None:
            off = abs(float(found[2][0]) - score) / max(1.0, abs(score))
            worst_score = float(np.maximum(worst_score, off))
    top1, refused = (None, None) if labelled is None else _shares(predictor, answer, labelled)
    return Agreement(len(pictures), worst, worst_score, top1, refused)


def _shares(
    predictor: Predictor, answer: Any, labelled: Labelled
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """Return, of the same pictures, the shares that the predictor and the file have right, and call unknown."""
    right, refused = [0, 0], [0, 0]
    rule = predictor.info.unknown
    for start in range(0, len(labelled.labels), _BATCH):
        images, labels = labelled.images[start : start + _BATCH], labelled.labels[start : start + _BATCH]
        own = predictor.outputs(torch.from_numpy(images).permute(0, 3, 1, 2), views=predictor.info.views)
        found = answer(_as_rgb(images))
        right[0] += int((own.logits.numpy().argmax(1) == labels).sum())
        right[1] += int((found[1].argmax(1) == labels).sum())
        if predictor.unknown is not None and rule is not None:
            refused[0] += int((predictor.unknown.total(own.distances) > rule.threshold).sum())
            refused[1] += int((found[2] > rule.threshold).sum())
    n = len(labelled.labels)
    return (right[0] / n, right[1] / n), (refused[0] / n, refused[1] / n) if rule is not None else None


def _check(path: Path, found: Agreement, labelled: Labelled | None, *, int8: bool = False, half: bool = False) -> None:
    """Refuse a file whose answers are not the predictor's; of rounded weights it is the accuracy that is held."""
    how, option = ("in 8 bits", "--int8") if int8 else ("in float16", "--half")
    if not all(math.isfinite(value) for value in (found.difference, found.score_difference or 0.0)):
        raise ModelError(
            "some answers of the file are NaN or infinite; no file was written",
            where=path,
            remedy=f"export it without {option}"
            if int8 or half
            else "use --format safetensors, and report the architecture",
        )
    if found.top1 is not None and labelled is not None and (int8 or half):
        lost = found.top1[0] - found.top1[1]
        if lost > MOST_LOST_TOP1:
            raise ModelError(
                f"{how} {100 * lost:.1f} points of accuracy are lost on {labelled.split}"
                f" (n = {len(labelled.labels):,}), at most {100 * MOST_LOST_TOP1:g} are allowed; no file was written",
                where=path,
                remedy=f"export it without {option}",
            )
        if found.refused is not None and abs(found.refused[1] - found.refused[0]) > MOST_MOVED_REFUSALS:
            before, after = (f"{100 * share:.1f} %" for share in found.refused)
            raise ModelError(
                f"{how} {after} of {labelled.split} are called unknown instead of {before}"
                f" (n = {len(labelled.labels):,}), at most {100 * MOST_MOVED_REFUSALS:g} point apart is allowed;"
                " no file was written",
                where=path,
                remedy=f"export it without {option}",
            )
    if int8 or half:
        return
    for name, value, most in (
        ("probabilities", found.difference, MOST_DIFFERENCE),
        ("unknown scores", found.score_difference, MOST_SCORE_DIFFERENCE),
    ):
        if value is not None and not value <= most:
            raise ModelError(
                f"{name} of the file differ by {value:.2g} from the predictor's, at most {most:g} is allowed;"
                " no file was written",
                where=path,
                remedy="use --format safetensors, and report the model's architecture",
            )


def _exported(
    path: Path, format: Format, size: int, found: Agreement, labelled: Labelled | None, *, int8: bool = False
) -> Exported:
    return Exported(
        path,
        format,
        size,
        found.pictures,
        found.difference,
        found.top1,
        0 if labelled is None else len(labelled.labels),
        "" if labelled is None else labelled.split,
        int8,
        found.score_difference,
        found.refused,
    )


def sample_pictures(*, seed: int = 0) -> list[UInt8Array]:
    """Return pictures that need no data, uint8 (H, W, 3): photographs in several shapes, noise, plain colours."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    dice = np.random.default_rng(seed)
    shapes = ((640, 427), (427, 427), (100, 33), (33, 100), (32, 32), (20, 200), (224, 224), (7, 5), (1, 1))  # W, H
    photos = [Image.fromarray(photo) for photo in load_sample_images().images]
    found = [np.asarray(photo.resize(shape)) for photo in photos for shape in shapes]
    found += [dice.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in shapes]
    return [*found, *(np.full((40, 60, 3), value, np.uint8) for value in (0, 128, 255))]


def _as_rgb(images: UInt8Array) -> UInt8Array:
    """Return (N, H, W, 3); grey becomes RGB with equal channels, which the file turns back exactly."""
    return images if images.shape[3] == 3 else np.repeat(images, 3, axis=3)


# ------------------------------------------------------------------------------------------------------------- helpers


def _need(*packages: str) -> None:
    """Refuse to begin without an optional package, and keep those that are there from reporting home."""
    # ONNX Runtime sends events and keeps an identifier in the home folder, unless it is told before its import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    require_extra("export", *packages)


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise RunError("there is something of this name", where=path, remedy="delete it, or name a folder with --out")


@contextlib.contextmanager
def _place(path: Path) -> Iterator[Path]:
    """Give a folder beside the target; on success its files get their names, else nothing of it is left."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent, f".{path.name}-", ".tmp") as beside:
            yield beside
            _refuse_existing(path)  # again: comparing takes a while, and another export may have written it
            # The weights beside it first.
            for file in sorted(beside.iterdir(), key=lambda file: file.name == path.name):
                with open(file, "rb+") as opened:
                    os.fsync(opened.fileno())
                os.replace(file, path.with_name(file.name))
            fsync_folder(path.parent)
    except OSError as error:
        raise _disk_error(error, path) from error


def _disk_error(error: OSError, path: Path) -> EyespotError:
    reason, remedy = describe_disk_error(error)
    return RunError(f"cannot write the file ({reason})", where=path, remedy=remedy)


@contextlib.contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let a library put its temporary files into a folder of ours: what a kill leaves of them elsewhere stays there."""
    before = tempfile.tempdir
    tempfile.tempdir = os.fspath(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters' progress and advice to developers off the terminal."""
    loggers = [logging.getLogger(), logging.getLogger("torch.onnx"), logging.getLogger("onnxscript")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


__all__ = [
    "FORMATS",
    "Exported",
    "Format",
    "Labelled",
    "describe",
    "export_bundle",
    "export_onnx",
    "export_torch",
    "open_session",
    "sample_pictures",
]
