"""Ask a server what its OpenAPI document allows and what it forbids, with every check of schemathesis.

python benchmarks/fuzzing.py RUN [--examples 1000] [--seed 0]

Exit code 0: no answer broke a check, and none was a 5xx. Bytes that are no picture are refused with 422 although they
fit the schema, which has no word for pictures: that status is allowed, and nothing else is.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

_CONFIG = """
[checks]
positive_data_acceptance.expected-statuses = [200, 422]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run folder, a bundle, or a model that comes with eyespot")
    parser.add_argument("--examples", type=int, default=1000, help="for each operation")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    call = [sys.executable, "-m", "eyespot", "serve", arguments.run, "--port", "0", "--quiet"]
    with subprocess.Popen(call, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            line = next(line for line in map(json.loads, server.stderr) if line["event"] == "listening")
            code = fuzz(f"{line['url']}openapi.json", arguments.examples, arguments.seed)
        finally:
            server.send_signal(signal.SIGTERM)
    sys.exit(code)


def fuzz(address: str, examples: int, seed: int = 0) -> int:
    """Run schemathesis on the document at an address and return its exit code."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "schemathesis.toml"
        config.write_text(_CONFIG)
        script = "from schemathesis.cli import schemathesis; schemathesis()"
        options = ["--checks", "all", "-n", str(examples), "--continue-on-failure", "--no-color", "--seed", str(seed)]
        call = [sys.executable, "-c", script, "--config-file", str(config), "run", address, *options]
        return subprocess.run(call, cwd=folder).returncode


if __name__ == "__main__":
    main()
