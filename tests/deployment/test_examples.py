"""The examples and the files for a container: what they name is what eyespot writes and serves."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from eyespot.deployment.export import SCORE, _output_names, describe
from eyespot.deployment.guard import LOCKED
from eyespot.deployment.server import TOKEN_VARIABLE
from eyespot.evaluation.bundle import load_bundle

from .test_export import write_bundle

PROJECT = Path(__file__).resolve().parents[2]
BROWSER = PROJECT / "examples" / "browser"


class Uncached(http.server.SimpleHTTPRequestHandler):
    """Serves as `npm start` does."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        super().end_headers()


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
    port = readme.partition("http://localhost:")[2][:4]
    # Without -c-1 a browser keeps model.onnx for an hour, and the model before would answer.
    assert package["scripts"]["start"].endswith(f"http-server -p {port} -c-1")


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


def test_a_file_that_is_no_picture_does_not_keep_the_answer_of_the_one_before(tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    (tmp_path / "index.html").write_text(text_of("index.html"), encoding="utf-8")
    library = tmp_path / "node_modules" / "onnxruntime-web" / "dist" / "ort.wasm.min.js"
    library.parent.mkdir(parents=True)
    library.write_text(
        "const ort = { env: { wasm: {} }, Tensor: class {}, InferenceSession: { create: async () => "
        "({ run: async () => ({ probs: { data: [0.25, 0.75] } }) }) } };",
        encoding="utf-8",
    )
    Image.new("RGB", (8, 6), "red").save(tmp_path / "red.png")
    (tmp_path / "notes.jpg").write_text("no picture")
    handler = functools.partial(Uncached, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, playwright.sync_playwright() as api:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        page = api.chromium.launch(executable_path=chromium, args=["--no-sandbox"]).new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.wait_for_function("document.getElementById('problem').textContent.includes('cannot be loaded')")
        (tmp_path / "about.json").write_text(json.dumps({"class_names": json.dumps(["cat", "dog"])}))
        page.reload()
        page.set_input_files("#file", tmp_path / "red.png")
        page.wait_for_selector("dt")
        assert page.inner_text("dl").split() == ["dog", "75.0", "%", "cat", "25.0", "%"]
        page.set_input_files("#file", tmp_path / "notes.jpg")
        page.wait_for_selector("#problem:visible")
        assert page.inner_text("#problem").startswith("No answer for notes.jpg: it is no picture")
        assert page.inner_text("dl") == ""
        assert page.is_hidden("#picture")
        page.set_input_files("#file", tmp_path / "red.png")
        page.wait_for_selector("dt")
        assert page.is_hidden("#problem")
        (tmp_path / "about.json").write_text(json.dumps({"class_names": json.dumps(["cat", "dog", "owl"])}))
        page.reload()
        page.set_input_files("#file", tmp_path / "red.png")
        page.wait_for_selector("#problem:visible")
        assert page.inner_text("#problem").startswith("No answer for red.png: about.json is of another model")
        server.shutdown()


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
    assert "/metrics".startswith(LOCKED)
    assert compose["services"]["eyespot"]["environment"] == {TOKEN_VARIABLE: f"${{{TOKEN_VARIABLE}:-}}"}
    (given,) = compose["services"]["prometheus"]["configs"]
    assert job["authorization"] == {"credentials_file": given["target"]}  # its type is Bearer unless told otherwise
    assert compose["configs"][given["source"]]["content"].startswith(f"${{{TOKEN_VARIABLE}:-")
