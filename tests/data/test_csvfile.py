"""CSV of path,label[,split]: every row is checked, and every error names its line."""

from __future__ import annotations

import csv
import io
import json
import os
import string
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eyespot.data import csvfile
from eyespot.data.csvfile import read_csv
from eyespot.data.dataset import Dataset
from eyespot.errors import DataError

posix_only = pytest.mark.skipif(os.name != "posix", reason="the file system of this system has no such names or files")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a.png ... d.png and sub/e.png."""
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "b.png", "c.png", "d.png", "sub/e.png"):
        (tmp_path / name).touch()
    return tmp_path


def table(folder: Path, content: str | bytes, name: str = "list.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(dataset: Dataset, split: Any = "train") -> list[tuple[str, str]]:
    items = dataset.splits[split]
    return [(identity, dataset.class_names[label]) for identity, label in zip(items.ids, items.labels, strict=True)]


AB = [("a.png", "cat"), ("b.png", "dog")]


class TestRead:
    @pytest.mark.parametrize(
        "content",
        [
            "a.png,cat\nb.png,dog\n",
            "path,label\na.png,cat\nb.png,dog",
            "file;label\r\na.png;cat\r\nb.png;dog\r\n",
            "Filename\tClass\na.png\tcat\nb.png\tdog\n",
            "label,image\ncat,a.png\ndog,b.png\n",
            "id,Path,size,Label\n1,a.png,33,cat\n2,b.png,44,dog\n",
            "\ufeffpath,label\na.png,cat\nb.png,dog\n",
            "a.png,cat\n\n\nb.png,dog\n\n",
            "a.png,cat\n,\nb.png,dog\n , \n",
            '"a.png","cat"\n"b.png","dog"\n',
            'path, label\n"a.png", "cat"\n"b.png", "dog"\n',
            "path,label,train_on,word\na.png,cat,train,train\nb.png,dog,train,dev 2\n",
            "path,label,train,test\na.png,cat,1,0.5\nb.png,dog,1,bus\n",
            "TRAINING,a.png,cat\nTraining,b.png,dog\n",
            " a.png , cat \n b.png , dog \n",
            "path,label\rb.png,dog\ra.png,cat\r",
            "./a.png,cat\nsub/../b.png,dog\n",
            "sep=;\r\npath;label\r\na.png;cat\r\nb.png;dog\r\n",
            "\ufeffsep=|\na.png|cat\nb.png|dog\n",
        ],
    )
    def test_each_way_of_writing_it(self, folder: Path, content: str) -> None:
        dataset = read_csv(table(folder, content))
        assert sorted(rows(dataset)) == AB
        assert dataset.class_names == ("cat", "dog")
        assert (dataset.name, dataset.layout, dataset.published) == ("list.csv", "CSV", False)
        paths = dataset.splits["train"].paths
        assert paths is not None
        assert all(path.is_file() for path in paths)

    def test_paths_may_be_absolute_or_leave_the_folder(self, folder: Path) -> None:
        content = f"{folder / 'a.png'},cat\n../b.png,dog\ne.png,dog\n"
        dataset = read_csv(table(folder / "sub", content))
        assert rows(dataset) == [("../a.png", "cat"), ("../b.png", "dog"), ("e.png", "dog")]

    def test_labels_that_look_like_numbers_are_names(self, folder: Path) -> None:
        assert read_csv(table(folder, "a.png,9\nb.png,10\nc.png,010\n")).class_names == ("010", "10", "9")

    def test_split_column(self, folder: Path) -> None:
        content = "path,label,split\na.png,cat,train\nb.png,dog,Training\nc.png,cat,valid\nd.png,dog,TEST\n"
        dataset = read_csv(table(folder, content))
        assert rows(dataset, "train") == AB
        assert rows(dataset, "val") == [("c.png", "cat")]
        assert rows(dataset, "test") == [("d.png", "dog")]
        assert list(dataset.splits) == ["train", "val", "test"]
        assert "val has no pictures of class 'dog'" in dataset.notes

    def test_split_column_without_a_header(self, folder: Path) -> None:
        dataset = read_csv(table(folder, "a.png,cat,train\nb.png,dog,train\nc.png,dog,test\n"))
        assert {split: len(items) for split, items in dataset.splits.items()} == {"train": 2, "test": 1}

    def test_quoted_cells_with_commas_quotes_and_line_breaks(self, folder: Path) -> None:
        names = ['x,"y".png', "two\nlines.png"] if os.name == "posix" else ["x,y.png"]
        text = io.StringIO()
        writer = csv.writer(text)
        for name in names:
            (folder / name).touch()
            writer.writerow([name, "a,b\nc"])
        writer.writerow(["b.png", "dog"])
        dataset = read_csv(table(folder, text.getvalue()))
        assert dataset.class_names == ("a,b\\x0ac", "dog")
        assert len(dataset.splits["train"]) == len(names) + 1
        json.dumps(list(dataset.splits["train"].ids)).encode("utf-8")

    def test_the_same_row_twice_counts_once_and_is_noted(self, folder: Path) -> None:
        dataset = read_csv(table(folder, "a.png,cat\nb.png,dog\n./a.png,cat\nsub/../a.png,cat\n"))
        assert rows(dataset) == AB
        assert "2 rows list a picture again with the same label and count once: line 3, 4" in dataset.notes
        once = read_csv(table(folder, "a.png,cat\nb.png,dog\na.png,cat\n"))
        assert "1 row lists a picture again with the same label and counts once: line 3" in once.notes
        many = read_csv(table(folder, "a.png,cat\nb.png,dog\n" + "a.png,cat\n" * 5))
        assert many.notes[-1].endswith(
            "5 rows list a picture again with the same label and count once: line 3, 4, 5, ..."
        )

    def test_names_without_their_extension_get_a_hint(self, folder: Path) -> None:
        with pytest.raises(DataError, match=r"no file 'a' .*there is 'a\.png': write names with their extension"):
            read_csv(table(folder, "path,label\na,cat\nb,dog\n"))

    def test_classes_that_differ_in_case_are_noted(self, folder: Path) -> None:
        notes = read_csv(table(folder, "a.png,Cat\nb.png,cat\n")).notes
        assert "classes that differ only in upper and lower case: 'Cat', 'cat'" in notes

    @posix_only
    def test_windows_separators(self, folder: Path) -> None:
        dataset = read_csv(table(folder, "sub\\e.png,cat\nb.png,dog\n"))
        assert rows(dataset) == [("sub/e.png", "cat"), ("b.png", "dog")]

    @pytest.mark.parametrize(("form", "other"), [("NFC", "NFD"), ("NFD", "NFC")])
    def test_accents_are_found_however_they_are_written(self, folder: Path, form: Any, other: Any) -> None:
        (folder / unicodedata.normalize(form, "übung.png")).touch()
        dataset = read_csv(table(folder, f"a.png,cat\n{unicodedata.normalize(other, 'übung.png')},dog\n"))
        assert len(dataset.splits["train"]) == 2

    def test_a_header_alone_in_the_first_twenty_rows_does_not_confuse_the_delimiter(self, folder: Path) -> None:
        dataset = read_csv(table(folder, 'path;label\n"a.png";"cat, small"\nb.png;dog\n'))
        assert dataset.class_names == ("cat, small", "dog")


# (name, content, parts of the message); line numbers count from 1, as editors do.
REFUSED: list[tuple[str, str | bytes, list[str]]] = [
    ("empty", "", ["an empty table"]),
    ("blank lines", "\n\n\n", ["an empty table"]),
    ("header only", "path,label\n", ["a header and no rows"]),
    ("one column", "a.png\nb.png\n", ["line 1", "one column", "path,label"]),
    ("five columns without names", "1,2,3,4,5\n", ["line 1", "5 columns without the names"]),
    ("too few columns", "path,label\na.png,cat\nb.png\n", ["line 3", "1 column instead of 2"]),
    ("too many columns", "a.png,cat\nb.png,dog,what\n", ["line 2", "3 columns instead of 2"]),
    ("empty label", "a.png,cat\nb.png,\n", ["line 2", "an empty label"]),
    ("empty path", "path,label\n,cat\n", ["line 2", "an empty path"]),
    ("a row with a label only", "a.png,cat\n,dog\n", ["line 2", "an empty path"]),
    ("missing file", "path,label\na.png,cat\nzz.png,dog\n", ["line 3", "no file 'zz.png'", "relative to"]),
    ("missing files", "a.png,cat\nx.png,dog\ny.png,dog\nz.png,dog\n", ["line 2", "'x.png' (and 2 more missing files)"]),
    ("unknown header", "image_id,breed\na.png,cat\nb.png,dog\n", ["line 1", "'image_id'", "call them path,label"]),
    ("a path through a file", "a.png/x.png,cat\nb.png,dog\n", ["line 1", "no file 'a.png/x.png'"]),
    (
        "conflicting labels",
        "a.png,cat\nb.png,dog\n./a.png,dog\n",
        ["line 3", "two labels", "'cat' in line 1", "'dog' here"],
    ),
    (
        "conflicting splits",
        "path,label,split\na.png,cat,train\nb.png,dog,train\na.png,cat,test\n",
        ["line 4", "two splits", "'train' in line 2", "'test' here"],
    ),
    (
        "unknown split",
        "path,label,split\na.png,cat,trian\n",
        ["line 2", "unknown split 'trian'. Did you mean 'train'?"],
    ),
    ("no split", "path,label,split\na.png,cat,\n", ["line 2", "unknown split ''"]),
    (
        "splits in a column of another name",
        "ml_use,path,label\ntraining,a.png,cat\nTEST,b.png,dog\n",
        ["the column 'ml_use' holds 'TEST', 'training' and is not called split", "rename it to split"],
    ),
    (
        "a split told by yes and no",
        "path,label,is_valid\na.png,cat,False\nb.png,dog,True\n",
        ["the column 'is_valid' tells by yes and no what is of a split", "a column named split"],
    ),
    (
        "a split told by yes and no in a column that says only test",
        "path,label,Test\na.png,cat,0\nb.png,dog,1\n",
        ["the column 'Test' tells by yes and no what is of a split"],
    ),
    (
        "a column of splits with other words",
        "path,label,Usage\na.png,cat,Training\nb.png,dog,PublicTest\nc.png,dog,PrivateTest\n",
        ["the column 'Usage' holds 'PrivateTest', 'PublicTest', 'Training' and is not", "train, val or test in it"],
    ),
    (
        "a column of splits with a holdout",
        "path,label,phase\na.png,cat,train\nb.png,dog,hold-out\n",
        ["the column 'phase' holds 'hold-out', 'train' and is not called split"],
    ),
    ("a split before an address", "TRAIN,gs://shop/a.png,cat\nTEST,gs://shop/b.png,dog\n", ["line 1", "an address"]),
    ("no train", "path,label,split\na.png,cat,test\n", ["no row with split train, only test"]),
    ("new class in test", "a.png,cat,train\nb.png,dog,train\nc.png,cow,test\n", ["class 'cow' is in test but not in"]),
    ("one class", "a.png,cat\nb.png,cat\n", ["only one class, 'cat'"]),
    ("Latin-1", "path,label\na.png,cat\nb.png,Gem\xfcse\n".encode("latin-1"), ["line 3", "byte 0xfc is not UTF-8"]),
    ("UTF-16", "path,label\na.png,cat\n".encode("utf-16"), ["UTF-16 text", "UTF-8"]),
    ("NUL byte", b"path,label\na.png,cat\nb\0.png,dog\n", ["line 3", "a NUL byte"]),
    ("huge field", "a.png,cat\nb.png," + "x" * 200_000 + "\n", ["line 2", "field larger than field limit"]),
    ("a separator that is named", "sep=;\npath;label\na.png;cat\nzz.png;dog\n", ["line 4", "no file 'zz.png'"]),
    ("open quote", 'a.png,cat\n"b.png,dog\nc.png,cat\n', ["line 2", "unexpected end of data"]),
    ("text behind a quote", 'a.png,cat\n"b.png"x,dog\n', ["line 2", "cannot read the row"]),
    ("address", "a.png,cat\nhttps://example.org/b.png,dog\n", ["line 2", "an address instead of a path"]),
    ("file address", "a.png,cat\nfile:///etc/passwd,dog\n", ["line 2", "an address instead of a path"]),
    ("folder", "a.png,cat\nsub,dog\n", ["line 2", "'sub' is a folder"]),
    ("two path columns", "path,label,path\na.png,cat,b.png\n", ["line 1", "two columns named 'path'"]),
    ("long path", "a.png,cat\n" + "x" * 5_000 + ",dog\n", ["line 2", "x..."]),
    ("quoted line breaks count", 'path,label\n"a\nb\nc","x\ny"\nb.png\n', ["line 6", "1 column instead of 2"]),
]


@pytest.mark.parametrize(("name", "content", "expected"), REFUSED, ids=[kind[0] for kind in REFUSED])
def test_refused(folder: Path, name: str, content: str | bytes, expected: list[str]) -> None:
    path = table(folder, content)
    with pytest.raises(DataError) as caught:
        read_csv(path)
    message = str(caught.value)
    assert str(path) in message
    assert all(part in message for part in expected), message
    assert caught.value.remedy
    assert len(message) < 1_000
    assert "\n" not in message


def test_missing_file_and_no_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_csv(folder / "gone.csv")
    path = table(folder, "a.png,cat\nb.png,dog\n")
    real = os.stat

    def stat(target: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if str(target).endswith("b.png"):
            raise PermissionError(13, "Permission denied")
        return real(target, *args, **kwargs)

    monkeypatch.setattr(csvfile.os, "stat", stat)
    with pytest.raises(DataError, match=r"cannot look up 'b.png' \(Permission denied\)") as caught:
        read_csv(path)
    assert "line 2" in str(caught.value)


def test_a_table_that_is_too_large(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csvfile, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="more than 10 bytes"):
        read_csv(table(folder, "a.png,cat\nb.png,dog\n"))


@posix_only
def test_a_fifo_is_not_opened(folder: Path) -> None:
    os.mkfifo(folder / "f.png")
    with pytest.raises(DataError, match=r"'f.png' is not a regular file"):
        read_csv(table(folder, "a.png,cat\nf.png,dog\n"))


def test_time_grows_with_the_rows_and_not_with_their_square(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row costs one look at the disk: counted, since times are noise on a busy machine."""
    for number in range(3_000):
        (folder / "sub" / f"{number}.png").touch()
    looks = 0
    real = os.stat

    def stat(*args: Any, **kwargs: Any) -> os.stat_result:
        nonlocal looks
        looks += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(csvfile.os, "stat", stat)
    content = "".join(f"sub/{number}.png,{number % 7}\n" for number in range(3_000))
    assert len(read_csv(table(folder, content)).splits["train"]) == 3_000
    assert looks < 3_100


