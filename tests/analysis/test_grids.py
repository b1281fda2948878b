from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eyespot.analysis import grids
from eyespot.analysis.grids import pick_first, pick_per_class, pick_random, write_grid
from eyespot.errors import RunError, UsageError


def coloured(count: int, side: int = 32, channels: int = 3) -> np.ndarray:
    """Return pictures of one colour each, all different."""
    pixels = np.empty((count, side, side, channels), dtype=np.uint8)
    for index in range(count):
        pixels[index] = (10 + 37 * index) % 240
    return pixels


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(path.read_bytes())))


# ---- which pictures ----


def test_pick_first_and_random() -> None:
    assert pick_first(100, 3).tolist() == [0, 1, 2]
    assert pick_first(2, 3).tolist() == [0, 1]
    picked = pick_random(100, 24, seed=1)
    assert picked.tolist() == pick_random(100, 24, seed=1).tolist()
    assert picked.tolist() != pick_random(100, 24, seed=2).tolist()
    assert len(set(picked.tolist())) == 24
    assert sorted(pick_random(5, 24, seed=1).tolist()) == [0, 1, 2, 3, 4]
    assert picked.dtype == pick_first(1, 1).dtype == np.int64


@given(
    labels=st.lists(st.integers(0, 6), max_size=60),
    count=st.integers(1, 8),
    seed=st.one_of(st.none(), st.integers(0, 9)),
)
def test_pick_per_class_gives_each_class_its_pictures_in_class_order(
    labels: list[int], count: int, seed: int | None
) -> None:
    array = np.array(labels, dtype=np.int64)
    picked = pick_per_class(array, count, seed)
    assert array[picked].tolist() == sorted(array[picked].tolist())
    assert len(set(picked.tolist())) == len(picked)
    for label in set(labels):
        assert (array[picked] == label).sum() == min(count, labels.count(label))


def test_pick_per_class_without_a_seed_takes_the_first() -> None:
    assert pick_per_class(np.array([1, 0, 1, 0, 1]), 2).tolist() == [1, 3, 0, 2]


@pytest.mark.parametrize(
    "pick", [lambda: pick_first(9, 0), lambda: pick_random(9, -1, 0), lambda: pick_per_class(np.zeros(3, np.int64), 0)]
)
def test_no_pictures_at_all_cannot_be_asked_for(pick: object) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        pick()  # type: ignore[operator]


# ---- PNG ----


def test_a_png_shows_every_picture_enlarged_by_a_whole_factor(tmp_path: Path) -> None:
    pixels = coloured(6)
    write_grid(pixels, [""] * 6, tmp_path / "grid.png", columns=4, title="t")
    sheet = read(tmp_path / "grid.png")
    left, top, step = 24, 24 + 24 + 16, 96 + 8
    assert sheet.shape == (top + 2 * step - 8 + 24, 2 * 24 + 4 * step - 8, 3)
    for index in range(6):
        y, x = top + index // 4 * step, left + index % 4 * step
        assert (sheet[y : y + 96, x : x + 96] == pixels[index, 0, 0]).all()
    assert (sheet[top + step :, left + 2 * step :] == 255).all()  # the last row is short


def test_captions_are_written_below_and_only_where_there_are_some(tmp_path: Path) -> None:
    plain, named = tmp_path / "plain.png", tmp_path / "named.png"
    write_grid(coloured(2), ["", ""], plain, columns=2, title="t")
    write_grid(coloured(2), ["cat", "a name that is far too long for its picture"], named, columns=2, title="t")
    assert read(named).shape[0] == read(plain).shape[0] + 21
    below = read(named)[64 + 96 + 2 : 64 + 96 + 21]
    for x in (24, 24 + 104):
        assert (below[:, x : x + 96] < 200).any()
    assert (below[:, 24 + 96 : 24 + 104] == 255).all()  # the long one does not run into its neighbour
    assert (below[:, 24 + 200 :] == 255).all()


def test_a_very_long_name_does_not_push_the_pictures_away(tmp_path: Path) -> None:
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    write_grid(pixels, ["", ""], tmp_path / "grid.png", title="x", columns=2, row_names=["a" * 200, "b"])
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.width < 800


