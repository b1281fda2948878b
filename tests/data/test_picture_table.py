"""CSVs made of pictures that are named after their class, and of other people's tables."""

from __future__ import annotations

import csv
import os
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

import eyespot
from eyespot import cli
from eyespot.data.csvfile import read_csv
from eyespot.data.group_splits import split_groups
from eyespot.data.picture_table import (
    PictureTable,
    keep_groups_together,
    label_by_names,
    label_by_table,
    write_table,
)
from eyespot.errors import DataError, EyespotError, UsageError


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def listed(found: PictureTable, root: Path) -> list[tuple[str, str, str]]:
    return [(os.path.relpath(row.path, root).replace(os.sep, "/"), row.label, row.split) for row in found.rows]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (("cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg"), ["cat", "cat", "dog", "dog"]),
        (("Abyssinian_1.jpg", "Abyssinian_12.jpg", "great_dane_1.jpg", "great_dane_2.jpg"),
         ["Abyssinian", "Abyssinian", "great_dane", "great_dane"]),
        (("n01440764_10026.JPEG", "n01440764_7.JPEG", "n02_1.JPEG", "n02_2.JPEG"),
         ["n01440764", "n01440764", "n02", "n02"]),
        (("dog (1).png", "dog (2).png", "dog3.png", "eel-004.png", "eel 5.png"), ["dog", "dog", "dog", "eel", "eel"]),
        (("sub/cat_1.jpg", "cat_2.jpg", "sub/deep/dog_1.jpg", "dog_2.jpg"), ["cat", "dog", "cat", "dog"]),
    ],
)  # fmt: skip
def test_the_name_up_to_its_number_is_the_class(tmp_path: Path, names: tuple[str, ...], labels: list[str]) -> None:
    found = label_by_names(files(tmp_path, *names))
    assert sorted(row.label for row in found.rows) == sorted(labels)
    assert {row.split for row in found.rows} == {""}
    assert found.notes == ()


def test_a_pattern_says_what_of_the_path_is_the_class(tmp_path: Path) -> None:
    files(tmp_path, "2020/healthy-x.png", "2020/ill-y.png", "2021/healthy-z.png", "2021/ill-w.png", "2021/odd.png")
    found = label_by_names(tmp_path, r"/(\w+)-")
    assert found.counts == {"healthy": 2, "ill": 2}
    assert found.notes == ("1 picture left out, whose names say no class: '2021/odd.png'",)
    assert label_by_names(tmp_path, "^[0-9]+").counts == {"2020": 2, "2021": 3}
    with pytest.raises(UsageError, match="no regular expression"):
        label_by_names(tmp_path, "(")