cells = st.text(alphabet=string.ascii_letters + string.digits + ' ,;"\t\n\r.-_é猫', min_size=1, max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.lists(cells.filter(lambda text: bool(text.strip())), min_size=2, max_size=8),
    delimiter=st.sampled_from(",;\t"),
    header=st.booleans(),
    bom=st.booleans(),
)
def test_what_the_csv_module_writes_is_read_back(
    folder: Path, labels: list[str], delimiter: str, header: bool, bom: bool
) -> None:
    names = [f"n{number}.png" for number in range(len(labels))]
    for name in names:
        (folder / name).touch()
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writerows(([["path", "label"]] if header else []) + [list(row) for row in zip(names, labels, strict=True)])
    path = table(folder, text.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    wanted = [csvfile.safe_text(label.strip()) for label in labels]
    if len(set(wanted)) < 2:
        with pytest.raises(DataError, match="only one class"):
            read_csv(path)
        return
    assert rows(read_csv(path)) == list(zip(names, wanted, strict=True))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | st.text(alphabet='ab.png,cat;"\n\r\t/\\~:', max_size=200).map(str.encode))
@example(content=b'"')
@example(content=b"\xef\xbb\xbf")
@example(content=b"a.png,cat\nb.png,dog")
def test_any_bytes_end_in_a_data_set_or_a_data_error(folder: Path, content: bytes) -> None:
    try:
        dataset = read_csv(table(folder, content))
    except DataError as error:
        message = str(error)
    else:
        message = ""
        assert dataset.num_classes >= 2
    assert "\n" not in message


