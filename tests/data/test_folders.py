"""Class folders and split folders: what is listed, what is left out, and what is refused."""

from __future__ import annotations

import os
import socket
import stat
import sys
import threading
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyespot.data import listing
from eyespot.data.dataset import Dataset, PathList
from eyespot.data.folders import read_folder
from eyespot.data.names import PICTURE_EXTENSIONS, few, make_unique, safe_text
from eyespot.data.sources import open_dataset
from eyespot.errors import DataError

posix_only = pytest.mark.skipif(os.name != "posix", reason="the file system of this system has no such names or files")
any_bytes_names = pytest.mark.skipif(
    sys.platform != "linux", reason="file names that are no UTF-8, or differ in case only, are refused by this system"
)


def tree(root: Path, *paths: str) -> Path:
    """Make empty files (a path that ends with / is a folder) and return the root."""
    for path in paths:
        target = root / path
        if path.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    return root


def read(root: Path, *paths: str) -> Dataset:
    return read_folder(tree(root, *paths), name="photos")


def listed(dataset: Dataset, split: Any = "train") -> list[tuple[str, str]]:
    """Return (id, class name) of each picture."""
    items = dataset.splits[split]
    return [(identity, dataset.class_names[label]) for identity, label in zip(items.ids, items.labels, strict=True)]


def refused(root: Path, *paths: str) -> str:
    with pytest.raises(DataError) as caught:
        read(root, *paths)
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.remedy, "every error names the next step"
    return message


