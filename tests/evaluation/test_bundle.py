"""Bundles: what is saved is what is loaded, and what was damaged or made up by a stranger ends in an error."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import nn

from eyespot.data.input_spec import InputSpec
from eyespot.data.transforms import EvalTransform
from eyespot.errors import CheckpointError, DataError, RunError
from eyespot.evaluation import bundle as bundle_module
from eyespot.evaluation.bundle import (
    INFO,
    WEIGHTS,
    boxed_names,
    find_bundle,
    is_bundle,
    load_bundle,
    read_info,
    save_bundle,
)
from eyespot.evaluation.bundle_info import Architecture, BundleInfo, Pretrained, Provenance, check_class_names
from eyespot.models.registry import model_entry, model_names

NewInfo = Callable[..., BundleInfo]
NewModel = Callable[..., nn.Module]


def images(info: BundleInfo, count: int = 4) -> torch.Tensor:
    size = info.input.size_px
    return torch.randn(count, info.input.channels, size, size, generator=torch.Generator().manual_seed(5))


def reseal(folder: Path, **changes: Any) -> None:
    """Write changed values into model.json with a right digest, as somebody hostile would."""
    values = json.loads((folder / INFO).read_text(encoding="utf-8"))
    values.update(changes)
    rest = {key: value for key, value in values.items() if key != "info_sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    values["info_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / INFO).write_text(json.dumps(values), encoding="utf-8")


def put_weights(folder: Path, content: bytes) -> None:
    """Replace the weights, with the right digest in model.json."""
    (folder / WEIGHTS).write_bytes(content)
    reseal(folder, weights_sha256=hashlib.sha256(content).hexdigest())


class TestRoundTrip:
    def test_same_answers_to_the_last_bit(self, tmp_path: Path, new_info: NewInfo, new_model: NewModel) -> None:
        info = new_info()
        model = new_model(info)
        written = save_bundle(tmp_path / "b", model, info)
        loaded, read = load_bundle(tmp_path / "b")
        assert not loaded.training
        with torch.inference_mode():
            assert torch.equal(loaded(images(info)), model(images(info)))
        assert read == written
        filled = {"weights_sha256", "info_sha256", "eval_transform"}
        assert read.model_dump(exclude=filled) == info.model_dump(exclude=filled)
        assert read.class_names == ("cat", "dog", "crème brûlée")
        assert read.input == info.input
        assert read.eval_transform == EvalTransform(info.input).describe()

    @pytest.mark.parametrize("name", model_names())
    def test_every_model_of_the_registry(
        self, name: str, tmp_path: Path, new_info: NewInfo, new_model: NewModel
    ) -> None:
        entry = model_entry(name)
        args: dict[str, Any] = {"width": 4} if "width" in entry.args else {}
        spec = InputSpec(entry.default_size_px, 1, (0.5,), (0.25,))
        info = new_info(architecture=Architecture(name=name, args=args), input=spec)
        model = new_model(info)
        save_bundle(tmp_path / "b", model, info)
        loaded, _ = load_bundle(tmp_path / "b")
        with torch.inference_mode():
            assert torch.equal(loaded(images(info)), model(images(info)))

    def test_all_default_arguments_of_every_model_are_kept(self, new_info: NewInfo, tmp_path: Path) -> None:
        for name in model_names():
            args = dict(model_entry(name).args)
            stored = Architecture.model_validate_json(Architecture(name=name, args=args).model_dump_json())
            assert {key: tuple(v) if isinstance(v, list) else v for key, v in stored.args.items()} == args

    def test_channels_last_weights_are_the_same_weights(
        self, tmp_path: Path, new_info: NewInfo, new_model: NewModel
    ) -> None:
        info = new_info()
        save_bundle(tmp_path / "a", new_model(info), info)
        save_bundle(tmp_path / "b", new_model(info).to(memory_format=torch.channels_last), info)
        assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()

    def test_the_same_content_gives_the_same_bytes(
        self, tmp_path: Path, new_info: NewInfo, new_model: NewModel
    ) -> None:
        for name in "ab":
            save_bundle(tmp_path / name, new_model(new_info()), new_info())
        for file in (WEIGHTS, INFO):
            assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()

    def test_the_random_state_is_left_alone(self, tmp_path: Path, new_info: NewInfo, new_model: NewModel) -> None:
        info = new_info()
        model = new_model(info)
        before = torch.get_rng_state()
        save_bundle(tmp_path / "b", model, info)
        load_bundle(tmp_path / "b")
        assert torch.equal(torch.get_rng_state(), before)

    def test_model_json_is_for_people_too(self, bundle: Path) -> None:
        text = (bundle / INFO).read_text(encoding="utf-8")
        assert "crème brûlée" in text
        values = json.loads(text)
        assert values["format"] == "eyespot bundle"
        assert values["architecture"] == {"name": "spot", "args": {"widths": [4, 6, 8]}}
        assert values["metrics"]["test"] == {
            "n": 100,
            "top1": 0.9,
            "top1_ci95": [0.82, 0.95],
            "views": "mirror",
            "flaw": "",
        }
        assert values["temperature"] == 1.0
        assert values["unknown"] is None
        assert values["weights_sha256"] == hashlib.sha256((bundle / WEIGHTS).read_bytes()).hexdigest()

    def test_other_line_breaks_are_no_damage(self, bundle: Path) -> None:
        content, info = (bundle / INFO).read_bytes(), load_bundle(bundle)[1]
        (bundle / INFO).write_bytes(content.replace(b"\n", b"\r\n"))
        assert load_bundle(bundle)[1] == info

    def test_foreign_weights_and_odd_names_of_files_are_kept(
        self, tmp_path: Path, new_info: NewInfo, new_model: NewModel
    ) -> None:
        provenance = new_info().provenance.model_dump() | {"dataset": "photos\udcff", "train_seconds": 3}
        info = new_info(
            pretrained=Pretrained(source="timm/x", licence="Apache-2.0"), provenance=Provenance(**provenance)
        )
        save_bundle(tmp_path / "b", new_model(info), info)
        read = load_bundle(tmp_path / "b")[1]
        assert read.pretrained == Pretrained(source="timm/x", licence="Apache-2.0")
        assert read.provenance.dataset == "photos?"
        assert read.provenance.train_seconds == 3.0


class TestHalf:
    def test_half_of_the_bytes_and_nearly_the_same_answers(
        self, tmp_path: Path, new_info: NewInfo, new_model: NewModel
    ) -> None:
        args = {"widths": [16, 32, 32]}
        whole = new_info(architecture=Architecture(name="spot", args=args))
        half = whole.model_copy(update={"weights_dtype": "float16"})
        model = new_model(whole)
        save_bundle(tmp_path / "whole", model, whole)
        save_bundle(tmp_path / "half", model, half)
        sizes = [(tmp_path / name / WEIGHTS).stat().st_size for name in ("half", "whole")]
        assert sizes[0] < 0.55 * sizes[1]
        loaded, info = load_bundle(tmp_path / "half")
        assert info.weights_dtype == "float16"
        assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32, torch.int64}
        with torch.inference_mode():
            expected, found = model(images(whole)), loaded(images(whole))
        torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
        stored = load((tmp_path / "half" / WEIGHTS).read_bytes())
        assert {tensor.dtype for tensor in stored.values() if tensor.ndim > 1} == {torch.float16}
        assert {tensor.dtype for tensor in stored.values() if tensor.ndim == 1} == {torch.float32}

    def test_stored_again_it_is_the_same(self, tmp_path: Path, new_info: NewInfo, new_model: NewModel) -> None:
        info = new_info(weights_dtype="float16")
        save_bundle(tmp_path / "a", new_model(info), info)
        save_bundle(tmp_path / "b", *load_bundle(tmp_path / "a"))
        assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()

    def test_what_float16_cannot_hold(self, tmp_path: Path, new_info: NewInfo, new_model: NewModel) -> None:
        info = new_info(weights_dtype="float16")
        model = new_model(info)
        model.get_classifier().weight.data[0, 0] = 1e6  # type: ignore[operator]
        with pytest.raises(CheckpointError, match=r"'head\.weight' has values over 65,504.*: store float32"):
            save_bundle(tmp_path / "b", model, info)
        assert not os.listdir(tmp_path)

    def test_types_that_model_json_does_not_declare(
        self, tmp_path: Path, new_info: NewInfo, new_model: NewModel
    ) -> None:
        info = new_info(weights_dtype="float16")
        save_bundle(tmp_path / "b", new_model(info), info)
        reseal(tmp_path / "b", weights_dtype="float32")
        with pytest.raises(CheckpointError, match=r"float16 .* where the architecture has float32"):
            load_bundle(tmp_path / "b")


def test_a_bundle_of_an_earlier_version_lacks_the_newer_fields(bundle: Path) -> None:
    expected = load_bundle(bundle)[1]
    values = json.loads((bundle / INFO).read_text(encoding="utf-8"))
    del values["weights_dtype"]
    (bundle / INFO).write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match="changed after it was written"):
        load_bundle(bundle)
    reseal(bundle)
    values["info_sha256"] = json.loads((bundle / INFO).read_text(encoding="utf-8"))["info_sha256"]
    (bundle / INFO).write_text(json.dumps(values), encoding="utf-8")
    assert load_bundle(bundle)[1].weights_dtype == expected.weights_dtype


class TestTheBox:
    @pytest.fixture
    def box(self, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Return a box with one model in it."""
        box = bundle.parent / "box"
        shutil.copytree(bundle, box / "spot-cifar10")
        (box / "notes").mkdir()
        monkeypatch.setattr(bundle_module, "_BOX", box)
        return box

    def test_a_name_stands_for_the_model_in_the_box(self, box: Path) -> None:
        assert boxed_names() == ["spot-cifar10"]
        assert find_bundle("spot-cifar10") == box / "spot-cifar10"
        assert find_bundle(Path("spot-cifar10")) == box / "spot-cifar10"

    def test_what_is_on_the_disk_comes_first(
        self, box: Path, tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        shutil.copytree(bundle, tmp_path / "spot-cifar10" / "bundle")
        assert find_bundle("spot-cifar10") == Path("spot-cifar10/bundle")
        shutil.rmtree(tmp_path / "spot-cifar10" / "bundle")
        with pytest.raises(RunError, match=r"neither a run nor a bundle.*: give a folder .*, or spot-cifar10"):
            find_bundle("spot-cifar10")

    @pytest.mark.parametrize("name", ["notes", "../box/spot-cifar10/nothing", "box/spot-cifar10/model.json"])
    def test_nothing_else_is_taken_from_it(self, box: Path, name: str) -> None:
        with pytest.raises(RunError):
            find_bundle(name)

    def test_a_name_that_is_nearly_right(self, box: Path) -> None:
        with pytest.raises(RunError, match=r"no such folder\. Did you mean 'spot-cifar10'\? in spot-cifar01"):
            find_bundle("spot-cifar01")

    def test_without_a_box(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bundle_module, "_BOX", tmp_path / "nowhere")
        assert boxed_names() == []


class TestSaving:
    def test_two_files_and_nothing_beside(self, bundle: Path) -> None:
        assert sorted(os.listdir(bundle)) == [INFO, WEIGHTS]
        assert os.listdir(bundle.parent) == ["bundle"]
        assert is_bundle(bundle)
        assert not is_bundle(bundle.parent)

    def test_a_second_save_replaces_the_first(self, bundle: Path, new_info: NewInfo, new_model: NewModel) -> None:
        info = new_info(class_names=("x", "y", "z"))
        save_bundle(bundle, new_model(info, seed=9), info)
        assert load_bundle(bundle)[1].class_names == ("x", "y", "z")
        assert os.listdir(bundle.parent) == ["bundle"]

    @pytest.mark.parametrize("call", range(1, 13))
    def test_killed_at_any_call_there_is_a_whole_bundle(
        self, call: int, bundle: Path, new_info: NewInfo, new_model: NewModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Killed(BaseException):
            pass

        calls = 0

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def wrapper(*args: Any, **kwargs: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == call:
                    raise Killed
                return real(*args, **kwargs)

            return wrapper

        new = new_info(class_names=("x", "y", "z"))
        model = new_model(new, seed=9)
        with monkeypatch.context() as patch:
            patch.setattr(bundle_module.os, "fsync", dying(os.fsync))
            patch.setattr(bundle_module.os, "rename", dying(os.rename))
            # What is dead cleans nothing up; at the ends, removing the old bundle is one of the calls.
            patch.setattr(bundle_module.shutil, "rmtree", dying(lambda *args, **kwargs: None))
            try:
                save_bundle(bundle, model, new)
                assert calls < call
            except Killed:
                pass
        assert load_bundle(bundle)[1].class_names in (new.class_names, new_info().class_names)
        save_bundle(bundle, model, new)
        assert load_bundle(bundle)[1].class_names == new.class_names
        assert os.listdir(bundle.parent) == ["bundle"]

    def test_a_full_disk_leaves_the_old_bundle_and_no_half_one(
        self, bundle: Path, new_info: NewInfo, new_model: NewModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        before = (bundle / INFO).read_bytes()
        monkeypatch.setattr(bundle_module.os, "fsync", full)
        with pytest.raises(RunError, match=r"cannot write the bundle \(No space left on device\) in .*bundle: free"):
            save_bundle(bundle, new_model(new_info(), seed=3), new_info())
        assert os.listdir(bundle.parent) == ["bundle"]
        assert (bundle / INFO).read_bytes() == before

    def test_the_users_folder_is_not_replaced(self, tmp_path: Path, new_info: NewInfo, new_model: NewModel) -> None:
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "cat.jpg").write_bytes(b"irreplaceable")
        with pytest.raises(RunError, match=r"other files than a bundle's in .*photos: choose another or a new folder"):
            save_bundle(tmp_path / "photos", new_model(new_info()), new_info())
        with pytest.raises(RunError, match="other files"):
            save_bundle(tmp_path / "photos" / "cat.jpg", new_model(new_info()), new_info())
        assert (tmp_path / "photos" / "cat.jpg").read_bytes() == b"irreplaceable"
        (tmp_path / "empty").mkdir()
        save_bundle(tmp_path / "empty", new_model(new_info()), new_info())
        assert is_bundle(tmp_path / "empty")

    def test_a_model_of_another_architecture(self, tmp_path: Path, new_info: NewInfo, new_model: NewModel) -> None:
        other = new_info(architecture=Architecture(name="spot", args={"widths": [4, 6, 10]}))
        with pytest.raises(CheckpointError, match="the weights do not fit: 'groups"):
            save_bundle(tmp_path / "b", new_model(new_info()), other)
        assert os.listdir(tmp_path) == []

    def test_nan_weights(self, tmp_path: Path, new_info: NewInfo, new_model: NewModel) -> None:
        model = new_model(new_info())
        next(model.parameters()).data.view(-1)[3] = float("nan")
        with pytest.raises(CheckpointError, match="holds NaN or infinity"):
            save_bundle(tmp_path / "b", model, new_info())


class TestClassNames:
    @pytest.mark.parametrize(
        ("name", "problem"),
        [
            ("", "is empty"),
            ("  ", "is empty"),
            ("dog", "is there twice"),
            ("..", "is a path"),
            ("../../etc/passwd", "is a path"),
            ("a/../b", "is a path"),
            ("/etc", "is a path"),
            ("..\\x", "is a path"),
            ("\\\\host\\share", "is a path"),
            ("C:\\x", "is a path"),
            ("a\nb", "has control characters"),
            ("a\x00", "has control characters"),
            ("\x1b[31m", "has control characters"),
            ("x" * 1001, "has more than 1000 characters"),
        ],
    )
    def test_refused(self, name: str, problem: str, new_info: NewInfo) -> None:
        with pytest.raises(DataError, match=f"class name .* {problem} in the class names: rename the class"):
            check_class_names(["dog", name])
        with pytest.raises(ValidationError, match=problem):
            new_info(class_names=("dog", "cat", name))

    def test_what_people_call_their_classes(self) -> None:
        check_class_names(["n/a", "cat (black)", "日本", "a.b", "...", "5", "Ångström", "🐕", "pick-up"])

    def test_names_and_number_belong_together(self, new_info: NewInfo) -> None:
        with pytest.raises(ValidationError, match="2 class names for 3 classes"):
            new_info(class_names=("a", "b"))


class TestDamage:
    @pytest.mark.parametrize("file", [WEIGHTS, INFO])
    def test_every_flipped_bit_is_found(self, file: str, bundle: Path) -> None:
        info = read_info(bundle)
        content = (bundle / file).read_bytes()
        rng = random.Random(0)
        for _ in range(200):
            place, bit = rng.randrange(len(content)), rng.randrange(8)
            flipped = bytearray(content)
            flipped[place] ^= 1 << bit
            (bundle / file).write_bytes(flipped)
            try:
                same = load_bundle(bundle)[1] == info
            except CheckpointError:
                continue
            # `1e-05` and `1E-05` are the same number: a changed byte that changes nothing may pass.
            assert same
            assert file == INFO

    @pytest.mark.parametrize("file", [WEIGHTS, INFO])
    def test_truncated_anywhere(self, file: str, bundle: Path) -> None:
        content = (bundle / file).read_bytes()
        for length in [0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 2]:
            (bundle / file).write_bytes(content[:length])
            with pytest.raises(CheckpointError):
                load_bundle(bundle)

    def test_damaged_weights_say_so(self, bundle: Path) -> None:
        content = bytearray((bundle / WEIGHTS).read_bytes())
        content[-5] ^= 4
        (bundle / WEIGHTS).write_bytes(content)
        with pytest.raises(CheckpointError, match=r"weights are damaged, .* in .*weights.safetensors: take the bundle"):
            load_bundle(bundle)

    def test_appended_bytes(self, bundle: Path) -> None:
        with open(bundle / WEIGHTS, "ab") as file:
            file.write(b"x")
        with pytest.raises(CheckpointError, match="weights are damaged"):
            load_bundle(bundle)

    def test_weights_of_another_bundle(self, bundle: Path, new_info: NewInfo, new_model: NewModel) -> None:
        other = bundle.with_name("other")
        save_bundle(other, new_model(new_info(), seed=7), new_info())
        shutil.copy(other / WEIGHTS, bundle / WEIGHTS)
        with pytest.raises(CheckpointError, match=r"weights are damaged, or belong to another model\.json"):
            load_bundle(bundle)

    def test_an_edited_class_list(self, bundle: Path) -> None:
        text = (bundle / INFO).read_text(encoding="utf-8")
        (bundle / INFO).write_text(text.replace('"cat"', '"cow"'), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"model\.json was changed after it was written"):
            load_bundle(bundle)

    @pytest.mark.parametrize("file", [WEIGHTS, INFO])
    def test_a_missing_file(self, file: str, bundle: Path) -> None:
        (bundle / file).unlink()
        with pytest.raises(CheckpointError, match=rf"cannot read \(No such file.*{file}: a bundle is a folder with"):
            load_bundle(bundle)

    @pytest.mark.parametrize("file", [WEIGHTS, INFO])
    def test_a_folder_in_its_place(self, file: str, bundle: Path) -> None:
        (bundle / file).unlink()
        (bundle / file).mkdir()
        with pytest.raises(CheckpointError, match="not a file"):
            load_bundle(bundle)

    @pytest.mark.skipif(sys.platform == "win32", reason="Windows has no named pipes in folders")
    def test_a_pipe_in_its_place_is_not_waited_for(self, bundle: Path) -> None:
        (bundle / WEIGHTS).unlink()
        os.mkfifo(bundle / WEIGHTS)
        with pytest.raises(CheckpointError, match="not a file"):
            load_bundle(bundle)


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.canary,))


class TestHostile:
    def test_a_pickle_is_not_opened(self, bundle: Path, tmp_path: Path) -> None:
        canary = tmp_path / "canary"
        content = pickle.dumps(Bomb(canary))
        (bundle / WEIGHTS).write_bytes(content)
        with pytest.raises(CheckpointError, match="weights are damaged"):
            load_bundle(bundle)
        put_weights(bundle, content)
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load_bundle(bundle)
        torch.save(Bomb(canary), bundle / WEIGHTS)
        put_weights(bundle, (bundle / WEIGHTS).read_bytes())
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load_bundle(bundle)
        assert not canary.exists()

    @pytest.mark.parametrize(
        "name", ["os:system", "eyespot.evaluation.bundle:save_bundle", "../spot", "", "__import__('os')", "spot\x00"]
    )
    def test_an_architecture_is_a_name_of_the_registry(self, name: str, bundle: Path) -> None:
        import timm  # noqa: F401  # a name is looked up there too

        import eyespot.models.pretrained  # noqa: F401

        modules = set(sys.modules)
        reseal(bundle, architecture={"name": name, "args": {}})
        with pytest.raises(CheckpointError, match="the declared architecture cannot be built"):
            load_bundle(bundle)
        assert set(sys.modules) == modules

    @pytest.mark.parametrize(
        ("args", "words"),
        [
            ({"widths": [16384, 16384, 16384]}, r"do not fit.* where the architecture has float32 \(16384,"),
            ({"widths": [10**9, 10**9, 10**9]}, "widths is out of bounds"),
            ({"widths": [2**63, 1, 1]}, "widths is out of bounds"),
            ({"widths": [-1, 4, 4]}, r"cannot be built \(widths are"),
            ({"widths": [0, 0, 0]}, r"cannot be built \(widths are"),
            ({"widths": list(range(1000))}, "widths is too long"),
            ({"widths": "x" * 10_000}, "widths is too long"),
            ({"widths": [float(2**60), 1.0, 1.0]}, "widths is out of bounds"),
            ({"widths": {"a": 1}}, r"not a valid model\.json \(architecture\.args\.widths"),
            ({"no_such": 1}, r"cannot be built \(Unknown argument 'no_such'"),
            ({"self": 1}, r"cannot be built \(Unknown argument 'self'"),
            ({"num_classes": 10}, r"cannot be built \(Unknown argument 'num_classes'"),
            ({f"a{i}": 1 for i in range(1000)}, "at most 64 items"),
        ],
    )
    @pytest.mark.skipif(sys.platform != "linux", reason="other systems do not bound address space")
    def test_declared_sizes_cost_no_memory(self, args: dict[str, Any], words: str, bundle: Path) -> None:
        import resource

        load_bundle(bundle)  # what is imported for it takes room as well
        reseal(bundle, architecture={"name": "spot", "args": args})
        before = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 1024**2, before[1]))
        try:
            with pytest.raises(CheckpointError, match=words):
                load_bundle(bundle)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)

    def test_large_pictures_and_many_classes(self, bundle: Path) -> None:
        values = json.loads((bundle / INFO).read_text(encoding="utf-8"))
        reseal(bundle, input=values["input"] | {"size_px": 10**6})
        with pytest.raises(CheckpointError, match="images of 1000000 px, at most 4096"):
            load_bundle(bundle)
        reseal(bundle, input=values["input"], num_classes=10**9)
        with pytest.raises(CheckpointError, match="num_classes"):
            load_bundle(bundle)

    def test_a_weights_file_that_is_too_large_is_not_read(self, bundle: Path) -> None:
        with open(bundle / WEIGHTS, "r+b") as file:
            file.truncate(2**26)
        with pytest.raises(CheckpointError, match=r"67,108,864 bytes where at most [\d,]+ are expected"):
            load_bundle(bundle)

    def test_a_model_json_that_is_too_large_is_not_read(self, bundle: Path) -> None:
        with open(bundle / INFO, "r+b") as file:
            file.truncate(2**26)
        with pytest.raises(CheckpointError, match="bytes where at most"):
            load_bundle(bundle)

    @pytest.mark.parametrize("depth", [100, 200_000])
    @pytest.mark.parametrize("opening", ["[", '{"a":'])
    def test_deep_nesting(self, depth: int, opening: str, bundle: Path) -> None:
        (bundle / INFO).write_text('{"format": "eyespot bundle", "format_version": 1, "x": ' + opening * depth)
        with pytest.raises(CheckpointError, match=r"not the model\.json of an eyespot bundle"):
            load_bundle(bundle)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{}",
            "[]",
            "null",
            "3",
            "\x00",
            "\ufeff{}",
            '{"format": "onnx"}',
            '{"architectures": ["ViT"]}',
            "{'a': 1}",
        ],
    )
    def test_foreign_json(self, text: str, bundle: Path) -> None:
        (bundle / INFO).write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"not the model\.json of an eyespot bundle"):
            load_bundle(bundle)

    @pytest.mark.parametrize(
        "changes",
        [
            {"extra": 1},
            {"class_names": ["cat", "dog", "../../x"]},
            {"class_names": ["cat", "dog", "dog"]},
            {"class_names": ["cat", "dog"]},
            {"class_names": "abc"},
            {"class_names": [1, 2, 3]},
            {"temperature": 0},
            {"temperature": "1"},
            {"temperature": -1.0},
            {"views": "all"},
            {"unknown_threshold": 0.5},
            {"format_version": 0},
            {"input": {}},
            {"input": None},
            {"metrics": {"test": {"n": 0, "top1": 2, "top1_ci95": [0, 1]}}},
            {"metrics": {"all": {}}},
            {"provenance": None},
            {"architecture": "spot"},
            {"pretrained": {"source": "x", "licence": "MIT", "url": "https://example.org"}},
        ],
        ids=str,
    )
    def test_every_value_is_checked(self, changes: dict[str, Any], bundle: Path) -> None:
        reseal(bundle, **changes)
        with pytest.raises(CheckpointError, match=r"model\.json"):
            load_bundle(bundle)

    @pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
    def test_numbers_that_are_none(self, value: str, bundle: Path) -> None:
        text = (bundle / INFO).read_text(encoding="utf-8")
        (bundle / INFO).write_text(text.replace('"temperature": 1.0', f'"temperature": {value}'), encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"model\.json"):
            load_bundle(bundle)

    def test_a_bundle_of_a_newer_eyespot(self, bundle: Path) -> None:
        reseal(bundle, format_version=7, something_new=True)
        with pytest.raises(CheckpointError, match=r"format version 7, this eyespot \(.*\) reads up to 2 .*: update it"):
            load_bundle(bundle)

    def test_another_class_list(self, bundle: Path) -> None:
        reseal(bundle, class_names=["a", "b", "c", "d"], num_classes=4)
        with pytest.raises(CheckpointError, match=r"'head.weight' is float32 \(3, 8\) where .* has float32 \(4, 8\)"):
            load_bundle(bundle)

    @pytest.mark.parametrize("problem", ["missing", "extra", "path", "shape", "dtype", "nan", "inf"])
    def test_tensors_that_do_not_belong_there(self, problem: str, bundle: Path) -> None:
        tensors = load((bundle / WEIGHTS).read_bytes())
        if problem == "missing":
            del tensors["head.weight"]
            expected = "1 tensors are missing, the first is 'head.weight'"
        elif problem in ("extra", "path"):
            name = "extra" if problem == "extra" else "../../evil"
            tensors[name] = torch.zeros(1)
            expected = f"1 tensors are of another architecture, the first is '{name}'"
        elif problem == "shape":
            tensors["head.weight"] = tensors["head.weight"].t().contiguous()
            expected = r"'head.weight' is float32 \(8, 3\) where the architecture has float32 \(3, 8\)"
        elif problem == "dtype":
            tensors["head.weight"] = tensors["head.weight"].half()
            expected = "'head.weight' is float16"
        else:
            tensors["head.weight"][0, 0] = float(problem)
            expected = "'head.weight' holds NaN or infinity"
        put_weights(bundle, save(tensors))
        with pytest.raises(CheckpointError, match=f"the weights do not fit: {expected}"):
            load_bundle(bundle)

    @pytest.mark.parametrize(
        "header",
        [
            b"{}",
            b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}',
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
            b"[" * 1000,
        ],
    )
    def test_lying_safetensors_headers(self, header: bytes, bundle: Path) -> None:
        put_weights(bundle, len(header).to_bytes(8, "little") + header + b"\x00" * 4)
        with pytest.raises(CheckpointError):
            load_bundle(bundle)

    def test_a_header_length_beyond_the_file(self, bundle: Path) -> None:
        put_weights(bundle, (2**63).to_bytes(8, "little") + b"{}")
        with pytest.raises(CheckpointError, match="not a safetensors file"):
            load_bundle(bundle)
