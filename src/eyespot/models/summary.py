"""The layer table of a model: shapes, parameters, cost, and what a glance at it should warn of.

Before it: any module that takes a batch of images. After it: `eyespot models NAME --size 32` and the report draw it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from eyespot.device import is_memory_error
from eyespot.errors import MemoryLimitError, ModelError
from eyespot.models.dropout import Dropout

FLATTEN_HEAD_LIMIT = 1_000_000
_FLOAT32_BYTES = 4
_POOLS = (nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d, nn.FractionalMaxPool2d)
_GLOBAL_POOLS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
# Layers whose output is known to be (B, C, H, W): elsewhere a 4-D output may as well be (B, H, W, C).
_MAP_LAYERS = (nn.Conv2d, nn.BatchNorm2d, *_POOLS, *_GLOBAL_POOLS)
_WEIGHT_LAYERS = (nn.Conv2d, nn.Linear)
# Layers that leave two linear layers around them equal to a single one: affine, or nothing, in eval mode.
_AFFINE_LAYERS = (nn.Dropout, Dropout, nn.Dropout2d, nn.AlphaDropout, nn.Identity, nn.Flatten, nn.BatchNorm1d)


@dataclass(frozen=True)
class ParameterCount:
    """How many numbers a model keeps, each shared tensor counted once.

    Attributes:
        trainable: Elements of parameters that are trained.
        frozen: Elements of parameters with `requires_grad` off.
        statistics: Elements of saved floating-point buffers: the moving means and variances of batch normalisation.
    """

    trainable: int
    frozen: int
    statistics: int

    @property
    def parameters(self) -> int:
        """Trained and frozen parameters: torch's count."""
        return self.trainable + self.frozen

    @property
    def total(self) -> int:
        """Parameters and statistics: Keras' count."""
        return self.parameters + self.statistics

    @property
    def bytes_float32(self) -> int:
        """Bytes that all of them take in float32."""
        return self.total * _FLOAT32_BYTES

    @property
    def mib_float32(self) -> float:
        """Mebibytes (2**20 bytes, Keras' "MB") that all of them take in float32."""
        return self.bytes_float32 / 2**20


@dataclass(frozen=True)
class LayerRow:
    """One layer of the table, in the order in which the layers ran.

    Attributes:
        name: Path of the module in the model; "(model)" for what the model itself holds.
        kind: Class of the module, such as Conv2d.
        output_shape: Shape of its output for one image, without the batch dimension; empty where it was not called.
        map_px: Height and width of its feature map; None where it has none, or where the layout is not known.
        parameters: Elements of its own parameters; 0 in a second call, or where another row has counted them.
        statistics: Elements of its own saved floating-point buffers, counted as `parameters` are.
        trainable: Those of its parameters that are trained.
        macs: Multiplications with an addition for one image, for convolutions and linear layers; 0 elsewhere.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    map_px: tuple[int, int] | None
    parameters: int
    statistics: int
    trainable: int
    macs: int

    @property
    def total(self) -> int:
        """Parameters and statistics: Keras' count."""
        return self.parameters + self.statistics


@dataclass(frozen=True)
class LayerTable:
    """The layers of a model for one image size, what they sum to, and what is wrong with them.

    Attributes:
        input_shape: Shape (C, H, W) of the image.
        rows: The layers in the order of their calls.
        count: Parameters and statistics of the whole model.
        macs: Multiply-accumulates for one image: those of the rows, and what has no row, such as queries times keys.
        warnings: What to think about before training, in words.
    """

    input_shape: tuple[int, int, int]
    rows: tuple[LayerRow, ...]
    count: ParameterCount
    macs: int
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, object]:
        """Return the table as plain lists, dictionaries and numbers, ready for JSON."""
        return {
            "input_shape": list(self.input_shape),
            "rows": [
                {**asdict(row), "output_shape": list(row.output_shape), "map_px": row.map_px and list(row.map_px)}
                for row in self.rows
            ],
            "parameters": self.count.parameters,
            "trainable": self.count.trainable,
            "frozen": self.count.frozen,
            "statistics": self.count.statistics,
            "total": self.count.total,
            "bytes_float32": self.count.bytes_float32,
            "macs": self.macs,
            "warnings": list(self.warnings),
        }


def count_parameters(model: nn.Module) -> ParameterCount:
    """Return how many parameters and statistics `model` holds, each shared tensor counted once."""
    return _Counter().count(model, recurse=True)


