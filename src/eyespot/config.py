"""Recipes: every setting of a run, its default and its reason, read from TOML and validated at once.

`recipe` (a TOML file) -> `Config` (this object) -> `config.toml` in the run folder, defaults written out.
Nothing here enters the classes that do the work: builders read the fields and pass plain values on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from eyespot.augment_config import AugmentConfig
from eyespot.errors import ConfigError, UsageError, did_you_mean
from eyespot.mistakes import MistakeName

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def _is_number(annotation: Any) -> bool:
    """Return whether a field takes a number, perhaps beside words such as `auto`."""
    if get_origin(annotation) in (Annotated, Union, UnionType):
        return any(_is_number(part) for part in get_args(annotation))
    return annotation in (int, float)


class _Section(BaseModel):
    """A table of the recipe: unknown keys are errors, values cannot change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_numbers(cls, values: Any) -> Any:
        """Refuse `lr = true`, which pydantic takes for 1."""
        for key, value in values.items() if isinstance(values, Mapping) else ():
            field = cls.model_fields.get(key)
            if isinstance(value, bool) and field is not None and _is_number(field.annotation):
                raise ValueError(f"{key} is {str(value).lower()}, and must be a number")
        return values


class InputConfig(_Section):
    """What a picture becomes before the model sees it."""

    size_px: Literal["auto"] | int = Field(
        "auto",
        description="Side of the square input. `auto`: the pictures' own size up to 64, else their median short side "
        "rounded to a multiple of 8, at most 64. For backbones `auto` is the size of their weights, or five times the "
        "pictures' own size where that is less; smaller pictures are enlarged inside the batch.",
    )
    channels: Literal["auto", 1, 3] = Field(
        "auto", description="1 grey, 3 RGB; `auto`: grey where all pictures are grey."
    )
    fit: Literal["short-side", "crop", "squash", "pad"] = Field(
        "short-side",
        description="How a picture that is not square becomes square. `short-side`: resized with its aspect kept, up "
        "to 16:9; training takes a random square along the long side, everything else the middle one. `crop`: always "
        "the middle square; `squash`: sides stretched; `pad`: black bars.",
    )
    interpolation: Literal["auto", "nearest", "bilinear", "bicubic", "lanczos"] = Field(
        "auto",
        description="Pillow's antialiased resampling filter. `auto`: bilinear, or the one of a backbone's weights.",
    )
    normalize: Literal["auto", "channel", "scalar", "minmax", "half", "raw", "twice"] = Field(
        "auto",
        description="`auto`: that of a backbone's weights, else `channel`. `channel`: mean and deviation of each "
        "channel of the training split; `scalar`: one mean and deviation "
        "over all channels (gomez2025); `minmax`: pixels / 255; `half`: mean 0.5, deviation 0.5. Two mistakes of "
        "culp2021: `raw`: pixels 0 to 255; `twice`: as `auto`, and what comes of it / 255 (see `mistakes`).",
    )

    @model_validator(mode="after")
    def _positive(self) -> InputConfig:
        if isinstance(self.size_px, int) and not 1 <= self.size_px <= 4096:
            raise ValueError(f"size_px is {self.size_px}, allowed are 1 to 4096 or 'auto'")
        return self


class DataConfig(_Section):
    """How the data are divided, and what happens to what is wrong with them."""

    val_fraction: float = Field(
        0.1,
        ge=0.0,
        lt=1.0,
        description="Share of the training pictures kept for validation where no val split is given.",
    )
    test_fraction: float = Field(
        0.1, ge=0.0, lt=1.0, description="Share kept for test where the data bring no test split."
    )
    stratify: bool = Field(True, description="Keep the class shares equal in every split.")
    train_fraction: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Train on this share of the training pictures only, for curves over their number. A smaller share "
        "is part of every larger one; val and test stay as they are.",
    )
    split_seed: int = Field(
        0, ge=0, description="Seed of the split; not the seed of the training, so that runs stay comparable."
    )
    on_bad_image: Literal["refuse", "skip"] = Field(
        "refuse", description="`skip` trains without the pictures that cannot be decoded and counts them in the report."
    )
    allow_leak: bool = Field(False, description="Go on although a test picture is also in train (your own data only).")
    label_fixes: str = Field(
        "",
        description="A CSV of `eyespot check --labels` with the decisions `accept` and `reject` (`--fix FILE`): trains "
        "with the accepted corrections; no picture is touched. The run keeps a copy.",
    )
    workers: int = Field(0, ge=0, description="Processes that decode pictures; 0: one per core.")
    memory_limit_gb: float = Field(
        0.0,
        ge=0.0,
        le=100_000.0,
        description="Packed pixels above this are streamed from the files instead; 0: half of the memory.",
    )
    final: bool = Field(
        False, description="Train on train + val with a fixed recipe: no early stop, no selection, no val figures."
    )