def test_a_column_of_patients_that_is_not_used_is_said(folder: Path) -> None:
    note = "the column 'Patient_ID' has 2 values for 4 pictures and is not used"
    text = "path,label,Patient_ID\na.png,cat,1\nb.png,cat,1\nc.png,dog,2\nd.png,dog,2\n"
    assert any(note in said for said in read_csv(table(folder, text)).notes)
    some = "path,label,patient\na.png,cat,1\nb.png,cat,1\nc.png,dog,\nd.png,dog,\n"
    assert any("has 1 value for 2 pictures" in said for said in read_csv(table(folder, some)).notes)
    for none in ("path,label,patient\na.png,cat,\nb.png,dog,\n", "path,label,patient\na.png,cat,1\nb.png,dog,\n"):
        assert not any("patient" in said for said in read_csv(table(folder, none)).notes)
    with_split = "path,label,patient,split\na.png,cat,1,train\nb.png,cat,1,train\nc.png,dog,2,train\nd.png,dog,2,test\n"
    assert not any("is not used" in said for said in read_csv(table(folder, with_split)).notes)
    assert any("1 value of the column 'patient' is in more than one split" in said and said.endswith("'2'")
               for said in read_csv(table(folder, with_split)).notes)  # fmt: skip
    kept = "path,label,patient,split\na.png,cat,1,train\nb.png,dog,4,train\nc.png,dog,2,test\nd.png,dog,,test\n"
    assert not any("patient" in said for said in read_csv(table(folder, kept)).notes)
    many = kept.replace("2,test", "3,test").replace(",,test", ",3,test")
    assert any(
        "2 test pictures have only 1 value of the column 'patient': intervals" in said and "too narrow" in said
        for said in read_csv(table(folder, many)).notes
    )
    no_val = "path,label,patient,split\na.png,cat,1,train\nb.png,dog,1,train\nc.png,dog,2,test\nd.png,cat,3,test\n"
    assert any("no row is val" in said for said in read_csv(table(folder, no_val)).notes)
    with_val = no_val.replace("3,test", "3,val")
    assert not any("patient" in said for said in read_csv(table(folder, with_val)).notes)
    spaced = "path,label,Patient ID\na.png,cat,1\nb.png,cat,1\nc.png,dog,2\nd.png,dog,2\n"
    assert any(f"{folder / 'list.csv'} --groups 'Patient ID' --out" in said
               for said in read_csv(table(folder, spaced)).notes)  # fmt: skip
    each_its_own = "path,label,case\na.png,cat,1\nb.png,cat,2\nc.png,dog,3\nd.png,dog,4\n"
    assert read_csv(table(folder, each_its_own)).notes == ()
    folds = "path,label,fold\na.png,cat,0\nb.png,cat,1\nc.png,dog,0\nd.png,dog,1\n"
    assert any("the column 'fold' has 2 values for 4 pictures and is not used" in said
               for said in read_csv(table(folder, folds)).notes)  # fmt: skip
    divided = "path,label,split,fold\na.png,cat,train,0\nb.png,dog,train,1\nc.png,cat,test,0\nd.png,dog,test,1\n"
    assert read_csv(table(folder, divided)).notes == ("only one training picture of 2 classes: 'cat', 'dog'",)
    a_label = "path,group\na.png,cat\nb.png,dog\n"
    with pytest.raises(DataError):  # two columns without a label's name: the first line is a row
        read_csv(table(folder, a_label))


def test_a_table_without_names_of_pictures_in_split_folders_is_given_them_first(folder: Path) -> None:
    for name in ("train/cat/1.png", "test/dog/2.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"")
    with pytest.raises(DataError, match="write path,label as the first line; then eyespot data table"):
        read_csv(table(folder, "train/cat/1.png,cat\ntest/dog/2.png,dog\n"))
