"""One job: say what the published data sets are, and check that a copy is one of them.

Before this: nothing. After this: `cifar` and `idx` check what they read, and `sources` finds, downloads and opens.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eyespot.arrays import Int64Array
from eyespot.data.dataset import SplitName
from eyespot.data.download import RemoteFile
from eyespot.errors import DataError

GET_AGAIN = "this is not the published data set; get it from its publisher again"


@dataclass(frozen=True)
class Published:
    """What is known about a published data set.

    Attributes:
        name: Its name for eyespot.
        title: Its name in writing.
        class_names: K names in the published order.
        counts: Pictures per split.
        size_px: Side of its square pictures.
        channels: 1 (grey) or 3 (RGB).
        licence: In words; many publishers state none.
        source: Where it is described.
        citation: The paper to cite.
        files: What is downloaded, https only, with pinned sums; empty where nothing has to be.
        archives: Names of all official archives, of the original pixels.
    """

    name: str
    title: str
    class_names: tuple[str, ...]
    counts: Mapping[SplitName, int]
    size_px: int
    channels: int
    licence: str
    source: str
    citation: str
    files: tuple[RemoteFile, ...] = ()
    archives: tuple[str, ...] = ()

    def names_it(self, file_name: str) -> bool:
        """Return whether a file or folder is named after this data set, in any spelling.

        `cifar-10-python.tar.gz` and `CIFAR10` name `cifar10`. `cifar100` does not, nor do its corrupted, relabelled and
        long-tailed relatives such as CIFAR-10-C, which are other data sets.
        """
        plain = plain_name(file_name)
        wanted = plain_name(self.name)
        rest = plain[len(wanted) :]
        relative = re.match(r"[chnp]($|tar|zip|tgz)|lt($|tar|zip|tgz)|[0-9]", rest)
        return plain.startswith(wanted) and relative is None

    def official_names(self) -> dict[str, str]:
        """Return the official class names by their plain form, as folders may be named after them."""
        return {plain_name(name): name for name in self.class_names}


def plain_name(name: str) -> str:
    """Return a name's letters and digits in lower case: `maple_tree` and `Maple tree` are the same class."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def check_labels(labels: Int64Array, num_classes: int, where: Path) -> None:
    """Raise where a label is out of range.

    Raises:
        DataError: The first such label, with the allowed range.
    """
    wrong = labels[(labels < 0) | (labels >= num_classes)]
    if len(wrong):
        raise DataError(f"label {wrong[0]}, allowed are 0 to {num_classes - 1}", where=where, remedy=GET_AGAIN)


def check_class_counts(labels: Int64Array, class_names: Sequence[str], split: SplitName, where: Path) -> None:
    """Raise where classes differ in size: in CIFAR and Fashion-MNIST all of them are equally large.

    Args:
        labels: int64 (N,), each in [0, K).
        class_names: K names.
        split: For the error message.
        where: For the error message.

    Raises:
        DataError: The class, its count, and the published count.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    expected = len(labels) // len(class_names)
    for name, count in zip(class_names, counts.tolist(), strict=True):
        if count != expected:
            raise DataError(
                f"class {name!r} has {count:,} {split} pictures instead of {expected:,}", where=where, remedy=GET_AGAIN
            )


def published_ids(split: SplitName, count: int) -> tuple[str, ...]:
    """Return `train/00000`, `train/00001`, ...: the ids of pictures that are published as arrays."""
    return tuple(f"{split}/{index:05d}" for index in range(count))


_CIFAR_LICENCE = "none stated by the publisher, who asks to cite the report"
_CIFAR_CITATION = "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009"
_CIFAR_SOURCE = "https://www.cs.toronto.edu/~kriz/cifar.html"
_CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can "
    "castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin "
    "elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster "
    "man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck "
    "pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk "
    "skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger "
    "tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
_FASHION_URL = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"

CIFAR10 = Published(
    name="cifar10",
    title="CIFAR-10",
    class_names=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    counts={"train": 50_000, "test": 10_000},
    size_px=32,
    channels=3,
    licence=_CIFAR_LICENCE,
    source=_CIFAR_SOURCE,
    citation=_CIFAR_CITATION,
    files=(
        RemoteFile(
            name="cifar-10-python.tar.gz",
            urls=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
            sha256="6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            md5="c58f30108f718f92721af3b95e74349a",
            size=170_498_071,
        ),
    ),
    archives=("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz"),
)

CIFAR100 = Published(
    name="cifar100",
    title="CIFAR-100",
    class_names=tuple(_CIFAR100_NAMES.split()),
    counts={"train": 50_000, "test": 10_000},
    size_px=32,
    channels=3,
    licence=_CIFAR_LICENCE,
    source=_CIFAR_SOURCE,
    citation=_CIFAR_CITATION,
    files=(
        RemoteFile(
            name="cifar-100-python.tar.gz",
            urls=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
            sha256="85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            size=169_001_437,
        ),
    ),
    archives=("cifar-100-python.tar.gz", "cifar-100-binary.tar.gz"),
)


def _fashion_file(name: str, sha256: str, md5: str, size: int) -> RemoteFile:
    return RemoteFile(name=name, urls=(_FASHION_URL + name,), sha256=sha256, md5=md5, size=size)


# The publisher's own address is http only; these are the same files in its repository, with the MD5 sums of its README.
FASHION_MNIST = Published(
    name="fashion-mnist",
    title="Fashion-MNIST",
    class_names=(
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    ),
    counts={"train": 60_000, "test": 10_000},
    size_px=28,
    channels=1,
    licence="MIT",
    source="https://github.com/zalandoresearch/fashion-mnist",
    citation="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, arXiv:1708.07747, 2017",
    files=(
        _fashion_file(
            "train-images-idx3-ubyte.gz",
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            26_421_880,
        ),
        _fashion_file(
            "train-labels-idx1-ubyte.gz",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "25c81989df183df01b3e8a0aad5dffbe",
            29_515,
        ),
        _fashion_file(
            "t10k-images-idx3-ubyte.gz",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "bef4ecab320f06d8554ea6380940ec79",
            4_422_102,
        ),
        _fashion_file(
            "t10k-labels-idx1-ubyte.gz",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "bb300cfdad3c16e7a12a480ee83cd310",
            5_148,
        ),
    ),
)

DIGITS = Published(
    name="digits",
    title="Optical recognition of handwritten digits",
    class_names=tuple("0123456789"),
    counts={"train": 1_438, "test": 359},
    size_px=8,
    channels=1,
    licence="CC BY 4.0",
    source="https://archive.ics.uci.edu/dataset/80 (the test part of it, as bundled with scikit-learn)",
    citation="E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998",
)

PUBLISHED: Mapping[str, Published] = {one.name: one for one in (CIFAR10, CIFAR100, FASHION_MNIST, DIGITS)}