class ModelConfig(_Section):
    """Which network."""

    name: str = Field("spot", description="A name of `eyespot models`.")
    args: dict[str, bool | int | float | str | list[int] | list[float]] = Field(
        default_factory=dict, description="Arguments of the architecture; `eyespot models NAME` lists them."
    )
    weights: str = Field(
        "auto",
        min_length=1,
        description="Of a backbone. `auto`: from an installed package, else from the Hugging Face hub; `package`, "
        "`hub`, a file (.safetensors, .pt, .pth), or `random`.",
    )
    mode: Literal["full", "features", "last-block", "finetune", "auto"] = Field(
        "full",
        description="What of a backbone is trained. `auto`: as `features`, with a time limit as `finetune`. "
        "`features`: nothing, every picture goes through it once; `last-block`: its last stage; `finetune`: "
        "everything, after a linear head was solved on frozen features, and the better one on val is kept; other "
        "heads are trained with it from the start; `full`: everything from the start.",
    )
    freeze_until: str = Field(
        "", description="Freeze what comes before this module or parameter of the backbone, such as `layer4`."
    )


class FeaturesConfig(_Section):
    """How a head is fitted to the features of a frozen backbone, which are computed once and kept in the cache."""

    solver: Literal["auto", "closed", "gradient"] = Field(
        "auto",
        description="`closed`: multinomial logistic regression, its L2 penalty chosen on val; `gradient`: the training "
        "loop; `auto`: closed for a linear head.",
    )
    views: int = Field(
        2,
        ge=1,
        le=64,
        description="Views of each training picture: 1 as it is, 2 mirrored too, more with the recipe's augmentation.",
    )


class OptimizerConfig(_Section):
    """How gradients become steps."""

    name: Literal["sgd", "adam", "adamw", "rmsprop", "muon"] = Field(
        "sgd",
        description="`muon` makes the steps of convolutions orthogonal; the rest gets SGD with Nesterov momentum.",
    )
    lr: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | Literal["auto"] = Field(
        0.01,
        description="Peak learning rate; for `muon` that of the orthogonalised filters. `auto`: found by a range test "
        "of 100 steps before the training; muon's three rates then move together.",
    )
    momentum: float = Field(0.9, ge=0.0, lt=1.0, description="Momentum of sgd, rmsprop and muon.")
    nesterov: bool = Field(False, description="Nesterov momentum (sgd); muon always uses it.")
    weight_decay: float = Field(
        0.0, ge=0.0, description="L2 for sgd, adam, rmsprop; decoupled for adamw. Biases and norms are left out."
    )
    beta1: float = Field(0.9, ge=0.0, lt=1.0, description="Adam: decay of the first moment.")
    beta2: float = Field(0.999, ge=0.0, lt=1.0, description="Adam: decay of the second moment.")
    layer_decay: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Each layer of a backbone learns at this share of the rate of the layer after it; not for muon.",
    )
    alpha: float = Field(0.99, ge=0.0, lt=1.0, description="RMSprop: decay of the squared gradient (Keras: 0.9).")
    eps: float = Field(1e-8, gt=0.0, description="Added to denominators (Keras: 1e-7).")
    bias_lr: float = Field(0.013, gt=0.0, description="muon: learning rate of biases, for the mean loss over a batch.")
    head_lr: float = Field(0.17, gt=0.0, description="muon: learning rate of the classifier.")
    sgd_momentum: float = Field(0.85, ge=0.0, lt=1.0, description="muon: momentum of biases and classifier.")
    sgd_weight_decay: float = Field(0.0, ge=0.0, description="muon: lr x decay of biases and classifier, per step.")
    stem_bias_fraction: float = Field(
        0.375,
        ge=0.0,
        le=1.0,
        description="muon: the bias of the whitening layer is trained for this share of the steps.",
    )

    @property
    def peak_lr(self) -> float:
        """Return `lr` as a number; where it is `auto`, `training.lr_finder` has to come first."""
        assert not isinstance(self.lr, str), "optimizer.lr is 'auto': resolve_learning_rate comes before"
        return self.lr


