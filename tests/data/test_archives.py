"""Good archives come out whole; no other writes outside its folder, fills the disk, or is taken for whole."""

from __future__ import annotations

import bz2
import dataclasses
import errno
import gzip
import io
import lzma
import multiprocessing
import os
import random
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import types
import unicodedata
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eyespot.data import archives, safe_tree
from eyespot.data.archives import ARCHIVE_SUFFIXES, extract_archive
from eyespot.data.safe_tree import ExtractLimits, ExtractReport
from eyespot.errors import ArchiveError, DataError, EyespotError, MissingExtraError

# Names in order, None as content for a folder.
Members = list[tuple[str, bytes | None]]
GOOD: Members = [
    ("photos/", None),
    ("photos/cat/", None),
    ("photos/cat/1.jpg", b"one"),
    ("photos/cat/2 ü 猫.jpg", random.Random(0).randbytes(1_200_000)),
    ("./photos/dog//3.jpg", b""),
    ("photos/" + "d" * 150 + "/" + "f" * 150 + ".jpg", b"long"),
    ("top.txt", b"x" * 511),
]
GOOD_FILES = {
    "photos/cat/1.jpg": GOOD[2][1],
    "photos/cat/2 ü 猫.jpg": GOOD[3][1],
    "photos/dog/3.jpg": GOOD[4][1],
    "photos/" + "d" * 150 + "/" + "f" * 150 + ".jpg": GOOD[5][1],
    "top.txt": GOOD[6][1],
}


