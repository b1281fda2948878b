"""Pictures in any form become pixels; the pictures of a folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eyespot.data.input_spec import InputSpec
from eyespot.data.pictures import find_pictures, pixels_of
from eyespot.errors import DataError, UsageError


class TestFindPictures:
    def test_sorted_below_and_without_what_is_hidden_or_no_picture(self, tmp_path: Path) -> None:
        for name in (
            "b.jpg",
            "a.PNG",
            "sub/c.jpeg",
            "sub/.d.jpg",
            ".hidden/e.jpg",
            "Thumbs.db",
            "__MACOSX/f.jpg",
            "notes.txt",
            "x",
        ):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        found = [path.relative_to(tmp_path).as_posix() for path in find_pictures(tmp_path)]
        assert found == ["a.PNG", "b.jpg", "sub/c.jpeg", "x"]  # x: its bytes will tell

    def test_a_file_is_taken_as_it_is(self, tmp_path: Path) -> None:
        assert find_pictures(tmp_path / "missing.xyz") == [tmp_path / "missing.xyz"]

    def test_a_folder_without_pictures(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"no pictures in .*: give a folder with pictures in it or below it"):
            find_pictures(tmp_path)

    def test_a_folder_that_cannot_be_listed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Any) -> Any:
            raise PermissionError(13, "Permission denied", os.fspath(path))

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(DataError, match=r"cannot list the folder \(Permission denied\)"):
            find_pictures(tmp_path)


class TestPixels:
    def test_pixels_of(self) -> None:
        spec = InputSpec(8, 1, (0.5,), (0.5,))
        pixels = pixels_of(Image.new("RGB", (20, 13)), spec)
        assert pixels.shape == (8, 8, 1)
        assert pixels.dtype == np.uint8

    def test_pixels_of_what_is_no_picture(self) -> None:
        with pytest.raises(UsageError, match="a list is not a picture"):
            pixels_of([1, 2], InputSpec(8, 3, (0.5,) * 3, (0.5,) * 3))  # type: ignore[arg-type]