class ScheduleConfig(_Section):
    """How the learning rate moves."""

    name: Literal["constant", "cosine", "linear", "one-cycle", "triangular", "step", "plateau"] = Field(
        "cosine",
        description="`linear`: down to the final fraction; `triangular`: up, then down, in straight lines; "
        "`plateau`: cut when val stops improving.",
    )
    warmup_epochs: float = Field(
        0.0, ge=0.0, description="Straight rise from zero, counted in epochs, before the schedule starts."
    )
    final_fraction: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Last learning rate as a share of the peak (cosine, linear, one-cycle, triangular).",
    )
    peak_fraction: float = Field(
        0.3, gt=0.0, lt=1.0, description="Share of the steps at which one-cycle and triangular peak."
    )
    start_fraction: float = Field(
        0.04, ge=0.0, le=1.0, description="First learning rate of one-cycle and triangular as a share of the peak."
    )
    step_epochs: list[int] = Field(default_factory=list, description="step: epochs after which the rate is cut.")
    factor: float = Field(0.1, gt=0.0, lt=1.0, description="step and plateau: the rate is multiplied by this.")
    patience_epochs: int = Field(10, ge=0, description="plateau: epochs without improvement before a cut.")
    min_lr: float = Field(0.0, ge=0.0, description="plateau: the rate never goes below this.")


class TrainingConfig(_Section):
    """How long, how much at once, and when to stop."""

    epochs: int = Field(10, ge=1, description="Passes over the training split.")
    threads: int = Field(
        0,
        ge=0,
        description="Threads of the processor at most; 0: as many as it has, or as `OMP_NUM_THREADS` says. For small "
        "networks on small pictures one is nearly as fast as two, and keeps its pace on a machine that does other "
        "things. Another number gives other last digits.",
    )
    minutes: float = Field(
        0.0,
        ge=0.0,
        le=525_600.0,
        description="Cut the epochs to what fits into so many minutes of training; 0: no limit. With every "
        "schedule the learning rate is down at the end, where two epochs or more fit.",
    )
    batch_size: int = Field(128, ge=1, description="Pictures in one optimizer step.")
    drop_last: bool = Field(False, description="Leave out the last short batch of an epoch.")
    hardest_share: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Share of the training pictures that an epoch shows: those with the largest loss when they were "
        "last seen, unseen ones first. Under 1, the train curve is that of these pictures. Not for labels with many "
        "errors, which are what is hardest.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of weights, order, augmentation and dropout.")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto",
        description="`auto`: bf16 where the processor has it natively (AMX, AVX512-BF16, CUDA) and it is measured to "
        "be faster, else float32. Losses are always float32.",
    )
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=1.0, description="Share of the target spread evenly over all classes."
    )
    mixup_alpha: float = Field(0.0, ge=0.0, description="Mixup: both parameters of the Beta distribution; 0: off.")
    cutmix_alpha: float = Field(0.0, ge=0.0, description="CutMix: both parameters of the Beta distribution; 0: off.")
    ema_decay: float = Field(
        0.0, ge=0.0, lt=1.0, description="Exponential moving average of the weights, used for evaluation; 0: off."
    )
    class_balance: Literal["auto", "none", "loss"] = Field(
        "auto",
        description="`loss`: pictures of rare classes count more in the loss, so that all classes weigh the same; "
        "`auto`: where the largest class of train has more than three times the pictures of the smallest.",
    )
    freeze_epochs: float = Field(
        0.0, ge=0.0, description="For so many epochs at the start only the head of a backbone is trained."
    )
    clip_norm: float = Field(0.0, ge=0.0, description="Clip the norm of the gradient; 0: off.")
    size_schedule: list[tuple[float, int]] = Field(
        default_factory=list,
        description="Progressive sizes: pairs [from this share of the steps, side in pixels]. Val is seen at the "
        "size of the epoch. Where the last one is smaller than the pictures, all grow with them.",
    )
    early_stopping_epochs: int = Field(
        0, ge=0, description="Stop after this many epochs without improvement on val; 0: off."
    )
    monitor: Literal["val/loss", "val/top1"] = Field(
        "val/loss", description="What improvement means for early stopping, plateau and the best weights."
    )
    restore_best: bool = Field(False, description="End with the weights of the best epoch on val instead of the last.")
    checkpoint_minutes: float = Field(
        5.0, gt=0.0, description="Longest time between checkpoints; one is always written at the end of an epoch."
    )


