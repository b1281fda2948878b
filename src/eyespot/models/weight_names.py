"""One job: find a network's tensors among those of a file, whatever a training wrapped around their names.

Before this: `weights` knows the names and shapes in a file. After this: it reads the tensors.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from eyespot.models.weight_files import FileError

if TYPE_CHECKING:
    import torch

_COUNTER = "num_batches_tracked"
_BACKBONE, _HEAD = "backbone.", "head."
_PREFIXES = ("module.", "model.", _BACKBONE, "_orig_mod.")


@dataclass(frozen=True)
class Wanted:
    """What the network needs: shapes by name, and the names that may be there beside them."""

    name: str
    shapes: Mapping[str, torch.Size]
    optional: frozenset[str]


def match_names(found: Mapping[str, tuple[int, ...]], wanted: Wanted) -> dict[str, str]:
    """Return, for each tensor that is wanted, its name in the file.

    Raises:
        FileError: A tensor is missing, of another shape, or of no use to the network.
    """
    known = {*wanted.shapes, *wanted.optional}
    if any(name.startswith(_BACKBONE) for name in found):  # of a classifier such as our own: its head is no part of it
        found = {name: shape for name, shape in found.items() if not name.startswith(_HEAD)}
    places: dict[str, str] = {}
    for name, own in zip(found, _own_names(found, wanted, known), strict=True):
        if own in places:
            raise FileError(f"two tensors for {own!r}: {places[own]!r} and {name!r}")
        places[own] = name
    needed = wanted.shapes.keys()
    missing = [name for name in needed if name not in places and not is_counter(name)]
    extra = [place for own, place in places.items() if own not in known and not is_counter(own)]
    wrong = [name for name in needed if name in places and found[places[name]] != tuple(wanted.shapes[name])]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(needed)} tensors are missing, the first is {missing[0]!r}")
    if extra:
        problems.append(f"{_tensors(len(extra), 'is', 'are')} unknown to it, the first is {extra[0][:120]!r}")
    if wrong:
        name = wrong[0]
        got, shape = found[places[name]], tuple(wanted.shapes[name])
        problems.append(
            f"{_tensors(len(wrong), 'has', 'have')} another shape, the first is {name!r} with {got} instead of {shape}"
        )
    if problems:
        raise FileError(
            f"weights of another architecture than {wanted.name}: {'; '.join(problems)}",
            f"give weights of {wanted.name}, or name the model that they belong to",
        )
    return {name: places[name] for name in needed if name in places}


def _tensors(count: int, one: str, more: str) -> str:
    return f"1 tensor {one}" if count == 1 else f"{count} tensors {more}"


def _own_names(found: Iterable[str], wanted: Wanted, known: Collection[str]) -> list[str]:
    """Return the network's names for those of a file."""
    names = []
    for name in found:
        bare, own = True, name
        while bare and own not in known:
            bare = False
            for prefix in _PREFIXES:
                if own.startswith(prefix):
                    bare, own = True, own.removeprefix(prefix)
        names.append(own)
    return _lite_names(names, wanted.shapes) if "_conv_stem.weight" in names else names


# github.com/lukemelas/EfficientNet-PyTorch numbers all blocks in one row, and timm in stages. A block without expansion
# has no first convolution, so that timm's names in it mean other layers.
_LITE_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_LITE_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
_LITE_EXPANDED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _lite_names(names: list[str], shapes: Iterable[str]) -> list[str]:
    """Return timm's names for those of the lite packages; what has none stays as it is, and is refused later."""
    blocks = sorted({(int(s), int(b)) for s, b in re.findall(r"^blocks\.(\d+)\.(\d+)\.", "\n".join(shapes), re.M)})
    expanded = {name.split(".")[1] for name in names if "._expand_conv." in name}
    own = []
    for name in names:
        top, _, leaf = name.partition(".")
        inner = re.fullmatch(r"_blocks\.(\d{1,4})\.(\w+)\.(\w+)", name)
        if inner and int(inner[1]) < len(blocks):
            layers = _LITE_EXPANDED if inner[1] in expanded else _LITE_PLAIN
            stage, block = blocks[int(inner[1])]
            own.append(f"blocks.{stage}.{block}.{layers.get(inner[2], inner[2])}.{inner[3]}")
        else:
            own.append(f"{_LITE_TOP.get(top, top)}.{leaf}" if leaf else name)
    return own


def is_counter(name: str) -> bool:
    """Return whether a tensor counts the batches of a batch normalisation."""
    return name.rpartition(".")[2] == _COUNTER