def layer_table(model: nn.Module, *, in_channels: int, size_px: int) -> LayerTable:
    """Return the layers of a model with their shapes, sizes and costs.

    Runs one black image through the model in eval mode. Modes, statistics, gradients and random state are afterwards
    what they were.

    Args:
        model: Any module from images (B, C, H, W) to a tensor, on any device.
        in_channels: Number of image channels, C.
        size_px: Side of the square image, in pixels.

    Returns:
        LayerTable with a row for each call of a module that has no children, or that owns tensors itself. Modules that
        own tensors and were not called come last, so that the rows always sum to the model's count.

    Raises:
        ModelError: The model cannot take an image of that shape.
        MemoryLimitError: There is no memory for one.
    """
    # timm has many places where nothing stands.
    recorded, macs = _record(model, in_channels, size_px)
    calls = [call for call in recorded if not isinstance(call.module, nn.Identity)]
    counter = _Counter()
    names = {module: name or "(model)" for name, module in model.named_modules()}
    rows = [_row(names[call.module], call, counter.count(call.module)) for call in calls]
    warnings = (*_early_collapse(calls, rows), *_flatten_head(calls, rows), *_stacked_linear(calls, rows))
    called = {call.module for call in calls}
    for module, name in names.items():
        count = counter.count(module) if module not in called else ParameterCount(0, 0, 0)
        if count.total:
            rows.append(_row(name, _Call(module, (), (), False), count))
    return LayerTable(
        input_shape=(in_channels, size_px, size_px),
        rows=tuple(rows),
        count=count_parameters(model),
        macs=macs,
        warnings=warnings,
    )


class _Counter:
    """Counts tensors, each once over the life of the counter."""

    def __init__(self) -> None:
        self._seen: set[int] = set()

    def count(self, module: nn.Module, *, recurse: bool = False) -> ParameterCount:
        """Return what `module` holds, with `recurse` its children too, and nothing that was seen before."""
        trainable = frozen = statistics = 0
        for parameter in self._fresh(module.parameters(recurse=recurse)):
            if parameter.requires_grad:
                trainable += parameter.numel()
            else:
                frozen += parameter.numel()
        saved = module.state_dict(keep_vars=True)
        buffers = (
            buffer
            for name, buffer in module.named_buffers(recurse=recurse)
            if name in saved and buffer.is_floating_point()
        )
        statistics = sum(buffer.numel() for buffer in self._fresh(buffers))
        return ParameterCount(trainable, frozen, statistics)

    def _fresh(self, tensors: Iterator[Tensor]) -> Iterator[Tensor]:
        for tensor in tensors:
            if id(tensor) not in self._seen:
                self._seen.add(id(tensor))
                yield tensor


@dataclass(frozen=True)
class _Call:
    """One call of a layer: shapes with the batch dimension, and whether its input is a linear layer's bare output."""

    module: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    after_linear: bool

    @property
    def output_map(self) -> tuple[int, int] | None:
        """Height and width of the feature map that the layer makes."""
        shape = self.output_shape
        return (shape[2], shape[3]) if isinstance(self.module, _MAP_LAYERS) and len(shape) == 4 else None