class EvaluationConfig(_Section):
    """How the finished model is measured."""

    views: Literal["none", "mirror", "mirror-shift"] = Field(
        "none",
        description="Test-time views averaged in logit space: 1, 2 (mirror) or 6 (mirror and one-pixel shifts). "
        "Named beside every number.",
    )
    batch_size: int = Field(500, ge=1, description="Pictures in one forward pass.")
    unknown_fraction: float = Field(
        0.05,
        ge=0.0,
        lt=0.5,
        description="Share of genuine pictures that may be called unknown; the threshold follows from it on val. 0: "
        "the model never says unknown.",
    )
    target_top1: float = Field(
        0.0,
        ge=0.0,
        lt=1.0,
        description="Accuracy that is asked for beforehand: the report says whether the run has it, and after which "
        "epoch val had it first. Nothing stops there. 0: none.",
    )
    test: bool = Field(
        True,
        description="Measure test at the end. `false` leaves it unread, as the trials of a sweep do; "
        "`eyespot evaluate` can read it later.",
    )


class Config(_Section):
    """Every setting of a run."""

    name: str = Field("custom", description="Name of the recipe.")
    description: str = Field("", description="What it is for, in a sentence.")
    mistakes: list[MistakeName] = Field(
        default_factory=list,
        description="Mistakes of publications to be repeated on purpose, for `eyespot study`; each is stamped on "
        "every figure that it spoils. `train-on-test`, `select-on-test`: train, or val, is a copy of test; "
        "`augmented-val`: val is augmented while training; `wrong-preprocessing`: `input.normalize` is not "
        "that of the weights; `linear-stack`: hidden layers without an activation.",
    )
    input: InputConfig = InputConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    features: FeaturesConfig = FeaturesConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        """Refuse settings that contradict each other, each with its reason."""
        problems = []
        if self.data.val_fraction + self.data.test_fraction >= 1:
            problems.append("data.val_fraction + data.test_fraction leave nothing to train on")
        if self.data.final:
            if self.training.early_stopping_epochs:
                problems.append("data.final trains on val too, so training.early_stopping_epochs must be 0")
            if self.training.restore_best:
                problems.append("data.final trains on val too, so training.restore_best must be false")
            if self.schedule.name == "plateau":
                problems.append("data.final trains on val too, so schedule.name cannot be 'plateau'")
        elif self.data.val_fraction == 0 and (
            self.training.early_stopping_epochs or self.training.restore_best or self.schedule.name == "plateau"
        ):
            problems.append("early stopping, restore_best and the plateau schedule need val: data.val_fraction is 0")
        if self.features.solver == "closed" and (self.model.args.get("hidden") or self.model.args.get("batch_norm")):
            problems.append("features.solver = 'closed' is for linear heads: model.args has hidden or batch_norm")
        problems += self._needs_pictures()
        if self.training.hardest_share < 1 and (self.training.mixup_alpha or self.training.cutmix_alpha):
            problems.append("training.hardest_share needs the loss of each picture, which mixup and cutmix do not have")
        if any(epochs < 1 for epochs in self.schedule.step_epochs):
            problems.append("schedule.step_epochs: the rate is cut after 1 epoch or more")
        shares = [share for share, _ in self.training.size_schedule]
        if shares != sorted(shares) or any(not 0 <= share < 1 for share in shares):
            problems.append("training.size_schedule: the shares must rise and lie in [0, 1)")
        if any(size < 4 for _, size in self.training.size_schedule):
            problems.append("training.size_schedule: sides under 4 pixels carry no picture")
        problems += self._unspoken_mistakes()
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _needs_pictures(self) -> list[str]:
        """Return what does not go with stored features: the loop would fail after hours of encoding."""
        model, training = self.model, self.training
        if model.freeze_until:
            reason, remedy = f"model.freeze_until = '{model.freeze_until}'", "set model.freeze_until = ''"
        elif model.mode in ("features", "last-block") or (model.mode == "auto" and not training.minutes):
            reason, remedy = f"model.mode = '{model.mode}'", "set model.mode = 'full' or 'finetune'"
        else:
            return []
        needing = {
            "freeze_epochs": training.freeze_epochs,
            "cutmix_alpha": training.cutmix_alpha,
            "size_schedule": training.size_schedule,
        }
        return [
            f"training.{key} does not go with stored features ({reason}): leave it out, or {remedy}"
            for key, value in needing.items()
            if value
        ]

    def _unspoken_mistakes(self) -> list[str]:
        """Return where `mistakes` and the settings differ: a stamp must neither lie nor be missing."""
        problems, named = [], set(self.mistakes)
        leaks = named & {"train-on-test", "select-on-test"}
        if len(leaks) > 1:
            problems.append("mistakes: train-on-test and select-on-test exclude each other")
        for name in sorted(leaks):
            if not self.data.allow_leak:
                problems.append(f"mistakes = ['{name}'] needs data.allow_leak = true")
        if "train-on-test" in named and self.data.val_fraction:
            problems.append("mistakes = ['train-on-test'] leaves no val: data.val_fraction must be 0")
        stored = bool(self.model.freeze_until) or self.model.mode in ("features", "auto", "last-block")
        if "augmented-val" in named and (self.augment == AugmentConfig() or stored):
            problems.append(
                "mistakes = ['augmented-val'] needs [augment], and a network that sees pictures: model.mode = 'full' "
                "or 'finetune', and no model.freeze_until"
            )
        if self.input.normalize in ("raw", "twice") and "wrong-preprocessing" not in named:
            problems.append(f"input.normalize = '{self.input.normalize}' needs mistakes = ['wrong-preprocessing']")
        if "wrong-preprocessing" in named and self.input.normalize == "auto":
            problems.append("mistakes = ['wrong-preprocessing'], but input.normalize = 'auto' is right")
        if "linear-stack" in named and self.model.args.get("activation") != "none":
            problems.append("mistakes = ['linear-stack'] needs model.args.activation = 'none'")
        return problems

    def to_toml(self) -> str:
        """Return the recipe with every default written out."""
        return tomli_w.dumps(self.model_dump(mode="json"))


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with eyespot."""
    folder = resources.files("eyespot") / "recipes"
    return sorted(entry.name[: -len(".toml")] for entry in folder.iterdir() if entry.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """Return the text of a recipe that comes with eyespot, or of a file.

    Raises:
        ConfigError: There is no such recipe, or the file cannot be read.
    """
    names = recipe_names()
    if name in names:
        return (resources.files("eyespot") / "recipes" / f"{name}.toml").read_text(encoding="utf-8")
    path = Path(os.path.expanduser(name))
    if path.suffix == ".toml" or os.path.exists(path):  # also of a text that no path can be
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"cannot read recipe ({reason})", where=path, remedy="give a recipe's name or a TOML file"
            ) from error
    raise ConfigError(
        f"unknown recipe {name[:200]!r}.{did_you_mean(name, names)}",
        remedy=f"{len(names)} recipes: {', '.join(names)}; or a TOML file",
    )


def load_config(
    recipe: str = "fast", overrides: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> Config:
    """Return a validated configuration.

    Args:
        recipe: Name of a recipe that comes with eyespot, or path of a TOML file.
        overrides: `section.key=value` as given to --set; the value is read as TOML, else as text.
        changes: The same from Python, `{"training.epochs": 5}`; applied last.

    Raises:
        ConfigError: The file is not TOML, or settings do not validate; all errors at once.
    """
    return parse_config(recipe_text(recipe), where=recipe, overrides=overrides, changes=changes)


def parse_config(
    text: str, *, where: str, overrides: Sequence[str] = (), changes: Mapping[str, Any] | None = None
) -> Config:
    """Return a validated configuration from the text of a TOML file; see `load_config`."""
    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # Python refuses numbers of over 4,300 digits with a plain ValueError
        raise ConfigError(f"not valid TOML ({error})", where=where, remedy="mend the line named") from error
    for key, value in [*(parse_override(item) for item in overrides), *(changes or {}).items()]:
        _assign(tree, key, value)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(error)), where=where, remedy="docs/recipes.md lists every key") from error


def as_list(words: Sequence[str]) -> Sequence[str]:
    """Return several words; one text is one word, not its letters.

    Raises:
        UsageError: Something else, such as None.
    """
    found = [words] if isinstance(words, str) else list(words) if isinstance(words, Iterable) else [words]
    if not all(isinstance(word, str) for word in found):
        raise UsageError(
            f"{words!r} where text or a list of texts is needed", remedy="give such a one, or leave it out"
        )
    return found


def parse_override(item: str) -> tuple[str, Any]:
    """Split `section.key=value`; the value is TOML where it parses as TOML, else a plain string."""
    key, equals, text = item.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set takes section.key=value, got {item!r}", remedy="for example --set training.epochs=5")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except (ValueError, RecursionError):
        value = text.strip()
    return key.strip(), value


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    """Set `tree[a][b] = value` for `a.b`; a table changes of a section what it names, an empty one all of it."""
    if dotted in Config.model_fields and isinstance(value, Mapping) and value:
        for key, part in value.items():
            _assign(tree, f"{dotted}.{key}", part)
        return
    *tables, key = dotted.split(".")
    for table in tables:
        tree = tree.setdefault(table, {})
        if not isinstance(tree, dict):
            raise ConfigError(f"--set {dotted}: {table!r} is a value, not a section", remedy="write section.key=value")
    tree[key] = os.fspath(value) if isinstance(value, os.PathLike) else value


def config_keys() -> list[str]:
    """Return every setting as `section.key`, in the order of the recipe file."""
    keys = []
    for name, field in Config.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            keys += [f"{name}.{key}" for key in section.model_fields]
        else:
            keys.append(name)
    return keys


def toml_value(value: Any) -> str:
    """Return a setting as TOML on one line; a table is whole, so that with --set it replaces the recipe's."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # other JSON values are TOML values, but for surrogates


