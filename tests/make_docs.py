"""Writes the generated parts of `docs/*.md` from the program itself: `make docs`.

A page holds `<!-- generated: NAME -->` ... `<!-- end -->`; what stands between is replaced by what `REGIONS[NAME]`
returns. The text depends on nothing but the code: not on the terminal, the machine or the day.
`tests/test_docs.py` fails where a page is not what this would write.
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import annotated_types
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo

import eyespot
from eyespot import errors
from eyespot.cli import app
from eyespot.config import Config, load_config, recipe_names
from eyespot.data import decoding
from eyespot.data.sources import describe_datasets
from eyespot.models.registry import model_entry, model_names

DOCS = Path(__file__).resolve().parents[1] / "docs"
_REGION = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


# ------------------------------------------------------------------------------------------------------------ recipes


def render_recipes() -> str:
    """Return every setting of a recipe, section by section: what it may be, its default, what it is for."""
    parts = []
    top = {name: field for name, field in Config.model_fields.items() if not _is_section(field)}
    parts.append("### Above the first section\n\n" + _settings(top))
    for name, field in Config.model_fields.items():
        if _is_section(field):
            section = field.annotation
            assert isinstance(section, type)
            parts.append(f"### [{name}]\n\n{inspect.getdoc(section)}\n\n{_settings(section.model_fields)}")
    return "\n\n".join(parts)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _settings(fields: dict[str, FieldInfo]) -> str:
    rows = []
    for name, field in fields.items():
        default = json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)
        rows.append((f"`{name}`", _allowed(field.annotation, field.metadata), f"`{default}`", field.description or ""))
    return _table(("key", "allowed", "default", "what it does"), rows)


def _allowed(kind: Any, metadata: Sequence[Any] = ()) -> str:
    """Return in words what a setting may be."""
    if get_origin(kind) is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in get_args(kind))
    if get_origin(kind) is Annotated:
        option, field = get_args(kind)
        return _allowed(option, field.metadata)
    if get_origin(kind) in (Union, UnionType):
        return ", or ".join(_allowed(option) for option in get_args(kind))
    if kind in (int, float):
        bounds = _bounds(metadata)
        return ("whole number" if kind is int else "number") + (f", {bounds}" if bounds else "")
    plain = {bool: "`true`, `false`", str: "text"}
    if kind in plain:
        return plain[kind]
    if get_origin(kind) is list:
        (item,) = get_args(kind)
        return f"list of {_many(item)}"
    if get_origin(kind) is tuple:
        return f"`[a, b]`, {' and '.join(_allowed(item) for item in get_args(kind))}"
    if get_origin(kind) is dict:
        return "table of names and values"
    raise AssertionError(f"no words for {kind}")


def _many(item: Any) -> str:
    if get_origin(item) is tuple:
        return f"pairs `[a, b]`: {', '.join(_allowed(part) for part in get_args(item))}"
    if get_origin(item) is Literal:
        return _allowed(item)
    return {int: "whole numbers", float: "numbers"}[item]


def _bounds(metadata: Sequence[Any]) -> str:
    words = []
    for bound in metadata:
        for kind, attribute, text in (
            (annotated_types.Ge, "ge", "{} or more"),
            (annotated_types.Gt, "gt", "over {}"),
            (annotated_types.Le, "le", "at most {}"),
            (annotated_types.Lt, "lt", "under {}"),
        ):
            if isinstance(bound, kind):
                value = getattr(bound, attribute)
                words.append(text.format("2^63" if value == 2**63 else f"{value:g}"))
    return ", ".join(words)


def render_recipe_list() -> str:
    """Return the recipes that come with eyespot, with the settings that people ask for first."""
    rows = []
    for name in recipe_names():
        config = load_config(name)
        epochs = f"{config.training.epochs}" + (" at most" if config.training.early_stopping_epochs else "")
        optimizer = f"{config.optimizer.name}, {config.optimizer.peak_lr:g}"
        rows.append(
            (f"`{name}`", config.description, config.model.name, epochs, str(config.training.batch_size), optimizer)
        )
    return _table(("recipe", "what it is for", "model", "epochs", "batch", "optimizer, peak rate"), rows)


def render_models() -> str:
    """Return the networks that `model.name` may be, with their arguments."""
    rows = []
    for name in model_names():
        entry = model_entry(name)
        arguments = ", ".join(f"`{key} = {json.dumps(value)}`" for key, value in entry.args.items())
        rows.append((f"`{name}`", entry.title, f"{entry.min_size_px} px", arguments or "none", entry.source))
    return _table(("model", "what it is", "smallest picture", "`model.args` and their defaults", "source"), rows)


# ----------------------------------------------------------------------------------------------------------- commands


def command_tree() -> list[tuple[str, Callable[..., Any]]]:
    """Return (words, function) of every command, such as ("data list", ...), in the program's order.

    The functions are asked and not what typer makes of them: that differs from one version of typer to the next.
    """
    return list(_walk(app, ""))


def _walk(group: typer.Typer, words: str) -> Iterable[tuple[str, Callable[..., Any]]]:
    for command in group.registered_commands:
        assert command.callback is not None
        if not command.hidden:
            yield f"{words} {command.name or command.callback.__name__.replace('_', '-')}".strip(), command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from _walk(inner.typer_instance, f"{words} {inner.name}".strip())


def render_commands() -> str:
    """Return every command with its arguments, options and example."""
    assert app.registered_callback is not None
    assert app.registered_callback.callback is not None
    root = ("", app.registered_callback.callback)
    return "\n\n".join(_command(words, function) for words, function in (root, *command_tree()))


def _command(words: str, function: Callable[..., Any]) -> str:
    text, example = _split_example(inspect.getdoc(function) or "")
    usage, arguments, options = ["eyespot", words], [], []
    hints = get_type_hints(function, include_extras=True)
    for parameter in inspect.signature(function).parameters.values():
        kind, info = _annotation(hints[parameter.name])
        if isinstance(info, typer.models.ArgumentInfo):
            required = parameter.default is parameter.empty
            metavar = str(info.metavar or parameter.name.upper())
            usage.append(metavar if required or metavar.startswith("[") else f"[{metavar}]")
            arguments.append((f"`{metavar}`", info.help or "", _default(parameter.default)))
        elif not info.hidden:
            if parameter.default is parameter.empty:
                usage.append(_option(parameter.name, kind, info).replace("`", ""))
            options.append((_option(parameter.name, kind, info), info.help or "", _default(parameter.default)))
    if not words:
        usage = ["eyespot", "COMMAND", "..."]
    blocks = [
        f"### eyespot {words}".strip(),
        text,
        f"```text\n{' '.join([*usage, '[OPTIONS]'] if options else usage)}\n```",
    ]
    blocks += [_table(("argument or option", "what it does", "default"), arguments + options)] * bool(
        arguments + options
    )
    if example:
        blocks.append(f"```sh\n{example}\n```")
    return "\n\n".join(blocks)


def _annotation(hint: Any) -> tuple[Any, Any]:
    """Return the type and typer's description of `Annotated[TYPE, description]`."""
    if get_origin(hint) is not Annotated:  # Python 3.10 makes `Optional[Annotated[...]]` of a default of None
        (hint,) = [part for part in get_args(hint) if get_origin(part) is Annotated]
    kind, info = get_args(hint)
    return kind, info


