"""timm's networks as backbones under an eyespot head: the only file that imports timm.

Before it: a name, a head's settings, and the weights that `weights` found. After it: a module with the protocol of our
own networks, whose frozen part stays in eval mode, and which can hand out its pooled features on their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from eyespot.errors import ModelError, UsageError, did_you_mean, first_line
from eyespot.models.depthwise import use_fast_depthwise
from eyespot.models.heads import HeadSpec, build_head, head_notes
from eyespot.models.protocol import check_images, check_num_classes
from eyespot.models.weights import LoadedWeights, load_weights

# Names that the studies and other libraries use, for timm's.
ALIASES: Mapping[str, str] = {
    "efficientnet_lite0": "tf_efficientnet_lite0",
    "efficientnet_lite1": "tf_efficientnet_lite1",
    "efficientnet_lite2": "tf_efficientnet_lite2",
}
Interpolation: TypeAlias = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_RGB = 3
_ABSENT = ("pre_logits",)  # parts of a classifier that timm counts to the backbone (the 4096-wide layers of VGG)
# What a network raises for images, a layout or a call that it was not made for.
_UNFIT = (RuntimeError, AssertionError, ValueError, IndexError, TypeError, AttributeError)
# The part of a parameter's name that says in which block of which stage it is: stages.2.blocks.5, stages.2.5, stem.
_BLOCK = re.compile(r"\w+\.\d+\.(?:blocks\.)?\d+(?=\.)|\w+\.\d+(?=\.)|\w+")


@dataclass(frozen=True)
class BackboneFacts:
    """What timm knows about a network without building it.

    Attributes:
        name: timm's name of the architecture, without the tag of its weights.
        tag: Tag of its weights, such as `a1_in1k`; empty where timm has none.
        size_px: Side that the weights were trained for.
        fixed_size: Whether another side needs another network (position embeddings).
        mean: Of each channel, in units of pixel / 255.
        std: Of each channel, in units of pixel / 255.
        interpolation: Pillow's name of the filter.
        hub_id: Repository on the Hugging Face hub; None where there is none.
        licence: Of the weights, as an SPDX name where it has one.
    """

    name: str
    tag: str
    size_px: int
    fixed_size: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: Interpolation
    hub_id: str | None
    licence: str


def is_backbone(name: str) -> bool:
    """Return whether timm has a network of that name, with or without a tag of weights."""
    # Names with a scheme ("hf-hub:...", "local-dir:...") would have timm read a configuration from elsewhere.
    if not name or any(character in name for character in ":/\\"):
        return False
    import timm

    return bool(timm.is_model(_timm_name(name).partition(".")[0]))


def _timm_name(name: str) -> str:
    """Return timm's name for one of ours; a tag of weights stays."""
    architecture, dot, tag = name.partition(".")
    return f"{ALIASES.get(architecture, architecture)}{dot}{tag}"


def nearest_backbone(name: str, others: Iterable[str] = ()) -> str:
    """Return ` Did you mean ...?` over timm's names and some others."""
    import timm

    return did_you_mean(name, [*others, *ALIASES, *timm.list_models()])


@lru_cache(maxsize=64)
def backbone_facts(name: str) -> BackboneFacts:
    """Return what timm knows about a network.

    Raises:
        UsageError: timm has no network, or no weights, of that name.
    """
    from timm.models import get_pretrained_cfg, list_pretrained

    if not is_backbone(name):
        raise UsageError(f"unknown backbone {name!r}.{nearest_backbone(name)}", remedy="eyespot models")
    timm_name = _timm_name(name)
    architecture, _, tag = timm_name.partition(".")
    try:
        found = get_pretrained_cfg(timm_name, allow_unregistered=not tag)
    except RuntimeError as error:
        tags = [known.partition(".")[2] for known in list_pretrained(f"{architecture}.*")]
        raise UsageError(
            f"timm has no weights {tag!r} of {architecture}.{did_you_mean(tag, tags)}",
            remedy=f"use {architecture}" + (f", or one of its tags: {', '.join(tags)}" if tags else ""),
        ) from error
    config: dict[str, Any] = found.to_dict() if found is not None else {}  # type: ignore[no-untyped-call]
    return BackboneFacts(
        name=architecture,
        tag=tag or config.get("tag") or "",
        size_px=int((config.get("input_size") or (3, 224, 224))[-1]),
        fixed_size=bool(config.get("fixed_input_size")),
        mean=tuple(config.get("mean") or (0.485, 0.456, 0.406)),
        std=tuple(config.get("std") or (0.229, 0.224, 0.225)),
        interpolation=_pillow_name(config.get("interpolation") or "bicubic"),
        hub_id=config.get("hf_hub_id") or None,
        licence=config.get("license") or "unknown",
    )


