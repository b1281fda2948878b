"""The search space: which settings may vary and between what, read from TOML and refused as a whole or taken.

Before this: a file that the user wrote. After this: `chooser` draws points of it, `report` draws pictures of it.

    [optimizer]
    lr = { low = 0.02, high = 0.3, log = true }
    name = { choice = ["sgd", "muon"] }
    [augment]
    translate_px = { low = 0, high = 3 }      # whole bounds: whole numbers
"""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eyespot.analysis import words
from eyespot.caches import user_path
from eyespot.config import Config, config_keys, parse_config
from eyespot.errors import ConfigError, ModelError, UsageError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

_WORDS = ("choice", "low", "high", "log", "step", "int")
# Trials are compared on the same val pictures: what divides the data, or only moves luck, is no factor.
_FORBIDDEN = {
    "data": "trials are compared on the same pictures",
    "training.seed": "the luckiest seed is no better recipe",
    "evaluation.test": "no trial of a sweep reads test",
    "evaluation.target_top1": "it changes no figure",
    "name": "it is no setting of the training",
    "description": "it is no setting of the training",
    "mistakes": "trials would be chosen by spoiled figures",
}
_MOST_POINTS = 10_000
_LARGEST = 1e15  # whole numbers up to here are exact as floats


@dataclass(frozen=True)
class Factor:
    """One setting that varies.

    Attributes:
        key: `section.key` of the recipe.
        choice: The values of a list; empty for a range.
        low: Smallest value of a range.
        high: Largest value, included.
        log: Whether the range is searched on a logarithmic scale.
        step: Distance of the values; None: any.
        int: Whether the values are whole numbers.
    """

    key: str
    choice: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    int: bool = False

    def distribution(self) -> BaseDistribution:
        """Return it as Optuna draws from it; of a list the place is drawn, so that values may be anything."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choice:
            return CategoricalDistribution(tuple(range(len(self.choice))))
        if self.int:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def value(self, drawn: Any) -> Any:
        """Return the setting's value for what was drawn."""
        if self.choice:
            return self.choice[drawn]
        if self.int:
            return int(drawn)
        return _on_grid(self.low, self.step, round((drawn - self.low) / self.step)) if self.step else float(drawn)

    def drawn(self, value: Any) -> Any:
        """Return what would have to be drawn for a value; None where the factor cannot take it."""
        if self.choice:
            places = [place for place, one in enumerate(self.choice) if one == value and type(one) is type(value)]
            return places[0] if places else None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return None
        if self.int and value != int(value):
            return None
        if self.step and not math.isclose((value - self.low) / self.step, round((value - self.low) / self.step)):
            return None
        return value

    def values(self) -> tuple[Any, ...] | None:
        """Return every value it can take; None where they are not countable."""
        if self.choice:
            return self.choice
        if self.int or self.step:
            step = self.step or 1
            count = int((self.high - self.low) / step + 1e-9) + 1
            if count <= _MOST_POINTS:
                return tuple(self.value(self.low + step * place) for place in range(count))
        return None

    def describe(self) -> str:
        """Return it in words."""
        if self.choice:
            return ", ".join(words.spell(value) for value in self.choice)
        form = "whole numbers " if self.int else ""
        step = f", in steps of {self.step:g}" if self.step else ""
        return f"{form}{self.low:g} to {self.high:g}{step}{', on a logarithmic scale' if self.log else ''}"


