"""Kill, signal and starve real commands at every moment, and see what came of it.

    python benchmarks/faults.py --jobs train pack --faults kill call enospc disk term --trials 100 --out FILE.csv

A trial runs a command in a process of its own, strikes it once, runs it again as its user would, and compares what it
made, byte by byte, with what an undisturbed command made. The faults:

    kill     SIGKILL at a random moment
    call     SIGKILL at the entry of the k-th system call that changes a file; k over all of them
    enospc   the k-th `write` says that the disk is full
    disk     the command works on a disk (tmpfs) with too little room by a random share, which is enlarged afterwards
    term     SIGTERM at a random moment; it must leave within 10 s with 143
    crowd    two to eight of the same command begin at once; those that cannot share end with 1 and one line of error
    damage   SIGKILL at a random moment, and then a file of run or cache is cut, zeroed in part or has a bit flipped

Passed: after `enospc` and `disk` exit code 1 and one line `error: ...`, after `term` 143; never a traceback; the second
command ends with 0 and the result of the undisturbed one (after `damage` one line `error: ...` will do); no temporary
file and no process is left. Linux; `call` and `enospc` need strace, `disk` root. What failed is printed with its moment
and kept under --keep.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from fault_jobs import JOBS, TRAIN, Job, make_shared

_CHANGING = "write,pwrite64,fsync,rename,renameat,renameat2,unlink,unlinkat,mkdir,rmdir,ftruncate,link,symlink"
FAULTS = ("kill", "call", "enospc", "disk", "term", "crowd", "damage")
_TERM_SECONDS = 10
_LIMIT_SECONDS = 300


@dataclass
class Strike:
    """What happens to one command."""

    fault: str
    moment: float = 0
    """Seconds, bytes of room, or how often `call` was made; 0 strikes never."""
    call: str = ""

    def describe(self) -> str:
        """Return when it strikes, in words."""
        unit = {"kill": "s", "term": "s", "damage": "s", "disk": "bytes", "crowd": "processes"}.get(
            self.fault, self.call
        )
        return f"{self.fault} at {self.moment:.6g} {unit}"


# -------------------------------------------------------------------------------------------------------------- trials


class Trial:
    """One folder in which a command is run, struck and run again."""

    def __init__(self, place: Path, member: int = 0) -> None:
        self.place = place
        place.mkdir(exist_ok=True)
        self._log = place.with_name(f"{place.name}-{member}.log")
        self.seconds = 0.0
        self.leader = -1  # of no session yet
        self.leaders: set[int] = set()
        """Of every command so far."""

    def furnish(self, job: Job) -> None:
        """Copy what the command changes."""
        if job.changes:
            shutil.copytree(self.place.parent / job.changes, self.place / job.changes)

    def said(self) -> str:
        """Return what the last command printed on stderr."""
        return self._log.read_text(errors="replace")

    def start(self, words: Sequence[str], *, stopped: bool = False) -> ForkProcess:
        """Begin a command; `stopped` waits for SIGCONT."""
        child = multiprocessing.get_context("fork").Process(target=self._live, args=(words, stopped))
        child.start()
        assert child.pid is not None
        self.leader = child.pid
        self.leaders.add(child.pid)
        return child

    def run(self, words: Sequence[str], strike: Strike | None) -> int | None:
        """Run a command and return its exit code, negative for a signal, or None where it did not end in time."""
        traced = strike is not None and strike.fault in ("call", "enospc")
        started = time.monotonic()
        child = self.start(words, stopped=traced)
        tracer = _trace(self.leader, strike) if traced and strike is not None else None
        if strike is not None and strike.fault in ("kill", "term", "damage"):
            child.join(strike.moment)
            if child.exitcode is None:
                os.kill(self.leader, signal.SIGTERM if strike.fault == "term" else signal.SIGKILL)
                child.join(_TERM_SECONDS)
        else:
            child.join(_LIMIT_SECONDS)
        self.seconds = time.monotonic() - started
        code = child.exitcode
        if code is None:
            child.kill()
            child.join()
        if tracer is not None:
            tracer.wait()
        return code

    def _live(self, words: Sequence[str], stopped: bool) -> None:
        """Be the command."""
        os.setsid()
        os.chdir(self.place)
        os.environ["EYESPOT_CACHE"] = str(self.place / "cache")
        log = os.open(self._log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_APPEND, 0o644)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        from eyespot.cli import main

        sys.argv = ["eyespot", *words]
        main(list(words))

    def leftovers(self) -> list[str]:
        """Return temporary files, and processes of any command so far that are still there after a moment."""
        for _ in range(100):
            living = [process for process in Path("/proc").glob("[0-9]*") if _session(process) in self.leaders]
            if not living:
                break
            time.sleep(0.1)
        files = [path for path in self.place.rglob("*") if path.suffix in (".tmp", ".part") or ".tmp" in path.name]
        return [f"process {process.name}" for process in living] + [str(path) for path in files]


def _session(process: Path) -> int:
    """Return the session of a living process, 0 of one that is gone."""
    try:
        state = (process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state[0] == "Z" else int(state[3])


def _trace(process: int, strike: Strike, log: str = "/dev/null") -> subprocess.Popen[bytes]:
    """Attach strace to a process that has stopped itself, and let it go on."""
    while (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)
    inject = "error=ENOSPC" if strike.fault == "enospc" else "signal=KILL"
    words = ["strace", "-q", "-o", log, "-e", f"trace={strike.call or _CHANGING}", "-p", str(process)]
    if strike.moment:
        words += ["-e", f"inject={strike.call}:{inject}:when={int(strike.moment)}"]
    tracer = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    while "TracerPid:\t0\n" in (Path("/proc") / str(process) / "status").read_text():
        time.sleep(0.001)
    os.kill(process, signal.SIGCONT)
    return tracer


def list_calls(job: Job, shared: Path) -> list[tuple[str, int]]:
    """Return the changing calls of an undisturbed command in order, each with its number among its kind.

    Only those of its main thread; strace counts every kind by itself.
    """
    trial, log = Trial(shared / "counting"), shared / "calls"
    trial.furnish(job)
    child = trial.start(job.first, stopped=True)
    tracer = _trace(trial.leader, Strike("call"), str(log))
    child.join()
    tracer.wait()
    shutil.rmtree(trial.place)
    seen: Counter[str] = Counter()
    calls = []
    for line in log.read_text(errors="replace").splitlines():
        found = re.match(r"(?:\d+ +)?([a-z0-9]+)\(", line)
        if found:
            seen[found[1]] += 1
            calls.append((found[1], seen[found[1]]))
    return calls


def attempt(job: Job, strike: Strike, trial: Trial, expected: dict[str, str]) -> tuple[bool, list[str]]:
    """Run a command, strike it, run it again; return whether it was struck, and what was wrong."""
    if strike.fault == "disk":
        _mount(trial.place, int(strike.moment))
    trial.furnish(job)
    if strike.fault == "crowd":
        return True, [*_crowd(job, trial, int(strike.moment)), *_wrong_result(job, trial, expected)]
    code = trial.run(job.first, strike)
    wrong = _wrong_end(code, trial.said(), {"enospc": 1, "disk": 1, "term": 143}.get(strike.fault, -signal.SIGKILL))
    if code == 0:  # with too little room it may leave in their files what it would pack
        return False, wrong + ([] if strike.fault == "disk" else _wrong_result(job, trial, expected))
    harmed = _damage(trial.place, random.Random(strike.moment)) if strike.fault == "damage" else ""
    if strike.fault == "disk":
        subprocess.run(["mount", "-o", "remount,size=4g", str(trial.place)], check=True)
    refused = []
    for words in job.again:
        code = trial.run(words, None)
        wrong += _wrong_end(code, trial.said(), code or 0)
        if code == 0:
            break
        refused.append(trial.said())
    if code == 0:
        wrong += _wrong_result(job, trial, expected)
    elif not harmed or not all(_is_error(said) for said in refused):
        wrong += refused
    if wrong and harmed:
        wrong.append(harmed)
    return strike.fault != "damage" or bool(harmed), wrong


def _wrong_result(job: Job, trial: Trial, expected: dict[str, str]) -> list[str]:
    """Return what differs from the result of an undisturbed command, and what should not be there."""
    found = job.outcome(trial.place)
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    wrong = [f"another result: {differing}"] if differing else []
    if left := trial.leftovers():
        wrong.append(f"left: {left}")
    return wrong


def _wrong_end(code: int | None, said: str, allowed: int) -> list[str]:
    """Return what is wrong with the end of a command that may have been struck."""
    wrong = [f"a traceback: {said[-600:]}"] if "Traceback" in said or "Fatal Python" in said else []
    if code not in (0, allowed):
        wrong.append(f"ended with {code} instead of {allowed}: {said[-600:]}")
    if code == 1 and not _is_error(said):
        wrong.append(f"no line of error: {said[-600:]}")
    return wrong


def _is_error(said: str) -> bool:
    """Return whether the last line is one of error."""
    return said.rstrip().rpartition("\n")[2].startswith("error: ")


def _crowd(job: Job, trial: Trial, count: int) -> list[str]:
    """Run a command several times at once, and return what was wrong with those that did not succeed."""
    members = [Trial(trial.place, number) for number in range(1, count + 1)]
    children = [member.start(job.first) for member in members]
    for child in children:
        child.join(_LIMIT_SECONDS)
    ended = [(child.exitcode, member.said()) for child, member in zip(children, members, strict=True)]
    for child, member in zip(children, members, strict=True):
        if child.exitcode is None:
            child.kill()
            child.join()
        trial.leaders |= member.leaders
    wrong = [problem for code, said in ended for problem in _wrong_end(code, said, 1)]
    if all(code != 0 for code, _ in ended):
        wrong.append("none of the crowd ended well")
    return wrong


def _damage(place: Path, dice: random.Random) -> str:
    """Damage one file of a trial, and return what was done."""
    paths = [
        path for path in place.rglob("*") if path.is_file() and path.suffix not in (".lock", ".tmp", ".txt", ".csv")
    ]
    paths = sorted(path for path in paths if path.stat().st_size)
    if not paths:
        return ""
    path, how = dice.choice(paths), dice.choice(("cut", "zeroed", "flipped"))
    content = bytearray(path.read_bytes())
    where = dice.randrange(len(content))
    if how == "cut":
        content = content[:where]
    elif how == "zeroed":
        content[where : where + 512] = bytes(len(content[where : where + 512]))
    else:
        content[where] ^= 1 << dice.randrange(8)
    path.write_bytes(content)
    return f"{path.relative_to(place)} {how} at {where}"


def _size(folder: Path) -> int:
    """Return the bytes that the files below a folder take on a disk with pages of 4 KiB."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def _mount(place: Path, size: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], check=True)


