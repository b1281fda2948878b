"""One job: turn a pickle of weights into a safetensors file, in a process of its own that can do no harm.

Before this: `weights` has a .pt, .pth or .bin, which may run code, fill the memory or never end. After this: it reads
the safetensors file. The other process has limits on memory and time and reads with `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from eyespot.errors import first_line
from eyespot.locks import temporary_folder
from eyespot.models.weight_files import FileError, described

if TYPE_CHECKING:  # The process that reads a pickle refuses most bad files before it has to wait for torch.
    import torch

PICKLE_SECONDS = 120.0
"""So long may the process take that reads a pickle; a gigabyte takes a few."""
_SPARE_BYTES = 2 * 1024**3  # what reading may need beside the tensors: threads, buffers, torch itself
_COPIES = 4  # of the file's bytes: as read, made contiguous, written
_NO_COPY = "no room for a copy of its weights"
# Averaged weights come first: where a training kept them, they are the ones it was evaluated with. timm's order too.
_WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state_dict")

# --------------------------------------------------------------------------------------------------- the asking process

# As in data/worker_process, which rooms of models do not import: without the folder that -c puts first, and a sign to
# stop is for the asking process alone.
_BOOTSTRAP = (
    "import sys; sys.path[:] = [place for place in sys.path if place]; import json, signal; "
    "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "sys.path[:] = json.loads(sys.stdin.buffer.readline()); "
    "from eyespot.models.pickle_process import serve; serve(sys.stdin.buffer, sys.stdout.buffer)"
)


@contextmanager
def unpickled(path: Path) -> Iterator[Path]:
    """Yield a safetensors file with the tensors of a pickle, which is removed afterwards.

    Raises:
        FileError: The pickle is damaged or hostile, needs too much memory or time, or holds no tensors.
    """
    with contextlib.ExitStack() as stack:
        try:
            place = Path(tempfile.gettempdir())
            folder = stack.enter_context(temporary_folder(place, "eyespot-weights-", mode=0o700))
            safe = folder / "weights.safetensors"
            problem = _run_reader(path, safe)
        except OSError as error:
            raise FileError(f"cannot start a process to read it ({error.strerror or error})") from error
        if problem:
            remedy = f"free some space in {place}, or name a larger folder with TMPDIR"
            raise FileError(problem, remedy if problem.startswith(_NO_COPY) else "")
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
            return described(head) or "not a file of PyTorch"
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        return f"a damaged or cut off archive ({first_line(error)})"
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
    from safetensors import SafetensorError
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
    except FileError as error:
        return str(error)
    except SafetensorError as error:  # a full disk, of which it makes no OSError
        return f"{_NO_COPY} ({first_line(error)})"
    except MemoryError:
        return "reading it takes more memory than its size allows"
    except Exception as error:  # which ones a hostile file makes torch raise, nobody can list
        text = str(error)
        if "alloc" in text.lower() or "not enough memory" in text.lower():
            return "reading it takes more memory than its size allows"
        if refused := re.search(r"GLOBAL (\S{1,120})", text):
            return (
                f"it asks for {refused[1]}, which weights do not need (of your own model, save model.state_dict()): "
                "the file may run code"
            )
        return f"not a whole file of weights of PyTorch ({type(error).__name__}: {first_line(error)})"
    return ""


def _state_dict(loaded: object) -> dict[str, torch.Tensor]:
    """Return the tensors by name, taken out of what trainings wrap around them."""
    import torch

    for _ in range(4):
        if not isinstance(loaded, dict):
            raise FileError(f"it holds a {type(loaded).__name__} and no tensors by name")
        inner = next((loaded[key] for key in _WRAPPERS if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            break
        loaded = inner
    assert isinstance(loaded, dict)
    tensors = {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    if not tensors or not all(isinstance(name, str) for name in tensors):
        keys = ", ".join(repr(key)[:40] for key in list(loaded)[:4])
        raise FileError(f"no tensors by name; it holds {keys or 'nothing'}")
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise FileError(f"{name[:120]!r} is a sparse, quantised or empty tensor, and no weights")
    return tensors