def test_row_names_start_new_rows_and_stand_left_of_them(tmp_path: Path) -> None:
    path = tmp_path / "grid.png"
    write_grid(coloured(5), [""] * 5, path, columns=2, title="t", row_names=["cat", "cat", "cat", "dog", "dog"])
    sheet = read(path)
    assert sheet.shape[0] == 64 + 3 * 104 - 8 + 24  # cat takes two rows
    heading = [(sheet[64 + row * 104 : 64 + row * 104 + 96, 24:50] < 128).any() for row in range(3)]
    assert heading == [True, False, True]


@pytest.mark.parametrize(
    ("shape", "size"),
    [((8, 8), (96, 96)), ((28, 28), (84, 84)), ((64, 64), (128, 128)), ((300, 600), (192, 96)), ((1, 500), (192, 1))],
)
def test_pictures_are_shown_at_a_useful_size(shape: tuple[int, int], size: tuple[int, int]) -> None:
    assert grids._cell_size(*shape) == size


def test_grey_and_large_pictures_can_be_drawn(tmp_path: Path) -> None:
    write_grid(coloured(2, 8, 1), ["a", "b"], tmp_path / "grey.PNG", columns=9, title="t")
    assert (read(tmp_path / "grey.PNG")[100, 50] == 10).all()
    write_grid(coloured(2, 400), ["", ""], tmp_path / "large.png", columns=2, title="t")
    assert (read(tmp_path / "large.png")[100, 50] == 10).all()


def test_names_in_any_alphabet_and_with_broken_letters_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(names: list[str], title: str) -> np.ndarray:
        path = tmp_path / "grid.png"
        write_grid(coloured(len(names)), names, path, columns=3, title=title, row_names=["a\tb"] * len(names))
        return read(path)

    for names, title in ((["кошка", "two\nlines", "broken \udcff"], "Größe\n"), (["cat"], "t")):
        sheet = drawn(names, title)
        for index in range(len(names)):  # with a space in its place, something is missing
            others = [" " if number == index else name for number, name in enumerate(names)]
            assert (drawn(others, title) != sheet).any()
        assert (drawn(names, " ") != sheet).any()
        monkeypatch.setattr(grids, "_dejavu", lambda: None)  # without matplotlib, Pillow's own letters do


def test_the_letters_are_found_without_importing_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    file = grids._dejavu()
    assert file is not None
    assert file.name == "DejaVuSans.ttf"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert grids._dejavu() is None


# ---- HTML ----


def test_a_page_holds_every_picture_and_escapes_names(tmp_path: Path) -> None:
    path = tmp_path / "grid.html"
    evil = "<script>alert(1)</script>"
    write_grid(coloured(3), [evil, "", "x"], path, columns=2, title=evil, row_names=[evil, evil, "dog"])
    page = path.read_text(encoding="utf-8")
    assert page.count("data:image/png") == 3
    assert "<script" not in page
    assert page.count("<h2") == 2
    assert "3 pictures" in page
    assert 'alt="dog, x"' in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    write_grid(coloured(1), [""], path, columns=2, title="one")
    assert "1 picture<" in path.read_text(encoding="utf-8")
    assert 'alt="picture 1"' in path.read_text(encoding="utf-8")


# ---- what is refused ----


def test_what_cannot_be_written_is_refused_with_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"cannot write pictures as '\.jpg' in .*: use \.png or \.html"):
        write_grid(coloured(1), [""], tmp_path / "grid.jpg", columns=1, title="t")
    with pytest.raises(UsageError, match="without an ending"):
        write_grid(coloured(1), [""], tmp_path / "grid", columns=1, title="t")
    with pytest.raises(UsageError, match="no pictures to show in val"):
        write_grid(coloured(0), [], tmp_path / "grid.png", columns=1, title="val")
    with pytest.raises(UsageError, match="at least 1"):
        write_grid(coloured(1), [""], tmp_path / "grid.png", columns=0, title="t")
    with pytest.raises(ValueError, match="2 captions"):
        write_grid(coloured(1), ["", ""], tmp_path / "grid.png", columns=1, title="t")
    with pytest.raises(RunError, match="cannot write"):
        write_grid(coloured(1), [""], tmp_path / "missing" / "grid.png", columns=1, title="t")
    monkeypatch.setattr(grids, "_MOST_PIXELS", 1000)
    with pytest.raises(UsageError, match=r"show fewer, or write \.html"):
        write_grid(coloured(1), [""], tmp_path / "grid.png", columns=1, title="t")
    assert not list(tmp_path.iterdir())