def _option(name: str, kind: Any, info: typer.models.OptionInfo) -> str:
    """Return an option's names and the word for its value."""
    # In `Annotated[..., Option("--set")]` typer keeps the first name where a default would stand.
    given = (*([info.default] if isinstance(info.default, str) else []), *(info.param_decls or ()))
    names = ", ".join(f"`{word}`" for word in given or (f"--{name.replace('_', '-')}",))
    kinds = {kind, *get_args(kind)} - {type(None)}
    if bool in kinds:
        return names
    words = info.metavar or ("N" if int in kinds else "X" if float in kinds else "VALUE")
    return f"{names} `{words}`"


def _default(value: Any) -> str:
    """Return a default; nothing for flags and where leaving it out means something of its own."""
    if isinstance(value, Path):
        return f"`{value.as_posix()}`"
    return f"`{value}`" if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""


def _split_example(text: str) -> tuple[str, str]:
    """Return a docstring without its example, and the example."""
    before, _, example = text.partition("Example:")
    return before.strip(), "\n".join(line.strip() for line in example.strip().splitlines())


# ------------------------------------------------------------------------------------------------- data, errors, Python


def render_conversion() -> str:
    """Return the one conversion of pictures, as the module that makes it states it."""
    lines = (decoding.__doc__ or "").splitlines()
    return "\n".join(line for line in lines if line.startswith("|"))


