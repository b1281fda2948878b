"""What an ablation changes: the words of `--without` and `--factor` as settings of a recipe.

Before this: what the user typed. After this: `ablation` makes a point of each change. A change changes something:
what is off already, or has no off, is refused before anything is trained.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from eyespot.analysis import words
from eyespot.augment_config import AugmentConfig
from eyespot.config import Config, config_keys, parse_override
from eyespot.errors import EyespotError, UsageError, did_you_mean

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BASELINE = "baseline"
# What only says how an augmentation is done that another setting switches on.
_HOW = ("padding_mode", "fill", "randaugment_num_ops", "randaugment_magnitude")
_AUGMENTATION = {
    f"augment.{name}": field.default for name, field in AugmentConfig.model_fields.items() if name not in _HOW
}


def _augmentation(*names: str) -> dict[str, Any]:
    return {f"augment.{name}": _AUGMENTATION[f"augment.{name}"] for name in names}


# Names as people say them, each with every setting that has to be off. Arguments of the model: see `_model_off`.
KNOWN: Mapping[str, Mapping[str, Any]] = {
    "augmentation": _AUGMENTATION,
    "flip": _augmentation("flip"),
    "vertical-flip": _augmentation("vertical_flip"),
    "translate": _augmentation("translate_px"),
    "crop": _augmentation("random_resized_crop"),
    "rotate": _augmentation("rotate_degrees"),
    "zoom": _augmentation("zoom"),
    "shear": _augmentation("shear_degrees"),
    "shift": _augmentation("width_shift", "height_shift"),
    "auto-augment": _augmentation("auto"),
    "colour": _augmentation("channel_shift", "brightness", "contrast", "saturation", "hue", "grayscale"),
    "cutout": _augmentation("cutout_px"),
    "random-erasing": _augmentation("random_erasing"),
    "mixup": {"training.mixup_alpha": 0.0},
    "cutmix": {"training.cutmix_alpha": 0.0},
    "label-smoothing": {"training.label_smoothing": 0.0},
    "ema": {"training.ema_decay": 0.0},
    "progressive-sizes": {"training.size_schedule": []},
    "clipping": {"training.clip_norm": 0.0},
    "class-balance": {"training.class_balance": "none"},
    "hardest": {"training.hardest_share": 1.0},
    "early-stopping": {"training.early_stopping_epochs": 0},
    "restore-best": {"training.restore_best": False},
    "freezing": {"training.freeze_epochs": 0.0, "model.freeze_until": ""},
    "bf16": {"training.precision": "float32"},
    "warm-up": {"schedule.warmup_epochs": 0.0},
    "schedule": {"schedule.name": "constant", "schedule.warmup_epochs": 0.0},
    "weight-decay": {"optimizer.weight_decay": 0.0, "optimizer.sgd_weight_decay": 0.0},
    "momentum": {"optimizer.momentum": 0.0, "optimizer.sgd_momentum": 0.0, "optimizer.nesterov": False},
    "nesterov": {"optimizer.nesterov": False},
    "layer-decay": {"optimizer.layer_decay": 1.0},
    "pretraining": {"model.weights": "random"},
    "views": {"evaluation.views": "none"},
    "whitening": {"model.args.whiten": False},
    "batch-norm": {"model.args.batch_norm": False},
    "dropout": {"model.args.dropout": 0.0},
    "hidden-layers": {"model.args.hidden": []},
}
# The pictures, the seed and what is said about a run are not what an ablation is about.
_FORBIDDEN = {
    "data": "all points are compared on the same pictures",
    "training.seed": "every point is trained with every seed",
    "evaluation.test": "--test reads test",
    "evaluation.target_top1": "it changes no figure",
    "name": "it is no setting of the training",
    "description": "it is no setting of the training",
    "mistakes": "mistakes are for studies",
}


@dataclass(frozen=True)
class Change:
    """One difference to the recipe.

    Attributes:
        name: Of the point: letters, digits, `-`, `_` and `.`.
        title: In words, as in the tables.
        settings: `section.key` and its value.
        detail: What becomes of each setting, `augment.flip: random → none`.
    """

    name: str
    title: str
    settings: Mapping[str, Any]
    detail: str = ""


def parse_changes(config: Config, without: Sequence[str], factors: Sequence[str]) -> list[Change]:
    """Return the changes that are asked for, in their order; a value that the recipe has already is left out.

    Args:
        config: The recipe.
        without: Names of `KNOWN`, or settings that have an off value.
        factors: `section.key=a,b,c`.

    Raises:
        UsageError: Nothing is asked for, or something that is unknown, off already, or has no off value; all at once.
    """
    found: list[Change] = []
    problems: list[str] = []
    for make, asked in ((_removal, without), (_factor, factors)):
        for text in asked:
            try:
                found += make(config, text)
            except EyespotError as error:
                problems.append(error.what)
    if problems:
        raise UsageError("; ".join(problems), where="the ablation", remedy="docs/ablations.md lists what can be taken")
    if not found:
        on = ", ".join(_what_is_on(config))
        raise UsageError(
            "nothing to take away or to vary",
            where="the ablation",
            remedy=f"--without {on.replace(', ', ' or ')}" if on else "--factor section.key=a,b,c",
        )
    return _named_apart(found)


# ------------------------------------------------------------------------------------------------------------ --without


def _removal(config: Config, word: str) -> list[Change]:
    """Return the change that takes something away."""
    name = word.strip().lower().replace("_", "-") if "." not in word else word.strip()
    if name in KNOWN:
        settings = {key: _off_for(config, key, off) for key, off in KNOWN[name].items()}
    else:
        key = _known_key(word.strip(), [*KNOWN, *config_keys()])
        settings = {key: _off_value(config, key)}
    changed = {key: off for key, off in settings.items() if off is not _ABSENT and setting(config, key) != off}
    if not changed:
        absent = all(off is _ABSENT for off in settings.values())
        if absent:
            raise UsageError(f"model {config.model.name} has no {name} that could be taken away")
        on = ", ".join(_what_is_on(config)) or "nothing that has a name"
        raise UsageError(f"{name} is off already in {config.name}, where these are on: {on}")
    return [Change(f"without-{_slug(name)}", f"without {name}", changed, _detail(config, changed))]


_ABSENT = object()


def _off_for(config: Config, key: str, off: Any) -> Any:
    """Return the off value of a setting; arguments and weights that this model does not have are absent."""
    if not key.startswith("model.args.") and key != "model.weights":
        return off
    from eyespot.models.registry import model_entry

    entry = model_entry(config.model.name)
    if key == "model.weights":
        return off if entry.is_backbone else _ABSENT
    default = entry.args.get(key.rpartition(".")[2], _ABSENT)
    if default is _ABSENT:
        return _ABSENT
    return [off] * len(default) if isinstance(default, tuple) and default else off


def _off_value(config: Config, key: str) -> Any:
    """Return the value with which a setting does nothing.

    Raises:
        UsageError: It has none.
    """
    if key in _AUGMENTATION:
        return _AUGMENTATION[key]
    if key.startswith("model.args."):
        value = setting(config, key)
        kinds = {bool: False, float: 0.0, int: 0}
        if type(value) in kinds:
            return kinds[type(value)]
        if isinstance(value, (list, tuple)) and all(isinstance(one, float) for one in value):
            return [0.0] * len(value)
    else:
        section, _, name = key.partition(".")
        field = type(getattr(config, section)).model_fields[name]
        if field.annotation is bool:
            return False
        if "none" in get_args(field.annotation):
            return "none"
        # Settings that are off unless somebody asks for them have their off value as default: 0, or an empty list.
        if field.default in (0, "") and not isinstance(field.default, bool):
            return field.default
        if field.default_factory is list:
            return []
    raise UsageError(f"{key} has no value that is off: vary it with --factor {key}=a,b,c")


def _what_is_on(config: Config) -> list[str]:
    """Return the names of `KNOWN` that would change something in a recipe."""
    found = []
    for name, settings in KNOWN.items():
        offs = {key: _off_for(config, key, off) for key, off in settings.items()}
        if any(off is not _ABSENT and setting(config, key) != off for key, off in offs.items()):
            found.append(name)
    return found


# ------------------------------------------------------------------------------------------------------------- --factor


def _factor(config: Config, text: str) -> list[Change]:
    """Return a change for each value of a factor that the recipe does not have already."""
    key, equals, listed = text.partition("=")
    key = key.strip()
    if not equals or not listed.strip():
        raise UsageError(f"--factor takes section.key=a,b,c, got {text!r}")
    _known_key(key, config_keys())
    values = _values(listed)
    if any(values.count(value) > 1 for value in values):
        raise UsageError(f"--factor {key} names a value twice")
    own, short = json.loads(json.dumps(setting(config, key))), key.rpartition(".")[2]  # TOML knows no tuples
    changes = [
        Change(f"{_slug(short)}-{_slug(words.spell(value))}", f"{key} = {words.spell(value)}", {key: value})
        for value in values
        if value != own
    ]
    if not changes:
        raise UsageError(f"--factor {key} has no value but the recipe's own, {words.spell(own)}")
    return [replace(change, detail=_detail(config, change.settings)) for change in changes]


def _values(listed: str) -> list[Any]:
    """Return the values of a comma-separated list: TOML where it is TOML, else words."""
    try:
        return list(tomllib.loads(f"v = [{listed}]")["v"])
    except (ValueError, RecursionError):
        return [parse_override(f"v={word}")[1] for word in listed.split(",") if word.strip()]


# --------------------------------------------------------------------------------------------------------------- shared


def setting(config: Config, key: str) -> Any:
    """Return what a recipe has for `section.key`; for an argument of the model that it does not name, the default."""
    section, _, rest = key.partition(".")
    if rest.startswith("args."):
        from eyespot.models.registry import model_entry

        name = rest.removeprefix("args.")
        value = config.model.args.get(name, model_entry(config.model.name).args.get(name))
    else:
        value = getattr(getattr(config, section), rest) if rest else getattr(config, section)
    return list(value) if isinstance(value, tuple) and key not in _AUGMENTATION else value


def _known_key(key: str, known: Sequence[str]) -> str:
    """Return a setting's key.

    Raises:
        UsageError: There is none of that name, or it is not for ablations.
    """
    for forbidden, reason in _FORBIDDEN.items():
        if key == forbidden or key.startswith(f"{forbidden}."):
            raise UsageError(f"{key} is not for ablations: {reason}")
    keys = config_keys()
    if (key in keys and "." in key) or (key.startswith("model.args.") and len(key) > len("model.args.")):
        return key
    last = key.rpartition(".")[2]
    same = [name for name in keys if name.endswith(f".{last}")]
    near = f" Did you mean {same[0]!r}?" if same else did_you_mean(key.lower(), known)
    raise UsageError(f"unknown name or setting {key!r}.{near}")


def _detail(config: Config, settings: Mapping[str, Any]) -> str:
    """Return what becomes of each setting, in words."""
    return ", ".join(
        f"{key}: {words.spell(setting(config, key))} → {words.spell(value)}" for key, value in settings.items()
    )


def _slug(text: str) -> str:
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "-" for c in text)
    return safe.strip("-.")[:60] or "value"


def _named_apart(changes: list[Change]) -> list[Change]:
    """Return the changes with names of their own: `lr` of two sections, or values whose slugs are equal."""
    found: list[Change] = []
    taken = {BASELINE}
    for change in changes:
        if any(dict(change.settings) == dict(other.settings) for other in found):
            raise UsageError(f"{change.title} is asked for twice", where="the ablation", remedy="name it once")
        name, number = change.name, 2
        while name.lower() in taken:
            name, number = f"{change.name}-{number}", number + 1
        taken.add(name.lower())
        found.append(replace(change, name=name))
    return found


__all__ = ["BASELINE", "KNOWN", "Change", "parse_changes", "setting"]
