"""The run folder: everything about a run is in it, and one process at a time writes it.

`RunWriter` is held by the process that trains; `Run` is what anybody reads afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

from eyespot.caches import user_path
from eyespot.config import Config, parse_config
from eyespot.errors import EyespotError, RunError, RunLockedError
from eyespot.files import (
    DISK_FULL,
    append_line,
    describe_disk_error,
    remedy_for_unreadable,
    remove_temporaries,
    write_atomic,
    write_json,
)
from eyespot.locks import file_lock

CHECKPOINTS = "checkpoints"
BUNDLE = "bundle"
LR_FINDER = "lr_finder.json"
LABEL_FIXES = "label_fixes.csv"
TRAINED_ON = "trained_on.bin"
_RESTORE = "restore the file, or train again"
_BEFORE_TRAINING = ("provenance.json", "split.json", LR_FINDER, LABEL_FIXES, TRAINED_ON, "history.jsonl", "log.txt")
_RESULTS = ("predictions.npz", f"{BUNDLE}/weights.safetensors", f"{BUNDLE}/model.json", "metrics.json", "report.html")
_WRITTEN = (*_BEFORE_TRAINING, "metrics.json", "predictions.npz", "report.html", f"{BUNDLE}/model.json")


@dataclass(frozen=True)
class Run:
    """A run folder, read; it may stand wherever the path of a run folder is asked for.

    Attributes:
        path: The folder, absolute.
    """

    path: Path

    def __fspath__(self) -> str:
        """Return the path as text: the run is an `os.PathLike`."""
        return str(self.path)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Run:
        """Return the run in a folder.

        Raises:
            RunError: The folder does not exist or does not hold a run.
        """
        folder = user_path(path).resolve()
        if not folder.is_dir():
            raise RunError("no such folder", where=path, remedy="give a run folder; eyespot runs lists them")
        if not (folder / "config.toml").is_file():
            raise RunError(
                "not a run folder (it has no config.toml)", where=path, remedy="give a folder that eyespot train wrote"
            )
        return cls(folder)

    @property
    def config(self) -> Config:
        """Return every setting of the run; corrected labels are those of its own copy, wherever the folder lies now.

        Raises:
            RunError: config.toml cannot be read, or was cut off.
            ConfigError: It does not validate.
        """
        path = self.path / "config.toml"
        text = _read_text(path)
        config = parse_config(text, where=str(path))
        # Every setting is written there: what is missing was lost, and its default would be taken for the run's.
        if not text.endswith("\n") or "evaluation" not in config.model_fields_set:
            raise RunError("damaged: its end is missing", where=path, remedy=_RESTORE)
        return config if not config.data.label_fixes else with_label_fixes(config, self.path / LABEL_FIXES)

    @property
    def metrics(self) -> dict[str, Any]:
        """Return metrics.json; empty while the run is not finished.

        Raises:
            RunError: It cannot be read, or is none.
        """
        path = self.path / "metrics.json"
        found = read_json(path, default={})
        for split in ("train", "val", "test"):
            if not isinstance(found.get(split, {}), dict):
                raise RunError(f"what it says of {split} is no JSON object", where=path, remedy=_RESTORE)
        return found

    @property
    def provenance(self) -> dict[str, Any]:
        """Return provenance.json; empty while it is not written."""
        return read_json(self.path / "provenance.json", default={})

    @property
    def lr_finder(self) -> dict[str, Any]:
        """Return lr_finder.json, the range test of the learning rate; empty where the recipe gave a number."""
        return read_json(self.path / LR_FINDER, default={}, remedy="delete the file: the search is repeated")

    @property
    def history(self) -> list[dict[str, Any]]:
        """Return the finished epochs, in order."""
        path = self.path / "history.jsonl"
        if not path.exists():
            return []
        remedy = "resume the run where it is unfinished (the file is written again), else restore it"
        try:
            rows = [json.loads(line) for line in _read_text(path).splitlines() if line]
        except (json.JSONDecodeError, RecursionError) as error:
            raise RunError(f"damaged line ({error})", where=path, remedy=remedy) from error
        if not all(isinstance(row, dict) for row in rows):
            raise RunError("damaged: a line is not a JSON object", where=path, remedy=remedy)
        return rows

    @property
    def report(self) -> Path:
        """Return the path of report.html."""
        return self.path / "report.html"

    @property
    def finished(self) -> bool:
        """Return whether training, evaluation and report are all done."""
        return "finished" in self.provenance

    @property
    def missing(self) -> list[str]:
        """Return which of the files that the end of a training writes are not there."""
        return [name for name in _RESULTS if not (self.path / name).exists()]


def with_label_fixes(config: Config, path: Path) -> Config:
    """Return a configuration that takes its corrections of labels from another file."""
    return config.model_copy(update={"data": config.data.model_copy(update={"label_fixes": str(path)})})


class RunWriter:
    """The run folder while one process writes it; use it as a context manager.

    Args:
        path: The folder; made where it does not exist.
        config: Every setting; written to config.toml on entry.
        resume: Whether the folder may hold a run already.
    """

    def __init__(self, path: Path, config: Config, *, resume: bool = False) -> None:
        self.path = path
        self.config = config
        self._resume = resume
        self._elsewhere = "choose another with --out"
        if resume:  # another folder has nothing to resume
            self._elsewhere = "change its permissions, or copy the folder and resume the copy"
        self._stack = ExitStack()

    def __enter__(self) -> RunWriter:
        """Lock the folder and write the settings.

        Raises:
            RunError: The folder cannot be made or written, or holds a run that has begun and `resume` is False.
            RunLockedError: Another process writes it.
        """
        try:
            (self.path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable("cannot make the run folder", error) from error
        try:
            self._stack.enter_context(file_lock(self.path / ".lock", timeout_seconds=0))
        except TimeoutError as error:
            raise RunLockedError(
                "another process is writing this run",
                where=self.path,
                remedy="wait for it, or choose another folder with --out",
            ) from error
        except OSError as error:
            raise self._unusable("cannot write", error) from error
        try:
            self._claim()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Unlock the folder."""
        self._stack.close()

    def _unusable(self, what: str, error: OSError) -> RunError:
        reason, remedy = describe_disk_error(error)
        if reason != DISK_FULL:
            reason, remedy = error.strerror or str(error), self._elsewhere
        return RunError(f"{what} ({reason})", where=self.path, remedy=remedy)

    def _claim(self) -> None:
        settings = self.path / "config.toml"
        if settings.exists() and not self._resume and not _never_began(self.path):
            raise RunError(
                "this folder already holds a run",
                where=self.path,
                remedy="go on with --resume, or choose another with --out",
            )
        if not self._resume and not settings.exists():
            checkpoints = (path.relative_to(self.path) for path in (self.path / CHECKPOINTS).glob("*.ckpt"))
            refuse_overwriting(self.path, [*_WRITTEN, *map(str, checkpoints)], "a run")
        remove_temporaries(self.path)
        remove_temporaries(self.path / CHECKPOINTS)
        write_atomic(settings, self.config.to_toml().encode())

    def identity(self) -> str:
        """Return 32 hex digits over the settings and the split: a checkpoint with others is not this run's.

        Settings at their defaults do not count, nor does where corrected labels lie, which follows the folder, nor how
        many processes decode, which changes no bit.
        """
        settings = self.config.model_dump(mode="json", exclude_defaults=True)
        for key in ("label_fixes", "workers"):
            settings.get("data", {}).pop(key, None)
        split = self.path / "split.json"
        digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
        digest.update(split.read_bytes() if split.exists() else b"")
        return digest.hexdigest()

    def log(self, line: str) -> None:
        """Append a line to log.txt with the time."""
        append_line(self.path / "log.txt", f"{datetime.now().isoformat(timespec='seconds')} {line}")

    def add_epoch(self, row: Mapping[str, Any]) -> None:
        """Append a finished epoch to history.jsonl."""
        append_line(self.path / "history.jsonl", json.dumps(dict(row), allow_nan=False), durable=True)

    def restore_history(self, rows: list[dict[str, Any]]) -> None:
        """Rewrite history.jsonl from a checkpoint: epochs after it will be trained again."""
        lines = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        write_atomic(self.path / "history.jsonl", lines.encode())

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json."""
        write_json(self.path / "metrics.json", dict(metrics))

    def write_provenance(self, entries: Mapping[str, Any]) -> None:
        """Add entries to provenance.json; earlier ones stay."""
        known = read_json(self.path / "provenance.json", default={})
        write_json(self.path / "provenance.json", {**known, **entries})


def refuse_overwriting(folder: Path, names: Iterable[str], what: str) -> None:
    """Refuse a folder that holds files which `what`, such as a run, would write over or tidy away.

    Raises:
        RunError: One of them is there.
    """
    for name in names:
        if (folder / name).exists():
            raise RunError(
                f"{name} is there already, and {what} would write over it",
                where=folder,
                remedy="choose another folder with --out",
            )


def refuse_other_recipe(folder: Path, config: Config, what: str) -> None:
    """Refuse a folder whose recipe.toml is another one; the same one is what a start that was killed left behind.

    Raises:
        RunError: It is another one.
    """
    path = folder / "recipe.toml"
    if path.exists() and path.read_bytes() != config.to_toml().encode():
        refuse_overwriting(folder, (path.name,), what)


def _never_began(folder: Path) -> bool:
    """Return whether a folder has the settings of a run that was killed before it noted its data, and nothing else."""
    run = Run(folder)
    try:
        known = run.config is not None and "data" in run.provenance
    except EyespotError:
        return False  # somebody else's config.toml
    return not known and not run.metrics and not any((folder / CHECKPOINTS).glob("*.ckpt"))


def remove_untrained(folder: Path) -> None:
    """Remove what a new run wrote before its first checkpoint; files that are not ours, and their folder, stay.

    A start that fails because of its data or settings must not stand in the way of the next one.
    """
    if any((folder / CHECKPOINTS).glob("*.ckpt")) or "test_reads" in Run(folder).provenance:
        return
    with contextlib.suppress(OSError):
        for name in (*_BEFORE_TRAINING, "config.toml", ".lock"):
            (folder / name).unlink(missing_ok=True)
        (folder / CHECKPOINTS).rmdir()
        folder.rmdir()


def new_run_folder(recipe: str, data: str) -> Path:
    """Make an empty folder and return it: `runs/fast-cifar10-20260101-120000`.

    Raises:
        RunError: It cannot be made.
    """
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in f"{Path(recipe).stem}-{Path(data).name}")
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    first = folder = Path("runs") / f"{safe.strip('.-') or 'run'}-{stamp}"
    number = 2
    while True:
        try:
            folder.mkdir(parents=True)  # so that the name is ours, whoever else starts in this second
            return folder.resolve()
        except FileExistsError:
            folder = first.with_name(f"{first.name}-{number}")
            number += 1
        except OSError as error:
            raise RunError(
                f"cannot make the run folder ({error.strerror})",
                where=folder.resolve(),
                remedy="choose another with --out",
            ) from error


def latest_unfinished_run() -> Path:
    """Return the newest run below `runs/` that is not finished, for --resume without --out.

    Raises:
        RunError: There is none.
    """
    folders = [path.parent for path in Path("runs").glob("*/config.toml")]
    for folder in sorted(folders, key=lambda path: (path / "config.toml").stat().st_mtime, reverse=True):
        if not _never_began(folder.resolve()) and not Run(folder.resolve()).finished:
            return folder.resolve()
    raise RunError("no unfinished run", where=Path("runs").resolve(), remedy="name the run folder with --out")


def environment() -> dict[str, Any]:
    """Return what the result may depend on: versions, platform, command line."""
    packages = ("eyespot", "torch", "torchvision", "timm", "numpy", "pillow", "scikit-learn")
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "command": command_line(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor_name(),
        "cores": os.cpu_count() or 1,
        "versions": versions,
    }


def now() -> str:
    """Return the time as UTC in ISO 8601."""
    return datetime.fromtimestamp(time.time(), tz=timezone.utc).isoformat(timespec="seconds")


def command_line() -> str:
    """Return the command line so that it can be run again; `python -m eyespot` is called by its shorter name."""
    program = Path(sys.argv[0]).name
    return shlex.join(["eyespot" if program in {"__main__.py", "eyespot.exe"} else program, *sys.argv[1:]])


def _processor_name() -> str:
    """Return the processor's name as Linux tells it, else what Python knows."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = remedy_for_unreadable(error, _RESTORE)
        raise RunError(f"cannot read ({reason})", where=path, remedy=remedy) from error


def read_json(path: Path, *, default: dict[str, Any], remedy: str = _RESTORE) -> dict[str, Any]:
    """Return the JSON object in a file of a run folder, or `default` where there is no file; `remedy` is for damage.

    Raises:
        RunError: It cannot be read, or holds something else.
    """
    if not path.exists():
        return default
    try:
        value = json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise RunError(f"not valid JSON ({error})", where=path, remedy=remedy) from error
    if not isinstance(value, dict):
        raise RunError("not a JSON object", where=path, remedy=remedy)
    return value


__all__ = [
    "BUNDLE",
    "CHECKPOINTS",
    "LABEL_FIXES",
    "LR_FINDER",
    "TRAINED_ON",
    "Run",
    "RunWriter",
    "environment",
    "latest_unfinished_run",
    "new_run_folder",
    "now",
    "read_json",
    "refuse_other_recipe",
    "refuse_overwriting",
    "remove_untrained",
    "with_label_fixes",
]
