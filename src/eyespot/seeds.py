"""One rule by which every random number of a run follows from the user's seed.

Before this: the seed in the recipe. After this: the split, the order of the pictures, the augmentation and dropout,
each with a seed of its own. Since such a seed depends only on what it is for (say seed, epoch and step), a resumed run
draws the same numbers with no random state to save.
"""

from __future__ import annotations

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return an int in [0, 2**63) that follows from the parts and from nothing else.

    The same on every machine, system and Python version. Other parts, another order, or `1` instead of `"1"` give an
    unrelated seed, so that for example epoch 1 of seed 0 has nothing in common with epoch 0 of seed 1.

    Args:
        parts: The user's seed, what the numbers are for, and when: `derive_seed(seed, "augment", step)`.

    Source:
        BLAKE2b (RFC 7693), 8 bytes, top bit cleared because torch and numpy both take 63-bit seeds.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        # The letter tells 1 from "1"; the length keeps ("a", "b") apart from ("ab",).
        text = f"s{part}" if isinstance(part, str) else f"i{int(part)}"  # int(): True and numpy's integers are numbers
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little") >> 1
