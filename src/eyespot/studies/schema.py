"""Published studies as data: named points, what was claimed for them, and the figures to draw, read from TOML.

Before this: `studies/*.toml`, or a file of somebody's own. After this: `study` makes points for the runner of them, and
`figures` draws what came of it beside the claims. A point whose publication made a mistake stands for two: as it was
published, and, under `ID-right`, done right.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from eyespot.caches import user_path
from eyespot.config import load_config, recipe_names
from eyespot.errors import ConfigError, did_you_mean
from eyespot.mistakes import MistakeName

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RIGHT = "-right"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$"  # it names a folder
# What a mistake needs beside its name.
_NEEDS: dict[str, dict[str, Any]] = {
    "train-on-test": {"data.allow_leak": True, "data.val_fraction": 0.0},
    "select-on-test": {"data.allow_leak": True},
}
ClaimedSplit: TypeAlias = Literal["test", "val", "train", "unknown"]


class _Part(BaseModel):
    """A table of the file: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Claim(_Part):
    """A number that a publication gives.

    Attributes:
        split: What it was measured on; `unknown` where the publication does not say.
        top1: Accuracy, 0 to 1.
        n: Pictures; 0 where that is not known.
        loss: Its test loss; None where none is given.
        minutes: Of training.
        seconds: For predicting all test pictures.
        line: Where it stands.
    """

    split: ClaimedSplit
    top1: float = Field(ge=0, le=1)
    n: int = Field(0, ge=0)
    loss: float | None = None
    minutes: float | None = None
    seconds: float | None = None
    line: str = ""

    @property
    def error(self) -> float | None:
        """Return half of the 95 % binomial interval of one run (normal approximation); None without n.

        The publications give none; seed-to-seed spread is not in it.
        """
        return 1.96 * (self.top1 * (1 - self.top1) / self.n) ** 0.5 if self.n else None


class StudyPoint(_Part):
    """One experiment.

    Attributes:
        id: Name, also of its run folder.
        title: What was tried.
        recipe: Name of a recipe.
        line: Where the publication tells of it.
        says: What the publication says came of it, in its words.
        note: What a reader should know beside it.
        changes: Settings of the recipe that are others here; `training.seed` is that of its first run.
        mistakes: Of the publication.
        as_published: Settings that belong to the mistakes: not there in the twin that is done right.
        claims: Numbers.
    """

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,60}$")
    title: str
    recipe: str
    line: str = ""
    says: str = ""
    note: str = ""
    changes: dict[str, Any] = Field(default_factory=dict)
    mistakes: list[MistakeName] = Field(default_factory=list)
    as_published: dict[str, Any] = Field(default_factory=dict)
    claims: list[Claim] = Field(default_factory=list)

    @property
    def settings(self) -> dict[str, Any]:
        """Return the changes to the recipe as it was published, with every mistake said."""
        if not self.mistakes:
            return dict(self.changes)
        needs = {key: value for mistake in self.mistakes for key, value in _NEEDS.get(mistake, {}).items()}
        return {**self.changes, **self.as_published, "mistakes": [*self.mistakes], **needs}


class Overlay(_Part):
    """Learning curves of some points in one picture."""

    title: str
    points: list[str] = Field(min_length=1)


class SizeLine(_Part):
    """Points that differ in the number of training pictures only."""

    name: str
    points: list[str] = Field(min_length=1)


class DataSizes(_Part):
    """A curve of accuracy over the number of training pictures."""

    title: str
    lines: list[SizeLine] = Field(min_length=1)


class LayerLine(_Part):
    """A printed row of a layer table, and the part of our network that it is."""

    name: str
    ours: str
    printed: int | None = None


class PrintedTable(_Part):
    """A layer table of a publication; `frozen` names the parts of our network that it does not train."""

    title: str
    model: str
    size_px: int = 32
    args: dict[str, Any] = Field(default_factory=dict)
    printed_total: int | None = None
    frozen: list[str] = Field(default_factory=list)
    note: str = ""
    rows: list[LayerLine] = Field(min_length=1)


class Omission(_Part):
    """Something that the publication did and that no point repeats."""

    what: str
    why: str