@dataclass(frozen=True)
class Space:
    """The factors of a sweep, in the order of the file."""

    factors: tuple[Factor, ...]

    @property
    def keys(self) -> tuple[str, ...]:
        """Return the settings that vary."""
        return tuple(factor.key for factor in self.factors)

    def settings(self, drawn: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings for what was drawn."""
        return {factor.key: factor.value(drawn[factor.key]) for factor in self.factors}

    def drawn(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what would have to be drawn for settings; None where they are not in the space."""
        found = {factor.key: factor.drawn(settings[factor.key]) for factor in self.factors if factor.key in settings}
        return None if len(found) < len(self.factors) or None in found.values() else found

    @property
    def size(self) -> int | None:
        """Return the number of different settings; None where they are not countable, or too many to matter."""
        size = 1
        for factor in self.factors:
            values = factor.values()
            if values is None:
                return None
            size *= len(values)
        return size if size <= _MOST_POINTS else None

    def points(self) -> Iterator[dict[str, Any]]:
        """Yield every point of a countable space, as settings."""
        lists = [factor.values() or () for factor in self.factors]
        for values in itertools.product(*lists):
            yield dict(zip(self.keys, values, strict=True))

    def as_json(self) -> list[dict[str, Any]]:
        """Return it as JSON values."""
        return [{**asdict(factor), "choice": list(factor.choice)} for factor in self.factors]

    @classmethod
    def from_json(cls, rows: list[dict[str, Any]]) -> Space:
        """Return the space that `as_json` wrote."""
        return cls(tuple(Factor(**{**row, "choice": tuple(row["choice"])}) for row in rows))


def setting_of(config: Config, key: str) -> Any:
    """Return the value of `section.key` in a recipe; None where it is not set."""
    value: Any = config.model_dump(mode="json")
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def load_space(path: str | Path, recipe: str, where: str) -> Space:
    """Return the search space of a TOML file.

    Args:
        path: The file.
        recipe: Text of the recipe that is varied: every value of the space has to go with it.
        where: What the recipe is called.

    Raises:
        ConfigError: The file cannot be read, is no TOML, is empty, or has unknown settings or impossible ranges; all
            of them at once.
    """
    path = user_path(path)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot read the search space ({reason})", where=path, remedy="give a TOML file") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"not valid TOML ({error})", where=path, remedy="mend the line named") from error
    factors, problems = [], []
    for key, spec in _leaves(tree):
        try:
            factor = _factor(key, spec)
            _check_values(factor, recipe, where)
        except UsageError as error:
            problems.append(error.what)
        else:
            factors.append(factor)
    if problems:
        raise ConfigError("; ".join(problems), where=path, remedy="docs/sweeps.md shows how a space is written")
    if not factors:
        raise ConfigError(
            "the search space is empty",
            where=path,
            remedy="name at least one setting, such as optimizer.lr = { low = 0.01, high = 0.3, log = true }",
        )
    return Space(tuple(factors))


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `section.key` and what is said about it; a table that names no setting is a section."""
    known = config_keys()
    for name, inner in tree.items():
        key = f"{prefix}{name}"
        is_factor = not isinstance(inner, dict) or any(word in inner for word in _WORDS)
        if is_factor or (key in known and key != "model.args") or not inner:
            yield key, inner
        else:
            yield from _leaves(inner, f"{key}.")


def _factor(key: str, spec: Any) -> Factor:
    """Return one factor, or say what is wrong with it."""
    known = config_keys()
    if key not in known and not key.startswith("model.args."):
        last = key.rpartition(".")[2]
        same = [name for name in known if name.endswith(f".{last}")]
        near = f" Did you mean {same[0]!r}?" if same else did_you_mean(key, known)
        raise UsageError(f"unknown setting {key}.{near}")
    for forbidden, reason in _FORBIDDEN.items():
        if key == forbidden or key.startswith(f"{forbidden}."):
            raise UsageError(f"{key} cannot be searched: {reason}")
    if not isinstance(spec, dict):
        raise UsageError(f"{key} is {spec!r}: write {{ choice = [...] }} or {{ low = ..., high = ... }}")
    for word in spec:
        if word not in _WORDS:
            raise UsageError(f"unknown word {word!r} in {key}.{did_you_mean(word, _WORDS)} known: {', '.join(_WORDS)}")
    if "choice" in spec:
        return _choice(key, spec)
    return _range(key, spec)


def _choice(key: str, spec: Mapping[str, Any]) -> Factor:
    values = spec["choice"]
    if len(spec) > 1:
        raise UsageError(f"{key} has a choice and a range: give one of them")
    if not isinstance(values, list) or len(values) < 2:
        raise UsageError(f"{key} has {values!r} to choose from: give a list of two values or more")
    if any(values.count(value) > 1 for value in values):
        raise UsageError(f"{key} names a value twice")
    return Factor(key, choice=tuple(values))


def _range(key: str, spec: Mapping[str, Any]) -> Factor:
    for word in ("low", "high"):
        if word not in spec:
            raise UsageError(f"{key} has no {word}")
    for word in ("low", "high", "step"):
        value = spec.get(word, 1)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) == math.inf:
            raise UsageError(f"{key}: {word} is {value!r}, not a number")
        if abs(value) > _LARGEST:
            raise UsageError(f"{key}: {word} is beyond {_LARGEST:g}")
    for word in ("log", "int"):
        if not isinstance(spec.get(word, False), bool):
            raise UsageError(f"{key}: {word} is {spec[word]!r}, not true or false")
    low, high, step, log = spec["low"], spec["high"], spec.get("step"), spec.get("log", False)
    whole = all(value is None or isinstance(value, int) for value in (low, high, step))
    is_int = spec.get("int", whole)
    if is_int and not all(value is None or value == int(value) for value in (low, high, step)):
        raise UsageError(f"{key}: int = true with bounds or a step that are not whole")
    if not low < high:
        raise UsageError(f"{key}: low {low:g} is not below high {high:g}")
    if step is not None and not (high - low) / _LARGEST < step <= high - low:
        raise UsageError(f"{key}: step {step:g} does not fit between {low:g} and {high:g}")
    if log and not low > 0:
        raise UsageError(f"{key}: a logarithmic range starts above 0, not at {low:g}")
    if log and step is not None:
        raise UsageError(f"{key}: log and step exclude each other")
    if step is not None:  # the last value that is reached, so that no warning and no value outside comes of it
        count = int((high - low) / step + 1e-9)
        high = low + step * count if is_int else _on_grid(low, step, count)
    return Factor(key, low=low, high=high, log=log, step=step, int=is_int)


def _on_grid(low: float, step: float, place: int) -> float:
    """Return a value of a stepped range in decimals, as it was written and as Optuna counts: 3 * 0.1 is not 0.3."""
    return float(Decimal(str(low)) + Decimal(str(step)) * place)


def _check_values(factor: Factor, recipe: str, where: str) -> None:
    """Refuse values that the recipe cannot take, before anything is trained."""
    from eyespot.models.registry import check_args

    ends = factor.choice or (factor.value(factor.low), factor.value(factor.high))
    for value in ends:
        try:
            config = parse_config(recipe, where=where, changes={factor.key: value})
            if factor.key.startswith("model."):
                check_args(config.model.name, config.model.args)
        except ModelError as error:
            raise UsageError(str(error)) from error