def named_settings(settings: Sequence[str] | Mapping[str, Any]) -> set[str]:
    """Return which settings some changes name, as `section.key`; of an emptied section every one.

    Args:
        settings: As for --set, or from Python, where a section may be a mapping.
    """
    pairs = settings.items() if isinstance(settings, Mapping) else map(parse_override, as_list(settings))
    named: set[str] = set()
    for key, value in pairs:
        if key in Config.model_fields and isinstance(value, Mapping):
            named.update(f"{key}.{part}" for part in value)
            named.update(known for known in config_keys() if not value and known.startswith(f"{key}."))
        else:
            named.add(key)
    return named


def _explain(error: ValidationError) -> Iterable[str]:
    """Yield one sentence in human words for each thing that does not validate."""
    keys = [*Config.model_fields, *config_keys()]
    sentences: dict[tuple[str, str], list[str]] = {}
    # A union reports one error for each of its members, with the member's name last: the key is the user's. What may
    # be written as a word comes behind what may be a number.
    for problem in sorted(error.errors(), key=lambda problem: problem["type"] == "literal_error"):
        parts = [str(part) for part in problem["loc"]]
        key = ".".join(parts[:2])
        message = problem["msg"].removeprefix("Value error, ")
        subject = f"{key} is {problem['input']!r}: "
        if problem["type"] == "extra_forbidden":
            same = [known for known in keys if known.partition(".")[2] == parts[-1]]  # training.lr for optimizer.lr
            meant = f" Did you mean {' or '.join(map(repr, same))}?" if same else did_you_mean(key, keys)
            subject, message = "", f"unknown key {key}.{meant or did_you_mean(parts[-1], keys)}"
        elif problem["type"] == "model_type":
            message = f"it is a section, write {key}.KEY=value"
        elif problem["type"] == "value_error" and len(parts) < 2:
            subject = f"{key}: " if key else ""  # of a whole section, which the message speaks of
        else:
            message = f"{message[0].lower()}{message[1:]}"
        told = sentences.setdefault((subject, "" if subject else message), [])
        if message not in told:
            told.append(message)
    for (subject, _), told in sentences.items():
        first, *others = told
        yield subject + " or ".join([first, *(other.removeprefix("input should be ") for other in others)])
