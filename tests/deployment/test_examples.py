"""The examples and the files for a container: what they name is what eyespot writes and serves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from eyespot.deployment.export import SCORE, _output_names, describe
from eyespot.deployment.guard import _LOCKED
from eyespot.deployment.server import TOKEN_VARIABLE
from eyespot.evaluation.bundle import load_bundle

from .test_export import write_bundle

PROJECT = Path(__file__).resolve().parents[2]
BROWSER = PROJECT / "examples" / "browser"


def text_of(name: str) -> str:
    return (BROWSER / name).read_text(encoding="utf-8")


def test_the_page_loads_a_pinned_package_and_what_the_readme_makes() -> None:
    page, package = text_of("index.html"), json.loads(text_of("package.json"))
    ((name, version),) = package["dependencies"].items()
    assert re.fullmatch(r"\d+\.\d+\.\d+", version), "one version, not a range"
    assert re.findall(r'src="([^"]+)"', page) == [f"node_modules/{name}/dist/ort.wasm.min.js"]
    loaded = set(re.findall(r'(?:fetch|create)\("([^"]+)"', page))
    assert loaded == {"model.onnx", "about.json"}
    readme, ignored = text_of("README.md"), text_of(".gitignore").split()
    for file in loaded:
        assert f"examples/browser/{file}" in readme or f"# {file}" in readme
    assert {"about.json", "model*.onnx", "node_modules/"} <= set(ignored)
    assert "npm start" in readme
    assert package["scripts"]["start"].endswith(readme.partition("http://localhost:")[2][:4])


def test_the_page_asks_for_the_names_that_an_exported_file_has(tmp_path: Path) -> None:
    page = text_of("index.html")
    info = load_bundle(write_bundle(tmp_path / "bundle", rule=True))[1]
    assert "session.run({ images })" in page
    assert "images: uint8 RGB, (batch, height, width, 3)" in describe(info)["input"]
    assert 'new ort.Tensor("uint8", rgb, [1, bitmap.height, bitmap.width, 3])' in page
    taken = re.search(r"const \{ (.+?) \} = await session\.run", page)
    assert taken is not None
    assert {part.partition(":")[0] for part in taken[1].split(", ")} == {"probs", SCORE} <= set(_output_names(info))
    assert set(re.findall(r"about\.(\w+)", page.split("<script>")[1])) - {"json"} <= set(describe(info))


def test_what_is_transparent_is_white_as_in_predict() -> None:
    page = text_of("index.html")
    assert page.index('fillStyle = "white"') < page.index("fillRect(") < page.index("drawImage(")


def test_export_md_names_both_examples() -> None:
    told = (PROJECT / "docs" / "export.md").read_text(encoding="utf-8")
    assert "(../examples/classify.py)" in told
    assert "(../examples/browser/README.md)" in told


def test_prometheus_gets_the_token_that_the_server_asks_for() -> None:
    def read(name: str) -> Any:
        return yaml.safe_load((PROJECT / "deploy" / name).read_text(encoding="utf-8"))

    compose, (job,) = read("compose.yaml"), read("prometheus.yml")["scrape_configs"]
    assert "/metrics".startswith(_LOCKED)
    assert compose["services"]["eyespot"]["environment"] == {TOKEN_VARIABLE: f"${{{TOKEN_VARIABLE}:-}}"}
    (given,) = compose["services"]["prometheus"]["configs"]
    assert job["authorization"] == {"credentials_file": given["target"]}  # its type is Bearer unless told otherwise
    assert compose["configs"][given["source"]]["content"].startswith(f"${{{TOKEN_VARIABLE}:-")
