"""A data set with the leak of a publication planted in it, for runs that repeat a mistake on purpose.

Before this: `sources` opened a data set. After this: `packing` hashes every picture and `checks` finds the leak, as it
would find anybody's: without `data.allow_leak` it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from eyespot.data.dataset import Dataset, Items, SplitName
from eyespot.errors import UsageError

# mistake -> the split that becomes a copy of test
_PLANTED: dict[str, SplitName] = {"train-on-test": "train", "select-on-test": "val"}


def plant_mistakes(dataset: Dataset, mistakes: Sequence[str]) -> Dataset:
    """Return the data set with the leaks that a recipe's `mistakes` ask for; mostly there are none.

    Args:
        dataset: As it was found.
        mistakes: Names of `eyespot.mistakes`.

    Raises:
        UsageError: There is no test split of its own that could leak.
    """
    for mistake in mistakes:
        split = _PLANTED.get(mistake)
        if split is None:
            continue
        if "test" not in dataset.splits:
            raise UsageError(
                f"mistakes = [{mistake!r}] needs a test split of its own",
                where=dataset.name,
                remedy="use data with a test split, such as cifar10",
            )
        splits = {**dataset.splits, split: _copied(dataset.splits["test"], split)}
        # No longer what was published: the leak is judged as in anybody's pictures.
        dataset = replace(dataset, splits=splits, published=False)
    return dataset


def _copied(items: Items, split: str) -> Items:
    return replace(items, ids=[f"{split}-is-test/{id_}" for id_ in items.ids])