def render_data_sets() -> str:
    """Return the named data sets."""
    rows = []
    for row in describe_datasets():
        splits = ", ".join(f"{count:,} {split}" for split, count in row["splits"].items())
        rows.append((f"`{row['name']}`", row["title"], splits, row["size"], str(row["classes"]), row["licence"]))
    return _table(("name", "what it is", "pictures", "size", "classes", "licence"), rows)


def render_errors() -> str:
    """Return the tree of errors."""
    lines = (errors.__doc__ or "").splitlines()
    tree = [line[4:] for line in lines if line.startswith("    ")]
    return "```text\n" + "\n".join(tree) + "\n```"


_METHODS = {
    "Run": ("open", "config", "metrics", "history", "provenance", "report", "finished"),
    "Predictor": ("predict", "predict_probs", "class_names"),
    "Prediction": ("label", "prob", "as_dict"),
    "Evaluation": ("preds",),
    "Comparison": ("n", "as_dict"),
    "Sweep": ("report", "winner"),
    "SweepOptions": (),
    "BundleInfo": (),
}


def render_api() -> str:
    """Return the signatures and docstrings of what `eyespot` exports."""
    blocks = []
    values = {name: getattr(eyespot, name) for name in eyespot.__all__}
    for name, value in sorted(values.items(), key=lambda item: not inspect.isfunction(item[1])):
        if inspect.isfunction(value):
            blocks.append(f"### eyespot.{name}\n\n{_help(name, value)}")
        elif name in _METHODS:
            parts = [f"### eyespot.{name}", f"```text\n{inspect.getdoc(value)}\n```"]
            parts += [_help(f"{name}.{member}", inspect.getattr_static(value, member)) for member in _METHODS[name]]
            blocks.append("\n\n".join(parts))
    return "\n\n".join(blocks)


def _help(name: str, member: Any) -> str:
    """Return a signature and its docstring."""
    if isinstance(member, property):
        assert member.fget is not None
        head = f"{name} -> {member.fget.__annotations__['return']}"
        return f"```text\n{head}\n\n{_indented(inspect.getdoc(member) or '')}\n```"
    function = member.__func__ if isinstance(member, classmethod) else member
    return f"```text\n{_signature(name, function)}\n\n{_indented(inspect.getdoc(function) or '')}\n```"


def _signature(name: str, function: Callable[..., Any]) -> str:
    """Return a call with types and defaults, a line for each parameter where it would not fit on one."""
    parts, starred = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name in ("self", "cls"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
            starred = True
        if parameter.kind is parameter.VAR_POSITIONAL:
            parts.append(f"*{parameter.name}: {parameter.annotation}")
            starred = True
            continue
        text = f"{parameter.name}: {parameter.annotation}"
        parts.append(text if parameter.default is parameter.empty else f"{text} = {_literal(parameter.default)}")
    result = function.__annotations__["return"]
    line = f"{name}({', '.join(parts)}) -> {result}"
    if len(line) <= 100:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f") -> {result}"


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


# -------------------------------------------------------------------------------------------------------------- pages


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(head), "|" + "---|" * len(head), *(line(row) for row in rows)])


REGIONS: dict[str, Callable[[], str]] = {
    "settings": render_recipes,
    "recipe-list": render_recipe_list,
    "models": render_models,
    "commands": render_commands,
    "conversion": render_conversion,
    "data-sets": render_data_sets,
    "errors": render_errors,
    "api": render_api,
}


def build_page(text: str) -> str:
    """Return a page with its generated parts made anew.

    Raises:
        KeyError: A part that nothing here makes.
    """
    return _REGION.sub(lambda found: f"{found[1]}\n{REGIONS[found[2]]()}\n\n{found[3]}", text)


def main() -> int:
    """Write every page that changed, and name it."""
    for path in sorted(DOCS.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = build_page(before)
        if after != before:
            path.write_text(after, encoding="utf-8", newline="\n")
            print(f"written: {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