def test_split_folders_become_the_split_column(tmp_path: Path) -> None:
    """As Kaggle hands out dogs and cats: the pictures of test1/ have numbers for names."""
    files(
        tmp_path, "train/cat.0.jpg", "train/cat.1.jpg", "train/dog.0.jpg", "val/dog.1.jpg", "test1/1.jpg", "cat.9.jpg"
    )
    found = label_by_names(tmp_path)
    assert listed(found, tmp_path) == [
        ("train/cat.0.jpg", "cat", "train"),
        ("train/cat.1.jpg", "cat", "train"),
        ("train/dog.0.jpg", "dog", "train"),
        ("val/dog.1.jpg", "dog", "val"),
    ]
    assert found.notes == (
        "1 picture left out, whose names say no class: 'test1/1.jpg'",
        "1 picture left out: they are in no split",
    )
    write_table(found, tmp_path / "pets.csv")
    dataset = read_csv(tmp_path / "pets.csv")
    assert (dataset.class_names, set(dataset.splits)) == (("cat", "dog"), {"train", "val"})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "no pictures"),
        (("1.jpg", "2.jpg"), "no name says a class: '1.jpg', '2.jpg'"),
        (("IMG_1.jpg", "IMG_2.jpg"), "all names say the same class, 'IMG'"),
        (("ann1.jpg", "bob1.jpg", "eve1.jpg"), "3 classes in the names of 3 pictures"),
    ],
)
def test_names_that_tell_no_classes_apart_are_refused(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        label_by_names(files(tmp_path, *names))
    assert caught.value.remedy


def test_that_linked_folders_are_left_out_is_said_where_there_is_nothing_else(tmp_path: Path) -> None:
    real, linked = files(tmp_path / "real", "ill-1.jpg", "well-1.jpg"), tmp_path / "linked"
    linked.mkdir()
    (linked / "scans").symlink_to(real, target_is_directory=True)
    with pytest.raises(DataError, match="links to folders are not followed"):
        label_by_names(linked, "[a-z]+")


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("id,breed\na,pug\nb,pug\nc,collie\n", ("id", "breed")),
        ("breed;score;ID\npug;1;a\npug;2;b\ncollie;3;c\n", ("id", "Breed")),
        ("image_id,label\na.jpg,pug\nb.jpg,pug\nc.jpg,collie\n", None),
        ("filename, collie, pug\na.jpg, 0, 1\nb.jpg, 0, 1\nc.jpg, 1, 0\n", None),
        ("image,pug,collie\na,1.0,0.0\nb,1.0,0.0\nc,0.0,1.0\n", None),
        ("file\tclass\ntrain/a.jpg\tpug\ntrain\\b.jpg\tpug\n./train/c.jpg\tcollie\n", None),
    ],
)
def test_a_table_names_pictures_in_its_own_way(tmp_path: Path, text: str, columns: tuple[str, str] | None) -> None:
    files(tmp_path, "train/a.jpg", "train/b.jpg", "train/c.jpg", "train/d.jpg")
    (tmp_path / "labels.csv").write_text(text)
    found = label_by_table(tmp_path / "labels.csv", tmp_path, columns)
    assert listed(found, tmp_path) == [
        ("train/a.jpg", "pug", ""), ("train/b.jpg", "pug", ""), ("train/c.jpg", "collie", "")
    ]  # fmt: skip
    assert found.notes == ("1 picture left out, which the table does not name",)


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("id,breed\na,pug\n", None, "columns 'id', 'breed': which is the picture, which the class.*line 1"),
        ("id,breed\na,pug\n", ("id", "bred"), "no column 'bred'. Did you mean 'breed'.*line 1"),
        ("id,label\na,pug\nz,pug\ny,pug\n", None, r"no picture 'z' in .* \(and 1 more\).*line 3"),
        ("id,label\na,\n", None, "an empty class.*line 2"),
        ("id,label\nb,pug\n", None, "'b' may be .*one/b.jpg.*two/b.png.*line 2"),
        ("id,label,split\na,pug,somewhere\n", None, "unknown split 'somewhere'.*line 2"),
        (
            "id,label,phase\na.jpg,pug,train\none/b,pug,test\n",
            None,
            "the column 'phase' holds 'test', 'train' and is not called",
        ),
        ("id,pug,cat\na,1,1\n", None, "a picture of 2 classes: 'pug', 'cat' in .*line 2"),
        ("id,pug,cat\na,0,0\n", None, "a picture of no class: all are 0 in .*line 2"),
        ("id,pug,age\na,1,7\n", None, "columns 'id', 'pug', 'age': which is the picture"),
        ("id,label\n", None, "a header and no rows"),
        ("", None, "an empty table"),
        ("id,x,X\na,pug,1\n", ("id", "x"), "two columns named 'x'.*line 1"),
        ("id,label\na,pug\na.jpg,cat\n", None, "two classes for .*a.jpg': 'pug' in line 2, 'cat' here.*line 3"),
        ("id,label,split\na,pug,val\na,pug,test\n", None, "two splits for .*a.jpg'.*line 3"),
        ("id,label\na,pug\n", ("id", "ID"), "one column for picture and class, 'id'"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_its_line(
    tmp_path: Path, text: str, columns: tuple[str, str] | None, message: str
) -> None:
    files(tmp_path, "a.jpg", "one/b.jpg", "two/b.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        label_by_table(tmp_path / "labels.csv", tmp_path, columns)


@pytest.mark.parametrize("where", ["{}/labels.csv", "{}.csv", "{}Labels.csv", "Task3_{}_GroundTruth.csv"])
def test_several_tables_are_a_split_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], where: str
) -> None:
    files(tmp_path, *(f"{split}/{n}{split}.png" for split in ("train", "valid", "test") for n in range(4)), "all/x.png")
    tables = []
    for split in ("train", "valid", "test"):
        tables.append(where.format(split.title() if "_" in where else split))
        (tmp_path / tables[-1]).write_text(
            "".join(["file,label\n", *(f"{n}{split},{'ab'[n % 2]}\n" for n in range(4))])
        )
    monkeypatch.chdir(tmp_path)
    assert cli._run(["data", "table", *tables, "--pictures", ".", "--out", "all.csv"]) == 0
    dataset = read_csv(tmp_path / "all.csv")
    assert [(split, items.labels.tolist()) for split, items in dataset.splits.items()] == [
        (split, [0, 1, 0, 1]) for split in ("train", "val", "test")
    ]
    capsys.readouterr()
    for wrong, message in (
        ([tables[0], tables[0]], "is in .* and again"),
        ([tables[0], "all/labels.csv"], "of which split is it"),
        ([tables[0], "all"], "several sources have to be tables"),
    ):
        (tmp_path / "all/labels.csv").write_text("file,label\nx,a\n")
        assert cli._run(["data", "table", *wrong, "--pictures", ".", "--out", "b.csv"]) != 0
        assert re.search(message, capsys.readouterr().err)


