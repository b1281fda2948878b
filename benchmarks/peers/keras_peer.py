"""Keras on the same pictures: the networks of dll2018 and gomez2025 as their authors' programs have them.

python benchmarks/peers/keras_peer.py DATA --network convnet3|vgg16-mini [--minutes 10 | --steps 200]

Needs `pip install tensorflow-cpu pillow scipy`. DATA has train/CLASS/* and test/CLASS/*.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from PIL import Image
from tensorflow import keras
from tensorflow.keras import layers
from tensorflow.keras.preprocessing.image import ImageDataGenerator


def read_split(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return float32 (N, 32, 32, 3) in 0..1 and one-hot labels (N, K)."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pictures, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).iterdir()):
            pictures.append(np.asarray(Image.open(path).convert("RGB")))
            labels.append(label)
    return np.stack(pictures).astype("float32") / 255, keras.utils.to_categorical(labels, len(names))


def convnet3() -> keras.Model:
    """dll2018: three convolutions, SGD 0.01 with momentum 0.9."""
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for width, rate in ((32, 0.3), (64, 0.3), (128, 0.4)):
        model.add(layers.Conv2D(width, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D(2))
        model.add(layers.Dropout(rate))
    model.add(layers.Flatten())
    model.add(layers.Dense(80, activation="relu"))
    model.add(layers.Dropout(0.3))
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "categorical_crossentropy", metrics=["accuracy"])
    return model


def vgg16_mini() -> keras.Model:
    """gomez2025: eight convolutions, Adam 5e-4."""
    model = keras.Sequential([keras.Input((32, 32, 3))])
    for width, rate in ((32, 0.2), (64, 0.3), (128, 0.4), (256, 0.5)):
        for _ in range(2):
            model.add(layers.Conv2D(width, 3, padding="same", activation="relu"))
            model.add(layers.BatchNormalization())
        model.add(layers.MaxPooling2D(2))
        model.add(layers.Dropout(rate))
    model.add(layers.Flatten())
    model.add(layers.Dense(10, activation="softmax"))
    model.compile(keras.optimizers.Adam(5e-4), "categorical_crossentropy", metrics=["accuracy"])
    return model


class Budget(keras.callbacks.Callback):
    """Stops after so many seconds or steps, and keeps the time of every step."""

    def __init__(self, seconds: float, steps: int) -> None:
        super().__init__()
        self.seconds, self.steps = seconds, steps
        self.ends: list[float] = []
        self.begun = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: object = None) -> None:
        """Stop where the budget is used up."""
        self.ends.append(time.perf_counter())
        if self.ends[-1] - self.begun > self.seconds or (self.steps and len(self.ends) >= self.steps):
            self.model.stop_training = True


def main() -> None:
    """Train for the budget and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--network", choices=["convnet3", "vgg16-mini"], default="convnet3")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--steps", type=int, default=0, help="measure the speed of so many steps instead")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    keras.utils.set_random_seed(options.seed)
    images, targets = read_split(options.data / "train")
    order = np.random.default_rng(options.seed).permutation(len(images))
    images, targets = images[order], targets[order]
    held_out = len(images) // (5 if options.network == "convnet3" else 10)
    held_out -= held_out % options.batch_size
    train = images[held_out:], targets[held_out:]
    val = images[:held_out], targets[:held_out]
    if options.network == "convnet3":
        model = convnet3()
    else:
        model = vgg16_mini()
        mean, deviation = train[0].mean(), train[0].std() + 1e-7
        val = (val[0] - mean) / deviation, val[1]
    budget = Budget(1e9 if options.steps else options.minutes * 60, options.steps)
    arguments = {"epochs": 10_000, "callbacks": [budget], "verbose": 0}
    if not options.steps:
        arguments["validation_data"] = val
    if options.network == "convnet3":
        model.fit(*train, batch_size=options.batch_size, **arguments)
    else:
        generator = ImageDataGenerator(
            rotation_range=15,
            width_shift_range=0.12,
            height_shift_range=0.12,
            horizontal_flip=True,
            zoom_range=0.1,
            brightness_range=[0.9, 1.1],
            shear_range=10,
            channel_shift_range=0.1,
        )
        standardized = (train[0] - mean) / deviation
        model.fit(generator.flow(standardized, train[1], batch_size=options.batch_size), **arguments)
    steps = np.diff(budget.ends)
    result = {
        "peer": f"keras {keras.__version__}",
        "network": options.network,
        "steps": len(budget.ends),
        "epochs": round(len(budget.ends) * options.batch_size / len(train[0]), 2),
        "train_seconds": round(budget.ends[-1] - budget.begun, 1),
        "images_per_second": round(options.batch_size / float(np.median(steps)), 1),
        "seed": options.seed,
    }
    if not options.steps:
        images, targets = read_split(options.data / "test")
        if options.network == "vgg16-mini":
            images = (images - mean) / deviation
        result["test_n"] = len(images)
        result["test_top1"] = round(float(model.evaluate(images, targets, batch_size=500, verbose=0)[1]), 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
