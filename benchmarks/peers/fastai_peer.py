"""fastai on the same pictures: a ResNet-18 from scratch with one-cycle training, as its tutorials write it.

python benchmarks/peers/fastai_peer.py DATA [--minutes 10]

Needs `pip install fastai`. DATA has train/CLASS/* and test/CLASS/*.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import fastai
import torch
from fastai.vision.all import (
    CategoryBlock,
    DataBlock,
    ImageBlock,
    Learner,
    Normalize,
    RandomSplitter,
    accuracy,
    aug_transforms,
    cifar_stats,
    get_image_files,
    parent_label,
    resnet18,
    vision_learner,
)


def main() -> None:
    """Measure one epoch, train as many with one cycle as fit into the budget, print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    loaders = DataBlock(
        blocks=(ImageBlock, CategoryBlock),
        get_items=get_image_files,
        splitter=RandomSplitter(0.1, seed=options.seed),
        get_y=parent_label,
        batch_tfms=[*aug_transforms(size=32), Normalize.from_stats(*cifar_stats)],
    ).dataloaders(options.data / "train", bs=128)

    def learner() -> Learner:
        return vision_learner(loaders, resnet18, metrics=accuracy, pretrained=False)

    probe = learner()
    begun = time.perf_counter()
    with probe.no_logging(), probe.no_bar():
        probe.fit(1)
    one_epoch = time.perf_counter() - begun
    epochs = max(1, int(options.minutes * 60 / one_epoch))
    model = learner()
    begun = time.perf_counter()
    with model.no_bar(), model.no_logging():
        model.fit_one_cycle(epochs, 3e-3)
    seconds = time.perf_counter() - begun
    test = loaders.test_dl(get_image_files(options.data / "test"), with_labels=True, bs=500)
    probs, labels = model.get_preds(dl=test)
    print(
        json.dumps(
            {
                "peer": f"fastai {fastai.__version__}",
                "network": "resnet18",
                "epochs": epochs,
                "train_seconds": round(seconds, 1),
                "seed": options.seed,
                "test_n": len(labels),
                "test_top1": round(float((probs.argmax(1) == labels).float().mean()), 4),
            }
        )
    )


if __name__ == "__main__":
    main()