def test_lines_of_json_are_a_table(tmp_path: Path) -> None:
    files(tmp_path, "1.png", "2.png")
    (tmp_path / "t.jsonl").write_text('{"file_name": "1.png", "label": 0}\n\n{"label": 1, "file_name": "2.png"}\n')
    assert listed(label_by_table(tmp_path / "t.jsonl", tmp_path), tmp_path) == [("1.png", "0", ""), ("2.png", "1", "")]
    (tmp_path / "t.jsonl").write_text('{"file_name": "1.png", "label": 0, "text": "a\u2028b"}\n', encoding="utf-8")
    assert len(label_by_table(tmp_path / "t.jsonl", tmp_path).rows) == 1
    for text, message in (("[]", "no JSON object .*line 1"), ('{"file": "1.png", "label": null}', "an empty class")):
        (tmp_path / "t.jsonl").write_text(text)
        with pytest.raises(DataError, match=message):
            label_by_table(tmp_path / "t.jsonl", tmp_path)


def test_a_path_goes_before_a_name_and_may_be_absolute_or_leave_the_folder(tmp_path: Path) -> None:
    files(tmp_path, "in/1.png", "in/sub/1.png", "out/2.png")
    (tmp_path / "t.csv").write_text(
        f"path,label\n1.png,a\nsub/1.png,b\n./1.png,a\n{tmp_path}/in/1.png,a\n../out/2.png,b\n"
    )
    found = label_by_table(tmp_path / "t.csv", tmp_path / "in")
    assert listed(found, tmp_path) == [("in/1.png", "a", ""), ("in/sub/1.png", "b", ""), ("out/2.png", "b", "")]
    assert found.notes == ("2 rows name pictures once more: counted once",)


def test_a_table_of_pictures_in_split_folders_keeps_the_splits(tmp_path: Path) -> None:
    names = [f"data/{split}/{n}.png" for split in ("train", "Test_images") for n in range(2)]
    files(tmp_path, *names, "data/extra/9.png")
    rows = [f"{name},{'ab'[n % 2]}" for n, name in enumerate(names)]
    (tmp_path / "one.csv").write_text("\n".join(["path,label", *rows[:2]]))
    assert set(read_csv(tmp_path / "one.csv").splits) == {"train"}, "train alone says nothing of test"
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows, "data/extra/9.png,a"]))
    with pytest.raises(
        DataError, match=r"in folders named after test, train, and no column.*data table .*t\.csv --out"
    ):
        read_csv(tmp_path / "t.csv")
    found = label_by_table(tmp_path / "t.csv", tmp_path)
    assert [row.split for row in found.rows] == ["train", "train", "test", "test"]
    assert found.notes == (
        "splits are those that folders of the pictures are named after",
        "1 picture left out: they are in no split",
    )
    write_table(found, tmp_path / "out.csv")
    assert set(read_csv(tmp_path / "out.csv").splits) == {"train", "test"}