class TestListing:
    def test_class_folders(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "dog/b.jpg", "cat/2.png", "cat/10.png", "dog/a.JPEG")
        assert dataset.class_names == ("cat", "dog")
        assert listed(dataset) == [
            ("cat/10.png", "cat"),
            ("cat/2.png", "cat"),
            ("dog/a.JPEG", "dog"),
            ("dog/b.jpg", "dog"),
        ]
        items = dataset.splits["train"]
        assert items.labels.dtype == np.int64
        assert items.paths is not None
        assert items.paths[0] == tmp_path / "cat" / "10.png"
        assert [path.is_file() for path in items.paths] == [True] * 4
        assert (dataset.published, dataset.layout, dataset.name, dataset.notes) == (
            False,
            "class folders",
            "photos",
            (),
        )
        assert dataset.origin == str(tmp_path)
        assert set(dataset.splits) == {"train"}

    @pytest.mark.parametrize("train", ["train", "Training", "TRAIN"])
    @pytest.mark.parametrize("val", ["val", "valid", "validation", "Dev"])
    @pytest.mark.parametrize("test", ["test", "Testing"])
    def test_split_folders(self, tmp_path: Path, train: str, val: str, test: str) -> None:
        paths = [f"{split}/{kind}/1.png" for split in (train, val, test) for kind in ("cat", "dog")]
        dataset = read(tmp_path, *paths, f"{train}/cat/2.png")
        assert {split: len(items) for split, items in dataset.splits.items()} == {"train": 3, "val": 2, "test": 2}
        assert list(dataset.splits) == ["train", "val", "test"]
        assert listed(dataset, "test") == [(f"{test}/cat/1.png", "cat"), (f"{test}/dog/1.png", "dog")]
        assert dataset.layout == "split folders"

    def test_train_alone_is_a_split(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "train/cat/1.png", "train/dog/1.png")
        assert dataset.layout == "split folders"
        assert set(dataset.splits) == {"train"}

    def test_a_class_may_be_called_train(self, tmp_path: Path) -> None:
        # CIFAR-100 has a class train.
        assert read(tmp_path / "a", "train/1.png", "bus/1.png").class_names == ("bus", "train")
        assert read(tmp_path / "a", "train/more/1.png").class_names == ("bus", "train")
        names = ("bus", "dev", "test")
        assert read(tmp_path / "b", *[f"{name}/1.png" for name in names]).class_names == names
        assert read(tmp_path / "c", "bus/1.png", "test/1.png").class_names == ("bus", "test")

    def test_tables_named_after_splits_are_said_not_to_be_read(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "cat/1.png", "dog/1.png", "train.csv", "test_labels.csv", "classes.csv")
        told, command = dataset.notes[0].split("; ")
        assert (
            told == "'test_labels.csv', 'train.csv' beside the class folders are not read, and other splits are drawn"
        )
        assert f"{tmp_path / 'test_labels.csv'} {tmp_path / 'train.csv'} --out NEW.csv" in command
        assert not any("not read" in note for note in read(tmp_path / "one", "cat/1.png", "a/1.png", "train.csv").notes)

    def test_films_and_patients_in_the_names_are_said_where_test_is_drawn(self, tmp_path: Path) -> None:
        frames = [f"{kind}/walk{n}/frame_000{n}.jpg" for kind in ("wave", "clap") for n in range(2)]
        assert any("4 pictures are named like those of films or patients, 'clap/walk0/frame" in note
                   for note in read(tmp_path / "a", *frames).notes)  # fmt: skip
        divided = [f"{split}/{name}" for split in ("train", "test") for name in frames]
        persons = [f"{patient}/{n}.png" for patient in ("patient1", "patient2") for n in range(2)]
        for folder, paths in (("b", divided), ("c", persons)):
            assert not any("film" in note for note in read(tmp_path / folder, *paths).notes)

    def test_masks_beside_their_pictures_are_said(self, tmp_path: Path) -> None:
        breast = [f"{kind}/{kind} (1){end}.png" for kind in ("benign", "normal") for end in ("", "_mask", "_mask_1")]
        assert any("4 pictures are named like masks of others, 'benign/benign (1)_mask.png'" in note
                   for note in read(tmp_path / "a", *breast).notes)  # fmt: skip
        chest = [f"{kind}/{what}/1.png" for kind in ("covid", "normal", "other") for what in ("images", "masks")]
        assert any("3 pictures are named like masks" in note for note in read(tmp_path / "b", *chest).notes)
        worn = [f"{kind}/{kind}_{n}.png" for kind in ("with_mask", "without_mask") for n in range(3)]
        assert not any("like masks" in note for note in read(tmp_path / "c", *worn).notes)

    def test_classes_may_have_the_same_folders_inside(self, tmp_path: Path) -> None:
        fruit = [f"{name}/{state}/1.png" for name in ("apple", "pear") for state in ("fresh", "rotten")]
        dataset = read(tmp_path, *fruit)
        assert dataset.class_names == ("apple", "pear")
        assert any("below a class folder" in note for note in dataset.notes)

    @pytest.mark.parametrize(
        ("train", "test"),
        [
            ("training_set", "test_set"),
            ("Train_Images", "Test_Images"),
            ("train_data", "val_data"),
            ("trainset", "testset"),
            ("images-train", "images-val"),
            ("TRAIN IMGS", "validation imgs"),
            ("seg_train/seg_train", "seg_test/seg_test"),
            ("training_set/training_set", "test_set"),
        ],
    )
    def test_split_folders_as_data_sets_are_handed_out(self, tmp_path: Path, train: str, test: str) -> None:
        paths = [f"{split}/{kind}/1.png" for split in (train, test) for kind in ("cat", "dog")]
        dataset = read(tmp_path, *paths, f"{train}/cat/2.png", "seg_pred/seg_pred/1.png", "readme.png")
        assert dataset.class_names == ("cat", "dog")
        measured = "val" if "val" in test else "test"
        assert {split: len(items) for split, items in dataset.splits.items()} == {"train": 3, measured: 2}
        assert listed(dataset)[0] == (f"{train}/cat/1.png", "cat")
        beside = train.partition("/")[0]
        assert {
            f"folders beside {beside}/ left out: 'seg_pred'",
            f"1 file beside {beside}/ left out: 'readme.png'",
        } <= {*dataset.notes}

    def test_classes_that_begin_like_a_split_stay_classes(self, tmp_path: Path) -> None:
        names = ("test_tube", "training_shoes", "train", "valley", "data_set", "set")
        assert read(tmp_path / "a", *[f"{name}/1.png" for name in names]).class_names == tuple(sorted(names))
        assert read(tmp_path / "b", "test_tube/old/1.png", "training_shoes/new/1.png").class_names == (
            "test_tube",
            "training_shoes",
        )
        assert read(tmp_path / "c", "train/train/1.png", "train/bus/1.png").class_names == ("bus", "train")

    def test_a_plain_split_name_goes_before_a_longer_one(self, tmp_path: Path) -> None:
        classes = [f"{split}/{kind}/1.png" for split in ("train", "test") for kind in ("cat", "dog")]
        dataset = read(tmp_path, *classes, "test_images/1.png")
        assert {split: len(items) for split, items in dataset.splits.items()} == {"train": 2, "test": 2}
        assert "folders beside train/ left out: 'test_images'" in dataset.notes

    def test_folders_in_classes_may_have_equal_names(self, tmp_path: Path) -> None:
        one = ("cat/images/1.png", "dog/images/1.png")
        assert read(tmp_path / "a", *one).class_names == ("cat", "dog")
        own = ("cat/old/1.png", "cat/young/1.png", "dog/old/1.png", "dog/young/1.png", "dog/2.png")
        assert read(tmp_path / "b", *own).class_names == ("cat", "dog")
        other = ("cat/old/1.png", "cat/young/1.png", "dog/old/1.png", "dog/big/1.png")
        assert read(tmp_path / "c", *other).class_names == ("cat", "dog")
        letters = ("a/old/1.png", "a/young/1.png", "b/big/1.png")
        assert read(tmp_path / "d", *letters).class_names == ("a", "b")

    def test_numbered_classes_stay_classes(self, tmp_path: Path) -> None:
        for number, names in enumerate((("00000", "00001"), ("Class 1", "Class 2"), ("party1", "party2"), ("3", "12"))):
            assert set(read(tmp_path / str(number), *[f"{name}/1.png" for name in names]).class_names) == {*names}

    def test_class_names_sort_by_code_point_whatever_the_order_on_disk(self, tmp_path: Path) -> None:
        names = ["zebra", "Zebra2", "ähre", "10", "9", "übel", "_x", "élan"]
        dataset = read(tmp_path, *[f"{name}/1.png" for name in names])
        assert dataset.class_names == tuple(sorted(names))
        assert dataset.class_names == ("10", "9", "Zebra2", "_x", "zebra", "ähre", "élan", "übel")

    def test_nested_folders_belong_to_their_class(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "cat/tabby/young/1.png", "cat/1.png", "dog/1.png")
        assert listed(dataset)[:2] == [("cat/1.png", "cat"), ("cat/tabby/young/1.png", "cat")]
        assert any("'cat/tabby/young'" in note for note in dataset.notes)

    def test_one_folder_around_everything_is_looked_through(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "outer/inner/train/cat/1.png", "outer/inner/train/dog/1.png", "__MACOSX/x/y.png")
        assert [identity for identity, _ in listed(dataset)] == ["train/cat/1.png", "train/dog/1.png"]
        assert dataset.layout == "split folders"

    def test_one_folder_around_class_folders_is_noted(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "photos/cat/1.png", "photos/dog/1.png")
        assert dataset.class_names == ("cat", "dog")
        assert "'photos'" in dataset.notes[0]

    def test_many_wrappers_end(self, tmp_path: Path) -> None:
        assert "only one class" in refused(tmp_path, "/".join("abcdefghij") + "/cat/1.png")

    def test_litter_is_not_listed_and_not_noted(self, tmp_path: Path) -> None:
        litter = ["Thumbs.db", "desktop.ini", ".DS_Store", "._1.png", "1.png~", "#1.png#", ".hidden.png", "Icon\r"]
        if os.name == "nt":
            litter.remove("Icon\r")
        dataset = read(tmp_path, "cat/1.png", "dog/1.png", "__MACOSX/cat/1.png", ".git/x.png", "cat/@eaDir/1.png")
        dataset = read(tmp_path, *[f"cat/{name}" for name in litter])
        assert [identity for identity, _ in listed(dataset)] == ["cat/1.png", "dog/1.png"]
        assert dataset.notes == ("only one training picture of 2 classes: 'cat', 'dog'",)

    def test_other_files_are_counted(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "cat/1.png", "dog/1.png", "cat/a.txt", "cat/b.TXT", "labels.csv", "dog/x.jpg.md")
        assert len(dataset.splits["train"]) == 2
        assert "4 files of other kinds left out: .txt 2, " in dataset.notes[-1]
        dataset = read(tmp_path / "texts", "set/readme/1.png", "set/dog/1.png", "set/dog/LICENSE", "set/README")
        assert (dataset.class_names, len(dataset.splits["train"])) == (("dog", "readme"), 2)
        assert dataset.notes[-1] == "2 files of other kinds left out: readme 1, license 1"

    def test_what_people_take_for_pictures_is_kept_for_the_scan_to_judge(self, tmp_path: Path) -> None:
        kept = ["a.svg", "b.pdf", "c.heic", "d.psd", "noextension", "scan.2024.05", "e.jpg ", "f.final version"]
        if os.name == "nt":
            kept.remove("e.jpg ")
        dataset = read(tmp_path, "dog/1.png", *[f"cat/{name}" for name in kept])
        assert sorted(kept) == [identity[4:] for identity, kind in listed(dataset) if kind == "cat"]

    def test_stray_pictures_are_counted(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "cat/1.png", "dog/1.png", "a.png", "b.png")
        assert "2 files outside of the class folders left out: 'a.png', 'b.png'" in dataset.notes
        dataset = read(
            tmp_path / "two", "train/cat/1.png", "train/dog/1.png", "train/a.png", "x.png", "extra/x.png", "val/"
        )
        assert "1 file outside of the class folders left out: 'train/a.png'" in dataset.notes
        assert "1 file beside train/ left out: 'x.png'" in dataset.notes
        assert "folders beside train/ left out: 'extra'" in dataset.notes

    def test_unlabelled_test_pictures_are_left_out(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/1.png", "test/2.png", "val/")
        assert set(dataset.splits) == {"train"}
        assert "test/ holds 2 pictures and no class folders, so it is not used: no labels" in dataset.notes
        assert "val/ holds nothing and no class folders, so it is not used: no labels" in dataset.notes
        trained = [f"train/{kind}/images/1.png" for kind in ("cat", "dog")]
        dataset = read(tmp_path / "inner", *trained, "val/images/1.png", "val/labels.txt", "test/test/2.png")
        assert set(dataset.splits) == {"train"}
        assert "val/ holds 1 picture and no class folders, so it is not used: no labels" in dataset.notes
        named = [f"{split}/{kind}/1.png" for split in ("train", "test") for kind in ("images", "test")]
        assert set(read(tmp_path / "classes", *named).splits) == {"train", "test"}

    def test_a_split_without_pictures_is_not_used(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "train/cat/1.png", "train/dog/1.png", "val/cat/", "val/dog/", "test/cat/2.png")
        assert set(dataset.splits) == {"train", "test"}
        assert "val/ holds class folders without pictures, so it is not used" in dataset.notes

    def test_what_only_looks_like_a_copy_or_a_split_stays_a_class(self, tmp_path: Path) -> None:
        paths = ("cat/1.png", "dog/1.png", "both/1.png", "both/cat/2.png", "both/dog/2.png", "other/cat/1.png")
        assert read(tmp_path / "a", *paths).class_names == ("both", "cat", "dog", "other")
        names = ("crash_test", "test_flight", "train_station", "training_ground")
        assert read(tmp_path / "b", *[f"{name}/1.png" for name in names]).class_names == names

    def test_a_class_missing_in_test_is_noted(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/", "test/cow/")
        assert "test has no pictures of class 'dog'" in dataset.notes
        assert dataset.class_names == ("cat", "dog")

    @any_bytes_names
    def test_classes_that_differ_in_case_are_noted(self, tmp_path: Path) -> None:
        dataset = read(tmp_path, "Cat/1.png", "cat/1.png", "dog/1.png")
        assert dataset.class_names == ("Cat", "cat", "dog")
        assert "classes that differ only in upper and lower case: 'Cat', 'cat'" in dataset.notes
        dataset = read(tmp_path / "spaces", "red fox/1.png", "Red fox /1.png", "owl/1.png")
        assert "classes that differ only in case or spaces: 'Red fox ', 'red fox'" in dataset.notes

    @pytest.mark.parametrize(
        ("names", "note"),
        [
            (("1", "01", "2"), "classes that are the same number: '01', '1'"),
            (("cat", "nan", "NA"), "'NA', 'nan' are classes that are named as if there were no label"),
            (("0", "1", "-1"), "'-1' is a class that is named as if there were no label"),
            (("cat", "dog", "Unlabeled"), "'Unlabeled' is a class that is named as if there were no label"),
            (("cat", "dog", "no_label"), "'no_label' is a class that is named as if there were no label"),
            (("20.0", "20.5"), "classes that are numbers with decimals, such as '20.5': each is a class of its own"),
            (
                ("cat", "dog", "cat,dog"),
                "classes that are other classes together: 'cat,dog'; each is a class of its own",
            ),
            (("bear", "black bear", "1.0", "2.0"), ""),
            (("images", "masks", "cat"), ""),
            (("1a", "01a", "1.0.1"), ""),
        ],
    )
    def test_class_names_that_are_hardly_meant_are_noted(
        self, tmp_path: Path, names: tuple[str, ...], note: str
    ) -> None:
        notes = read(tmp_path, *[f"{name}/{n}.png" for name in names for n in range(2)]).notes
        assert len(notes) == bool(note)
        assert all(said.startswith(note) for said in notes)

    def test_pillows_extensions_are_all_known(self) -> None:
        Image.init()
        # Containers and data formats that Pillow has a plug-in for, and nobody keeps photographs in.
        not_pictures = {"bufr", "grib", "h5", "hdf", "mpeg", "mpg"}
        known = {extension[1:] for extension in Image.registered_extensions()}
        assert known - PICTURE_EXTENSIONS <= not_pictures


class TestOddNames:
    @posix_only
    def test_names_become_safe_and_unique_ids(self, tmp_path: Path) -> None:
        names = [
            "line\nbreak.png",
            "emoji 🐈.png",
            "back\\slash.png",
            "tab\t.png",
            "quote\"'.png",
            "-rf.png",
            "ünï.png",
        ]
        dataset = read(tmp_path, "dog/1.png", *[f"cat/{name}" for name in names])
        items = dataset.splits["train"]
        assert items.paths is not None
        assert len(set(items.ids)) == len(items) == 8
        assert all(path.is_file() for path in items.paths)
        for identity in items.ids:
            identity.encode("utf-8")
            assert identity.isprintable()
        assert "cat/line\\x0abreak.png" in items.ids
        assert "cat/back\\\\slash.png" in items.ids
        assert "cat/emoji 🐈.png" in items.ids

    @any_bytes_names
    def test_names_that_are_not_utf8(self, tmp_path: Path) -> None:
        tree(tmp_path, "dog/1.png", "cat/\\xff.png")
        folder = os.fsencode(tmp_path) + b"/cat"
        for name in (b"\xff.png", b"\xfe.png", b"caf\xe9.png"):
            (Path(os.fsdecode(folder)) / os.fsdecode(name)).touch()
        os.mkdir(os.fsencode(tmp_path) + b"/bird\xff")
        (Path(os.fsdecode(os.fsencode(tmp_path) + b"/bird\xff")) / "1.png").touch()
        dataset = read_folder(tmp_path, name="photos")
        items = dataset.splits["train"]
        assert sorted(items.ids) == sorted(
            ["bird\\xff/1.png", "cat/\\\\xff.png", "cat/\\xfe.png", "cat/\\xff.png", "cat/caf\\xe9.png", "dog/1.png"]
        )
        assert dataset.class_names == ("bird\\xff", "cat", "dog")
        assert items.paths is not None
        assert all(path.is_file() for path in items.paths)

    @any_bytes_names
    def test_accents_composed_or_not_are_one_class_with_unique_ids(self, tmp_path: Path) -> None:
        composed, apart = "café", unicodedata.normalize("NFD", "café")
        assert composed != apart
        dataset = read(tmp_path, f"{composed}/é.png", f"{apart}/é.png", "dog/1.png")
        assert dataset.class_names == (composed, "dog")
        items = dataset.splits["train"]
        assert len(set(items.ids)) == len(items) == 3
        assert items.paths is not None
        assert len({str(path) for path in items.paths}) == 3
        assert "café/é.png" in items.ids

    def test_safe_text_is_injective_on_what_it_escapes(self) -> None:
        assert safe_text("a/b.png") == "a/b.png"
        assert safe_text("a\\x0a") == "a\\\\x0a"
        assert safe_text("a\n") == "a\\x0a"
        assert safe_text("\udcff") == "\\xff"
        assert safe_text("\ud800\u2028") == "\\xd800\\x2028"
        assert safe_text(unicodedata.normalize("NFD", "é")) == "é"

    def test_make_unique(self) -> None:
        apart = unicodedata.normalize("NFD", "é")
        assert make_unique(["é", "é", "b"], ["é", apart, "b"]) == ["é", "e\\u0301", "b"]

    def test_few(self) -> None:
        assert few([]) == ""
        assert few("ab") == "'a', 'b'"
        assert few("abcde") == "'a', 'b', 'c' and 2 more"


@posix_only
class TestSpecialFiles:
    def test_fifos_sockets_and_broken_links_are_noted_and_never_opened(self, tmp_path: Path) -> None:
        tree(tmp_path, "cat/1.png", "dog/1.png")
        os.mkfifo(tmp_path / "cat" / "fifo.png")
        (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
        (tmp_path / "cat" / "self.png").symlink_to(tmp_path / "cat" / "self.png")
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(tmp_path)
            server.bind("cat/socket.png")
            dataset = _within_five_seconds(tmp_path)
        assert len(dataset.splits["train"]) == 2
        assert "2 files left out: not a regular file: 'cat/fifo.png', 'cat/socket.png'" in _sorted_names(dataset)
        assert "2 files left out: a link that leads nowhere: 'cat/gone.png', 'cat/self.png'" in _sorted_names(dataset)

    def test_devices_are_left_out(self, tmp_path: Path) -> None:
        tree(tmp_path, "cat/1.png", "dog/1.png")
        (tmp_path / "cat" / "zero.png").symlink_to("/dev/zero")
        dataset = _within_five_seconds(tmp_path)
        assert len(dataset.splits["train"]) == 2
        assert "1 file left out: not a regular file: 'cat/zero.png'" in dataset.notes

    def test_links_to_files_and_folders_are_followed(self, tmp_path: Path) -> None:
        tree(tmp_path, "store/1.png", "store/2.png", "data/dog/1.png", "data/cat/")
        (tmp_path / "data" / "cat" / "link.png").symlink_to(tmp_path / "store" / "1.png")
        (tmp_path / "data" / "bird").symlink_to(tmp_path / "store")
        dataset = read_folder(tmp_path / "data", name="photos")
        assert listed(dataset) == [
            ("bird/1.png", "bird"),
            ("bird/2.png", "bird"),
            ("cat/link.png", "cat"),
            ("dog/1.png", "dog"),
        ]

    def test_link_loops_end(self, tmp_path: Path) -> None:
        tree(tmp_path, "cat/1.png", "cat/a/b/2.png", "dog/1.png")
        (tmp_path / "cat" / "up").symlink_to(tmp_path)
        (tmp_path / "cat" / "a" / "again").symlink_to(tmp_path / "cat")
        (tmp_path / "cat" / "a" / "b" / "here").symlink_to(tmp_path / "cat" / "a" / "b")
        for i in range(20):  # without a memory of what was read, 2**20 walks
            (tmp_path / "dog" / f"l{i}").symlink_to(tmp_path / "cat" / "a")
        dataset = _within_five_seconds(tmp_path)
        assert listed(dataset)[:2] == [("cat/1.png", "cat"), ("cat/a/b/2.png", "cat")]
        assert len(dataset.splits["train"]) == 5
        assert any("link back to themselves" in note for note in dataset.notes)

    def test_a_wrapper_that_is_a_loop(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to(tmp_path)
        with pytest.raises(DataError, match="class"):
            _within_five_seconds(tmp_path)


def _within_five_seconds(folder: Path) -> Dataset:
    """Read in a thread, so that a hang is a failure and not the end of the test run."""
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(read_folder(folder, name="photos"))
        except DataError as error:
            results.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(5)
    assert results, "it hangs"
    if isinstance(results[0], DataError):
        raise results[0]
    assert isinstance(results[0], Dataset)
    return results[0]


def _sorted_names(dataset: Dataset) -> list[str]:
    """Return the notes with the names in each in order, which the file system does not guarantee."""
    return [
        f"{head}: {', '.join(sorted(tail.split(', ')))}"
        for head, _, tail in (n.rpartition(": ") for n in dataset.notes)
    ]


class TestRefused:
    """Kinds of folders that cannot be a data set: what is wrong and where is in the message."""

    @pytest.mark.parametrize(
        ("paths", "expected"),
        [
            ((), "an empty folder"),
            ((".DS_Store", "__MACOSX/cat/1.png"), "an empty folder"),
            (("a.jpg", "b.jpg", "c.png"), "3 pictures but no class folders"),
            (("notes.txt",), "no class folders; 1 file of other kinds left out: .txt 1 in"),
            (
                ("photos.zip", "photos.csv"),
                "no class folders; 2 files of other kinds left out: .zip 1, .csv 1 (pictures in archives are not",
            ),
            (("cat/1.png",), "only one class, 'cat'"),
            (("cat/1.png", "a.jpg"), "only one class, 'cat'"),
            (("my/cat/1.png", "my/dog/1.png", "a.jpg"), "'my', which holds the folders 'cat', 'dog' in"),
            (("images/cat/1.png", "images/dog/1.png", "parts/a.txt"), "only images/ holds pictures, beside 'parts' in"),
            (("jpg/1.jpg", "a.mat"), "only one class, 'jpg' in"),
            (
                ("images/Images/a/1.jpg", "images/Images/b/1.jpg", "labels/a"),
                "if the classes are in images/Images, give",
            ),
            (("JPEGImages/1.jpg", "Annotations/1.xml", "ImageSets/a.txt", "SegmentationClass/1.png"), "are no classes"),
            (
                ("Data/v/train/cat/1.png", "Data/v/val/1.png", "Annotations/v/train/a.xml", "Annotations/v/val/a.xml"),
                "the splits are inside of the class folders (Data/v/train)",
            ),
            (("cat/1.png", "dog/"), "class 'dog' has no training pictures"),
            (
                ("cat/1.png", "dog/readme.txt"),
                "class 'dog' has no training pictures; 1 file of other kinds left out: .txt 1 in",
            ),
            (
                ("cat/cat.zip", "dog/dog.RAR"),
                "no pictures at all; 2 files of other kinds left out: .zip 1, .rar 1 (pictures in",
            ),
            (("cat/1.png", "dog/", "cow/", "emu/", "fox/"), "4 classes ('cow', 'dog', 'emu' and 1 more) have no"),
            (("cat/", "dog/"), "no pictures at all"),
            (("cat/train/1.png", "cat/test/1.png", "dog/train/1.png"), "the splits are inside of the class folders"),
            (("train/cat/1.png", "train/dog/1.png", "test/cats/1.png"), "'cats' is in test but not in train. Did you"),
            (("train/cat/1.png", "train/dog/", "test/dog/1.png"), "class 'dog' has no training pictures"),
            (("train/cat/1.png", "train/dog/1.png", "val/emu/1.png"), "class 'emu' is in val but not in train"),
            (("train/cat/1.png", "test/cat/1.png"), "only one class, 'cat'"),
            (("test/cat/1.png", "val/dog/1.png"), "test/, val/ without train/"),
            (("train/1.png", "test/1.png"), "train/ has no class folders"),
            (("train/", "test/cat/1.png"), "train/ has no class folders"),
            (("train/1.png", "test/1.png", "bus/1.png"), "train/ has no class folders"),
            (("bus/1.png", "car/1.png", "test1/1.png"), "test1/ beside 'bus', 'car': a split or a class?"),
            (("train_images/1.png", "unlabeled_images/1.png"), "train_images/ has no class folders"),
            (("train2017/1.jpg", "val2017/2.jpg", "annotations/a.json"), "train2017/ has no class folders"),
            (("train/cat/1.png", "train/dog/1.png", "holdout/1.png"), "splits or classes?"),
            (("train/cat/1.png", "train/dog/1.png", "val/", "valid/"), "two folders for the split val: 'val', 'valid'"),
            (("train/cat/1.png", "train/dog/1.png", "training/cat/1.png"), "two folders for the split train"),
            (("train_set/cat/1.png", "training_set/cat/1.png"), "two folders for the split train"),
            (("test_set/cat/1.png", "val_set/dog/1.png"), "test_set/, val_set/ without train/"),
            (
                ("cat/train_set/1.png", "cat/test_set/1.png", "dog/train_set/1.png"),
                "the splits are inside of the class",
            ),
            (
                ("cat/train/1.png", "cat/test/1.png", "dog/train/1.png", "dog/test/1.png"),
                "the splits are inside of the",
            ),
            (
                ("fold1/cat/1.png", "fold1/dog/1.png", "fold2/cat/1.png", "fold2/dog/1.png", "fold2/emu/1.png"),
                "'fold1', 'fold2' hold no pictures, but all hold folders named 'cat', 'dog': which are the classes?",
            ),
            (
                tuple(f"{look}/{kind}/1.png" for look in ("color", "grey") for kind in ("apple", "corn", "grape")),
                "'color', 'grey' hold no pictures, but all hold folders named 'apple', 'corn', 'grape': which are",
            ),
            (
                tuple(
                    f"{shop}/images/{kind}/1.png" for shop in ("amazon", "webcam") for kind in ("bike", "mug", "pen")
                ),
                "'amazon', 'webcam' hold no pictures, but all hold folders named 'bike', 'mug', 'pen': which are",
            ),
            (
                tuple(f"{patient}/{label}/1.png" for patient in ("10253", "10254", "9") for label in "01"),
                "'10253', '10254', '9' hold no pictures, but all hold folders named '0', '1': which are the classes?",
            ),
            (("a/abbey/1.png", "a/alley/1.png", "b/bar/1.png"), "a level deeper, sorted by their initials (a/abbey)"),
            (
                ("images_001/images/1.png", "images_002/images/2.png", "entries.csv"),
                "'images_001', 'images_002' are named like pieces of one data set",
            ),
            (("Lesions_part_1/1.png", "Lesions_part_2/2.png"), "are named like pieces of one data set"),
            (
                ("data/train/cat/1.png", "data/test/cat/1.png", "docs/a.txt"),
                "data if that is the data set, or turn them",
            ),
            (
                ("a/a/train/cat/1.png", "a/a/train/dog/1.png", "a/a/valid/cat/1.png", "test/test/1.png"),
                "the splits are inside of the class folders (a/a/train)",
            ),
            (("images/a_1.jpg", "annotations/trimaps/a_1.png"), "folders 'annotations', 'images' are no classes"),
            (("images/1.jpg", "Masks/1.png"), "folders 'Masks', 'images' are no classes"),
            (("train/images/1.jpg", "train/labels/1.txt", "val/images/2.jpg"), "'images', 'labels' are no classes"),
            (("photos/cat/1.png", "photos/dog/1.png", "test/cat/1.png", "test/dog/1.png"), "which are the classes?"),
            (
                ("signs_train/signs_train/A/1.png", "signs_train/signs_train/B/1.png", "signs_test/signs_test/1.png"),
                "'signs_test', 'signs_train' are named like splits: which are the classes?",
            ),
            (("cats-Train/1.png", "dogs/1.png", "cats-Test/1.png"), "'cats-Test', 'cats-Train' are named like splits"),
            (("trn/cat/1.png", "trn/dog/1.png", "tst/cat/1.png", "tst/dog/1.png"), "which are the classes?"),
            (
                ("no/1.png", "yes/1.png", "tumours/no/1.png", "tumours/yes/1.png"),
                "tumours/ holds folders named like the classes beside it: 'no', 'yes'",
            ),
            (("images/train/1.png", "images/val/1.png", "labels/train/1.txt"), "images/train has no class folders"),
        ],
        ids=lambda value: "+".join(value) if isinstance(value, tuple) else None,
    )
    def test_message(self, tmp_path: Path, paths: tuple[str, ...], expected: str) -> None:
        message = refused(tmp_path, *paths)
        assert expected in message
        assert str(tmp_path) in message

    @pytest.mark.parametrize(
        ("paths", "command"),
        [
            (("train/1.png", "test/1.png", "trainLabels.csv"), "{}/trainLabels.csv --pictures {}/train"),
            (("train/1.png", "test/1.png", "sampleSubmission.csv"), "{}/train"),
            (("train/1.png", "train/metadata.jsonl"), "{}/train/metadata.jsonl --pictures {}/train"),
            (("my pets/1.png", "b.csv", "test.csv", "a_meta.csv"), "{}/a_meta.csv --pictures '{}/my pets'"),
            (("images/1.png", "annotations/a.xml", "list.csv"), "{}/list.csv --pictures {}/images"),
            (("images_1/1.png", "images_2/1.png", "entries.csv"), "{}/entries.csv --pictures {}"),
            (("1.png", "2.png"), "{}"),
            (
                ("train/1.png", "train/_classes.csv", "valid/_classes.csv"),
                "{}/train/_classes.csv {}/valid/_classes.csv",
            ),
            (("Task3_Input/1.png", "Task3_Truth/truth.csv"), "{}/Task3_Truth/truth.csv --pictures {}/Task3_Input"),
            (("celebs/celebs/1.png", "attributes.csv"), "{}/attributes.csv --pictures {}/celebs/celebs"),
        ],
    )
    def test_the_command_that_makes_a_table_is_said(self, tmp_path: Path, paths: tuple[str, ...], command: str) -> None:
        said = refused(tmp_path, *paths).replace(os.sep, "/")
        assert f"eyespot data table {command.replace('{}', tmp_path.as_posix())} --out NEW.csv" in said

    def test_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="vanished"):
            read_folder(tmp_path / "gone", name="photos")

    def test_a_class_folder_that_vanishes(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tree(tmp_path, "cat/1.png", "dog/1.png")
        real = os.scandir

        def scandir(folder: str) -> Any:
            if folder.endswith("dog"):
                os.remove(tmp_path / "dog" / "1.png")
                os.rmdir(tmp_path / "dog")
            return real(folder)

        monkeypatch.setattr(listing.os, "scandir", scandir)
        with pytest.raises(DataError, match="vanished") as caught:
            read_folder(tmp_path, name="photos")
        assert caught.value.where == str(tmp_path / "dog")

    @posix_only
    def test_no_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tree(tmp_path, "cat/1.png", "dog/1.png")
        closed = tmp_path / "dog"
        if os.geteuid() == 0:  # root may read everything, so the refusal has to be played
            real = os.scandir

            def scandir(folder: str) -> Any:
                if Path(folder) == closed:
                    raise PermissionError(13, "Permission denied")
                return real(folder)

            monkeypatch.setattr(listing.os, "scandir", scandir)
        else:
            closed.chmod(0)
        try:
            with pytest.raises(DataError, match="Permission denied") as caught:
                read_folder(tmp_path, name="photos")
        finally:
            closed.chmod(stat.S_IRWXU)
        assert caught.value.where == str(closed)

    def test_a_class_folder_that_cannot_be_reached(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tree(tmp_path, "cat/1.png", "dog/1.png")
        real = os.stat

        def fail(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
            if str(path).endswith("dog"):
                raise OSError(5, "Input/output error")
            return real(path, *args, **kwargs)

        monkeypatch.setattr(listing.os, "stat", fail)
        with pytest.raises(DataError, match="Input/output error"):
            read_folder(tmp_path, name="photos")


class TestPathList:
    def test_it_is_a_sequence_of_paths(self, tmp_path: Path) -> None:
        paths = PathList(str(tmp_path), ["a/1.png", "b/2.png", str(tmp_path / "c.png")])
        assert list(paths) == [tmp_path / "a/1.png", tmp_path / "b/2.png", tmp_path / "c.png"]
        assert paths[-1] == tmp_path / "c.png"
        assert list(paths[:2]) == [tmp_path / "a/1.png", tmp_path / "b/2.png"]
        assert len(paths) == 3
        assert tmp_path / "b/2.png" in paths
        with pytest.raises(IndexError):
            paths[3]


def test_names_are_listed_without_a_look_at_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, *[f"{kind}/{number}.png" for kind in ("cat", "dog") for number in range(500)])
    looks = 0
    real = os.stat

    def stat_counted(*args: Any, **kwargs: Any) -> os.stat_result:
        nonlocal looks
        looks += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(listing.os, "stat", stat_counted)
    assert len(read_folder(tmp_path, name="photos").splits["train"]) == 1000
    assert looks < 10


def test_the_folder_that_holds_the_classes_of_a_split_is_named_as_it_lies(tmp_path: Path) -> None:
    told = refused(
        tmp_path,
        *(f"train/{part}/{kind}/{n}.png" for part in ("images", "masks") for kind in ("cat", "dog") for n in (1, 2)),
    )
    assert f"give {os.path.join(tmp_path, 'train', 'images')}" in told


def test_a_folder_that_can_be_listed_and_not_entered_has_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree(tmp_path / "photos", "cat/1.png", "dog/1.png")
    real = os.stat

    def refuse(path: Any, *args: Any, **options: Any) -> Any:
        if str(path).startswith(f"{tmp_path / 'photos'}{os.sep}"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **options)

    monkeypatch.setattr(os, "stat", refuse)
    with pytest.raises(DataError, match="Permission denied"):
        open_dataset(tmp_path / "photos")
