"""Settings of the points, against what the publications say of them: every value below is theirs, none is copied."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from eyespot.config import Config, load_config
from eyespot.models.registry import build_model
from eyespot.studies.schema import load_study

HEAD, LAYERS = "model.args.hidden", (512, 256, 128)
DLL = {
    "model.name": "convnet3",
    "input.normalize": "minmax",
    "optimizer.name": "sgd",
    "optimizer.lr": 0.01,
    "optimizer.momentum": 0.9,
    "optimizer.nesterov": False,
    "optimizer.weight_decay": 0.0,
    "schedule.name": "constant",
    "training.batch_size": 64,
    "data.val_fraction": 0.2,
}
GOMEZ = {
    "optimizer.name": "adam",
    "optimizer.lr": 5e-4,
    "schedule.name": "plateau",
    "schedule.factor": 0.5,
    "schedule.patience_epochs": 10,
    "schedule.min_lr": 1e-5,
    "training.batch_size": 64,
    "training.early_stopping_epochs": 40,
    "training.monitor": "val/loss",
    "training.restore_best": True,
    "data.val_fraction": 0.1,
}
FROM_SCRATCH = {
    "training.epochs": 300,
    "augment.flip": "random",
    "augment.rotate_degrees": 15,
    "augment.width_shift": 0.12,
    "augment.height_shift": 0.12,
    "augment.zoom": 0.1,
    "augment.brightness": (0.9, 1.1),
    "augment.shear_degrees": 10,
}
FROZEN = {"model.name": "vgg16", "model.mode": "features", "input.size_px": 224, "training.epochs": 10}
ZOUARI = {"training.batch_size": 32, "input.size_px": 224, "data.final": False}
ZOUARI_HEAD = {
    "model.args.pool": "flatten",
    HEAD: (256, 128, 64),
    "model.args.dropout": 0.5,
    "model.args.batch_norm": True,
}

PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    # D04, D05, D07, D08, D10, D13 to D15
    ("dll2018", "epochs100"): {**DLL, "training.epochs": 100},
    ("dll2018", "epochs150"): {**DLL, "training.epochs": 150},
    ("dll2018", "epochs200"): {**DLL, "training.epochs": 200},
    # E04, E05, E08, E12, E13, E16 to E19, E26
    ("gomez2025", "vgg"): {**GOMEZ, **FROM_SCRATCH, "model.name": "vgg16-mini", "input.normalize": "scalar"},
    ("gomez2025", "vgg-minmax"): {**GOMEZ, **FROM_SCRATCH, "model.name": "vgg16-mini", "input.normalize": "minmax"},
    ("gomez2025", "alexnet"): {**GOMEZ, **FROM_SCRATCH, "model.name": "alexnet-mini", "input.normalize": "scalar"},
    ("gomez2025", "frozen-a"): {**GOMEZ, **FROZEN, "model.args.pool": "flatten", HEAD: (512,)},
    ("gomez2025", "frozen-b"): {**GOMEZ, **FROZEN, "model.args.pool": "gap", HEAD: None, "model.args.dropout": 0.5},
    # B15, B18 to B21, B28, B10
    ("zouari2021", "resnet50"): {
        **ZOUARI,
        **ZOUARI_HEAD,
        "model.name": "resnet50",
        "model.mode": "last-block",
        "optimizer.name": "rmsprop",
        "optimizer.lr": 2e-5,
        "training.epochs": 10,
    },
    ("zouari2021", "epochs5"): {"optimizer.name": "rmsprop", "training.epochs": 5},
    ("zouari2021", "sgd"): {**ZOUARI_HEAD, "optimizer.name": "sgd", "training.epochs": 30},
    ("zouari2021", "short-head"): {"model.args.pool": "flatten", HEAD: (), "model.mode": "last-block"},
    ("zouari2021", "size32"): {"input.size_px": 32},
    ("zouari2021", "backbone-inception_v3"): {"model.name": "inception_v3"},
    # A13 to A50, one row each
    ("culp2021", "exp01"): {HEAD: (512,), "model.args.dropout": 0.4, "model.mode": "full"},
    ("culp2021", "exp02"): {HEAD: (512,), "model.args.dropout": 0.2, "model.mode": "full"},
    ("culp2021", "exp03"): {HEAD: LAYERS, "model.args.dropout": 0.2, "model.mode": "full"},
    ("culp2021", "exp04"): {HEAD: LAYERS, "model.mode": "features"},
    ("culp2021", "exp09"): {HEAD: (256, 256, 256)},
    ("culp2021", "exp10"): {HEAD: (128, 64, 32)},
    ("culp2021", "exp11"): {HEAD: (256, 128, 64)},
    ("culp2021", "exp12"): {HEAD: (1024, 256, 32)},
    ("culp2021", "exp13"): {HEAD: (1024, 512, 256, 128, 64, 32)},
    ("culp2021", "exp14"): {HEAD: (512, 256, 128)},
    ("culp2021", "exp15"): {"training.batch_size": 32},
    ("culp2021", "exp16"): {"model.args.pool": "gap"},
    ("culp2021", "exp17"): {"training.epochs": 19, "model.args.pool": "flatten"},
    ("culp2021", "exp18"): {"model.name": "densenet121"},
    ("culp2021", "exp18-inception"): {"model.name": "inception_v3"},
    ("culp2021", "exp19"): {"model.args.batch_norm": True},
    ("culp2021", "exp20"): {"model.name": "densenet121", "training.epochs": 10},
    ("culp2021", "exp21"): {"optimizer.name": "rmsprop"},
    ("culp2021", "exp22"): {"optimizer.name": "rmsprop", "model.args.batch_norm": True, "training.epochs": 50},
    ("culp2021", "exp23"): {"optimizer.name": "adam", "model.args.batch_norm": None},
    ("culp2021", "exp24"): {
        HEAD: (512,),
        "model.args.dropout": 0.2,
        "model.args.batch_norm": True,
        "training.epochs": 4,
    },
    ("culp2021", "exp25"): {"model.args.dropout": 0.5},
    ("culp2021", "exp26"): {"model.args.pool": "gap"},
    ("culp2021", "exp27"): {"model.args.dropout": 0.4},
    ("culp2021", "exp29"): {HEAD: LAYERS, "model.mode": "features"},
    ("culp2021", "exp30"): {"model.name": "inception_resnet_v2", "model.args.batch_norm": True},
    ("culp2021", "exp31"): {"model.name": "inception_resnet_v2", "model.args.batch_norm": None},
    ("culp2021", "exp32"): {HEAD: (500,), "input.size_px": 299},
    ("culp2021", "size150"): {"input.size_px": 150},
    ("culp2021", "size288"): {"input.size_px": 288},
    ("culp2021", "final"): {"model.name": "inception_resnet_v2", "training.epochs": 10},
}


def setting(config: Config, key: str) -> Any:
    """Return a setting by its dotted key; None for an argument that the network's default is left to."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else getattr(value, part)
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(("study", "point"), PUBLISHED, ids="/".join)
def test_a_point_has_the_settings_that_were_published(study: str, point: str) -> None:
    (found,) = [one for one in load_study(study).points if one.id == point]
    config = load_config(found.recipe, changes=copy.deepcopy(found.changes))
    said = PUBLISHED[study, point]
    assert {key: setting(config, key) for key in said} == said


def test_the_network_of_dll2018_has_the_rates_of_the_public_copies() -> None:
    # D07: 0.3, 0.3 and 0.4 after the poolings, 0.3 after the hidden layer.
    network = build_model("convnet3", num_classes=10, in_channels=3, size_px=32, args={})
    assert [module.p for module in network.modules() if type(module).__name__ == "Dropout"] == [0.3, 0.3, 0.4, 0.3]