def test_splits_in_a_folder_around_everything_are_found(tmp_path: Path) -> None:
    files(tmp_path, *[f"data/v1/{split}/{kind}_{n}.png" for split in ("train", "test") for kind in ("cat", "dog")
                      for n in range(2)])  # fmt: skip
    assert [row.split for row in label_by_names(tmp_path).rows] == ["train"] * 4 + ["test"] * 4


def test_a_csv_is_never_written_over(tmp_path: Path) -> None:
    found = label_by_names(files(tmp_path, "cat1.png", "cat2.png", "dog1.png", "dog2.png"))
    write_table(found, tmp_path / "a.csv")
    before = (tmp_path / "a.csv").read_bytes()
    with pytest.raises(UsageError, match="there is a file already"):
        write_table(found, tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_bytes() == before
    with pytest.raises(UsageError, match="no name of a CSV"):
        write_table(found, tmp_path / "a.txt")


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8 are refused by this system")
def test_names_that_no_csv_can_hold_are_left_out_and_odd_ones_come_back(tmp_path: Path) -> None:
    files(tmp_path / "sub", 'c,"at" 1.png', 'c,"at" 2.png', "dög 1.png", "dög 2.png", " dög 3.png", "dög\n4.png")
    (tmp_path / os.fsdecode(b"d\xff 4.png")).touch()
    (tmp_path / os.fsdecode(b"d\xff 5.png")).touch()
    found = label_by_names(tmp_path)
    assert "whose names no CSV can hold" in found.notes[0]
    for out in (tmp_path / "t.csv", tmp_path / "sub" / "t.csv"):
        write_table(found, out)
        dataset = read_csv(out)
        assert len(dataset.splits["train"]) == len(found.rows)
        assert set(dataset.class_names) >= {'c,"at"', "dög"}
    below = files(tmp_path / "new\nline", "cat1.png", "cat2.png", "dog1.png", "dog2.png")
    with pytest.raises(DataError, match=r"no CSV can hold the names of these pictures: .* and 1 more: rename them"):
        label_by_names(below)


def test_what_it_wrote_can_be_trained_on(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in pictures.rglob("*.png"):
        Image.open(path).save(flat / f"{path.parent.name}.{path.stem}.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EyespotError, match=r"eyespot data table .*flat --out NEW\.csv"):
        eyespot.check("flat")
    assert cli._run(["data", "table", "flat", "--out", "all.csv"]) == 0
    said = capsys.readouterr().out
    assert "60 pictures of 3 classes" in said
    assert "eyespot train all.csv" in said
    with open("all.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["path", "label"]
    assert rows[1] == ["flat/cat.000.png", "cat"]
    card, decisions = eyespot.check("all.csv")
    assert not decisions
    assert card["counts"]["train"] == {"cat": 20, "dog": 20, "eel": 20}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("flat --pictures x --out a.csv", "are for tables"),
        ("t.csv --pattern x --out a.csv", "--pattern is for folders"),
        ("t.csv --columns id --out a.csv", "give two names"),
        ("t.csv --pictures nowhere --out a.csv", "--pictures is no folder in nowhere"),
        ("nowhere --out a.csv", "no such folder or table"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    monkeypatch.chdir(files(tmp_path, "flat/cat1.png"))
    (tmp_path / "t.csv").write_text("id,label\n")
    assert cli._run(["data", "table", *line.split()]) == 2
    assert message in capsys.readouterr().err


def in_groups(root: Path, groups: int) -> Path:
    """Write pictures of so many patients, two classes, three to five pictures each, and a table of them."""
    names = [f"p{patient:02}/{'ill' if patient % 2 else 'well'}_{n}.png" for patient in range(groups)
             for n in range(3 + patient % 3)]  # fmt: skip
    files(root, *names)
    lines = [f"{name},{name[4:].partition('_')[0]},{name[:3]}" for name in names]
    (root / "scans.csv").write_text("\n".join(["path,label,patient", *lines]) + "\n")
    return root


@pytest.mark.parametrize("words", [["scans.csv", "--groups", "patient"], [".", "--groups", "^p[0-9]+"]])
def test_no_patient_is_in_two_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(in_groups(tmp_path, 40))
    assert cli._run(["data", "table", *words, "--out", "a.csv"]) == 0
    assert cli._run(["data", "table", *words, "--out", "b.csv"]) == 0
    assert cli._run(["data", "table", *words, "--out", "c.csv", "--seed", "1"]) == 0
    assert Path("a.csv").read_text() == Path("b.csv").read_text() != Path("c.csv").read_text()
    dataset = read_csv(Path("a.csv"))
    (note,) = dataset.notes
    assert re.match(r"the 1[0-9] test pictures have only 4 values of the column 'group'", note)
    patients = {split: {identity[:3] for identity in items.ids} for split, items in dataset.splits.items()}
    assert sum(len(found) for found in patients.values()) == len(set().union(*patients.values())) == 40
    total = sum(len(items) for items in dataset.splits.values())
    for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)):
        items = dataset.splits[split]
        assert len(items) == pytest.approx(share * total, abs=6)
        assert abs(int(items.labels.sum()) * 2 - len(items)) <= 6, "both classes alike"


@pytest.mark.parametrize("mixed", [True, False])
@pytest.mark.parametrize("number", range(3, 13))
def test_few_groups_of_one_size_are_divided(number: int, mixed: bool) -> None:
    rows = [(f"p{group}", str((n if mixed else group) % 2)) for group in range(number) for n in range(10)]
    groups, labels = zip(*rows, strict=True)
    if number == 3 and not mixed:  # both classes in train take two groups
        with pytest.raises(DataError, match="found no division with a group in test"):
            split_groups(groups, labels, seed=0, where="x")
        return
    for seed in range(5):
        splits = split_groups(groups, labels, seed=seed, where="x")
        assert set(splits) == {"train", "val", "test"}
        assert len(set(zip(groups, splits, strict=True))) == number, "a group is in two splits"
        in_train = [label for label, split in zip(labels, splits, strict=True) if split == "train"]
        assert set(in_train) == {"0", "1"}
        assert len(in_train) >= 10 * (number - max(2, round(0.4 * number)))


def test_groups_that_cannot_be_divided_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = label_by_table(in_groups(tmp_path, 2) / "scans.csv", tmp_path, None, "patient")
    with pytest.raises(DataError, match="2 groups cannot be divided among 3 splits"):
        keep_groups_together(found, seed=0, where="scans.csv")
    with pytest.raises(DataError, match="no column 'doctor'"):
        label_by_table(tmp_path / "scans.csv", tmp_path, None, "doctor")
    with pytest.raises(DataError, match="no group in"):
        label_by_names(tmp_path, None, "x(.)")
    (tmp_path / "holes.csv").write_text("path,label,patient\np00/well_0.png,well,\n")
    with pytest.raises(DataError, match=r"an empty group in .*line 2"):
        label_by_table(tmp_path / "holes.csv", tmp_path, None, "patient")
    (tmp_path / "split.csv").write_text("path,label,patient,split\np00/well_0.png,well,p00,train\n")
    with pytest.raises(UsageError, match="it has splits already"):
        keep_groups_together(label_by_table(tmp_path / "split.csv", tmp_path, None, "patient"), seed=0, where="x")


@pytest.mark.parametrize("written", ["caf\u00e9.png", "cafe\u0301.png"])
@pytest.mark.parametrize("lies", ["caf\u00e9.png", "cafe\u0301.png"])
def test_accents_are_found_however_they_are_composed(tmp_path: Path, written: str, lies: str) -> None:
    files(tmp_path, lies)
    (tmp_path / "t.csv").write_text(f"path,label\n{written},a\n", encoding="utf-8")
    assert len(label_by_table(tmp_path / "t.csv", tmp_path).rows) == 1


def test_a_cell_that_names_nothing_has_its_line(tmp_path: Path) -> None:
    files(tmp_path, "1.png")
    (tmp_path / "t.csv").write_text("path,label\n/,cat\n")
    with pytest.raises(DataError, match="line 2"):
        label_by_table(tmp_path / "t.csv", tmp_path)
