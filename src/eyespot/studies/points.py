"""The points of an experiment: what each is, what all are held to, and what became of one.

Before this: an ablation or a published study names its changes. After this: `runner` runs the points.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from eyespot.config import Config
from eyespot.errors import ConfigError, UsageError, did_you_mean, positive_number, whole_number
from eyespot.opening import load_recipe
from eyespot.runs import Run

# Durations in epochs that --epochs-scale shortens along with the epochs themselves.
_WHOLE_EPOCHS = ("training.early_stopping_epochs", "schedule.patience_epochs")
_PART_EPOCHS = ("training.freeze_epochs", "schedule.warmup_epochs")
State = Literal["finished", "failed", "pending", "not run"]


@dataclass(frozen=True)
class Point:
    """One training of an experiment.

    Attributes:
        name: Unique among the points but for the seed; letters, digits, `-`, `_` and `.`: it names the folder.
        recipe: Name or TOML file.
        data: DATA, as for `eyespot train`.
        settings: Changes to the recipe, `{"training.epochs": 5}`.
        seed: Of weights, order and augmentation.
        title: What it is, in words; the name where empty.
        not_run: Why this point is listed and not run, such as weights that cannot be had; empty for one that is run.
            A run that another call has finished stays.
    """

    name: str
    recipe: str
    data: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    title: str = ""
    not_run: str = ""

    @property
    def id(self) -> str:
        """Return the name of its run folder."""
        return f"{self.name}-seed{self.seed}"


@dataclass(frozen=True)
class Limits:
    """What all points of an experiment are held to.

    Attributes:
        minutes: Training time of each point; None for that of its recipe.
        epochs_scale: Factor on the epochs of each point and on every duration that is counted in epochs.
        device: `auto`, `cpu`, `cuda` or `mps`.
    """

    minutes: float | None = None
    epochs_scale: float = 1.0
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse numbers that no training can keep to; numpy's become Python's own."""
        remedy = "give a factor above 0, such as 0.1"
        object.__setattr__(self, "epochs_scale", positive_number("--epochs-scale", self.epochs_scale, remedy=remedy))
        if self.minutes is not None:
            object.__setattr__(self, "minutes", positive_number("--minutes", self.minutes))


@dataclass(frozen=True)
class Outcome:
    """What became of a point.

    Attributes:
        point: The point.
        state: `finished`; `failed` with its reason; `pending` where it was not its turn yet or it was left out by
            `only`; `not run` where it cannot be run, with its reason.
        run: Its run folder, where there is one.
        reason: Why it failed or was not run, in one line.
    """

    point: Point
    state: State
    run: Run | None = None
    reason: str = ""


def with_seeds(points: Sequence[Point], seeds: int) -> list[Point]:
    """Return each point with `seeds` seeds from its own on, seed by seed: an early end leaves whole rounds.

    Raises:
        UsageError: Less than one seed.
    """
    seeds = whole_number("--seeds", seeds, least=1, remedy="give 1 or more; 3 tell a spread")
    return [
        Point(p.name, p.recipe, p.data, p.settings, p.seed + seed, p.title, p.not_run)
        for seed in range(seeds)
        for p in points
    ]


def select_points(points: Sequence[Point], only: Sequence[str]) -> list[Point]:
    """Return the points that are named; all where none is.

    Args:
        points: All points.
        only: Names, or ids with their seed.

    Raises:
        UsageError: A name that no point has; the nearest one is offered.
    """
    known = {word for point in points for word in (point.name, point.id)}
    for word in only:
        if word not in known:
            names = list(dict.fromkeys(point.name for point in points))
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise UsageError(
                f"no point {word!r}.{did_you_mean(word, known)}", where="--only", remedy=f"{len(names)} points: {shown}"
            )
    return [point for point in points if not only or point.name in only or point.id in only]


def point_config(point: Point, limits: Limits) -> Config:
    """Return every setting of a point.

    Raises:
        ConfigError: An unknown recipe, or settings that do not validate; the point is named.
    """
    with naming(point.id):
        return load_recipe(point.recipe, point_settings(point, limits))


def point_settings(point: Point, limits: Limits) -> dict[str, Any]:
    """Return the changes to a point's recipe, its seed and the limits among them."""
    # A copy, since a table that is set whole becomes part of the recipe, and later settings go into it.
    settings = {**copy.deepcopy(dict(point.settings)), "training.seed": point.seed}
    if limits.minutes is not None:
        settings["training.minutes"] = limits.minutes
    scale = limits.epochs_scale
    if scale != 1.0:
        config = load_recipe(point.recipe, settings)
        settings["training.epochs"] = max(1, round(config.training.epochs * scale))
        for key in _WHOLE_EPOCHS:
            if value := _value(config, key):
                settings[key] = max(1, math.ceil(value * scale))
        for key in _PART_EPOCHS:
            if value := _value(config, key):
                settings[key] = value * scale
        if config.schedule.step_epochs:
            settings["schedule.step_epochs"] = sorted({max(1, round(e * scale)) for e in config.schedule.step_epochs})
    return settings


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return getattr(getattr(config, section), name)


@contextmanager
def naming(point: str) -> Iterator[None]:
    """Say of wrong settings whose they are."""
    try:
        yield
    except ConfigError as error:
        what = error.what if error.where is None else f"{error.what} in {error.where}"
        raise ConfigError(what, where=f"point {point}", remedy=error.remedy) from error


def check_names(points: Sequence[Point]) -> None:
    """Refuse names that no folder can have, and two points of one name."""
    seen = set()
    for point in points:
        if not point.name or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in point.name):
            raise UsageError(f"a point called {point.name!r}", remedy="use letters, digits, '-', '_' and '.'")
        if point.name.startswith(".") or len(point.id) > 100:
            raise UsageError(f"a point called {point.name!r}", remedy="use a shorter name that begins with a letter")
        if point.id.lower() in seen:
            raise UsageError(f"two points called {point.id!r}", remedy="give each a name of its own")
        seen.add(point.id.lower())


def check_models(configs: Mapping[str, Config]) -> None:
    """Refuse what a model does not take, of all points, before the first one is run."""
    from eyespot.models.registry import check_args

    for id_, config in configs.items():
        try:
            check_args(config.model.name, config.model.args)
        except UsageError as error:
            raise UsageError(error.what, where=f"point {id_}", remedy=error.remedy) from error
