"""The pages say what the program does: generated parts, commands, settings, links, code and file formats."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

import eyespot
from eyespot.cli import app
from eyespot.config import config_keys, load_config, parse_config, recipe_names, recipe_text
from eyespot.data_verbs import ROOMS
from eyespot.errors import ConfigError
from eyespot.opening import Observer
from eyespot.sweeps.space import load_space
from eyespot.training.checkpoint import read_checkpoint

from . import make_docs

PROJECT = Path(__file__).resolve().parents[1]
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").glob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:^(?: {4}.*)?\n)+", re.MULTILINE)

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# ---------------------------------------------------------------------------------------------------- reading the pages


def blocks(text: str, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return [body for found, body in _FENCE.findall(text) if found == language]


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return _FENCE.sub("", text)


def spans(text: str) -> list[str]:
    """Return what stands between single backticks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def shell_lines(text: str) -> list[str]:
    """Return the lines of shell blocks, fenced or indented, with continued lines joined."""
    bodies = blocks(text, "sh") + blocks(text, "console") + blocks(text, "bash")
    bodies += [found[0] for found in _INDENTED.finditer(prose(text))]
    return [line.strip().removeprefix("$ ") for body in bodies for line in body.replace("\\\n", " ").splitlines()]


def shell_calls(text: str) -> list[list[str]]:
    """Return the arguments of every call of eyespot in shell blocks."""
    return [call for line in shell_lines(text) if (call := _arguments(line)) is not None]


def inline_calls(text: str) -> list[list[str]]:
    """Return the arguments of every call of eyespot between backticks; they may be incomplete."""
    shown = [span for span in spans(text) if re.match(r"eyespot [a-z-]", span) and not re.search(r"\.\.\.|[|\[]", span)]
    return [call for span in shown if (call := _arguments(span)) is not None]