def moments(job: Job, fault: str, trials: int, whole: Trial, dice: random.Random) -> list[Strike]:
    """Return when the trials strike: spread over what an undisturbed command does."""
    if fault in ("kill", "term", "damage"):
        return [Strike(fault, dice.uniform(0, whole.seconds)) for _ in range(trials)]
    if fault == "crowd":
        return [Strike(fault, dice.randint(2, 8)) for _ in range(trials)]
    if fault == "disk":
        before = _size(whole.place.parent / job.changes) if job.changes else 0
        added = _size(whole.place) - before
        return [Strike(fault, before + dice.uniform(0.01, 0.99) * added) for _ in range(trials)]
    calls = [call for call in list_calls(job, whole.place.parent) if fault == "call" or call[0] == "write"]
    step = max(1.0, len(calls) / trials)
    chosen = [calls[int(place * step)] for place in range(min(trials, len(calls)))]
    return [Strike(fault, number, name) for name, number in chosen]


def drill(
    name: str, faults: Sequence[str], trials: int, shared: Path, asked: argparse.Namespace
) -> list[dict[str, Any]]:
    """Return a row for each fault of one job."""
    job, dice, rows = JOBS[name], random.Random(asked.seed), []
    whole = Trial(shared / f"{name}-whole")
    whole.furnish(job)
    if whole.run(job.first, None) != 0:
        sys.exit(f"{name} fails undisturbed: {whole.said()}")
    expected = job.outcome(whole.place)
    for fault in faults:
        started, struck, failed = time.monotonic(), 0, 0
        strikes = moments(job, fault, trials, whole, dice)
        for number, strike in enumerate(strikes):
            trial = Trial(shared / f"{name}-{fault}-{number}")
            was_struck, wrong = attempt(job, strike, trial, expected)
            struck += was_struck
            if wrong:
                failed += 1
                print(f"{name} {strike.describe()}: {'; '.join(wrong)}", file=sys.stderr, flush=True)
                if asked.keep:
                    shutil.copytree(trial.place, asked.keep / trial.place.name, dirs_exist_ok=True)
            if fault == "disk":
                subprocess.run(["umount", "-l", str(trial.place)], check=True)
            shutil.rmtree(trial.place, ignore_errors=True)
        row = {"job": name, "fault": fault, "struck": struck, "not_struck": len(strikes) - struck, "failed": failed}
        rows.append(row | {"seconds": round(time.monotonic() - started)})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Run the trials and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=["kill"])
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="Folder for what failed.")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    _import_everything()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="eyespot-faults-") as folder:
        shared = Path(folder)
        make_shared(shared, needs := {need for name in asked.jobs for need in JOBS[name].needs})
        if "run" in needs:
            maker = Trial(shared / "maker")
            if maker.run(TRAIN, None) != 0:
                sys.exit(f"the run that others need failed: {maker.said()}")
            (maker.place / "run").rename(shared / "run")
        for name in asked.jobs:
            rows += drill(name, asked.faults, asked.trials, shared, asked)
            with open(asked.out, "w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
    sys.exit(any(row["failed"] for row in rows))


def _import_everything() -> None:
    """Load what the commands load, so that a forked one starts at once; no thread may be started by it."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)
    with suppress(ImportError):
        import onnx  # noqa: F401
    import eyespot.analysis.report
    import eyespot.cli
    import eyespot.data.packing
    import eyespot.data.sources
    import eyespot.evaluation.evaluate
    import eyespot.starting
    import eyespot.training.fit
    import eyespot.training.prepare  # noqa: F401


if __name__ == "__main__":
    main()