class _Recorder:
    """Forward hooks that note each call.

    A linear layer's output is followed through affine layers by the tensor itself, not by the order of the calls: a
    functional activation in between makes another tensor, or a newer version of it, and ends the trail.
    """

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self._bare: dict[int, tuple[Tensor, int]] = {}  # Holds the tensors, so that no id is used twice.

    def hook(self, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        source = next((item for item in inputs if isinstance(item, Tensor)), None)
        result = output if isinstance(output, Tensor) else _first_tensor(output)
        after_linear = source is not None and self._is_bare(source)
        self.calls.append(
            _Call(
                module,
                () if source is None else tuple(source.shape),
                () if result is None else tuple(result.shape),
                after_linear,
            )
        )
        if result is None:
            return
        if isinstance(module, nn.Linear) or (isinstance(module, _AFFINE_LAYERS) and after_linear):
            self._bare[id(result)] = (result, result._version)
        else:
            self._bare.pop(id(result), None)

    def _is_bare(self, tensor: Tensor) -> bool:
        held, version = self._bare.get(id(tensor), (None, -1))
        return held is tensor and tensor._version == version


def _first_tensor(output: object) -> Tensor | None:
    """Return the first tensor of a tuple or list of outputs, as attention and multi-output layers give them."""
    items = output if isinstance(output, (tuple, list)) else ()
    return next((item for item in items if isinstance(item, Tensor)), None)


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode and give each its own mode back: some may have been frozen one by one."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _record(model: nn.Module, in_channels: int, size_px: int) -> tuple[list[_Call], int]:
    """Return the calls of all layers for one black image, and the multiply-accumulates of the whole model."""
    from torch.utils.flop_counter import FlopCounterMode  # not for every start: it takes a sixth of a second

    recorder, counter = _Recorder(), FlopCounterMode(display=False)
    reference = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    with ExitStack() as stack:
        for module in model.modules():
            leaf = next(module.children(), None) is None
            owner = any(True for _ in module.parameters(recurse=False))
            if leaf or owner:
                handle: RemovableHandle = module.register_forward_hook(recorder.hook)
                stack.callback(handle.remove)
        stack.enter_context(_eval_mode(model))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        # Tensors of inference mode have no version, which the recorder needs.
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(counter)
        try:
            model(torch.zeros(1, in_channels, size_px, size_px, device=reference.device, dtype=reference.dtype))
        except (RuntimeError, ValueError, AssertionError) as error:
            if is_memory_error(error):
                what = f"no memory left for an image of {size_px} x {size_px} px"
                raise MemoryLimitError(what, remedy="use smaller images, or close other programs") from error
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ModelError(
                f"an image of shape ({in_channels}, {size_px}, {size_px}) does not go through: {reason}",
                where=f"model {type(model).__name__}",
                remedy="use larger images, or the size and channels the model was built for",
            ) from error
    return recorder.calls, counter.get_total_flops() // 2


def _row(name: str, call: _Call, count: ParameterCount) -> LayerRow:
    module = call.module
    macs = 0
    outputs = 1
    for length in call.output_shape:
        outputs *= length
    if call.output_shape and isinstance(module, nn.Conv2d):
        macs = outputs * module.weight[0].numel()  # (C_in / groups) * k * k
    elif call.output_shape and isinstance(module, nn.Linear):
        macs = outputs * module.in_features
    return LayerRow(
        name=name,
        kind=type(module).__name__,
        output_shape=call.output_shape[1:],
        map_px=call.output_map,
        parameters=count.parameters,
        statistics=count.statistics,
        trainable=count.trainable,
        macs=macs,
    )


def _early_collapse(calls: list[_Call], rows: list[LayerRow]) -> Iterator[str]:
    """Warn where the map is one pixel for good before the last third of the weight layers: gomez2025's AlexNet.

    A gate such as squeeze-and-excitation's works on one pixel in passing, and global pooling is meant to leave one.
    """
    maps = [index for index, call in enumerate(calls) if call.output_map is not None]
    wide = [index for index in maps if calls[index].output_map != (1, 1)]
    collapsed = [index for index in maps if wide and index > wide[-1]]
    if not collapsed or isinstance(calls[collapsed[0]].module, _GLOBAL_POOLS):
        return
    first = collapsed[0]
    # A layer that gets one pixel already did not make it: a pooling that is a function, not a module, came before.
    shrinks = calls[first].input_shape[2:] != (1, 1)
    total = sum(isinstance(call.module, _WEIGHT_LAYERS) for call in calls)
    done = sum(isinstance(call.module, _WEIGHT_LAYERS) for call in calls[: first + shrinks])
    if 3 * done < 2 * total:
        yield (
            f"The map is already 1x1 {'after' if shrinks else 'before'} {rows[first].name}, with {total - done} of "
            f"{total} weight layers to come: they see no positions. Use larger images or a model with fewer poolings."
        )


def _flatten_head(calls: list[_Call], rows: list[LayerRow]) -> Iterator[str]:
    """Warn of a head on a flattened map with more than a million parameters, and say what pooling would save."""
    shape: tuple[int, ...] = ()
    start = 0
    for index, call in enumerate(calls):
        if call.output_map is not None:
            shape, start = call.output_shape[1:], index + 1
        elif shape and isinstance(call.module, nn.Linear):
            channels, features = shape[0], call.module.in_features
            positions = _flattened_positions(call, shape)
            shape = ()  # Only the first linear layer after a map can read it.
            head = rows[start : len(calls)]
            flat = sum(row.total for row in head)
            if not positions or flat <= FLATTEN_HEAD_LIMIT:
                continue
            saved = call.module.out_features * (features - channels)
            for other, row in zip(calls[start:index], rows[start:index], strict=True):
                if isinstance(other.module, nn.BatchNorm1d) and other.module.num_features == features:
                    saved += row.total - row.total // positions
            yield (
                f"The head reads a flattened map of {features:,} features in {rows[index].name} and has {flat:,} "
                f"parameters. With global average pooling it would have {flat - saved:,}, with less room to overfit."
            )


def _flattened_positions(call: _Call, shape: tuple[int, ...]) -> int:
    """Return how many positions of a map (C, H, W) a linear layer reads side by side, or 0 for no flattened map.

    A function may have pooled the map further before it was flattened, so that any smaller square counts too. Average
    and maximum side by side are 2 positions, no square, and so no flattened map.
    """
    channels, height, width = shape
    features = call.input_shape[-1] if len(call.input_shape) == 2 else 0
    positions = features // channels if features % channels == 0 else 0
    pooled = positions < height * width and math.isqrt(positions) ** 2 == positions
    return positions if positions > 1 and (pooled or positions == height * width) else 0


def _stacked_linear(calls: list[_Call], rows: list[LayerRow]) -> Iterator[str]:
    """Warn of linear layers with nothing non-linear between them: together they are a single one (culp2021)."""
    for call, row in zip(calls, rows, strict=True):
        if call.after_linear and isinstance(call.module, nn.Linear):
            yield (
                f"{row.name} follows a linear layer without an activation in between: together they can do no more "
                "than one of them. Put a ReLU there."
            )
