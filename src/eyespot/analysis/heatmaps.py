"""Where in a picture a network found its answer: one heat map a picture, and a check of whether it can be believed.

Before this: a `Predictor` and decoded squares. After this: `overlays` lays the maps over the pictures.

Maps explain the answer that `predict` gives: the same views are averaged. They are computed on the float32 network with
its batch norms in place, outside of inference mode and autocast, which have no gradients or coarse ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyespot.arrays import Float32Array
from eyespot.device import is_memory_error
from eyespot.errors import EyespotError, ModelError, UsageError, did_you_mean, require_extra
from eyespot.evaluation.predictor import Predictor
from eyespot.evaluation.views import Views, view_logits

Method: TypeAlias = Literal["gradcam", "integrated-gradients", "occlusion"]
"""`gradcam`: which places of a late layer speak for the class. `integrated-gradients`: which pixels do, on the way from
a picture of the mean colour. `occlusion`: how far the class falls when a square is covered."""

_HIDDEN_SHARE = 0.2  # of the pixels, in the check
_LEAST_DIFFERENCE = 0.001  # of two probabilities: a page shows them to a tenth of a point
_LEAST_PLACES = 5  # a side of the layer that Grad-CAM reads, where the network has such a layer
_CHECK_BATCH = 128
_IG_STEPS = 32
_IG_BATCH = 64  # steps times pictures in one pass
_OCCLUDED_SHARE, _OCCLUDER_STEP = 6, 2  # the covering square has a sixth of the side and moves by half of itself
_EPSILON = 1e-12


@dataclass(frozen=True)
class Layer:
    """A part of a network whose output Grad-CAM may read, and how the places lie in it.

    Attributes:
        module: What to listen to.
        channels: C' of its output, which tells a map (B, C', H', W') from one (B, H', W', C'); 0 where nobody says it.
        block: Its number where the network's tokens lie in an order of its own, which changes from block to block.
    """

    module: nn.Module
    channels: int = 0
    block: int = 0


@dataclass(frozen=True)
class MapCheck:
    """What happens to the explained class when places are covered with the mean colour of the training data.

    A map that points at what decided takes more probability away than the same shape at other places, and leaves more
    when all but it is covered.

    Attributes:
        prob: Probability of the class with nothing covered, 0 to 1.
        share: Share of the pixels that the map calls hottest, 0 to 1.
        hidden: Probability with the hottest pixels covered.
        hidden_elsewhere: The same shape moved to random places, mean of the draws.
        kept: Probability with all but the hottest pixels covered.
        kept_elsewhere: The same shape moved to random places, mean of the draws.
    """

    prob: float
    share: float
    hidden: float
    hidden_elsewhere: float
    kept: float
    kept_elsewhere: float

    @property
    def is_passed(self) -> bool:
        """Return whether covering the hottest pixels visibly costs more than covering others.

        A network that is sure to the last digit whatever is covered has not shown where it looks.
        """
        return self.hidden_elsewhere - self.hidden >= _LEAST_DIFFERENCE


def checked_method(method: str) -> Method:
    """Return the name of a method as it is, or refuse it.

    Raises:
        UsageError: It is none.
        MissingExtraError: It needs captum, which is not installed: said before anything is computed.
    """
    names = get_args(Method)
    for known in names:
        if method == known:
            if known != "gradcam":
                _captum()
            found: Method = known
            return found
    raise UsageError(f"unknown method {method!r}.{did_you_mean(method, names)}", remedy=f"use {', '.join(names)}")


def heat_maps(
    predictor: Predictor, pixels: Tensor, targets: Tensor, *, method: Method = "gradcam", views: Views | None = None
) -> Float32Array:
    """Return where each picture speaks for a class.

    Args:
        predictor: The model.
        pixels: uint8 0..255 (B, C, S, S), as `pixels_of` makes them.
        targets: int64 (B,), the class to explain, in [0, K).
        method: See `Method`.
        views: Test-time views whose mean is explained; None takes the model's own. Of `mirror-shift` only the mirror is
            taken: a shift by one pixel moves no map.

    Returns:
        float32 (B, S, S) in [0, 1], the hottest place of each map 1; all zero where nothing speaks for the class.

    Raises:
        MissingExtraError: captum is not installed, for the methods other than `gradcam`.
        ModelError: The network has no layer with places in it (Grad-CAM), such as at very small sizes, or one that
            hands out its places in an unknown way.
    """
    views = predictor.info.views if views is None else views
    shown: Views = "none" if views == "none" else "mirror"
    compute = {"gradcam": _gradcam, "integrated-gradients": _integrated_gradients, "occlusion": _occlusion}[method]
    side = pixels.shape[2]
    with _gradients(predictor):
        images = predictor.transform(pixels.clone().to(predictor.plan.device))
        maps = compute(predictor.model, images, targets.clone().to(images.device), shown)
        maps = F.interpolate(maps.float(), size=(side, side), mode="bilinear", align_corners=False)[:, 0]
    found = maps.clamp_min(0).cpu().numpy()
    highest = found.max(axis=(1, 2), keepdims=True)
    scaled = np.where(highest > _EPSILON, found / np.maximum(highest, _EPSILON), 0.0)
    return np.asarray(scaled, dtype=np.float32)


@contextmanager
def _gradients(predictor: Predictor) -> Iterator[None]:
    """Have gradients computed in float32, whatever the caller is in."""
    predictor.model.eval()
    device = predictor.plan.device
    # Inference mode would hand out tensors without gradients; autocast would round them to 8 bits of mantissa.
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(torch.device(device).type, enabled=False):
        yield


# ------------------------------------------------------------------------------------------------------------- Grad-CAM


def _gradcam(model: nn.Module, images: Tensor, targets: Tensor, views: Views) -> Tensor:
    """Return float32 (B, 1, H', W'), before its negative part is cut off.

    Source:
        Selvaraju et al. 2017, arXiv:1610.02391. Changed: where the head reads several maps (taps), their parts are
        added on the finest grid; where the last map has less than five places a side, an earlier layer is read, with
        the weights by place of LayerCAM (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943).
    """
    try:
        return _gradcam_of_layer(model, images, targets, views, cam_layer(model, images[:1]))
    except EyespotError:
        raise
    except Exception as error:  # any of a thousand networks of timm may hand out something else between its layers
        if is_memory_error(error):
            raise
        told = str(error).partition("\n")[0][:120]
        raise ModelError(
            f"this network cannot be explained by a layer of it ({type(error).__name__}: {told})",
            where="Grad-CAM",
            remedy="use --method occlusion",
        ) from error


def _gradcam_of_layer(model: nn.Module, images: Tensor, targets: Tensor, views: Views, layer: Layer | None) -> Tensor:
    """Return float32 (B, 1, H', W'), read from a layer; None: from the maps that the head reads."""
    by_place = layer is not None and not getattr(model, "has_tokens", False)
    seen: list[list[Tensor]] = []

    def logits_of(view: Tensor) -> Tensor:
        maps, logits = _cut(model, view, layer)
        seen.append(maps)
        return logits

    logits = view_logits(logits_of, images, views)
    leaves = [tensor for maps in seen for tensor in maps]
    score = logits.gather(1, targets[:, None]).sum()
    gradients = iter(torch.autograd.grad(score, leaves, allow_unused=True))
    total: Tensor | None = None
    for number, maps in enumerate(seen):
        for leaf in maps:
            gradient = next(gradients)
            if gradient is None:
                continue
            found, slope = (_as_places(tensor, model, layer) for tensor in (leaf, gradient))
            if found is None or slope is None:
                raise _no_places()
            part = _weighted(found, slope, by_place=by_place)
            part = part.flip(3) if number % 2 else part  # the mirrored view, laid back
            total = part if total is None else _add_finest(total, part)
    if total is None:
        raise _no_places()
    return total.detach()


def _weighted(maps: Tensor, gradients: Tensor, *, by_place: bool) -> Tensor:
    """Return (B, 1, H', W'): how much each place adds to the score, by unit of area so that grids can be added."""
    if by_place:  # in an earlier layer a channel means one thing here and another there
        return (gradients.clamp_min(0) * maps).sum(1, keepdim=True)
    weights = gradients.sum((2, 3), keepdim=True)  # mean times number of places
    return (weights * maps).sum(1, keepdim=True)


def _add_finest(first: Tensor, second: Tensor) -> Tensor:
    """Return the sum of two maps (B, 1, H, W) on the finer of their grids."""
    size = (max(first.shape[2], second.shape[2]), max(first.shape[3], second.shape[3]))
    return sum(
        (F.interpolate(one, size=size, mode="bilinear", align_corners=False) for one in (first, second)),
        start=torch.zeros((), device=first.device),
    )


def cam_layer(model: nn.Module, images: Tensor) -> Layer | None:
    """Return the layer whose output Grad-CAM reads; None for the maps that the head reads.

    The deepest one with five places a side or more, because the deepest know most about classes; where a network has
    none on pictures of this size, the one with most places. Vision transformers hand their answer to the class token in
    the last block: the tokens of the places before that block are read.

    Args:
        model: In eval mode.
        images: float32 (B, C, H, W), normalised.

    Raises:
        ModelError: No layer has more than one place, or none is known.
    """
    candidates = _layers(model)
    if getattr(model, "has_tokens", False):
        return _token_layer(model, candidates)
    sizes: dict[int, int] = {}

    def record(number: int) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            sizes[number] = _side(output, model, candidates[number])

        return hook

    handles = [layer.module.register_forward_hook(record(number)) for number, layer in enumerate(candidates)]
    try:
        with torch.no_grad():
            last = max(_side(found, model, None) for found in _head_maps(model, images))
    finally:
        for handle in handles:
            handle.remove()
    if last >= _LEAST_PLACES:
        return None
    for number in reversed(range(len(candidates))):
        if sizes.get(number, 0) >= _LEAST_PLACES:
            return candidates[number]
    most = max([last, *sizes.values()])
    if most < 2:
        raise _no_places()
    return None if last == most else candidates[max(number for number, side in sizes.items() if side == most)]


def _token_layer(model: Any, blocks: Sequence[Layer]) -> Layer | None:
    """Return the last block but one; None, the last tokens, where timm keeps no list but all of them are averaged."""
    if len(blocks) >= 2:
        return blocks[-2]
    if not model.prefix_tokens:
        return None
    raise ModelError(
        "timm does not say which layers of this network hold its places, and its answer comes from a class token",
        where="Grad-CAM",
        remedy="use --method occlusion",
    )


def _no_places() -> ModelError:
    return ModelError(
        "no layer of the network has places that could be hot or cold",
        where="Grad-CAM",
        remedy="use --method occlusion",
    )


def _layers(model: Any) -> list[Layer]:
    """Return the modules that everything passes through, in order: stages, or the parts of a plain chain."""
    if hasattr(model, "stage_modules"):
        info: Any = getattr(model.backbone, "feature_info", [])
        channels = {str(one["module"]): int(one["num_chs"]) for one in (info if isinstance(info, list) else info.info)}
        names = {module: name for name, module in model.backbone.named_modules()}
        return [
            Layer(module, channels[names[module]], int(number) if number.isdigit() else 0)
            for module in model.stage_modules()
            for number in [names[module].rpartition(".")[2]]
        ]

    def parts(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if isinstance(child, nn.Sequential):
                yield from parts(child)
            else:
                yield child

    return [Layer(module) for module in parts(model)]


def _side(output: Any, model: nn.Module, layer: Layer | None) -> int:
    """Return the shorter side of the map in what a layer hands out; 0 where there is none."""
    tensor = _with_places(output, layer)
    found = None if tensor is None else _as_places(tensor, model, layer)
    return 0 if found is None else min(found.shape[2:])


def _with_places(output: Any, layer: Layer | None) -> Tensor | None:
    """Return the part of a layer's output that may hold places.

    Some stages hand out several tensors: a map and a class token (pit), patches and what is inside of them (tnt), maps
    of several sizes (hrnet). Of several the one with the stage's own number of channels is meant; none of hrnet's is: a
    part of the answer would be shown as if it were all of it.
    """
    if isinstance(output, Tensor):
        return output
    parts = [one for one in output if isinstance(one, Tensor)] if isinstance(output, (tuple, list)) else []
    parts = [one for one in parts if one.ndim >= 3]
    if len(parts) > 1 and layer is not None and layer.channels:
        parts = [one for one in parts if layer.channels in (one.shape[1], one.shape[-1])]
    return parts[0] if parts else None


def _head_maps(model: Any, images: Tensor) -> list[Tensor]:
    """Return the maps that the head reads, each (B, C', H', W')."""
    if hasattr(model, "head_maps"):
        maps: list[Tensor] = model.head_maps(images)
        return maps
    return [model.forward_features(images)]


def _cut(model: Any, images: Tensor, layer: Layer | None) -> tuple[list[Tensor], Tensor]:
    """Return what a layer (None: the head) reads, as leaves of a graph, and the logits (B, K) that follow from it.

    What comes before the cut keeps no graph: memory and time of a backward pass are those of the part behind it.
    """
    if layer is None:
        with torch.no_grad():
            found = _head_maps(model, images)
        leaves = [tensor.detach().requires_grad_() for tensor in found]
        # A copy goes on: activations that work in place must not write over a leaf.
        copies = [leaf.clone() for leaf in leaves]
        heads = hasattr(model, "head_of_maps")
        logits: Tensor = model.head_of_maps(copies) if heads else model.forward_head(copies[0])
        return leaves, logits
    kept: list[Tensor] = []

    def hook(module: nn.Module, inputs: Any, output: Any) -> Any:
        tensor = _with_places(output, layer)
        if tensor is None:
            raise _no_places()
        kept.append(tensor.detach().requires_grad_())
        copy = kept[-1].clone()
        if tensor is output:
            return copy
        parts = [copy if one is tensor else one for one in output]
        return tuple(parts) if isinstance(output, tuple) else parts

    handle = layer.module.register_forward_hook(hook)
    try:
        logits = model(images)
    finally:
        handle.remove()
    return kept, logits


def _as_places(tensor: Tensor, model: Any, layer: Layer | None) -> Tensor | None:
    """Return the map (B, C, H', W') in the output of a layer (None: in what the head reads); None where it has none.

    Args:
        tensor: A map (B, C, H', W') or (B, H', W', C), or tokens (B, L, C); of the head, tokens as a column
            (B, C, L, 1).
        model: Knows how many tokens come before those of the places, and in which order these lie.
        layer: Where the tensor comes from.
    """
    has_tokens = getattr(model, "has_tokens", False)
    if layer is None and has_tokens and tensor.ndim == 4 and tensor.shape[3] == 1:
        tensor = tensor.squeeze(3).transpose(1, 2)
    backbone = getattr(model, "backbone", None)
    if tensor.ndim == 3:
        roll_back: Any = getattr(backbone, "reroll", None)
        if layer is not None and roll_back is not None:  # hiera's tokens lie window by window
            rolled: Tensor = roll_back(tensor.contiguous(), layer.block)  # (B, H', W', C)
            return rolled.permute(0, 3, 1, 2)
        return _square(tensor, int(getattr(model, "prefix_tokens", 0)))
    if tensor.ndim != 4:
        return None
    if layer is None:
        return tensor
    first, last = tensor.shape[1] == layer.channels, tensor.shape[3] == layer.channels
    # Where the stage's number of channels does not decide, the network's own word does.
    is_last = last if first != last else str(getattr(backbone, "output_fmt", "NCHW")) == "NHWC"
    return tensor.permute(0, 3, 1, 2) if is_last else tensor


def _square(tokens: Tensor, prefix: int) -> Tensor | None:
    """Return the tokens (B, L, C) of the places as a map (B, C, H', W'); None where they make no square."""
    length = tokens.shape[1]
    for before in (prefix, 0):  # some backbones add their class token after the last stage but one
        side = math.isqrt(max(length - before, 0))
        if side > 1 and side * side == length - before:
            return tokens[:, before:].transpose(1, 2).reshape(len(tokens), -1, side, side)
    return None


# ------------------------------------------------------------------------------------------------------ through captum


def _captum() -> Any:
    require_extra("explain", "captum", "captum.attr")
    import captum.attr

    return captum.attr


def _integrated_gradients(model: nn.Module, images: Tensor, targets: Tensor, views: Views) -> Tensor:
    """Return (B, 1, H, W): what each pixel adds to the logit on the straight way from the mean colour, signed.

    Source:
        Sundararajan et al. 2017, arXiv:1703.01365, with captum's Gauss-Legendre sums.
    """
    method = _captum().IntegratedGradients(lambda batch: view_logits(model, batch, views))
    found: Tensor = method.attribute(
        images, baselines=0.0, target=targets, n_steps=_IG_STEPS, internal_batch_size=max(_IG_BATCH, len(images))
    )
    return found.sum(1, keepdim=True).detach()


def _occlusion(model: nn.Module, images: Tensor, targets: Tensor, views: Views) -> Tensor:
    """Return (B, 1, H, W): how far the logit falls when a square around the place is covered with the mean colour.

    Source:
        Zeiler and Fergus 2014, arXiv:1311.2901, section 4.2.
    """
    side, channels = min(images.shape[2:]), images.shape[1]
    square = max(1, side // _OCCLUDED_SHARE)
    step = max(1, square // _OCCLUDER_STEP)
    method = _captum().Occlusion(lambda batch: view_logits(model, batch, views))
    with torch.no_grad():
        found: Tensor = method.attribute(
            images,
            sliding_window_shapes=(channels, square, square),
            strides=(channels, step, step),
            target=targets,
            baselines=0.0,
            perturbations_per_eval=max(1, _IG_BATCH // len(images)),
        )
    return found.sum(1, keepdim=True)


# ------------------------------------------------------------------------------------------------------------ the check


def check_maps(
    predictor: Predictor,
    pixels: Tensor,
    targets: Tensor,
    heat: Float32Array,
    *,
    draws: int = 8,
    seed: int = 0,
    views: Views | None = None,
) -> list[MapCheck | None]:
    """Return, for each picture, what covering the hottest pixels does against covering others.

    The others are the same shape moved by random steps, over the edges: scattered pixels would be another thing to
    cover, not another place.

    Args:
        predictor: The model.
        pixels: uint8 0..255 (B, C, S, S).
        targets: int64 (B,), the classes that the maps explain.
        heat: float32 (B, S, S), as `heat_maps` returns them.
        draws: Random places to compare with.
        seed: Of the places.
        views: Test-time views; None takes the model's own.

    Returns:
        None where a map is all zero.

    Source:
        Deletion and insertion of Petsiuk et al. 2018, arXiv:1806.07421. Changed: one share of the pixels instead of a
        curve, and a random shape to compare with.
    """
    views = predictor.info.views if views is None else views
    dice = np.random.default_rng(seed)
    found: list[MapCheck | None] = []
    with torch.no_grad(), torch.autocast(torch.device(predictor.plan.device).type, enabled=False):
        images = predictor.transform(pixels.to(predictor.plan.device))
        side = images.shape[2]
        batches, shares = [], []
        for image, one in zip(images, heat, strict=True):
            hottest = _hottest(_resized(one, side))
            steps = dice.integers(1, side, (draws, 2)) if side > 1 else np.zeros((draws, 2), dtype=np.int64)
            masks = [hottest, *(np.roll(hottest, (int(down), int(right)), (0, 1)) for down, right in steps)]
            covered = torch.from_numpy(np.stack(masks)).to(image.device)[:, None]  # (1 + draws, 1, H, W)
            batches.append(torch.cat([image[None], image * ~covered, image * covered]))  # the mean colour is zero
            shares.append(float(hottest.mean()))
        # Small pictures are cheap together and dear one by one.
        logits = torch.cat(
            [view_logits(predictor.model, part, views) for part in torch.split(torch.cat(batches), _CHECK_BATCH)]
        )
        probs = (logits.cpu().double() / predictor.info.temperature).softmax(1).numpy()  # an Apple GPU has no float64
    each = 3 + 2 * draws
    for number, (target, share) in enumerate(zip(targets.tolist(), shares, strict=True)):
        own = probs[number * each : (number + 1) * each, target]
        hide, keep = own[1 : 2 + draws], own[2 + draws :]
        check = MapCheck(
            prob=float(own[0]),
            share=share,
            hidden=float(hide[0]),
            hidden_elsewhere=float(hide[1:].mean()),
            kept=float(keep[0]),
            kept_elsewhere=float(keep[1:].mean()),
        )
        found.append(check if share else None)
    return found


def _resized(heat: Float32Array, side: int) -> Float32Array:
    tensor = torch.from_numpy(heat)[None, None]
    return F.interpolate(tensor, size=(side, side), mode="bilinear", align_corners=False)[0, 0].numpy()


def _hottest(heat: Float32Array) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return bool (S, S): the hottest fifth of the pixels, without those that are cold."""
    count = max(1, round(_HIDDEN_SHARE * heat.size))
    order = np.argsort(-heat, axis=None, kind="stable")[:count]
    mask = np.zeros(heat.size, dtype=np.bool_)
    mask[order] = True
    return mask.reshape(heat.shape) & (heat > 0)


def summarise_checks(checks: Sequence[MapCheck | None]) -> str:
    """Return in one sentence how far the maps can be believed; empty where nothing was checked."""
    known = [check for check in checks if check is not None]
    if not known:
        return ""
    from eyespot.analysis import words

    def mean(key: str) -> str:
        return words.percent(float(np.mean([getattr(check, key) for check in known])))

    passed = sum(check.is_passed for check in known)
    return (
        f"Checked on {words.plural(len(known), 'map')}: covering the hottest {words.percent(_HIDDEN_SHARE)} of the"
        f" pixels takes the probability from {mean('prob')} to {mean('hidden')} on average, covering the same shape at"
        f" random places to {mean('hidden_elsewhere')}. {passed} of {words.plural(len(known), 'map')}"
        f" {'points' if passed == 1 else 'point'} at more than a random place does. The check"
        " computes in float32: its probabilities may differ a little from those of the answers."
    )