class Study(_Part):
    """A publication and its experiments."""

    name: str = Field(pattern=_NAME)
    title: str
    author: str = ""
    year: str = ""
    kind: str = "publication"
    data: str = "cifar10"
    points: list[StudyPoint] = Field(min_length=1)
    overlays: list[Overlay] = Field(default_factory=list)
    data_sizes: list[DataSizes] = Field(default_factory=list)
    layer_tables: list[PrintedTable] = Field(default_factory=list)
    not_reproduced: list[Omission] = Field(default_factory=list)

    @model_validator(mode="after")
    def _consistent(self) -> Study:
        """Refuse points of one name, recipes and settings that are none, and figures of points that do not exist."""
        problems, ids = [], self.point_ids()
        for id_ in sorted({id_ for id_ in ids if ids.count(id_) > 1}):
            problems.append(f"two points are called {id_!r}")
        for point in self.points:
            problems += _wrong_with(point)
        shown = [id_ for overlay in self.overlays for id_ in overlay.points]
        shown += [id_ for sizes in self.data_sizes for line in sizes.lines for id_ in line.points]
        problems += [f"no point {id_!r} to draw.{did_you_mean(id_, ids)}" for id_ in shown if id_ not in ids]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def pixels(self) -> str:
        """Return what the published figures are of, where ours may be of a copy of it."""
        return "original pixels" if self.data == "cifar10" else ""

    def point_ids(self) -> list[str]:
        """Return the names of all points, twins that are done right among them."""
        return [id_ for point in self.points for id_ in (point.id, *([point.id + RIGHT] if point.mistakes else []))]

    def same_settings(self) -> dict[str, str]:
        """Return the trainings whose settings an earlier one has too: by their names its own, `, but for the seed`."""
        first: dict[str, tuple[str, int]] = {}
        same = {}
        for point in self.points:
            for id_, settings in ((point.id, point.settings), (point.id + RIGHT, point.changes)):
                if id_ == point.id or point.mistakes:
                    config = load_config(point.recipe, changes=copy.deepcopy(settings)).model_dump(mode="json")
                    seed = config["training"].pop("seed")
                    config["name"] = config["description"] = ""
                    known, its_seed = first.setdefault(json.dumps(config, sort_keys=True), (id_, seed))
                    if known != id_:
                        same[id_] = known + ", but for the seed" * (seed != its_seed)
        return same


def _wrong_with(point: StudyPoint) -> list[str]:
    """Return what no training of a point could begin with, each once, with the point's name."""
    if point.recipe not in recipe_names() and not point.recipe.endswith(".toml"):
        near = did_you_mean(point.recipe, recipe_names())
        return [f"point {point.id!r} has an unknown recipe {point.recipe!r}.{near}"]
    if point.as_published and not point.mistakes:
        return [f"point {point.id!r} has as_published and no mistakes that it belongs to: put it into changes"]
    found = []
    for settings in (point.settings, point.changes):
        try:
            load_config(point.recipe, changes=copy.deepcopy(settings))
        except ConfigError as error:
            where = f" in {error.where}" if error.where not in (None, point.recipe) else ""
            found.append(f"point {point.id!r}: {error.what}{where}")
    return list(dict.fromkeys(found))


def study_names() -> list[str]:
    """Return the names of the studies that come with eyespot."""
    folder = resources.files("eyespot") / "studies"
    return sorted(entry.name[: -len(".toml")] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def load_study(name: str | Path) -> Study:
    """Return a study that comes with eyespot, or that of a TOML file.

    Raises:
        ConfigError: There is none of that name, or its file does not validate; all errors at once.
    """
    names, where = study_names(), str(name)
    if where in names:
        text = (resources.files("eyespot") / "studies" / f"{where}.toml").read_text(encoding="utf-8")
    elif where.endswith(".toml"):
        try:
            text = user_path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(f"cannot read the study ({reason})", where=where, remedy="give a TOML file") from error
    else:
        raise ConfigError(
            f"unknown study {where!r}.{did_you_mean(where, names)}",
            remedy=f"{len(names)} studies: {', '.join(names)}; or a TOML file",
        )
    try:
        return Study.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(error)), where=where, remedy="see docs/studies.md") from error
    except (ValueError, RecursionError) as error:  # Python refuses numbers of over 4,300 digits with a plain ValueError
        raise ConfigError(f"not valid TOML ({error})", where=where, remedy="mend the line named") from error


_TABLES: dict[str, type[BaseModel]] = {
    "points": StudyPoint,
    "claims": Claim,
    "overlays": Overlay,
    "data_sizes": DataSizes,
    "lines": SizeLine,
    "layer_tables": PrintedTable,
    "rows": LayerLine,
    "not_reproduced": Omission,
}


def _explain(error: ValidationError) -> Iterable[str]:
    """Yield a sentence for each thing that does not validate."""
    for problem in error.errors():
        place = [part for part in problem["loc"] if isinstance(part, str)]
        key = ".".join(str(part + 1) if isinstance(part, int) else part for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            table = _TABLES[place[-2]] if len(place) > 1 and place[-2] in _TABLES else Study
            yield f"unknown key {key}.{did_you_mean(place[-1], table.model_fields)}"
        elif problem["type"] == "string_pattern_mismatch":
            lower = "lower-case " if place[0] == "points" else ""
            yield f"{key} is {problem['input']!r}: use at most 61 {lower}letters, digits, '-', '_' and '.'"
        elif not key:
            yield problem["msg"].removeprefix("Value error, ")
        else:
            yield f"{key}: {problem['msg'].removeprefix('Value error, ')}"