def _pillow_name(name: str) -> Interpolation:
    for known in get_args(Interpolation):
        if name == known:
            return cast("Interpolation", known)
    return "bicubic"


class PretrainedClassifier(nn.Module):
    """A backbone of timm and a head; follows `ImageClassifier`.

    Args:
        facts: Which network.
        num_classes: K.
        in_channels: C.
        size_px: Side of the square images, which decides the width of a `flatten` head.
        head: Pooling and layers.
        taps: Average-pooled maps of so many stages before the last, beside the last one's features.

    Raises:
        ModelError: timm cannot build it like this.
    """

    def __init__(
        self, facts: BackboneFacts, *, num_classes: int, in_channels: int, size_px: int, head: HeadSpec, taps: int = 0
    ) -> None:
        super().__init__()
        check_num_classes(facts.name, num_classes)
        self.name = facts.name
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.size_px = size_px
        self.head_spec = head
        self.taps = taps
        self.backbone = _create(facts, in_channels, size_px)
        widths = _widths(facts, in_channels, size_px, taps)
        self.map_shape = widths.map_shape
        self._layout = widths.layout
        self.average_width = widths.average
        self.head = build_head(head, self.head_inputs, num_classes)
        self.num_features: int = (head.hidden or (self.head_inputs,))[-1]

    # ---- from images to logits ----

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the last feature map, float (B, C', H', W'); with taps all pooled features, (B, D, 1, 1)."""
        check_images(self.name, images, in_channels=self.in_channels)
        if self.taps:
            return self.pooled(images)[:, :, None, None]
        return _as_map(self.backbone.forward_features(images), self._layout)  # type: ignore[operator]

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits (B, K), or with `pre_logits` what the classifier reads, (B, num_features)."""
        if self.taps:
            vectors = self.head_vectors(features.flatten(1))
        elif self.head_spec.pool == "flatten":
            vectors = features.flatten(1)
        else:
            vectors = self.head_vectors(self._pool(features))
        found: Tensor = (self.head[:-1] if pre_logits else self.head)(vectors)
        return found

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, K) for images (B, C, H, W)."""
        logits: Tensor = self.head(self.encode(images))
        return logits

    def get_classifier(self) -> nn.Module:
        """Return the last linear layer."""
        return self.head[-1]

    def reset_classifier(self, num_classes: int) -> None:
        """Put a fresh classifier for another number of classes in place."""
        check_num_classes(self.name, num_classes)
        self.num_classes = num_classes
        old = next(self.get_classifier().parameters())
        self.head[-1] = nn.Linear(self.num_features, num_classes).to(old)

    # ---- features on their own ----

    @property
    def head_inputs(self) -> int:
        """Return the length of the vectors that the head takes."""
        channels, height, width = self.map_shape
        pooled = {"gap": self.average_width, "gmp": channels, "concat": self.average_width + channels}
        return pooled.get(self.head_spec.pool, channels * height * width)

    @property
    def encoded_width(self) -> int:
        """Return the length of what `features_of` keeps of a picture: all pools but `flatten` are cut out of it."""
        if self.head_spec.pool == "flatten":
            return self.head_inputs
        return self.average_width + self.map_shape[0]

    def features_of(self, images: Tensor) -> Tensor:
        """Return what a frozen backbone need not compute twice, float (B, encoded_width), for `head_vectors`."""
        if self.head_spec.pool == "flatten":
            return self.forward_features(images).flatten(1)
        return self.pooled(images)

    @property
    def head_columns(self) -> slice:
        """Return which columns of what `features_of` returns are the head's input."""
        pool = self.head_spec.pool
        return slice(self.average_width) if pool == "gap" else slice(self.average_width if pool == "gmp" else 0, None)

    def head_vectors(self, encoded: Tensor) -> Tensor:
        """Return the head's input (B, head_inputs), a part of what `features_of` returned."""
        return encoded[:, self.head_columns]

    def encode(self, images: Tensor) -> Tensor:
        """Return the head's input, float (B, head_inputs), of images (B, C, H, W)."""
        return self.head_vectors(self.features_of(images))

    def pooled(self, images: Tensor) -> Tensor:
        """Return average-pooled features, those of the taps first, then the maxima of the last map: (B, D)."""
        return self.pool_maps(self.head_maps(images))

    def head_maps(self, images: Tensor) -> list[Tensor]:
        """Return what is pooled for the head, each (B, C', H', W'): the maps of the taps, then the last one."""
        check_images(self.name, images, in_channels=self.in_channels)
        if not self.taps:
            return [_as_map(self.backbone.forward_features(images), self._layout)]  # type: ignore[operator]
        stages = list(range(-1 - self.taps, -1))
        last, earlier = self.backbone.forward_intermediates(images, indices=_stages(self.backbone, stages))  # type: ignore[operator]
        return [*earlier, _as_map(last, self._layout)]

    def pool_maps(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the pooled features (B, D) of the maps that `head_maps` returned."""
        if len(maps) == 1:
            return self._pool(maps[0])
        return torch.cat([*(stage.mean((2, 3)) for stage in maps[:-1]), self._pool(maps[-1])], dim=1)

    def head_of_maps(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the logits (B, K) of the maps that `head_maps` returned."""
        if self.head_spec.pool == "flatten":
            return self.forward_head(maps[-1])
        logits: Tensor = self.head(self.head_vectors(self.pool_maps(maps)))
        return logits

    @property
    def has_tokens(self) -> bool:
        """Return whether the backbone hands out tokens, as vision transformers do, and not maps."""
        return self._layout == "NLC"

    @property
    def prefix_tokens(self) -> int:
        """Return how many tokens come before those of the places: class and register tokens."""
        return int(getattr(self.backbone, "num_prefix_tokens", 0))

    def stage_modules(self) -> list[nn.Module]:
        """Return the modules after which the backbone's stages end, in order; empty where timm keeps no list."""
        modules = dict(self.backbone.named_modules())
        names = [str(stage["module"]) for stage in _feature_info(self.backbone)]
        return [modules[name] for name in names if name and name in modules]

    def _pool(self, features: Tensor) -> Tensor:
        """Return (B, D): what the backbone itself makes of its last map, then the maxima of the map."""
        average = self.backbone.forward_head(_from_map(features, self._layout), pre_logits=True)  # type: ignore[operator]
        if average.ndim == 4:  # VGG without its 4096-wide layers
            average = average.mean((2, 3))
        return torch.cat([average, features.amax((2, 3))], dim=1)

    # ---- what is trained ----

    def freeze(self, mode: str, until: str = "") -> None:
        """Decide what is trained; everything else keeps its weights and, always, its batch statistics.

        Args:
            mode: `features`: the head alone; `last-block`: the head and the backbone's last stage; `finetune` and
                `full`: everything.
            until: Instead of the mode: freeze what comes before the first module or parameter of this name.

        Raises:
            UsageError: The backbone has nothing of that name; near ones are offered.
        """
        first = until or (last_stage(self.backbone) if mode == "last-block" else "")
        names = [name for name, _ in self.backbone.named_parameters()]
        start = len(names) if mode == "features" and not until else 0
        if first:
            starts = [place for place, name in enumerate(names) if name == first or name.startswith(f"{first}.")]
            if not starts:
                # Only what has weights: nothing comes before a pooling that does not come before the next layer.
                paths = [name.split(".") for name in names]
                parts = dict.fromkeys(".".join(path[:end]) for path in paths for end in range(1, len(path) + 1))
                raise UsageError(
                    f"{self.name} has no {first!r} with weights to freeze until.{did_you_mean(first, parts)}",
                    remedy=f"use one of {', '.join(part for part in parts if '.' not in part)}, or a part of one",
                )
            start = starts[0]
        for place, parameter in enumerate(self.backbone.parameters()):
            parameter.requires_grad_(place >= start)
        self.train(self.training)

    def train(self, mode: bool = True) -> PretrainedClassifier:
        """Switch to training, except for frozen modules: their dropout stays off and their statistics do not move."""
        super().train(mode)
        if mode:
            for module in self.backbone.modules():
                own = list(module.parameters())
                if own and not any(parameter.requires_grad for parameter in own):
                    module.eval()
        return self

    def describe_training(self) -> str:
        """Return what is trained and what is frozen, by the backbone's parts, with counts of parameters."""
        trained: dict[str, int] = {}
        frozen: dict[str, int] = {}
        for name, parameter in self.named_parameters():
            part = name.removeprefix("backbone.").partition(".")[0]
            if part == "head" and name.startswith("backbone."):  # a norm before the classifier that ours replaces
                part = "backbone.head"
            if part in ("features", "blocks", "stages", "layers"):  # one part is nearly all: name its parts
                part = ".".join(name.removeprefix("backbone.").split(".")[:2])
            kind = trained if parameter.requires_grad else frozen
            kind[part] = kind.get(part, 0) + parameter.numel()

        def listed(parts: Mapping[str, int]) -> str:
            return ", ".join(f"{part} {count:,}" for part, count in parts.items()) or "nothing"

        return (
            f"trainable, {sum(trained.values()):,} parameters: {listed(trained)}; "
            f"frozen, {sum(frozen.values()):,}: {listed(frozen)}"
        )

    def parameter_depths(self) -> dict[str, int]:
        """Return how deep each parameter lies, from 0 at the images; the head is deepest.

        Timm says it for most networks. In the others the blocks count in the order in which they stand.
        """
        from timm.models import group_parameters

        if hasattr(self.backbone, "group_matcher"):
            matcher = self.backbone.group_matcher(coarse=False)  # type: ignore[operator]
            depths: dict[str, int] = group_parameters(self.backbone, matcher, reverse=True)
        else:
            depths = _depths_by_block([name for name, _ in self.backbone.named_parameters()])
        deepest = max(depths.values(), default=0)
        own = {f"backbone.{name}": depths.get(name, deepest) for name, _ in self.backbone.named_parameters()}
        return own | {f"head.{name}": deepest + 1 for name, _ in self.head.named_parameters()}

    def load_backbone(self, facts: BackboneFacts, where: str) -> LoadedWeights:
        """Put pretrained weights into the backbone.

        Args:
            facts: Which network, and which of its weights.
            where: `auto`, `package`, `hub`, or a file.

        Returns:
            Where they came from, without the tensors.

        Raises:
            ModelError: The network is for grey pictures, and the weights are not.
            CheckpointError: There are none, or they are damaged or of another architecture.
        """
        import timm

        if self.in_channels != _RGB:
            raise ModelError(
                f"pretrained weights take RGB pictures, these have {self.in_channels} channel",
                where=f"model {self.name!r}",
                remedy="leave input.channels at auto, which shows grey pictures as RGB, or --set model.weights=random",
            )
        with torch.device("meta"):
            whole = timm.create_model(facts.name, pretrained=False).state_dict()
        own = self.backbone.state_dict()
        found = load_weights(
            where,
            name=facts.name,
            expected={name: tensor.shape for name, tensor in own.items()},
            optional=whole.keys() - own.keys(),
            hub_id=facts.hub_id,
            licence=facts.licence,
        )
        self.backbone.load_state_dict(found.tensors)
        return replace(found, tensors={})

    def notes(self) -> list[str]:
        """Return what should be known about the head before it is trained."""
        return head_notes(
            self.head_spec, self.map_shape, self.head_inputs, self.num_classes, average_width=self.average_width
        )


@dataclass(frozen=True)
class _Widths:
    """What a head depends on: the last map (C, H, W), the length of the average-pooled features, the map's layout."""

    map_shape: tuple[int, int, int]
    average: int
    layout: str


@lru_cache(maxsize=64)
def _widths(facts: BackboneFacts, in_channels: int, size_px: int, taps: int) -> _Widths:
    """Return a backbone's shapes, from a copy that has no memory: the meta device knows shapes only.

    Raises:
        ModelError: Images of this size do not pass through it, those of no size do, or it has not so many stages.
    """
    with torch.device("meta"):
        backbone = _create(facts, in_channels, size_px).eval()
        images = torch.empty(2, in_channels, size_px, size_px)
    try:
        indices = _stages(backbone, list(range(-1 - taps, -1))) if taps else []
    except IndexError as error:
        raise ModelError(
            f"taps = {taps} ({error})",
            where=f"model {facts.name!r}",
            remedy="ask for fewer with --set model.args.taps=..., 0 for none",
        ) from error
    try:
        with torch.no_grad():
            raw = backbone.forward_features(images)  # type: ignore[operator]
            layout = _layout_of(backbone, raw)
            features = _as_map(raw, layout)
            average = backbone.forward_head(raw, pre_logits=True)  # type: ignore[operator]
            widths = [average.shape[1]]
            if taps:
                _, earlier = backbone.forward_intermediates(images, indices=indices)  # type: ignore[operator]
                widths += [stage.shape[1] for stage in earlier]
    except _UNFIT as error:
        why = first_line(error, 120)
        if size_px == facts.size_px:
            raise ModelError(
                f"it cannot be used under a head of eyespot ({why})",
                where=f"model {facts.name!r}",
                remedy="use another backbone",
            ) from error
        _widths(facts, in_channels, facts.size_px, taps)  # where no size passes, that is said
        smallest = smallest_size_px(facts)
        raise ModelError(
            f"images of {size_px}x{size_px} px do not pass through ({why})",
            where=f"model {facts.name!r}",
            remedy=f"{f'use at least {smallest} px: ' if size_px < smallest else ''}{_give_size(facts.size_px)}",
        ) from error
    _, channels, height, width = features.shape
    return _Widths((channels, height, width), sum(widths), layout)


@lru_cache(maxsize=64)
def smallest_size_px(facts: BackboneFacts) -> int:
    """Return the smallest side that leaves every map at least one pixel without padding making it up.

    The side of the weights where another one needs another network.
    """
    if facts.fixed_size:
        return facts.size_px
    with torch.device("meta"):
        backbone = _create(facts, 3, facts.size_px).eval()

    def passes(side: int) -> bool:
        try:
            with torch.no_grad():
                found = backbone.forward_features(torch.empty(2, 3, side, side, device="meta"))  # type: ignore[operator]
                return bool(min(found.shape) > 0)
        except _UNFIT:
            return False

    low, high = 0, facts.size_px  # `high` passes
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return max(high, max((int(stage["reduction"]) for stage in _feature_info(backbone)), default=1))


def _create(facts: BackboneFacts, in_channels: int, size_px: int) -> nn.Module:
    """Return timm's network with random weights and without its classifier.

    Raises:
        ModelError: It takes one size only, or timm cannot build it.
    """
    import timm
    from timm.layers.conv2d_same import Conv2dSame
    from timm.layers.padding import pad_same

    if facts.fixed_size and size_px != facts.size_px:
        raise ModelError(
            f"images of {size_px}x{size_px} px, it takes {facts.size_px}x{facts.size_px} px only",
            where=f"model {facts.name!r}",
            remedy=_give_size(facts.size_px),
        )
    try:
        backbone: nn.Module = timm.create_model(facts.name, pretrained=False, num_classes=0, in_chans=in_channels)
    except (RuntimeError, AssertionError, ValueError, TypeError, NotImplementedError) as error:
        raise ModelError(
            f"timm cannot build it ({first_line(error)})",
            where=f"model {facts.name!r}",
            remedy="use another backbone",
        ) from error
    for part in _ABSENT:
        if hasattr(backbone, part):
            setattr(backbone, part, nn.Identity())
    use_fast_depthwise(backbone, Conv2dSame, pad_same)
    return backbone


def _give_size(size_px: int) -> str:
    """Return how a side is asked for."""
    return f"--set input.size_px={size_px}, with eyespot models --size {size_px}"


def _layout_of(backbone: nn.Module, features: Tensor) -> str:
    """Return how a network hands out its features: `NCHW`, `NHWC`, tokens `NLC`, or vectors `NC`.

    Raises:
        ValueError: In none of these ways.
    """
    if not isinstance(features, Tensor) or features.ndim not in (2, 3, 4):
        raise ValueError("its features are no map, tokens or vectors")
    if features.ndim == 4:
        return str(getattr(backbone, "output_fmt", "NCHW"))
    return "NLC" if features.ndim == 3 else "NC"


def _as_map(features: Tensor, layout: str) -> Tensor:
    """Return features as (B, C, H, W); tokens become a column."""
    if layout == "NHWC":
        return features.permute(0, 3, 1, 2)
    if layout == "NLC":
        return features.transpose(1, 2).unsqueeze(3)
    return features[:, :, None, None] if layout == "NC" else features


def _from_map(features: Tensor, layout: str) -> Tensor:
    """Return a map (B, C, H, W) as the backbone's own pooling takes it; undoes `_as_map`."""
    if layout == "NHWC":
        return features.permute(0, 2, 3, 1)
    if layout == "NLC":
        return features.squeeze(3).transpose(1, 2)
    return features.flatten(1) if layout == "NC" else features


def _feature_info(backbone: nn.Module) -> list[dict[str, Any]]:
    """Return timm's list of stages: module, channels and reduction of each; empty where it keeps none."""
    info: Any = getattr(backbone, "feature_info", [])
    return list(info if isinstance(info, list) else info.info)


def _stages(backbone: nn.Module, places: Sequence[int]) -> list[int]:
    """Return places in the list of stages as whole numbers from 0.

    Raises:
        IndexError: There are not so many.
    """
    count = len(_feature_info(backbone))
    if -min(places) > count or not hasattr(backbone, "forward_intermediates"):
        raise IndexError(f"{-min(places)} stages asked for, it has {count}")
    return [count + place for place in places]


def _depths_by_block(names: Sequence[str]) -> dict[str, int]:
    """Return how deep each parameter lies, by its name: those of a block, and of what stands alone, lie equally deep.

    Not by the place of the parameter itself: hundreds of them would leave the first ones no learning rate.
    """
    depths: dict[str, int] = {}
    found = {}
    for name in names:
        block = _BLOCK.match(name)
        found[name] = depths.setdefault(block[0] if block else name, len(depths))
    return found


def last_stage(backbone: nn.Module) -> str:
    """Return the name of the first parameter of a backbone's last stage, where the maps are smallest."""
    modules = [name for name, _ in backbone.named_modules()]
    names = [name for name, _ in backbone.named_parameters()]
    for stage in reversed(_feature_info(backbone)[:-1]):
        ends = [place for place, name in enumerate(modules) if f"{name}.".startswith(f"{stage['module']}.")]
        if not ends:
            continue
        after = set(modules[ends[-1] + 1 :])
        later = [name for name in names if name.rpartition(".")[0] in after]
        if later:
            return later[0]
    return names[-1]


def build_backbone_classifier(
    name: str, *, num_classes: int, in_channels: int, size_px: int, args: Mapping[str, Any]
) -> PretrainedClassifier:
    """Build a backbone with a head for the registry, all weights random.

    Args:
        name: timm's name, or an alias.
        num_classes: K.
        in_channels: C.
        size_px: Side of the images.
        args: `pool`, `hidden`, `dropout`, `batch_norm`, `activation` of the head, and `taps`.

    Raises:
        ModelError: A size or head that it cannot have.
        UsageError: timm has no such network.
    """
    head = HeadSpec(
        pool=args["pool"],
        hidden=tuple(args["hidden"]),
        dropout=args["dropout"],
        batch_norm=args["batch_norm"],
        activation=args["activation"],
    )
    if args["taps"] < 0:
        raise ModelError(f"taps = {args['taps']}", where=f"model {name!r}", remedy="use 0 for none, or more")
    if args["taps"] and head.pool == "flatten":
        raise ModelError("taps with a flatten head", where=f"model {name!r}", remedy="use pool gap, gmp or concat")
    return PretrainedClassifier(
        backbone_facts(name),
        num_classes=num_classes,
        in_channels=in_channels,
        size_px=size_px,
        head=head,
        taps=int(args["taps"]),
    )
