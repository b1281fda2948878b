"""Heads: layers in the order that the studies used, their cost, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eyespot.errors import ModelError
from eyespot.models.heads import HeadSpec, build_head, head_notes, head_parameters


def kinds(head: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in head]


def test_a_plain_head_is_one_linear_layer() -> None:
    head = build_head(HeadSpec(), 12, 3)
    assert kinds(head) == ["Linear"]
    assert head(torch.zeros(2, 12)).shape == (2, 3)
    assert HeadSpec().is_linear


def test_dropout_stands_before_the_classifier_where_nothing_is_hidden() -> None:
    assert kinds(build_head(HeadSpec(dropout=0.5), 12, 3)) == ["Dropout", "Linear"]


def test_hidden_layers_have_norm_linear_activation_dropout_in_this_order() -> None:
    spec = HeadSpec(hidden=(8, 4), dropout=0.5, batch_norm=True)
    block = ["BatchNorm1d", "Linear", "ReLU", "Dropout"]
    assert kinds(build_head(spec, 12, 3)) == [*block, *block, "BatchNorm1d", "Linear"]
    assert not spec.is_linear


# Arithmetic of the published heads: trainable parameters as printed there or recomputed from their layers.
@pytest.mark.parametrize(
    ("spec", "inputs", "expected"),
    [
        (HeadSpec("flatten", (512,)), 7 * 7 * 512, 12_845_568 + 5_130),  # gomez2025, head A
        (HeadSpec("gap", (), 0.5), 512, 5_130),  # gomez2025, head B
        # zouari2021: 26,135,370 in all, of which 2 x (100,352 + 256 + 128 + 64) are moving statistics
        (HeadSpec("flatten", (256, 128, 64), 0.5, True), 7 * 7 * 2048, 26_135_370 - 201_600),
        (HeadSpec("flatten"), 7 * 7 * 2048, 1_003_530),
        (HeadSpec("flatten", (512,)), 9 * 9 * 512, 21_239_306),  # culp2021, VGG16 at 288 px
        (HeadSpec("gap", (512,)), 512, 267_786),
        (HeadSpec("gap", (512,)), 1024, 529_930),  # DenseNet121
        (HeadSpec("flatten", (512,)), 8 * 8 * 2048, 67_114_506),  # InceptionV3 at 299 px
    ],
)
def test_parameters_are_those_of_the_published_heads(spec: HeadSpec, inputs: int, expected: int) -> None:
    assert head_parameters(spec, inputs, 10) == expected
    with torch.device("meta"):
        built = build_head(spec, inputs, 10)
    assert sum(parameter.numel() for parameter in built.parameters()) == expected


def test_notes_say_what_flatten_costs_against_gap() -> None:
    note, *more = head_notes(HeadSpec("flatten", (512,)), (512, 7, 7), 25_088, 10)
    assert "12,850,698 parameters" in note
    assert "with gap 267,786" in note
    assert not more
    assert "with flatten 250,890" in head_notes(HeadSpec(), (512, 7, 7), 512, 10)[0]
    assert "flatten" not in head_notes(HeadSpec(), (512, 1, 1), 512, 10)[0]
    (behind,) = head_notes(HeadSpec("flatten"), (288, 2, 2), 1152, 5, average_width=1024)
    assert "with gap 5,125" in behind


def test_linear_layers_on_top_of_each_other_are_warned_about() -> None:
    notes = head_notes(HeadSpec(hidden=(8,), activation="none"), (512, 7, 7), 512, 10)
    assert any(note.startswith("warning: hidden layers without an activation") for note in notes)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"pool": "flaten"}, "did you mean 'flatten'"),
        ({"activation": "rleu"}, "did you mean 'relu'"),
        ({"hidden": (8, 0)}, "widths from 1"),
        ({"dropout": 1.0}, "outside of [0, 1) in the head: use 0"),
    ],
)
def test_a_head_that_cannot_be_is_refused(values: dict[str, object], words: str) -> None:
    with pytest.raises(ModelError) as caught:
        HeadSpec(**values)  # type: ignore[arg-type]
    assert words.lower() in str(caught.value).lower()