def tar_bytes(members: Members, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as book:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.name = tarfile.DIRTYPE, name.rstrip("/")
                book.addfile(info)
            else:
                info.size = len(content)
                book.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_bytes(members: Members, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as book:
        for name, content in members:
            info = zipfile.ZipInfo("x")
            info.filename = name  # the constructor would cut it at NUL
            info.compress_type = zipfile.ZIP_STORED if content is None else method
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Duplicate name")
                book.writestr(info, content or b"")
    return buffer.getvalue()


def header(name: bytes, *, size: int | bytes = 0, type: bytes = b"0", magic: bytes = b"ustar\x0000") -> bytes:
    """A raw tar header with a right checksum, whatever it says."""
    field = size if isinstance(size, bytes) else b"%011o\0" % size
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[124:136] = field
    block[148:156] = b" " * 8
    block[156:157] = type
    block[257 : 257 + len(magic)] = magic
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


END = bytes(1024)


def files_under(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refused(archive: Path, match: str, error: type[EyespotError] = ArchiveError, **limits: int) -> EyespotError:
    """Assert that an archive is refused in one line and leaves nothing but the lock file."""
    before = {path: path.read_bytes() for path in archive.parent.iterdir() if path.is_file()}
    target = archive.parent / "out"
    with pytest.raises(error, match=match) as caught:
        extract_archive(archive, target, limits=ExtractLimits(**limits))
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value)  # it has a remedy
    after = {path: path.read_bytes() for path in archive.parent.iterdir() if path.is_file()}
    assert after == before | {archive.parent / "out.lock": b""}
    assert [path for path in archive.parent.iterdir() if path.is_dir()] == []
    return caught.value


# What comes out of good ones


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_each_tar_format_comes_out_whole(tmp_path: Path, format: int) -> None:
    members = [m for m in GOOD if len(m[0]) < 300 and (format != tarfile.USTAR_FORMAT or len(m[0]) < 256)]
    if format == tarfile.USTAR_FORMAT:
        members = [("p/" * 60 + "x.jpg" if len(m[0]) > 200 else m[0], m[1]) for m in members]
    archive = write(tmp_path, "a.tar", tar_bytes(members, format))
    report = extract_archive(archive, tmp_path / "out", limits=ExtractLimits(max_depth=70))
    expected = {name.removeprefix("./").replace("//", "/"): content for name, content in members if content is not None}
    assert files_under(tmp_path / "out") == expected
    assert report == ExtractReport(
        tmp_path / "out", files=len(expected), total_bytes=sum(len(content) for content in expected.values())
    )


COMPRESSIONS: dict[str, Callable[[bytes], bytes]] = {
    "a.tar": bytes,
    "a.tar.gz": gzip.compress,
    "b.tgz": lambda data: gzip.compress(data[:1000]) + gzip.compress(data[1000:]),
    "a.tar.bz2": bz2.compress,
    "b.tbz2": lambda data: bz2.compress(data[:1000]) + bz2.compress(data[1000:]),
    "a.tar.xz": lzma.compress,
    "b.txz": lambda data: lzma.compress(data[:1000]) + bytes(8) + lzma.compress(data[1000:]) + bytes(4),
    "wrong-name.zip": gzip.compress,
}


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_each_compression_comes_out_whole(tmp_path: Path, name: str) -> None:
    content = COMPRESSIONS[name](tar_bytes(GOOD))
    archive = write(tmp_path, name, content)
    seen: list[tuple[int, int]] = []
    report = extract_archive(archive, tmp_path / "deep" / "out", progress=lambda *args: seen.append(args))
    assert files_under(tmp_path / "deep" / "out") == GOOD_FILES
    assert report.files == 5
    assert report.extracted
    size = archive.stat().st_size
    assert seen[-1] == (size, size)
    assert seen == sorted(seen)
    assert archive.read_bytes() == content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_each_zip_method_comes_out_whole(tmp_path: Path, method: int) -> None:
    archive = write(tmp_path, "a.zip", zip_bytes(GOOD, method))
    seen: list[int] = []
    report = extract_archive(archive, tmp_path / "out", progress=lambda done, size: seen.append(done / size))
    assert files_under(tmp_path / "out") == GOOD_FILES
    assert (report.files, report.hidden, report.special) == (5, 0, 0)
    assert len(seen) == len(GOOD)
    assert seen[-1] <= 1


def test_suffixes_name_every_kind() -> None:
    assert {".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst"} <= set(ARCHIVE_SUFFIXES)


def test_what_gnu_tar_writes_comes_out_whole(tmp_path: Path) -> None:
    if shutil.which("tar") is None:
        pytest.skip("no tar program")
    source = tmp_path / "source"
    for name, content in GOOD_FILES.items():
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content or b"")
    subprocess.run(["tar", "-C", source, "-cf", tmp_path / "a.tar", "."], check=True)
    extract_archive(tmp_path / "a.tar", tmp_path / "out")
    assert files_under(tmp_path / "out") == GOOD_FILES


def test_old_archives_without_magic_are_read(tmp_path: Path) -> None:
    old = header(b"d/", magic=b"") + header(b"d/x.jpg", size=2, type=b"\0", magic=b"") + padded(b"hi") + END
    archive = write(tmp_path, "a.tar", old)
    extract_archive(archive, tmp_path / "out")
    assert files_under(tmp_path / "out") == {"d/x.jpg": b"hi"}


def test_sums_of_signed_bytes_and_sizes_in_base_256_are_read(tmp_path: Path) -> None:
    block = bytearray(header("ü.jpg".encode(), size=b"\x80" + (2).to_bytes(11, "big")))
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(byte - 256 * (byte > 127) for byte in block)
    archive = write(tmp_path, "a.tar", bytes(block) + padded(b"hi") + END)
    extract_archive(archive, tmp_path / "out")
    assert files_under(tmp_path / "out") == {"ü.jpg": b"hi"}


def test_the_size_in_a_pax_header_counts(tmp_path: Path) -> None:
    content = b"x" * 600
    pax = b"12 comment=\n12 size=600\n"
    blocks = header(b"pax", size=len(pax), type=b"x") + padded(pax) + header(b"x.jpg", size=0) + padded(content) + END
    archive = write(tmp_path, "a.tar", header(b"g", size=5, type=b"g") + padded(b"hello") + blocks)
    extract_archive(archive, tmp_path / "out")
    assert files_under(tmp_path / "out") == {"x.jpg": content}


@pytest.mark.skipif(os.name == "nt", reason="modes are POSIX")
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_modes_are_plain_whatever_the_archive_says(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w") as book:
            folder, file = tarfile.TarInfo("d"), tarfile.TarInfo("d/x")
            folder.type, folder.mode, file.mode, file.uid = tarfile.DIRTYPE, 0o7777, 0o7777, 1234
            book.addfile(folder)
            book.addfile(file)
    else:
        with zipfile.ZipFile(buffer, "w") as zip_book:
            info = zipfile.ZipInfo("d/x")
            info.external_attr = (stat.S_IFREG | 0o7777) << 16
            zip_book.writestr(info, b"")
    archive = write(tmp_path, "a", buffer.getvalue())
    mask = os.umask(0o022)
    try:
        extract_archive(archive, tmp_path / "out")
    finally:
        os.umask(mask)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out" / "d").stat().st_mode) == 0o755
    assert stat.S_IMODE((tmp_path / "out" / "d" / "x").stat().st_mode) == 0o644
    assert (tmp_path / "out" / "d" / "x").stat().st_uid == os.getuid()


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_hidden_files_and_litter_are_left_out_and_counted(tmp_path: Path, pack: Callable[[Members], bytes]) -> None:
    hidden: Members = [
        (".DS_Store", b"x"),
        ("a/._1.jpg", b"x"),
        ("__MACOSX/", None),
        ("__MACOSX/a/._1.jpg", b"x" * 2000),
        ("a/.git/config", b"x"),
        ("a/Thumbs.db", b"x"),
        ("desktop.ini", b"x"),
    ]
    archive = write(tmp_path, "a", pack([("a/1.jpg", b"one"), *hidden, ("a/2.jpg", b"two")]))
    report = extract_archive(archive, tmp_path / "out")
    assert files_under(tmp_path / "out") == {"a/1.jpg": b"one", "a/2.jpg": b"two"}
    assert report.hidden == len(hidden)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a"]


SPECIAL_TYPES = {
    "hard link": tarfile.LNKTYPE,
    "symbolic link": tarfile.SYMTYPE,
    "character device": tarfile.CHRTYPE,
    "block device": tarfile.BLKTYPE,
    "FIFO": tarfile.FIFOTYPE,
    "member of type 'V'": b"V",
}


def test_links_and_devices_are_left_out_and_named_and_nothing_goes_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as book:
        for number, type_ in enumerate(SPECIAL_TYPES.values()):
            info = tarfile.TarInfo(f"link{number}")
            info.type, info.linkname = type_, str(outside)
            book.addfile(info)
        info = tarfile.TarInfo("link1/evil.jpg")
        info.size = 4
        book.addfile(info, io.BytesIO(b"evil"))
    report = extract_archive(write(tmp_path, "a.tar", buffer.getvalue()), tmp_path / "out")
    assert report.special == len(SPECIAL_TYPES)
    assert report.special_names == [f"link{number} ({kind})" for number, kind in enumerate(SPECIAL_TYPES)]
    assert files_under(tmp_path / "out") == {"link1/evil.jpg": b"evil"}
    assert not (tmp_path / "out" / "link1").is_symlink()
    assert list(outside.iterdir()) == []


def test_links_and_devices_in_zip_files_are_left_out_and_named(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as book:
        for name, bits in (("link", stat.S_IFLNK), ("pipe", stat.S_IFIFO), ("socket", stat.S_IFSOCK)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (bits | 0o777) << 16
            book.writestr(info, "/etc")
        book.writestr("link/evil.jpg", b"evil")
    report = extract_archive(write(tmp_path, "a.zip", buffer.getvalue()), tmp_path / "out")
    assert report.special_names == [
        "link (symbolic link)",
        "pipe (device, FIFO or socket)",
        "socket (device, FIFO or socket)",
    ]
    assert files_under(tmp_path / "out") == {"link/evil.jpg": b"evil"}


def test_only_the_first_hundred_links_are_named_but_all_are_counted(tmp_path: Path) -> None:
    blocks = b"".join(header(b"link%d" % number, type=b"2") for number in range(250))
    archive = write(tmp_path, "a.tar", blocks + header(b"x.jpg") + END)
    report = extract_archive(archive, tmp_path / "out")
    assert report.special == 250
    assert len(report.special_names) == 100


def test_a_link_whose_own_path_escapes_is_refused(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.tar", header(b"../link", type=b"2") + header(b"x.jpg") + END)
    refused(archive, r"member '\.\./link' leads out of the folder")


# Hostile names, in tar and in zip

HOSTILE: dict[str, tuple[Members, str]] = {
    "absolute": ([("/tmp/evil", b"x")], "absolute"),
    "absolute folder": ([("/tmp/evil/", None)], "absolute"),
    "absolute, in the root": ([("/evil", b"x")], "absolute"),
    "UNC": ([("//server/share/evil", b"x")], "absolute"),
    "UNC, backslashes": ([("\\\\server\\share\\evil", b"x")], "backslash"),
    "drive": ([("C:/evil", b"x")], "drive letter"),
    "drive, relative": ([("c:evil", b"x")], "drive letter"),
    "drive, inside": ([("a/C:/evil", b"x")], "drive letter"),
    "up": ([("../evil", b"x")], "leads out"),
    "up, folder": ([("../", None)], "leads out"),
    "up, only": ([("..", b"x")], "leads out"),
    "up, at the end": ([("a/..", b"x")], "leads out"),
    "up, inside": ([("a/../../evil", b"x")], "leads out"),
    "up, and back": ([("a/../b", b"x")], "leads out"),
    "up, hidden": ([(".a/../../evil", b"x")], "leads out"),
    "up, after a dot": ([("./../evil", b"x")], "leads out"),
    "up, after a known folder": ([("a/1", b"x"), ("a/../evil", b"x")], "leads out"),
    "up, backslashes": ([("..\\evil", b"x")], "backslash"),
    "backslash": ([("a\\b", b"x")], "backslash"),
    "NUL": ([("ä.jpg\0.txt", b"x")], "control character"),
    "line break": ([("a\nb", b"x")], "control character"),
    "escape": ([("a\x1b[2Jb", b"x")], "control character"),
    "delete": ([("a\x7f/b", b"x")], "control character"),
    "long name": ([("n" * 256, b"x")], "more than 255 bytes"),
    "long name, in bytes": ([("猫" * 86, b"x")], "more than 255 bytes"),
    "long path": ([(("n" * 200 + "/") * 5 + "x", b"x")], "a path of more than 800 bytes"),
    "deep": ([("d/" * 33 + "x", b"x")], "more than 32 folders deep"),
    "deep folder": ([("d/" * 33, None)], "more than 32 folders deep"),
    "device": ([("nul", b"x")], "reserves"),
    "device with suffix": ([("a/Aux.tar.gz", b"x")], "reserves"),
    "device as a folder": ([("COM1/x", b"x")], "reserves"),
    "device with blanks": ([("lpt²  .jpg", b"x")], "reserves"),
    "console": ([("CONIN$", b"x")], "reserves"),
    "twice": ([("a/x", b"1"), ("a/x", b"2")], "twice"),
    "twice, spelled otherwise": ([("a/x", b"1"), ("./a//x", b"2")], "twice"),
    "case": ([("a/X.jpg", b"1"), ("a/x.JPG", b"2")], "only in case"),
    "case, sharp s": ([("straße", b"1"), ("STRASSE", b"2")], "only in case"),
    "case of a folder": ([("Cat/1", b"1"), ("cat/2", b"2")], "only in case"),
    "accents": ([("\u00e9", b"1"), (unicodedata.normalize("NFD", "\u00e9"), b"2")], "only in case"),
    "file under a file": ([("a", b"1"), ("a/b", b"2")], "needs a folder where the archive has a file"),
    "file over a folder": ([("a/b", b"1"), ("a", b"2")], "is a file where the archive has a folder"),
    "folder over a file": ([("a", b"1"), ("A/", None)], "needs a folder where the archive has a file"),
    "dot": ([(".", b"x")], "no file name"),
    "dot at the end": ([("a/.", b"x")], "no file name"),
}


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_names_are_refused_by_name(tmp_path: Path, pack: Callable[[Members], bytes], case: str) -> None:
    members, reason = HOSTILE[case]
    archive = write(tmp_path, "a", pack([("good.jpg", b"good"), *members]))
    error = refused(archive, reason)
    # Long ones are cut, control characters escaped; the tar writer takes the last slash off a folder.
    assert repr(members[-1][0][:200])[:-1].rstrip("/") in error.what
    assert "if you trust it, unpack it yourself" in error.remedy
    assert "good" not in error.what


def test_names_that_are_not_unicode_are_refused(tmp_path: Path) -> None:
    refused(write(tmp_path, "a.tar", header(b"\xff\xfe.jpg") + END), "is not UTF-8")
    buffer = bytearray(zip_bytes([("üü.jpg", b"x")]))
    raw = "üü".encode()
    bad = buffer.replace(raw, b"\xff\xff\xff\xff")
    refused(write(tmp_path, "a.tar", bytes(bad)), "damaged or cut off")


def unmarked_zip(members: list[tuple[bytes, bytes]], *, extra: bytes = b"") -> bytes:
    """A zip whose names are raw bytes without the flag that says UTF-8."""
    buffer = io.BytesIO()
    stand_ins = [bytes([ord("A") + number]) * len(name) for number, (name, _) in enumerate(members)]
    with zipfile.ZipFile(buffer, "w") as book:
        for stand_in, (_, content) in zip(stand_ins, members, strict=True):
            info = zipfile.ZipInfo(stand_in.decode())
            info.extra = extra
            book.writestr(info, content)
    whole = buffer.getvalue()
    for stand_in, (name, _) in zip(stand_ins, members, strict=True):
        whole = whole.replace(stand_in, name)
    return whole


def test_zip_names_in_utf8_without_the_flag_are_read_as_utf8(tmp_path: Path) -> None:
    names = ["Bär/ü 猫.jpg", "a.jpg", "épagneul à poil/1.jpg"]
    report = extract_archive(
        write(tmp_path, "a.zip", unmarked_zip([(name.encode(), name.encode()) for name in names])), tmp_path / "out"
    )
    assert files_under(tmp_path / "out") == {name: name.encode() for name in names}
    assert (report.guessed, report.guessed_names) == (0, [])


def test_zip_names_in_no_known_encoding_are_cp437_and_noted(tmp_path: Path) -> None:
    archive = write(
        tmp_path, "a.zip", unmarked_zip([(b"B\x84r/long.jpg", b"1"), (b"plain", b"2"), (b"\xe9t\xe9", b"3")])
    )
    report = extract_archive(archive, tmp_path / "out")
    assert files_under(tmp_path / "out") == {"Bär/long.jpg": b"1", "plain": b"2", "ΘtΘ": b"3"}
    assert (report.guessed, report.guessed_names) == (2, ["Bär/long.jpg", "ΘtΘ"])
    again = extract_archive(archive, tmp_path / "out")
    assert (again.extracted, again.guessed_names) == (False, report.guessed_names)
    marked = write(tmp_path, "b.zip", zip_bytes([("ΘtΘ", b"3")]))
    assert extract_archive(marked, tmp_path / "marked").guessed == 0


def test_the_unicode_name_of_a_zip_is_believed_where_python_reads_it(tmp_path: Path) -> None:
    raw, name = b"caf\x82", "café"
    field = b"\1" + struct.pack("<L", zlib.crc32(raw)) + name.encode()
    extra = struct.pack("<HH", 0x7075, len(field)) + field
    report = extract_archive(write(tmp_path, "a.zip", unmarked_zip([(raw, b"1")], extra=extra)), tmp_path / "out")
    assert files_under(tmp_path / "out") == {name: b"1"}  # CP437 has the same letter: right either way
    assert report.guessed <= 1


def test_a_surrogate_in_a_name_is_refused(tmp_path: Path) -> None:
    tree = safe_tree.SafeTree(tmp_path / "a", 1, tmp_path, ExtractLimits(), ExtractReport(tmp_path))
    with pytest.raises(ArchiveError, match="not Unicode"):
        tree.add_file("a\ud800b", [b"x"])


@pytest.mark.parametrize("name", ["a?.jpg", "a:b", "x/dot./y", "blank ", "a|b", 'a"b', "a*", "<a>"])
def test_names_that_windows_does_not_allow_are_refused_only_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    archive = write(tmp_path, "a.tar", tar_bytes([(name, b"x")]))
    monkeypatch.setattr(safe_tree, "_WINDOWS", True)
    if name != "a:b":  # that one is a drive letter everywhere
        refused(archive, "Windows does not allow")
    if os.name != "nt" and name != "a:b":
        monkeypatch.setattr(safe_tree, "_WINDOWS", False)
        extract_archive(archive, tmp_path / "out")
        assert files_under(tmp_path / "out") == {name: b"x"}


def test_a_folder_that_resolves_outside_is_refused_even_if_its_name_is_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write(tmp_path, "a.tar", tar_bytes([("a/x", b"x")]))
    real = os.path.realpath

    def realpath(path: str) -> str:
        return "/elsewhere" if str(path).endswith(os.sep + "a") else real(path)

    monkeypatch.setattr(archives.os.path, "realpath", realpath)
    refused(archive, "member 'a/x' leads out of the folder")


NAMES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.lists(
        st.sampled_from(["..", ".", "", "a", "b", "C:", "c", "\\", "..\\..", "~", "nul", "$HOME", "é", "\0", "%2e%2e"]),
        max_size=8,
    ).map("/".join),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(names=st.lists(NAMES, min_size=1, max_size=4), kind=st.sampled_from(["tar", "gnu", "zip"]))
@example(names=["a", "a/../../outside/x"], kind="tar")
@example(names=["/"], kind="zip")
def test_no_name_ever_lands_outside(names: list[str], kind: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch) / "one" / "two" / "three"
        base.mkdir(parents=True)
        canary = write(Path(scratch) / "one", "canary", b"alive")
        members: Members = [(name, b"evil") for name in names]
        if kind == "zip":
            content = zip_bytes(members)
        else:
            content = tar_bytes(members, tarfile.GNU_FORMAT if kind == "gnu" else tarfile.PAX_FORMAT)
        archive = write(base, "archive", content)
        target = base / "out"
        try:
            report = extract_archive(archive, target)
        except ArchiveError:
            assert not target.exists()
        else:
            inside = [Path(folder) / name for folder, _, found in os.walk(target) for name in found]
            assert len(inside) == report.files
            assert all(path.read_bytes() == b"evil" for path in inside)
        outside = {
            Path(folder) / name
            for folder, _, found in os.walk(scratch)
            if not Path(folder).is_relative_to(target)
            for name in found
        }
        assert outside - {base / "out.report.json"} == {canary, archive, base / "out.lock"}
        assert canary.read_bytes() == b"alive"


# Bombs and lies


def gzip_zeros(count: int) -> bytes:
    return gzip.compress(header(b"zeros.jpg", size=count) + bytes(count) + END, compresslevel=6)


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_a_bomb_in_a_compressed_tar_is_stopped(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    count = 40 << 20
    archive = write(tmp_path, "a", compress(header(b"zeros.jpg", size=count) + bytes(count) + END))
    refused(archive, "unpacks to more than 200 times its size")
    # The user may say otherwise.
    extract_archive(archive, tmp_path / "out", limits=ExtractLimits(max_ratio=1e9))
    assert (tmp_path / "out" / "zeros.jpg").stat().st_size == count


def test_a_zip_bomb_is_stopped(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.zip", zip_bytes([(f"{number}", bytes(10 << 20)) for number in range(3)]))
    refused(archive, "unpacks to more than 200 times its size")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_bomb_of_a_stronger_method_is_stopped(tmp_path: Path, method: int) -> None:
    refused(write(tmp_path, "a.zip", zip_bytes([("x", bytes(40 << 20))], method)), "200 times its size")


def test_overlapping_zip_members_are_stopped(tmp_path: Path) -> None:
    # One compressed megabyte that a hundred directory entries point at.
    plain = bytearray(zip_bytes([("a", bytes(1 << 20))]))
    start = plain.rindex(b"PK\x01\x02")
    end = plain.rindex(b"PK\x05\x06")
    entry = plain[start:end]
    tail = bytearray(plain[end:])
    struct.pack_into("<HHLL", tail, 8, 100, 100, len(entry) * 100, start)
    refused(write(tmp_path, "a.zip", bytes(plain[:start] + entry * 100 + tail)), "twice|verlap|200 times")


def test_small_archives_may_shrink_much(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.tar.gz", gzip_zeros(10 << 20))
    assert archive.stat().st_size * 200 < 10 << 20
    assert extract_archive(archive, tmp_path / "out").files == 1


@pytest.mark.parametrize("pack", [tar_bytes, zip_bytes])
def test_caps_on_members_total_and_file_size(tmp_path: Path, pack: Callable[[Members], bytes]) -> None:
    archive = write(tmp_path, "a", pack([(f"{number}.jpg", b"x" * 1000) for number in range(20)]))
    refused(archive, "more than 19 members", max_members=19)
    refused(archive, "more than 19,999 bytes of content", max_total_bytes=19_999)
    refused(archive, r"member '0\.jpg' has more than 999 bytes", max_file_bytes=999)
    report = extract_archive(
        archive,
        tmp_path / "out",
        limits=ExtractLimits(max_members=20, max_total_bytes=50_000, max_file_bytes=1000, max_depth=0),
    )
    assert report.files == 20


def test_hidden_members_are_counted_against_the_caps_too(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.zip", zip_bytes([(".hidden", b"x" * 1000), ("a", b"x")]))
    refused(archive, "more than 1,000 bytes of content", max_total_bytes=1000)


def test_an_extended_header_cannot_fill_the_memory(tmp_path: Path) -> None:
    for type_ in (b"x", b"g", b"L", b"K"):
        blocks = header(b"pax", size=2 << 30, type=type_) + bytes(4096)
        refused(write(tmp_path, "a.tar", blocks), "an extended header of 2147483648 bytes")


@pytest.mark.parametrize(
    "pax",
    [
        b"no length\n",
        b"999 path=a\n",
        b"0 path=a\n",
        b"3 path=a\n",
        b"10 path=a",
        b"9 path=a\n9 path=a\0",
        b"99999999999999999999 path=a\n",
        b"11 size=-1\n",
        b"11 size=1x\n",
        b"34 size=1111111111111111111111111\n",
        b"5",
        b"\0\0\0\0",
    ],
)
def test_damaged_extended_headers_are_refused(tmp_path: Path, pax: bytes) -> None:
    blocks = header(b"pax", size=len(pax), type=b"x") + padded(pax) + header(b"x.jpg") + END
    refused(write(tmp_path, "a.tar", blocks), "damaged: extended header")


RAW_TARS: dict[str, tuple[bytes, str]] = {
    "empty": (END, "has no files"),
    "only folders": (header(b"a/", type=b"5") + END, "has no files"),
    "nothing": (b"", "cut off, or not a tar archive"),
    "short": (b"x" * 100, "cut off, or not a tar archive"),
    "noise": (random.Random(1).randbytes(2048), "not a tar archive"),
    "text in the sum": (header(b"a")[:148] + b"1_0\0\0\0\0\0" + header(b"a")[156:], "not a tar archive"),
    "no end mark": (header(b"a.jpg", size=512) + bytes(range(256)) * 2, "cut off.*after 'a.jpg'"),
    "damaged second header": (
        header(b"a.jpg") + header(b"b.jpg").replace(b"b.jpg", b"c.jpg") + header(b"d.jpg") + END,
        "damaged.*after 'a.jpg'",
    ),
    "size too long": (header(b"a.jpg", size=5000) + bytes(3000) + END, "cut off.*after 'a.jpg'"),
    "size too short": (header(b"a.jpg", size=5) + b"x" * 3000 + END, "damaged.*after 'a.jpg'"),
    "huge size": (header(b"a.jpg", size=b"77777777777\0") + END, "cut off"),
    "negative size": (header(b"a.jpg", size=b"\xff" * 12) + END, "negative number"),
    "minus sign": (header(b"a.jpg", size=b"-0000000001\0") + END, "damaged"),
    "sparse": (header(b"a.jpg", type=b"S") + END, "sparse or split member 'a.jpg'"),
    "several volumes": (header(b"a.jpg", type=b"M") + END, "sparse or split member 'a.jpg'"),
    "sparse by pax": (
        header(b"p", size=22, type=b"x") + padded(b"22 GNU.sparse.major=1\n") + header(b"a.jpg") + END,
        "sparse",
    ),
    "long name for nobody": (header(b"L", size=9, type=b"L") + padded(b"long name") + END, "without its member"),
    "old folder with content": (header(b"a/", size=5) + padded(b"12345") + END, "folder 'a/' has content"),
    "something after the end": (header(b"a.jpg") + END + header(b"b.jpg") + END, "follows the end"),
    "something far after the end": (header(b"a.jpg") + END + bytes(3 << 20) + b"x", "follows the end"),
}


@pytest.mark.parametrize("case", RAW_TARS)
def test_damaged_and_lying_tars_are_refused(tmp_path: Path, case: str) -> None:
    content, reason = RAW_TARS[case]
    refused(write(tmp_path, "a.tar", content), reason)


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_a_cut_off_archive_is_refused_wherever_it_ends(tmp_path: Path, name: str) -> None:
    members: Members = [(f"d/{number}.jpg", random.Random(number).randbytes(700)) for number in range(5)]
    if name == "a.zip":
        whole = zip_bytes(members)
    else:
        # tar pads with zeros to 10 KiB, and losing those loses nothing.
        whole = COMPRESSIONS[name](tar_bytes(members).rstrip(b"\0") + bytes(512 if name != "a.tar" else 0))
    for length in range(512, len(whole) - 1, 97):
        refused(write(tmp_path, name, whole[:length]), "cut off|not an archive")


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"])
def test_a_flipped_bit_in_the_content_is_refused(tmp_path: Path, name: str) -> None:
    members: Members = [("d/1.jpg", random.Random(1).randbytes(9000)), ("d/2.jpg", b"two")]
    whole = bytearray(zip_bytes(members) if name == "a.zip" else COMPRESSIONS[name](tar_bytes(members)))
    whole[3000] ^= 16
    refused(write(tmp_path, name, bytes(whole)), "damaged|cut off|not a tar")


def test_the_sum_at_the_end_of_a_gzip_file_is_checked(tmp_path: Path) -> None:
    whole = bytearray(gzip.compress(tar_bytes(GOOD)))
    whole[-6] ^= 1
    refused(write(tmp_path, "a.tar.gz", bytes(whole)), "damaged or cut off .*CRC")


def test_garbage_behind_a_compressed_stream_is_refused(tmp_path: Path) -> None:
    for name in ("a.tar.gz", "a.tar.bz2", "a.tar.xz"):
        refused(write(tmp_path, name, COMPRESSIONS[name](tar_bytes(GOOD)) + b"garbage"), "damaged or cut off")


def test_an_xz_file_that_wants_gigabytes_of_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "_XZ_MEMORY", 1 << 20)
    refused(write(tmp_path, "a.tar.xz", lzma.compress(tar_bytes(GOOD), preset=9)), "[Mm]emory")


def patched_zip(patch: Callable[[bytearray, int, int], None], content: bytes = b"content") -> bytes:
    """A zip of one stored file, changed at its local header (always 0) and its directory entry."""
    whole = bytearray(zip_bytes([("a.jpg", content)], zipfile.ZIP_STORED))
    patch(whole, 0, whole.index(b"PK\x01\x02"))
    return bytes(whole)


def _encrypted(whole: bytearray, local: int, entry: int) -> None:
    whole[local + 6] |= 1
    whole[entry + 8] |= 1


def _declared_shorter(whole: bytearray, local: int, entry: int) -> None:
    struct.pack_into("<L", whole, entry + 24, 3)


def _declared_longer(whole: bytearray, local: int, entry: int) -> None:
    struct.pack_into("<L", whole, entry + 24, 300)


def _wrong_sum(whole: bytearray, local: int, entry: int) -> None:
    whole[entry + 16] ^= 1


def _other_name_inside(whole: bytearray, local: int, entry: int) -> None:
    whole[local + 30] ^= 1


def _unknown_method(whole: bytearray, local: int, entry: int) -> None:
    struct.pack_into("<H", whole, entry + 10, 77)


def _far_away(whole: bytearray, local: int, entry: int) -> None:
    struct.pack_into("<L", whole, entry + 42, 5000)


ZIP_PATCHES = {
    _encrypted: r"member 'a\.jpg' is encrypted",
    _declared_shorter: r"member 'a\.jpg' is damaged .*CRC",
    _declared_longer: r"member 'a\.jpg' has 7 bytes, not the 300",
    _wrong_sum: r"member 'a\.jpg' is damaged .*CRC",
    _other_name_inside: r"member 'a\.jpg' is damaged or cannot be read \(File name",
    _unknown_method: r"member 'a\.jpg' is damaged or cannot be read \(That compression method is not supported",
    _far_away: "damaged",
}


@pytest.mark.parametrize("patch", ZIP_PATCHES)
def test_damaged_and_lying_zips_are_refused(tmp_path: Path, patch: Callable[[bytearray, int, int], None]) -> None:
    error = refused(write(tmp_path, "a.zip", patched_zip(patch)), ZIP_PATCHES[patch])
    assert patch is not _encrypted or "with its password" in error.remedy


def test_a_zip_folder_with_content_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path, "a.zip", zip_bytes([("a/", b"content")])), "member 'a/' is a folder with content")


def test_an_empty_zip_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path, "a.zip", zip_bytes([])), "has no files")


@settings(max_examples=100, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz", "a.zip"]))
def test_no_damage_ends_in_anything_but_a_clear_error(data: st.DataObject, kind: str) -> None:
    members: Members = [("d/1.jpg", b"one" * 50), ("d/2 ü.jpg", b"two")]
    whole = bytearray(zip_bytes(members) if kind == "a.zip" else COMPRESSIONS[kind](tar_bytes(members)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole), 2500) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as scratch:
        archive = write(Path(scratch), kind, bytes(whole))
        try:
            extract_archive(archive, Path(scratch) / "out")
        except (ArchiveError, MissingExtraError):
            assert sorted(path.name for path in Path(scratch).iterdir()) in ([kind], [kind, "out.lock"])


# Wrong use


@pytest.mark.parametrize(
    ("content", "what"), [(b"", "an empty file"), (b"\n<html><body>Please log in</body></html>", r"a web page \(HTML")]
)
def test_a_download_that_brought_no_archive_is_named(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(ArchiveError, match=f"{what}.*a.tgz: download the archive again"):
        extract_archive(write(tmp_path, "a.tgz", content), tmp_path / "out")


@pytest.mark.parametrize("content", [b"7z\xbc\xaf\x27\x1c" + bytes(600), b"Rar!\x1a\x07\x01\x00"])
def test_other_files_are_refused_with_what_is_read(tmp_path: Path, content: bytes) -> None:
    archive = write(tmp_path, "a.tgz", content)
    with pytest.raises(ArchiveError, match=r"not an archive that eyespot reads \(\.zip, .*a\.tgz: unpack it yourself"):
        extract_archive(archive, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [archive]


def test_a_compressed_file_that_is_no_tar_is_refused(tmp_path: Path) -> None:
    refused(write(tmp_path, "idx.gz", gzip.compress(bytes(range(256)) * 10)), "not a tar archive")


def test_a_missing_archive_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the archive \(No such file.*none\.zip: check the path"):
        extract_archive(tmp_path / "none.zip", tmp_path / "out")
    if os.name != "nt":
        with pytest.raises(DataError, match="is a folder"):
            extract_archive(tmp_path, tmp_path / "out")


def test_zstd_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression.zstd", "backports.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, name, None)
    refused(write(tmp_path, "a.tar.zst", b"\x28\xb5\x2f\xfd" + bytes(20)), r"eyespot\[zstd\]", MissingExtraError)


class _FakeDecompressor:
    """Stands for a zstd decompressor: after the magic number, zlib."""

    eof = False
    needs_input = True
    unused_data = b""

    def decompress(self, data: bytes, most: int) -> bytes:
        self.eof, self.needs_input = True, False
        return gzip.decompress(data[4:])


class _FakeZstandard:
    def stream_reader(self, file: io.BufferedReader, read_across_frames: bool, closefd: bool) -> io.BytesIO:
        assert read_across_frames
        assert not closefd
        return io.BytesIO(gzip.decompress(file.read()[4:]))


@pytest.mark.parametrize("name", ["compression.zstd", "backports.zstd", "zstandard"])
def test_zstd_is_read_by_whichever_package_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in ("compression.zstd", "backports.zstd", "zstandard"):
        monkeypatch.setitem(sys.modules, other, None)
    decompressor = _FakeZstandard if name == "zstandard" else _FakeDecompressor
    fake = types.SimpleNamespace(ZstdDecompressor=decompressor, ZstdError=type("ZstdError", (Exception,), {}))
    if "." in name:  # a submodule is found only where its parent is
        monkeypatch.setitem(sys.modules, name.split(".")[0], types.ModuleType(name.split(".")[0]))
    monkeypatch.setitem(sys.modules, name, fake)
    archive = write(tmp_path, "a.tar.zst", b"\x28\xb5\x2f\xfd" + gzip.compress(tar_bytes([("a.jpg", b"one")])))
    extract_archive(archive, tmp_path / "out")
    assert files_under(tmp_path / "out") == {"a.jpg": b"one"}


def test_real_zstd_comes_out_whole_and_cut_off_is_refused(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="needs the zstd extra")
    whole = tar_bytes(GOOD)
    frames = [zstandard.ZstdCompressor().compress(part) for part in (whole[:5000], whole[5000:])]
    archive = write(tmp_path, "a.tar.zst", b"".join(frames))
    extract_archive(archive, tmp_path / "whole")
    assert files_under(tmp_path / "whole") == GOOD_FILES
    shutil.rmtree(tmp_path / "whole")
    (tmp_path / "whole.lock").unlink()
    refused(write(tmp_path, "a.tar.zst", b"".join(frames)[:-1000]), "cut off")
    refused(write(tmp_path, "a.tar.zst", frames[0] + b"garbage"), "damaged or cut off")


def test_a_full_folder_is_taken_for_finished_and_an_empty_one_is_not(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.tar", tar_bytes(GOOD))
    (tmp_path / "out").mkdir()
    assert extract_archive(archive, tmp_path / "out").extracted
    (tmp_path / "out" / "top.txt").write_text("mine now")
    again = extract_archive(archive, tmp_path / "out")
    assert (again.files, again.extracted) == (5, False)
    assert (tmp_path / "out" / "top.txt").read_text() == "mine now"


def test_what_was_left_out_is_still_reported_at_the_second_start(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.tar", header(b"link", type=b"2") + header(b".hidden") + header(b"x.jpg") + END)
    first = extract_archive(archive, tmp_path / "out")
    second = extract_archive(archive, tmp_path / "out")
    assert first == ExtractReport(
        tmp_path / "out", files=1, hidden=1, special=1, special_names=["link (symbolic link)"]
    )
    assert second == dataclasses.replace(first, extracted=False)
    for note in ("", "[]", '{"other": 1}'):
        write(tmp_path, "out.report.json", note.encode())
        assert extract_archive(archive, tmp_path / "out") == ExtractReport(tmp_path / "out", extracted=False)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.tar", tar_bytes(GOOD))
    write(tmp_path, "out", b"mine")
    with pytest.raises(DataError, match=r"a file stands where the folder should be in .*out: move it away"):
        extract_archive(archive, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def scandir(path: Path) -> Iterator[os.DirEntry[str]]:
        raise PermissionError(errno.EACCES, "Permission denied")

    archive = write(tmp_path, "a.tar", tar_bytes(GOOD))
    monkeypatch.setattr(archives.os, "scandir", scandir)
    with pytest.raises(DataError, match="cannot look into the folder: no right to write"):
        extract_archive(archive, tmp_path / "out")


@pytest.mark.parametrize(
    ("code", "text"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "no right to write"), (errno.EIO, "I/O|error")]
)
def test_a_disk_error_is_clear_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, text: str
) -> None:
    def fail(descriptor: int, piece: bytes) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(safe_tree, "_write_all", fail)
    archive = write(tmp_path, "a.tar.gz", gzip.compress(tar_bytes(GOOD)))
    error = refused(archive, f"cannot unpack a.tar.gz: .*({text})", DataError)
    assert str(tmp_path / "out") in str(error)
    monkeypatch.undo()
    assert extract_archive(archive, tmp_path / "out").files == 5


def test_a_folder_that_cannot_be_made_is_clear(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.tar", tar_bytes(GOOD))
    write(tmp_path, "file", b"")
    with pytest.raises(DataError, match=r"file stands|cannot unpack a\.tar"):
        extract_archive(archive, tmp_path / "file" / "out")


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(archives.os, "write", lambda descriptor, data: real(descriptor, bytes(data[:7])))
    archive = write(tmp_path, "a.tar", tar_bytes([("a.jpg", b"0123456789" * 5)]))
    extract_archive(archive, tmp_path / "out")
    monkeypatch.undo()
    assert files_under(tmp_path / "out") == {"a.jpg": b"0123456789" * 5}


# Interrupted and together


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.tar", tar_bytes(GOOD))

    def interrupt(done: int, size: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract_archive(archive, tmp_path / "out", progress=interrupt)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "out.lock"]


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_killed_at_any_moment_there_is_no_target_or_a_whole_one(tmp_path: Path) -> None:
    count = 3000
    archive = write(tmp_path, "a.tar", tar_bytes([(f"d{n % 7}/{n}.jpg", b"x" * 1000) for n in range(count)]))
    code = "import sys; from pathlib import Path; from eyespot.data.archives import extract_archive as e; "
    code += "e(Path(sys.argv[1]), Path(sys.argv[2]))"
    target = tmp_path / "out"
    killed_inside = 0
    for wanted in (1, 5, 300, 1200, 2900):
        process = subprocess.Popen([sys.executable, "-c", code, str(archive), str(target)])
        while process.poll() is None and not target.exists():
            # Its own files only: those of the one killed before may still be there.
            own = [folder for folder in os.listdir(tmp_path) if folder.startswith(f"out.tmp-{process.pid}-")]
            if sum(len(files) for folder in own for _, _, files in os.walk(tmp_path / folder)) >= wanted:
                break
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if target.exists():
            assert len(files_under(target)) == count
            shutil.rmtree(target)
        else:
            killed_inside += 1
            assert len(list(tmp_path.glob("out.tmp-*"))) == 1
    assert killed_inside >= 2
    assert extract_archive(archive, target).files == count
    assert len(files_under(target)) == count
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "out", "out.lock", "out.report.json"]


def test_only_leftovers_of_this_target_are_removed(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.tar", tar_bytes(GOOD))
    dead, others = (
        tmp_path / "out.tmp-123-0123abcd",
        ["out.tmp-mine", "out2.tmp-123-0123abcd", "out.tmp-123-0123abcd.x"],
    )
    for folder in (dead, *(tmp_path / name for name in others)):
        folder.mkdir()
        write(folder, "x", b"x")
    extract_archive(archive, tmp_path / "out")
    assert not dead.exists()
    assert all((tmp_path / name / "x").exists() for name in others)


def _extract_and_tell(archive: Path, target: Path, queue: multiprocessing.Queue[bool]) -> None:
    queue.put(extract_archive(archive, target).extracted)


def test_of_several_processes_one_unpacks_and_all_find_it(tmp_path: Path) -> None:
    archive = write(tmp_path, "a.tar", tar_bytes([(f"{number}.jpg", b"x" * 100) for number in range(2000)]))
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_extract_and_tell, args=(archive, tmp_path / "out", queue)) for _ in range(4)]
    for process in processes:
        process.start()
    answers = [queue.get(timeout=180) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(answers) == [False, False, False, True]
    assert len(files_under(tmp_path / "out")) == 2000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "out", "out.lock", "out.report.json"]


@pytest.mark.real
def test_real_pictures_come_out_whole(tmp_path: Path) -> None:
    folders = [Path(part) for part in os.environ.get("EYESPOT_DATA", "").split(os.pathsep) if part]
    folders.append(Path(__file__).parents[2] / ".." / "shared" / "data")
    found = [path for folder in folders for path in sorted(folder.glob("cifar10*.tar.*"))]
    if not found:
        pytest.skip("no cifar10*.tar.* in EYESPOT_DATA or ../shared/data")
    report = extract_archive(found[0], tmp_path / "out")
    pictures = list(report.target.rglob("*.jpg"))
    assert len(pictures) == report.files == 60_000
    assert report.total_bytes == sum(path.stat().st_size for path in pictures)
    assert all(path.read_bytes().endswith(b"\xff\xd9") for path in pictures[::1000])