def _arguments(line: str) -> list[str] | None:
    """Return the arguments where a line calls eyespot, up to a pipe or a redirection."""
    words = shlex.split(re.sub(r"\$\([^)]*\)+", "NOW", line), comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    if words[:2] == ["python", "-m"]:
        words = words[2:]
    if words[:1] != ["eyespot"]:
        return None
    end = next((i for i, word in enumerate(words) if word in ("|", ">", "<", "&&", ";", "2>")), len(words))
    return words[1:end]


def parse_call(arguments: list[str], *, complete: bool = True) -> None:
    """Let the real program parse a command line without running it.

    Raises:
        AssertionError: There is no such command, or it does not take these arguments.
    """
    command: Any = typer.main.get_command(app)
    rest = list(arguments)
    path = "eyespot"
    while hasattr(command, "commands"):
        while rest and rest[0] in option_names(command):
            rest.pop(0)
        if not rest:
            return
        name = rest.pop(0)
        assert name in command.commands, f"{path} has no command {name!r}"
        command, path = command.commands[name], f"{path} {name}"
    unknown = {word for word in rest if word.startswith("--")} - option_names(command)
    assert not unknown, f"{path} has no {', '.join(unknown)}"
    if complete:
        try:
            command.make_context(path, rest)
        except Exception as error:  # click's own, of which some versions of typer carry a copy
            raise AssertionError(f"{path} {shlex.join(rest)}: {error}") from error


def option_names(command: Any) -> set[str]:
    """Return the options that a command takes."""
    return {name for param in command.params for name in param.opts if name.startswith("-")} | {"--help"}


# ------------------------------------------------------------------------------------------------------ generated parts


@each_page
def test_generated_parts_are_what_the_program_says(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == make_docs.build_page(text), f"{page.name} is out of date: run `make docs` and commit what it writes"


def test_every_generated_part_is_on_a_page_and_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for name, render in make_docs.REGIONS.items():
        assert f"<!-- generated: {name} -->" in pages
        monkeypatch.setenv("COLUMNS", "40")
        narrow = render()
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setenv("FORCE_COLOR", "1")
        assert render() == narrow
        assert "\x1b" not in narrow
        assert str(PROJECT) not in narrow


def test_make_docs_writes_only_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "a.md"
    old.write_text("# A\n\n<!-- generated: data-sets -->\nold\n<!-- end -->\n\nkept\n", encoding="utf-8")
    monkeypatch.setattr(make_docs, "DOCS", tmp_path)
    assert make_docs.main() == 0
    assert capsys.readouterr().out == "written: a.md\n"
    text = old.read_text(encoding="utf-8")
    assert "| `cifar10` |" in text
    assert "old" not in text
    assert text.endswith("kept\n")
    assert make_docs.main() == 0
    assert capsys.readouterr().out == ""


def test_calls_and_classes_are_described_as_they_are() -> None:
    text = make_docs.render_api()
    assert "compare(\n    *runs: str | os.PathLike[str],\n    out:" in text  # neither one argument nor a list
    for name in eyespot.__all__:
        assert f"### eyespot.{name}\n" in text or name in ("EyespotError", "__version__")
    assert "eyespot data table FOLDER|TABLE... --out FILE.csv [OPTIONS]" in make_docs.render_commands()


def test_every_part_of_the_cache_is_described() -> None:
    (options,) = re.findall(r"^\| `\[ROOM\]\.\.\.` \| (.*); all", make_docs.render_commands(), re.MULTILINE)
    assert options == ", ".join(ROOMS)
    page = (PROJECT / "docs" / "data-sets.md").read_text(encoding="utf-8")
    assert all(f"| `{room}` |" in page for room in ROOMS)


def test_every_setting_and_every_command_is_described() -> None:
    settings, commands = make_docs.render_recipes(), make_docs.render_commands()
    for key in config_keys():
        section, _, name = key.rpartition(".")
        assert not section or f"### [{section}]" in settings
        assert f"| `{name}` |" in settings
    tree = make_docs.command_tree()
    assert {"train", "predict", "data list"} <= {words for words, _ in tree}
    for words, _ in tree:
        assert f"### eyespot {words}\n" in commands
        assert f"```sh\neyespot {words}" in commands, f"eyespot {words} has no example"
        parse_call([*words.split(), "--help"], complete=False)


# ---------------------------------------------------------------------------------------- commands, settings, recipes


@each_page
def test_every_command_line_is_one_that_the_program_takes(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for call in shell_calls(text):
        parse_call(call)
    for call in inline_calls(text):
        parse_call(call, complete=False)


def test_wrong_command_lines_are_noticed() -> None:
    text = (
        "`eyespot chek a/`, `eyespot check`\n\n```sh\nX=1 eyespot train x --epoch 3 | head\n```\n\n    eyespot check\n"
    )
    assert inline_calls(text) == [["chek", "a/"], ["check"]]
    assert shell_calls(text) == [["train", "x", "--epoch", "3"], ["check"]]
    for call in (["chek", "a/"], ["train", "x", "--epoch", "3"], ["check"], ["predict", "r", "a", "--top", "K"]):
        with pytest.raises(AssertionError, match="eyespot"):
            parse_call(call)
    parse_call(["check"], complete=False)


@each_page
def test_every_setting_that_is_mentioned_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for call in shell_calls(text) + inline_calls(text):
        # Together: some settings are only allowed beside others.
        load_config("small", [value for option, value in itertools.pairwise(call) if option == "--set"])
    sections = "|".join(sorted({key.partition(".")[0] for key in config_keys() if "." in key}))
    for span in spans(text):
        for key, rest in re.findall(rf"(?:^|(?<=--set ))((?:{sections})\.[a-z_0-9]+)(?![\w/])(\S*)", span):
            assert key in config_keys() or key.endswith((".py", ".json", ".onnx")), f"{page.name}: no setting {key}"
            if rest.startswith("="):
                load_config("small", [key + rest])


@each_page
def test_every_recipe_that_is_named_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"--recipe[ =]([\w./-]+)|recipe=\"([^\"]+)\"", text):
        assert "".join(name).endswith(".toml") or "".join(name) in recipe_names() or "".join(name).isupper()


@each_page
def test_examples_in_toml_and_json_are_valid(page: Path, tmp_path: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for number, body in enumerate(blocks(text, "toml")):
        try:
            if "{ choice = " in body:  # a search space
                (tmp_path / "space.toml").write_text(body)
                load_space(tmp_path / "space.toml", recipe_text("small"), page.name)
                continue
            parse_config(body, where=f"{page.name}, TOML block {number + 1}")
        except ConfigError as error:
            pytest.fail(str(error))
    for body in blocks(text, "json"):
        json.loads(body)


# ------------------------------------------------------------------------------------------------- links, names, paths


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@each_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        if re.match(r"https?://|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{page.name}: {target} leads nowhere"
        assert found.is_relative_to(PROJECT)
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug(heading) for heading in headings}, f"{page.name}: no heading for {target}"


def test_the_index_lists_every_page() -> None:
    index = (PROJECT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in PAGES:
        if page.parent.name == "docs" and page.name != "index.md":
            assert f"]({page.name})" in index, f"docs/index.md does not list {page.name}"


@each_page
def test_nothing_of_a_machine_is_named(page: Path) -> None:
    assert not re.search(r"(?<![\w.])/(work|root|tmp|home|Users)/", page.read_text(encoding="utf-8"))


def test_guards_that_are_claimed_have_their_tests_and_files() -> None:
    text = (PROJECT / "docs" / "honesty.md").read_text(encoding="utf-8")
    claimed = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", text)
    rows = [line for line in text.splitlines() if line.startswith("|")][2:]
    assert all("::test_" in row for row in rows)
    for file, name in claimed:
        tree = ast.parse((PROJECT / file).read_text(encoding="utf-8"))
        defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name in defined, f"docs/honesty.md: {file} has no {name}"
    for row in rows:
        for file in re.findall(r"`([\w/]+\.py)`", row.split("|")[3]):
            assert (PROJECT / "src" / "eyespot" / file).is_file(), f"docs/honesty.md: no {file}"


# ----------------------------------------------------------------------------------------------------- code and formats


def make_pictures(folder: Path, seed: int, per_class: int = 20, side_px: int = 12) -> None:
    """Write three classes of small coloured pictures."""
    rng = np.random.default_rng(seed)
    for channel, name in enumerate(("cat", "dog", "horse")):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 80, (side_px, side_px, 3), dtype=np.uint8)
            pixels[..., channel] += 120
            Image.fromarray(pixels).save(folder / name / f"{number:03d}.png")


def run_python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script as a user would, in a process of its own; one thread, since two cores are often shared."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT / "src"), "PYTHONUTF8": "1"}
    (folder / "script.py").write_text(code, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def test_the_observer_on_the_page_takes_what_observers_are_told() -> None:
    codes = blocks((PROJECT / "docs" / "python.md").read_text(encoding="utf-8"), "python")
    nodes = [node for code in codes for node in ast.parse(code).body]
    (shown,) = [node for node in nodes if isinstance(node, ast.ClassDef)]
    taken = {
        node.name: [arg.arg for arg in (*node.args.args, *node.args.kwonlyargs)]
        for node in shown.body
        if isinstance(node, ast.FunctionDef)
    }
    methods = {name: method for name, method in vars(Observer).items() if name.startswith(("on_", "attach"))}
    assert taken == {name: list(inspect.signature(method).parameters) for name, method in methods.items()}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with what the pages speak of, and a run that was trained in it by the command."""
    folder = tmp_path_factory.mktemp("docs")
    make_pictures(folder / "photos", seed=1)
    make_pictures(folder / "more-photos", seed=2, per_class=4)
    shutil.copytree(folder / "more-photos" / "cat", folder / "holiday")
    Image.open(folder / "more-photos" / "cat" / "000.png").resize((40, 30)).save(folder / "cat.jpg")
    arguments = ["train", "photos/", "--recipe", "small", "--out", "runs/photos", "--set", "training.epochs=3"]
    done = run_python(f"from eyespot.cli import main\n\nmain({arguments!r})\n", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def clean_copy(workplace: Path, tmp_path: Path) -> Path:
    """Return a copy of the workplace that a test may fill."""
    folder = tmp_path / "place"
    shutil.copytree(workplace, folder)
    return folder


PAGES_WITH_PYTHON = [page for page in PAGES if blocks(page.read_text(encoding="utf-8"), "python")]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_PYTHON, ids=lambda page: page.name)
def test_python_on_the_pages_runs(page: Path, clean_copy: Path) -> None:
    code = blocks(page.read_text(encoding="utf-8"), "python")
    if any("eyespot.train(" in block for block in code):
        shutil.rmtree(clean_copy / "runs")  # the page trains its own
    numbered = [f"# {page.name}, Python block {number}\n{block}" for number, block in enumerate(code, start=1)]
    done = run_python("\n".join(numbered), clean_copy)
    assert done.returncode == 0, f"{page.name}: {done.stderr}"


def described(part: str) -> set[str]:
    """Return the words between backticks in a part of docs/formats.md, by the heading it has."""
    text = (PROJECT / "docs" / "formats.md").read_text(encoding="utf-8")
    body = re.split(r"^## ", text, flags=re.MULTILINE)
    (section,) = [one for one in body if one.startswith(part + "\n")]
    return set(spans(section))


def json_keys(value: Any, stop: set[str]) -> Iterator[str]:
    """Yield every key of a JSON value; below the keys in `stop` the names are data."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key not in stop:
                yield from json_keys(inner, stop)


def test_every_file_of_a_run_is_described(workplace: Path) -> None:
    words = described("The run folder")
    found = {path.name + "/" * path.is_dir() for path in (workplace / "runs" / "photos").iterdir()} - {
        "bundle/",
        "checkpoints/",
    }
    assert found <= words
    assert {"bundle/", "checkpoints/"} <= words


def test_every_field_of_the_json_files_is_described(workplace: Path) -> None:
    run = workplace / "runs" / "photos"

    def read(name: str) -> Any:
        return json.loads((run / name).read_text(encoding="utf-8"))

    metrics = set(json_keys(read("metrics.json"), {"per_class"})) | set(
        json_keys(read("metrics.json")["test"]["per_class"]["cat"], set())
    )
    assert metrics <= described("metrics.json")
    assert set(json_keys(read("provenance.json"), {"versions"})) <= described("provenance.json")
    assert set(json_keys(read("split.json"), {"splits"})) <= described("split.json")
    assert set(json_keys(read("bundle/model.json"), {"args"})) - {"val", "test", "train"} <= described("The bundle")
    rows = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    assert set(json.loads(rows[-1])) <= described("history.jsonl")


def test_the_example_of_metrics_json_has_the_real_fields(workplace: Path) -> None:
    real = json.loads((workplace / "runs" / "photos" / "metrics.json").read_text(encoding="utf-8"))
    (example,) = [
        json.loads(body) for body in blocks((PROJECT / "docs" / "formats.md").read_text(encoding="utf-8"), "json")
    ]
    assert set(example) == set(real)
    assert set(example["test"]) == set(real["test"])


def test_the_other_formats_are_as_described(workplace: Path) -> None:
    run = workplace / "runs" / "photos"
    with np.load(run / "predictions.npz", allow_pickle=False) as file:
        assert set(file.files) == {
            f"{split}_{part}" for split in ("val", "test", "train") for part in ("logits", "labels", "ids")
        }
        assert (file["test_logits"].dtype, file["test_labels"].dtype) == (np.float32, np.int64)
        assert str(file["test_ids"][0]).startswith(("cat/", "dog/", "horse/"))
    assert {path.name for path in (run / "bundle").iterdir()} == {"model.json", "weights.safetensors", "README.md"}
    path = sorted((run / "checkpoints").glob("step-*.ckpt"))[-1]
    assert path.read_bytes().endswith(b"EYESPOT1")
    assert re.fullmatch(r"step-\d{9}\.ckpt", path.name)
    checkpoint = read_checkpoint(path)
    assert set(checkpoint.state) == {"run", "train", "optimizer", "threads"}
    assert {name.partition("/")[0] for name in checkpoint.tensors} == {"model", "optimizer"}
