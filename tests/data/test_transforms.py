"""Each operation against an independent reference; the pipeline's order, identities, guards and determinism."""

import json
import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps
from pydantic import ValidationError
from scipy import ndimage, stats
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as vision

from eyespot.augment_config import AugmentConfig
from eyespot.data import augmentations as ops
from eyespot.data.input_spec import InputSpec
from eyespot.data.mixing import _beta, _cutmix_box, mix_batch
from eyespot.data.resizing import Interpolation
from eyespot.data.transforms import EvalTransform, TrainTransform, build_train_transform
from eyespot.errors import ConfigError, DataError, UsageError
from eyespot.opening import load_recipe

from .without_gpu import Traffic, no_gpu

RGB = InputSpec(16, 3, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
GREY = InputSpec(16, 1, (0.29,), (0.35,))
# The ImageDataGenerator of the study gomez2025.
GOMEZ2025 = AugmentConfig(
    flip="random",
    rotate_degrees=15,
    width_shift=0.12,
    height_shift=0.12,
    zoom=0.1,
    brightness=(0.9, 1.1),
    shear_degrees=10,
    channel_shift=0.1,
    fill="nearest",
)


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(batch=4, channels=3, height=16, width=16, seed=0):
    made = torch.randint(0, 256, (batch, height, width, channels), dtype=torch.uint8, generator=gen(seed))
    return made.permute(0, 3, 1, 2)


def dice(batch, seed=0):
    return ops.Dice(batch, gen(seed))


def apply(transform, images, *, seed=0, epoch=0, method="__call__"):
    labels, indices = torch.zeros(len(images), dtype=torch.int64), torch.arange(len(images))
    return getattr(transform, method)(images, labels, generator=gen(seed), epoch=epoch, indices=indices)


def still(batch, **changed):
    """Parameters of mirror_and_move that change nothing, but for those named."""
    no, zero = torch.zeros(batch, dtype=torch.bool), torch.zeros(batch, dtype=torch.int64)
    return {"mirror": no, "upside_down": no, "down_px": zero, "right_px": zero, "padding": "reflect", **changed}


# --- InputSpec and EvalTransform ------------------------------------------------------------------------------------


def test_input_spec_survives_json():
    spec = InputSpec(32, 3, (0.1, 0.2, 0.3), (1.0, 0.5, 0.25), "pad", "lanczos")
    assert InputSpec.from_dict(json.loads(json.dumps(spec.as_dict()))) == spec


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"size_px": 0}, "size_px = 0 is not a whole number of pixels from 1"),
        ({"size_px": True}, "size_px = True"),
        ({"size_px": 32.0}, "size_px = 32.0"),
        ({"channels": 4}, "channels = 4 is not 1 (grey) or 3 (RGB)"),
        ({"mean": [0.5]}, "mean = (0.5,) is not a tuple of 3, one number per channel"),
        ({"mean": 0.5}, "mean = 0.5 is not a tuple of 3"),
        ({"mean": [125.3, 122.9, 113.9]}, "divide statistics of 0..255 pixels by 255"),
        ({"std": [0.2, 0.0, 0.2]}, "numbers over 0 to 255"),
        ({"std": [0.2, float("nan"), 0.2]}, "std = (0.2, nan, 0.2)"),
        ({"std": [0.2, "x", 0.2]}, "std = (0.2, 'x', 0.2)"),
        (
            {"fit": "squish"},
            "fit = 'squish' is not one of squash, crop, pad, short-side in input spec: use one of them. Did you mean",
        ),
        ({"interpolation": None}, "interpolation = None is not one of nearest, bilinear, bicubic, lanczos"),
        ({"sise": 3}, "unknown key 'sise' in input spec: allowed are size_px, channels"),
    ],
)
def test_input_spec_names_the_wrong_value(change, words):
    with pytest.raises(DataError) as caught:
        InputSpec.from_dict({**RGB.as_dict(), **change})
    assert words in str(caught.value)


def test_input_spec_names_missing_keys():
    with pytest.raises(DataError, match="no mean, std in input spec"):
        InputSpec.from_dict({"size_px": 8, "channels": 1, "fit": "pad", "interpolation": "nearest"})


@pytest.mark.parametrize("spec", [RGB, GREY])
def test_eval_transform_equals_numpy(spec):
    images = pixels(5, spec.channels)
    mean, std = (np.array(values).reshape(1, -1, 1, 1) for values in (spec.mean, spec.std))
    expected = (images.numpy().astype(np.float64) / 255 - mean) / std
    result = EvalTransform(spec)(images)
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result.numpy(), expected, atol=2e-6)
    layout = torch.channels_last if spec.channels > 1 else torch.contiguous_format
    assert result.is_contiguous(memory_format=layout)


@given(st.integers(1, 40), st.integers(0, 39))
@settings(max_examples=30, deadline=None)
def test_a_picture_is_the_same_to_the_last_bit_in_every_batch_and_layout(batch, place):
    images = pixels(batch)
    place %= batch
    whole = EvalTransform(RGB)(images)
    assert torch.equal(whole[place], EvalTransform(RGB)(images[place : place + 1])[0])
    assert torch.equal(whole, EvalTransform(RGB)(images.contiguous()))
    assert torch.equal(whole[::2], EvalTransform(RGB)(images[::2]))


@pytest.mark.parametrize("make", [EvalTransform, lambda spec: TrainTransform(AugmentConfig(), spec)])
@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(2, 3, 16, 16), "pixels of type float32, which look as if they were already normalised"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.int64), "pixels of type int64"),
        (pixels(2, 1), r"pixels of shape (2, 1, 16, 16) where (B, 3, 16, 16) is needed"),
        (pixels(2, 3, 16, 15), "pixels of shape (2, 3, 16, 15)"),
        (pixels(2)[0], "pixels of shape (3, 16, 16)"),
    ],
)
def test_transforms_refuse_what_is_not_pixels_of_the_spec(make, images, words):
    transform = make(RGB)
    with pytest.raises(DataError) as caught:
        transform(images) if isinstance(transform, EvalTransform) else apply(transform, images)
    assert words in str(caught.value)


def test_normalised_images_cannot_be_augmented():
    with pytest.raises(DataError, match="already normalised"):
        apply(build_train_transform(GOMEZ2025, RGB), EvalTransform(RGB)(pixels()))


def test_train_transform_counts_labels_and_indices():
    transform = TrainTransform(AugmentConfig(), RGB)
    with pytest.raises(DataError, match="4 images, 3 labels and 4 indices in training batch"):
        transform(pixels(), torch.zeros(3), generator=gen(), epoch=0, indices=torch.arange(4))


def test_eval_transform_describes_itself():
    words = EvalTransform(InputSpec(224, 3, (0.5, 0.4, 0.3), (0.2, 0.2, 0.2), "crop", "bilinear")).describe()
    assert words == (
        "RGB pictures of 224 x 224 px (short side resized and the middle square kept, bilinear interpolation); then"
        " pixels / 255, minus mean (0.5000, 0.4000, 0.3000), divided by std (0.2000, 0.2000, 0.2000)"
    )
    assert EvalTransform(GREY).describe().startswith("grey pictures of 16 x 16 px")


# --- the pipeline ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "off",
    [
        {},
        {"padding_mode": "zeros", "fill": "zeros", "randaugment_magnitude": 30},
        {"brightness": (1, 1), "contrast": (1, 1), "saturation": (1, 1), "hue": 0, "rotate_degrees": 0, "zoom": 0},
        {"translate_px": 0, "cutout_px": 0, "random_resized_crop": 0, "grayscale": 0, "random_erasing": 0},
    ],
)
@pytest.mark.parametrize("spec", [RGB, GREY])
def test_zero_strength_is_exactly_evaluation(spec, off):
    images = pixels(3, spec.channels)
    transform = build_train_transform(off, spec)
    assert torch.equal(apply(transform, images), EvalTransform(spec)(images))
    assert torch.equal(apply(transform, images, method="pixels"), images)
    assert transform.describe().startswith("no augmentation; then pixels / 255")


def test_preview_owns_its_memory():
    images = pixels()
    preview = apply(build_train_transform({}, RGB), images, method="pixels")
    preview.zero_()
    assert images.any()


def config_strategy(channels):
    def factors():
        return st.tuples(st.floats(0, 1), st.floats(1, 2))

    fields = {
        "flip": st.sampled_from(["none", "random", "alternating"]),
        "vertical_flip": st.booleans(),
        "translate_px": st.integers(0, 7),
        "padding_mode": st.sampled_from(["reflect", "zeros", "edge"]),
        "random_resized_crop": st.floats(0, 0.99),
        "rotate_degrees": st.floats(0, 180),
        "zoom": st.floats(0, 0.9),
        "shear_degrees": st.floats(0, 60),
        "width_shift": st.floats(0, 1),
        "height_shift": st.floats(0, 1),
        "fill": st.sampled_from(["reflect", "nearest", "zeros"]),
        "auto": st.sampled_from(["none", "randaugment", "trivialaugment"]),
        "randaugment_num_ops": st.integers(1, 3),
        "randaugment_magnitude": st.integers(0, 30),
        "channel_shift": st.floats(0, 1),
        "brightness": factors(),
        "contrast": factors(),
        "cutout_px": st.integers(0, 7),
        "random_erasing": st.floats(0, 1),
    }
    if channels == 3:
        fields |= {"saturation": factors(), "hue": st.floats(0, 0.5), "grayscale": st.floats(0, 1)}
    return st.fixed_dictionaries({}, optional=fields)


@given(st.data(), st.sampled_from([1, 3]), st.integers(1, 9), st.integers(0, 2**32), st.integers(0, 3))
@settings(max_examples=150, deadline=None)
def test_any_settings_keep_shape_range_input_and_determinism(data, channels, batch, seed, epoch):
    spec = InputSpec(9, channels, (0.4,) * channels, (0.3,) * channels)
    transform = build_train_transform(data.draw(config_strategy(channels)), spec, seed=seed)
    images = pixels(batch, channels, 9, 9, seed % 1000)
    before, global_state = images.clone(), torch.get_rng_state()

    result = apply(transform, images, seed=seed, epoch=epoch)

    assert result.dtype == torch.float32
    assert result.shape == images.shape
    assert result.is_contiguous(memory_format=torch.channels_last)
    back = result * 0.3 * 255 + 0.4 * 255
    assert back.isfinite().all()
    assert back.min() > -1e-2
    assert back.max() < 255.01
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(apply(transform, images, seed=seed, epoch=epoch), result)
    preview = apply(transform, images, seed=seed, epoch=epoch, method="pixels")
    assert preview.dtype == torch.uint8
    assert (preview.float() - back).abs().max() <= 0.51


def test_thread_count_does_not_change_the_result():
    transform = build_train_transform(
        {**GOMEZ2025.model_dump(), "auto": "trivialaugment", "hue": 0.1, "contrast": (0.5, 1.5)},
        InputSpec(32, 3, RGB.mean, RGB.std),
    )
    images, threads = pixels(64, 3, 32, 32), torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(apply(transform, images))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["fast", "dll2018", "gomez2025-vgg", "strong"])
def test_a_training_batch_goes_to_a_gpu_in_one_copy_that_nobody_waits_for(recipe):
    config = load_recipe(recipe, {}).augment
    spec = InputSpec(32, 3, RGB.mean, RGB.std, model_px=48)
    with no_gpu():
        images = torch.empty(8, 32, 32, 3, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
        labels = torch.zeros(8, dtype=torch.int64, device="cuda")
        for step in range(2):  # constants are copied with the first batch
            with Traffic() as traffic:
                transform = build_train_transform(config, spec)
                shown = transform(images, labels, generator=gen(), epoch=0, indices=labels)
                mix_batch(shown, F.one_hot(labels, 4).float(), mixup_alpha=0, cutmix_alpha=0, generator=gen())
            assert shown.device.type == "cuda"
            assert traffic.copies == (transform.config != AugmentConfig())
            assert step == 0 or not traffic.waited


@pytest.mark.parametrize("place", [1, *range(6, 14)])
def test_operations_of_a_policy_do_not_wait_for_a_gpu(place):
    with no_gpu():
        images = torch.empty(8, 16, 16, 3, dtype=torch.uint8, device="cuda").permute(0, 3, 1, 2)
        chosen, strengths = torch.full((8,), place, device="cuda"), torch.ones(8, device="cuda")
        groups = {place: torch.arange(3, device="cuda")}
        for step in range(2):
            with Traffic() as traffic:
                ops.apply_auto_ops(images, chosen, strengths, "reflect", groups=groups)
            assert step == 0 or not traffic.waited + traffic.copies


def test_evaluation_keeps_its_constants_on_a_gpu():
    with no_gpu():
        images = torch.empty(8, 3, 16, 16, dtype=torch.uint8, device="cuda")
        transform = EvalTransform(RGB)
        transform(images)
        with Traffic() as traffic:
            transform(images)
        assert not traffic.waited + traffic.copies


def test_what_goes_to_a_gpu_in_one_piece_comes_out_as_it_was():
    numbers = {
        "coin": torch.rand(5, generator=gen()) < 0.5,
        "row": torch.arange(-2, 3),
        "matrix": torch.rand(5, 2, 3, generator=gen()).transpose(1, 2),
        "none": torch.zeros(0, dtype=torch.int64),
        "factor": torch.rand(5, generator=gen()),
    }
    found = ops.parted(ops.joined(numbers), numbers)
    assert found.keys() == numbers.keys()
    for name, value in numbers.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_what_is_kept_for_a_device_can_be_trained_with():
    ops.constant.cache_clear()
    with torch.inference_mode():
        assert not ops.constant((1.0, 2.0), torch.device("cpu")).is_inference()
        EvalTransform(RGB)(pixels())
    images = EvalTransform(RGB)(pixels()).requires_grad_()
    images.sum().backward()
    assert images.grad is not None


ACTIVE = {
    "flip": ("random", "mirrored left-right with probability 0.5"),
    "vertical_flip": (True, "turned upside down with probability 0.5"),
    "translate_px": (3, "shifted by up to 3 px each way (uncovered: mirrored picture)"),
    "random_resized_crop": (0.35, "cropped to 35 to 100 % of the area"),
    "rotate_degrees": (15, "rotated by up to 15 degrees"),
    "width_shift": (0.12, "shifted sideways by up to 0.12 of the width"),
    "height_shift": (0.13, "shifted up or down by up to 0.13 of the height"),
    "shear_degrees": (10, "sheared by up to 10 degrees"),
    "zoom": (0.1, "0.9 to 1.1 of width and height shown at full size"),
    "auto": ("randaugment", "RandAugment, 2 of 14 operations of strength 9 of 30"),
    "channel_shift": (0.1, "all channels shifted by up to 0.1 of the pixel range"),
    "brightness": ((0.9, 1.1), "brightness times 0.9 to 1.1"),
    "contrast": ((0.8, 1.2), "contrast times 0.8 to 1.2"),
    "saturation": ((0.7, 1.3), "saturation times 0.7 to 1.3"),
    "hue": (0.05, "hue turned by up to 0.05 of the colour circle"),
    "grayscale": (0.2, "turned to grey with probability 0.2"),
    "cutout_px": (6, "a square of 6 px set to the colour that normalises to zero"),
    "random_erasing": (0.25, "with probability 0.25 a random rectangle set to the colour that normalises to zero"),
}


def test_describe_names_every_operation_with_its_strength_in_order():
    words = build_train_transform({key: value for key, (value, _) in ACTIVE.items()}, RGB).describe()
    places = [words.index(phrase) for _, phrase in ACTIVE.values()]
    assert places == sorted(places)
    assert "uncovered: mirrored picture" in words.split("of width and height shown")[1]
    assert words.endswith(
        "then pixels / 255, minus mean (0.4900, 0.4800, 0.4500), divided by std (0.2500, 0.2400, 0.2600)"
    )
    # Every setting is either an operation named above or a detail of one.
    details = {"padding_mode", "fill", "randaugment_num_ops", "randaugment_magnitude"}
    assert set(AugmentConfig.model_fields) == set(ACTIVE) | details


@pytest.mark.parametrize(("key", "value", "phrase"), [(key, *rest) for key, rest in ACTIVE.items()])
def test_describe_names_one_operation_alone_and_it_does_something(key, value, phrase):
    transform = build_train_transform({key: value}, RGB)
    operations = transform.describe().split("; ")[:-1]
    assert phrase in operations[0]
    assert len(operations) <= 2  # what it uncovers may be said separately
    images = pixels(32)
    assert not torch.equal(apply(transform, images), EvalTransform(RGB)(images))


def test_describe_says_alternating_and_trivialaugment():
    words = build_train_transform({"flip": "alternating", "auto": "trivialaugment", "fill": "zeros"}, RGB).describe()
    assert "mirrored left-right in every other epoch" in words
    assert "TrivialAugment, 1 of 14 operations of random strength (uncovered: black)" in words


@pytest.mark.parametrize(
    ("given_settings", "spec", "words"),
    [
        ({"translte_px": 2}, RGB, "unknown key 'translte_px'. Did you mean 'translate_px'?"),
        ({"zoom": 1.5, "hue": -1}, RGB, "zoom = 1.5: Input should be less than 1; hue = -1"),
        ({"brightness": (1.1, 0.9)}, RGB, "brightness = (1.1, 0.9)"),
        ({"brightness": (-1, 0.9)}, RGB, "0 <= smallest <= largest, got [-1, 0.9]"),
        ({"flip": "sometimes"}, RGB, "flip = 'sometimes': Input should be 'none', 'random' or 'alternating'"),
        ({"rotate_degrees": math.nan}, RGB, "rotate_degrees = nan"),
        (
            {"translate_px": 16},
            RGB,
            "translate_px = 16 would move pictures of 16 px out of sight in augment: use at most 15",
        ),
        ({"cutout_px": 16}, RGB, "cutout_px = 16 would cover most of a picture of 16 px in augment: use at most 15"),
        ({"saturation": (0.5, 1.5)}, GREY, "saturation = (0.5, 1.5) has no colours to work on in grey pictures"),
        ({"hue": 0.1}, GREY, "remove hue, or use brightness and contrast"),
        ({"grayscale": 0.1}, GREY, "grayscale = 0.1"),
    ],
)
def test_settings_that_cannot_work_are_refused(given_settings, spec, words):
    with pytest.raises(ConfigError) as caught:
        build_train_transform(given_settings, spec)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_settings_read_from_toml_equal_the_config():
    from_file = json.loads(GOMEZ2025.model_dump_json())
    assert from_file["brightness"] == [0.9, 1.1]
    assert build_train_transform(from_file, RGB) == build_train_transform(GOMEZ2025, RGB)


def test_config_is_off_frozen_and_documented():
    config = AugmentConfig()
    for name, field in AugmentConfig.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name
    with pytest.raises(ValidationError):
        config.hue = 0.1


# --- whole pixels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", ["reflect", "zeros", "edge"])
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 7, 5), (1, 5, 7)])
def test_moving_equals_padding_and_cropping_by_hand(padding, channels, height, width):
    most = 4
    shifts = [(down, right) for down in range(-most, most + 1) for right in range(-most, most + 1)]
    images = pixels(len(shifts), channels, height, width)
    mirror = torch.arange(len(shifts)) % 2 == 0
    upside_down = torch.arange(len(shifts)) % 3 == 0
    down_px, right_px = torch.tensor(shifts).unbind(1)
    moved = ops.mirror_and_move(
        images, mirror=mirror, upside_down=upside_down, down_px=down_px, right_px=right_px, padding=padding
    )
    mode = {"reflect": "reflect", "zeros": "constant", "edge": "edge"}[padding]
    for place, (down, right) in enumerate(shifts):
        image = images[place].numpy()
        image = image[:, ::-1] if upside_down[place] else image
        image = image[:, :, ::-1] if mirror[place] else image
        padded = np.pad(image, ((0, 0), (most, most), (most, most)), mode=mode)
        crop = padded[:, most + down : most + down + height, most + right : most + right + width]
        np.testing.assert_array_equal(moved[place].numpy(), crop)
    assert moved.dtype == torch.uint8


def test_moving_takes_any_memory_layout():
    images = pixels(8)
    parameters = still(4, right_px=torch.tensor([1, -1, 2, 0]))
    expected = ops.mirror_and_move(images[::2].contiguous(), **parameters)
    assert torch.equal(ops.mirror_and_move(images[::2], **parameters), expected)


def test_translate_draws_every_shift_equally_often():
    spec = InputSpec(9, 1, (0.0,), (1.0,))
    images = torch.zeros(5000, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    moved = apply(build_train_transform({"translate_px": 2}, spec), images, method="pixels")
    places = moved.flatten(1).argmax(dim=1)
    counts = torch.bincount(places, minlength=81).view(9, 9)
    assert counts[2:7, 2:7].sum() == 5000
    assert stats.chisquare(counts[2:7, 2:7].flatten().numpy()).pvalue > 1e-4


def test_random_flips_mirror_half():
    images = pixels(2000, 1, 16, 16)
    for key, axis in (({"flip": "random"}, -1), ({"vertical_flip": True}, -2)):
        result = apply(build_train_transform(key, GREY), images, method="pixels")
        flipped = (result == images.flip(axis)).flatten(1).all(dim=1)
        same = (result == images).flatten(1).all(dim=1)
        assert (flipped ^ same).all()
        assert 900 < int(flipped.sum()) < 1100


@pytest.mark.parametrize("seed", [0, 1, 17, -3, 2**63])
def test_alternating_flip_mirrors_every_image_in_every_other_epoch(seed):
    images = pixels(4000, 1, 16, 16)
    transform = build_train_transform({"flip": "alternating"}, GREY, seed=seed)
    previous = None
    for epoch in range(4):
        # Another generator each epoch: the flip depends on the index, the seed and the epoch alone.
        result = apply(transform, images, seed=epoch, epoch=epoch, method="pixels")
        mirrored = (result == images.flip(-1)).flatten(1).all(dim=1)
        assert (mirrored ^ (result == images).flatten(1).all(dim=1)).all()
        assert abs(int(mirrored.sum()) - 2000) < 150  # 4.7 standard deviations of a fair coin
        if previous is not None:
            assert torch.equal(mirrored, ~previous)
        previous = mirrored


def test_alternating_coin_belongs_to_the_index_not_to_its_place():
    indices = torch.randperm(50_000, generator=gen())
    coins = ops.mirrored_at_first(torch.arange(50_000), 5)
    assert torch.equal(ops.mirrored_at_first(indices, 5), coins[indices])
    assert abs(float((coins != ops.mirrored_at_first(torch.arange(50_000), 6)).float().mean()) - 0.5) < 0.02
    assert abs(float((coins[1:] != coins[:-1]).float().mean()) - 0.5) < 0.02
    for step in (2, 10, 1000):  # classes often come in a fixed stride
        assert abs(float(coins[::step].float().mean()) - 0.5) < 0.25


# --- erasing --------------------------------------------------------------------------------------------------------


def test_erase_paints_the_box_and_nothing_else():
    images = pixels(4, 3, 6, 8)
    boxes = torch.tensor([[1, 2, 3, 4], [-2, 5, 4, 9], [0, 0, 0, 3], [0, 0, 6, 8]])
    for dtype, color in ((torch.uint8, (125.4, 100.0, 0.6)), (torch.float32, (125.4, 100.0, 0.6))):
        erased = ops.erase(images.to(dtype), boxes, color)
        assert erased.dtype == dtype
        for place, (top, left, tall, wide) in enumerate(boxes.tolist()):
            expected = images[place].to(dtype).clone()
            paint = torch.tensor(color).round() if dtype == torch.uint8 else torch.tensor(color)
            expected[:, max(top, 0) : top + tall, max(left, 0) : left + wide] = paint.to(dtype)[:, None, None]
            assert torch.equal(erased[place], expected)


def test_cutout_covers_one_square_around_any_point():
    images = torch.full((3000, 3, 16, 16), 255, dtype=torch.uint8)
    covered = apply(build_train_transform({"cutout_px": 5}, RGB), images, method="pixels")[:, 0] != 255
    areas = covered.flatten(1).sum(dim=1)
    assert int(areas.max()) == 25
    assert int(areas.min()) == 9  # around a corner pixel: 3 x 3 remain
    rows, cols = covered.any(dim=2).sum(dim=1), covered.any(dim=1).sum(dim=1)
    assert torch.equal(rows * cols, areas)
    normalised = apply(build_train_transform({"cutout_px": 5}, RGB), images)[:, 0][covered]
    assert normalised.abs().max() < 0.5 / 255 / 0.25 + 1e-5  # the mean, but for the rounding to whole levels


def test_random_erasing_has_its_probability_area_and_ratio():
    spec = InputSpec(32, 3, RGB.mean, RGB.std)
    images = torch.full((2000, 3, 32, 32), 255, dtype=torch.uint8)
    covered = apply(build_train_transform({"random_erasing": 0.3}, spec), images, method="pixels")[:, 0] != 255
    erased = covered.flatten(1).any(dim=1)
    assert 500 < int(erased.sum()) < 700
    rows = covered.any(dim=2).sum(dim=1)[erased]
    cols = covered.any(dim=1).sum(dim=1)[erased]
    areas = covered.flatten(1).sum(dim=1)[erased]
    assert torch.equal(rows * cols, areas)
    assert areas.min() >= 0.01 * 1024
    assert areas.max() <= 0.36 * 1024
    assert (cols / rows).max() < 4.5
    assert (cols / rows).min() > 0.2


def test_boxes_lie_inside_and_report_when_nothing_fits():
    boxes, found = dice(2000).boxes((10, 20), (0.1, 1.0), (3 / 4, 4 / 3))
    top, left, tall, wide = boxes.unbind(1)
    assert found.any()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + tall <= 10).all()
    assert (left + wide <= 20).all()
    assert (top + tall == 10).any()
    assert (left + wide == 20).any()
    boxes, found = dice(3).boxes((10, 20), (0.9, 1.0), (0.1, 0.11))
    assert not found.any()
    assert boxes.tolist() == [[0, 0, 10, 20]] * 3


# --- one resampling -------------------------------------------------------------------------------------------------


def keras_affine(image, *, theta, shift_x, shift_y, shear, zoom_x, zoom_y, mode):
    """ImageDataGenerator's affine_transform, from its formulae, with scipy; image (C, H, W), x along the width."""
    theta, shear = np.deg2rad(theta), np.deg2rad(shear)
    rotation = np.array([[np.cos(theta), -np.sin(theta), 0], [np.sin(theta), np.cos(theta), 0], [0, 0, 1]])
    shift = np.array([[1, 0, shift_x], [0, 1, shift_y], [0, 0, 1]])
    slant = np.array([[1, -np.sin(shear), 0], [0, np.cos(shear), 0], [0, 0, 1]])
    matrix = rotation @ shift @ slant @ np.diag([zoom_x, zoom_y, 1])
    height, width = image.shape[1:]
    middle = np.array([[1, 0, width / 2 - 0.5], [0, 1, height / 2 - 0.5], [0, 0, 1]])
    matrix = middle @ matrix @ np.linalg.inv(middle)
    swapped = matrix[[1, 0, 2]][:, [1, 0, 2]]  # scipy counts (row, column)
    return np.stack(
        [
            ndimage.affine_transform(plane.astype(np.float64), swapped[:2, :2], swapped[:2, 2], order=1, mode=mode)
            for plane in image
        ]
    )


@given(
    st.floats(-90, 90),
    st.floats(-5, 5),
    st.floats(-5, 5),
    st.floats(-30, 30),
    st.floats(0.7, 1.3),
    st.floats(0.7, 1.3),
    st.sampled_from([("nearest", "nearest"), ("reflect", "reflect"), ("zeros", "grid-constant")]),
)
@settings(max_examples=60, deadline=None)
def test_affine_equals_keras(theta, shift_x, shift_y, shear, zoom_x, zoom_y, fill):
    smooth = np.random.default_rng(0).uniform(0, 255, (3, 12, 16))
    smooth = torch.from_numpy(np.stack([ndimage.gaussian_filter(plane, 1.0) for plane in smooth])).float()[None]
    values = (theta, shear, zoom_x, zoom_y, shift_x, shift_y)
    names = ("degrees", "shear_degrees", "zoom_x", "zoom_y", "right_px", "down_px")
    matrices = ops.affine_matrices(
        **{name: torch.tensor([value], dtype=torch.float32) for name, value in zip(names, values, strict=True)}
    )
    result = ops.affine(smooth, matrices, fill[0])[0].numpy()
    expected = keras_affine(
        smooth[0].numpy(),
        theta=theta,
        shift_x=shift_x,
        shift_y=shift_y,
        shear=shear,
        zoom_x=zoom_x,
        zoom_y=zoom_y,
        mode=fill[1],
    )
    np.testing.assert_allclose(result, expected, atol=0.05)


def test_gomez2025_pipeline_equals_keras_step_by_step():
    """The whole pipeline against numpy, with the numbers that it drew."""
    spec = InputSpec(32, 3, RGB.mean, RGB.std)
    rough = pixels(6, 3, 32, 32).numpy().astype(np.float64)
    images = torch.from_numpy(ndimage.gaussian_filter(rough, (0, 0, 1.5, 1.5)).round().astype(np.uint8))
    result = apply(build_train_transform(GOMEZ2025, spec), images, seed=3)

    numbers = dice(6, seed=3)
    mirror = numbers.chance(0.5)
    (
        numbers.chance(0.0),
        numbers.integers(0, 0),
        numbers.integers(0, 0),
    )  # vertical flip and whole pixels: off, but drawn
    theta, shear = numbers.uniform(-15, 15), numbers.uniform(-10, 10)
    zoom_x, zoom_y = numbers.uniform(0.9, 1.1), numbers.uniform(0.9, 1.1)
    shift_x, shift_y = numbers.uniform(-3.84, 3.84), numbers.uniform(-3.84, 3.84)
    intensity, brightness = numbers.uniform(-25.5, 25.5), numbers.uniform(0.9, 1.1)
    for place in range(6):
        image = images[place].numpy()
        image = image[:, :, ::-1] if mirror[place] else image
        x = keras_affine(
            image,
            theta=theta[place].item(),
            shift_x=shift_x[place].item(),
            shift_y=shift_y[place].item(),
            shear=shear[place].item(),
            zoom_x=zoom_x[place].item(),
            zoom_y=zoom_y[place].item(),
            mode="nearest",
        )
        x = np.clip(x + intensity[place].item(), x.min(), x.max())  # apply_channel_shift
        x = np.clip(x * brightness[place].item(), 0, 255)  # ImageEnhance.Brightness, without its rounding
        x = (x / 255 - np.array(spec.mean)[:, None, None]) / np.array(spec.std)[:, None, None]
        np.testing.assert_allclose(result[place].numpy(), x, atol=2e-3)


def test_resized_crop_equals_torchvision_inside_the_box():
    images = pixels(5, 3, 12, 16)
    boxes = torch.tensor([[0, 0, 12, 16], [2, 3, 6, 8], [5, 7, 7, 9], [0, 10, 3, 6], [1, 0, 11, 5]])
    identity = torch.eye(2, 3).repeat(5, 1, 1)
    result = ops.affine(images, ops.into_boxes(identity, boxes, (12, 16)), "nearest")
    assert torch.allclose(result[0], images[0].float(), atol=1e-2)
    for place, (top, left, tall, wide) in enumerate(boxes.tolist()):
        expected = vision.resized_crop(
            images[place].float(), top, left, tall, wide, [12, 16], InterpolationMode.BILINEAR, antialias=False
        )
        # Within half an input pixel of the box's edge the two read different neighbours: the picture's or the box's.
        rim_y, rim_x = math.ceil(12 / tall / 2), math.ceil(16 / wide / 2)
        inside = (slice(None), slice(rim_y, 12 - rim_y), slice(rim_x, 16 - rim_x))
        assert torch.allclose(result[place][inside], expected[inside], atol=0.05)


def test_random_resized_crop_keeps_at_least_its_share():
    """On a ramp the slopes give the size of the crop."""
    spec = InputSpec(64, 3, RGB.mean, RGB.std)
    ramp = torch.zeros(3, 64, 64, dtype=torch.uint8)
    ramp[0], ramp[1] = torch.arange(64)[:, None] * 4, torch.arange(64)[None, :] * 4
    images = ramp.expand(500, 3, 64, 64)
    result = apply(build_train_transform({"random_resized_crop": 0.3}, spec), images)
    result = result * torch.tensor(RGB.std).view(1, 3, 1, 1) * 255
    tall = (result[:, 0, 48, 32] - result[:, 0, 16, 32]) / 32 / 4
    wide = (result[:, 1, 32, 48] - result[:, 1, 32, 16]) / 32 / 4
    area, ratio = tall * wide, wide / tall
    assert area.min() > 0.28
    assert area.max() <= 1.01
    assert area.max() > 0.9
    assert ratio.min() > 0.7
    assert ratio.max() < 1.42
    assert abs(float(area.mean()) - 0.65) < 0.08


# --- light and colour -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ops.adjust_brightness, vision.adjust_brightness),
        (ops.adjust_contrast, vision.adjust_contrast),
        (ops.adjust_saturation, vision.adjust_saturation),
        (ops.adjust_sharpness, vision.adjust_sharpness),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_light_and_colour_equal_torchvision(ours, theirs, channels):
    images = pixels(5, channels, 9, 7)
    factors = torch.tensor([0.0, 0.3, 1.0, 1.6, 3.0])
    result = ours(images.float(), factors)
    for image, factor, changed in zip(images, factors.tolist(), result, strict=True):
        expected = theirs(image.float() / 255, factor) * 255
        assert (changed - expected).abs().max() < 0.6  # torchvision's grey of floats rounds its weights
    assert torch.allclose(result[2], images[2].float(), atol=1e-4)


def test_hue_equals_torchvision_and_full_turns_change_nothing():
    images = pixels(6, 3, 9, 7)
    images[0, :, :3] = 77  # grey has no hue
    images[0, :, 3:5] = 0
    turns = torch.tensor([-0.5, -0.2, 0.0, 1 / 3, 0.5, 1.0])
    result = ops.adjust_hue(images.float(), turns)
    for place, turn in enumerate(turns.tolist()[:5]):
        expected = vision.adjust_hue(images[place].float() / 255, turn) * 255
        assert (result[place] - expected).abs().max() < 0.05
    assert torch.allclose(result[2], images[2].float(), atol=1e-2)
    assert torch.allclose(result[5], images[5].float(), atol=1e-2)
    red = torch.tensor([200.0, 10.0, 10.0]).view(1, 3, 1, 1)
    assert torch.allclose(ops.adjust_hue(red, torch.tensor([1 / 3])).flatten(), torch.tensor([10.0, 200.0, 10.0]))


def test_channel_shift_stays_in_the_range_of_the_picture():
    images = torch.tensor([[50.0, 100.0], [50.0, 100.0]]).view(2, 1, 1, 2)
    shifted = ops.shift_channels(images, torch.tensor([30.0, -70.0]))
    assert shifted.flatten().tolist() == [80.0, 100.0, 50.0, 50.0]


def test_grayscale_makes_the_grey_of_pillow():
    images = pixels(300)
    result = apply(build_train_transform({"grayscale": 0.4}, RGB), images, method="pixels")
    grey = (result[:, 0] == result[:, 1]).flatten(1).all(dim=1)
    assert 90 < int(grey.sum()) < 150
    assert torch.equal(result[~grey], images[~grey])
    for before, after in zip(images[grey][:5], result[grey][:5], strict=True):
        expected = np.asarray(Image.fromarray(before.permute(1, 2, 0).numpy()).convert("L"))
        assert np.abs(after[0].numpy().astype(int) - expected).max() <= 1


# --- RandAugment and TrivialAugment ---------------------------------------------------------------------------------


def pil_reference(name, strength):
    """What Pillow does for one operation that is not geometric."""
    enhance = {
        "brightness": ImageEnhance.Brightness,
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhance:
        return lambda image: enhance[name](image).enhance(1 + strength)
    return {
        "identity": lambda image: image,
        "posterize": lambda image: ImageOps.posterize(image, int(strength)),
        "solarize": lambda image: ImageOps.solarize(image, strength),
        "autocontrast": ImageOps.autocontrast,
        "equalize": ImageOps.equalize,
    }[name]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["identity", *ops.AUTO_OPS[6:]])
def test_auto_operations_on_colour_equal_pillow(name, channels):
    strengths = {"posterize": [8.0, 5.0, 2.0], "solarize": [255.0, 128.0, 1.0]}.get(name, [-0.6, 0.0, 0.9])
    images = (pixels(3, channels, 12, 10) // 2 + 40).contiguous(memory_format=torch.channels_last)
    images[2] = 40  # one value only: nothing to stretch or equalise
    chosen = torch.full((3,), ops.AUTO_OPS.index(name))
    result = ops.apply_auto_ops(images, chosen, torch.tensor(strengths), "zeros")
    for image, strength, changed in zip(images, strengths, result, strict=True):
        array = image.permute(1, 2, 0).numpy()
        picture = Image.fromarray(array[:, :, 0] if channels == 1 else array)
        expected = np.asarray(pil_reference(name, strength)(picture)).reshape(12, 10, channels)
        tolerance = 0 if name in {"identity", "posterize", "solarize", "equalize"} else 1
        if name == "solarize" and strength == 255:
            continue  # Pillow inverts from the threshold on, and so 255 itself: compared below
        assert np.abs(changed.permute(1, 2, 0).numpy().astype(int) - expected).max() <= tolerance
    if name == "solarize":
        assert torch.equal(result[0], torch.where(images[0] >= 255, 255 - images[0], images[0]))


@pytest.mark.parametrize("strength", [-0.6, 0.25, 0.9])
@pytest.mark.parametrize("channels", [1, 3])
def test_auto_operations_on_geometry_equal_torchvision(strength, channels):
    image = pixels(1, channels, 12, 16)

    def move(**changed):
        still_there = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
        return vision.affine(image, **{**still_there, **changed}, interpolation=InterpolationMode.BILINEAR)

    slope, px = math.degrees(math.atan(strength)), int(strength * 10)
    expected = {
        "shear_x": (strength, move(shear=[slope, 0.0], center=[0, 0])),
        "shear_y": (strength, move(shear=[0.0, slope], center=[0, 0])),
        "translate_x": (px, move(translate=[px, 0])),
        "translate_y": (px, move(translate=[0, px])),
        "rotate": (strength * 100, vision.rotate(image, strength * 100, InterpolationMode.BILINEAR)),
    }
    for name, (value, reference) in expected.items():
        chosen = torch.tensor([ops.AUTO_OPS.index(name)])
        result = ops.apply_auto_ops(image, chosen, torch.tensor([float(value)]), "zeros")
        assert (result.int() - reference.int()).abs().max() <= 1, name


def test_auto_operations_in_one_batch_equal_one_at_a_time():
    images = pixels(56)
    chosen = torch.arange(56) % 14
    table = ops.strength_table("trivialaugment", (16, 16))
    strengths = table[chosen, torch.arange(56) % 31]
    together = ops.apply_auto_ops(images, chosen, strengths, "reflect")
    alone = [
        ops.apply_auto_ops(images[i : i + 1], chosen[i : i + 1], strengths[i : i + 1], "reflect") for i in range(56)
    ]
    assert (together.int() - torch.cat(alone).int()).abs().max() <= 1


def test_strengths_are_those_of_torchvision():
    from torchvision.transforms.v2 import RandAugment, TrivialAugmentWide

    names = {"color": "Color", "autocontrast": "AutoContrast"}
    for policy, theirs in (("randaugment", RandAugment), ("trivialaugment", TrivialAugmentWide)):
        table = ops.strength_table(policy, (24, 32))
        assert table.shape == (14, 31)
        space = theirs._AUGMENTATION_SPACE
        assert len(space) == 14
        for row, name in zip(table, ops.AUTO_OPS, strict=True):
            key = names.get(name, "".join(word.capitalize() for word in name.split("_")))
            magnitudes, signed = space[key]
            expected = magnitudes(31, 24, 32)
            assert signed == (name in ops._SIGNED_OPS), name
            if expected is None:
                assert not row.any()
                continue
            scale = 255 if name == "solarize" else 1
            expected = expected.float().floor() if name.startswith("translate") else expected.float() * scale
            assert torch.allclose(row.expand(31), expected.expand(31), atol=1e-4), name


def auto_augment(images, *, fill, **options):
    for chosen, strengths in ops.throw_auto_ops(dice(len(images)), (16, 16), **options):
        images = ops.apply_auto_ops(images, chosen, strengths, fill)
    return images


def test_policies_use_every_operation_and_randaugment_zero_keeps_geometry():
    images = pixels(400)
    options = {"num_ops": 1, "magnitude": 9, "fill": "reflect"}
    wide = auto_augment(images, policy="trivialaugment", **options)
    changed = (wide != images).flatten(1).any(dim=1).float().mean()
    assert 0.7 < float(changed) < 1.0  # identity and strength 0 are among the draws
    once = auto_augment(images, policy="randaugment", **options)
    twice = auto_augment(images, policy="randaugment", **{**options, "num_ops": 3})
    assert (twice != images).flatten(1).any(dim=1).sum() > (once != images).flatten(1).any(dim=1).sum()


def test_sharpness_leaves_tiny_pictures_alone():
    images = pixels(2, 3, 2, 9).float()
    assert torch.equal(ops.adjust_sharpness(images, torch.tensor([0.0, 2.0])), images)


# --- mixup and cutmix -----------------------------------------------------------------------------------------------


def mixable(batch=16, classes=16, size=8):
    """Images whose constant value is their number, and one class per image: the mix can be read off both."""
    images = torch.arange(batch, dtype=torch.float32).view(-1, 1, 1, 1).expand(batch, 3, size, size).clone()
    return images, F.one_hot(torch.arange(batch), classes).float()


@given(st.floats(0.05, 5), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_mixup_mixes_images_and_targets_alike(alpha, seed):
    images, targets = mixable()
    mixed, soft = mix_batch(images, targets, mixup_alpha=alpha, cutmix_alpha=0, generator=gen(seed))
    assert torch.allclose(soft.sum(dim=1), torch.ones(16), atol=1e-6)
    assert (soft >= 0).all()
    read = soft @ torch.arange(16, dtype=torch.float32)
    assert torch.allclose(mixed, read.view(-1, 1, 1, 1).expand_as(mixed), atol=1e-4)


@given(st.floats(0.05, 5), st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_cutmix_targets_are_the_areas(alpha, seed):
    images, targets = mixable()
    mixed, soft = mix_batch(images, targets, mixup_alpha=0, cutmix_alpha=alpha, generator=gen(seed))
    for place in range(16):
        counts = torch.bincount(mixed[place, 0].flatten().long(), minlength=16)
        assert torch.allclose(soft[place], counts / 64, atol=1e-6)
        foreign = mixed[place, 0] != place
        rows, cols = foreign.any(dim=1).sum(), foreign.any(dim=0).sum()
        assert int(rows * cols) == int(foreign.sum())  # one rectangle
    assert torch.equal(images, mixable()[0])


def test_mixing_is_deterministic_off_when_off_and_changes_between_the_two():
    images, targets = mixable()
    same = mix_batch(images, targets, mixup_alpha=0, cutmix_alpha=0, generator=gen())
    assert same[0] is images
    assert same[1] is targets
    whole = 0
    for seed in range(60):
        first = mix_batch(images, targets, mixup_alpha=1, cutmix_alpha=1, generator=gen(seed))
        second = mix_batch(images, targets, mixup_alpha=1, cutmix_alpha=1, generator=gen(seed))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])
        whole += bool((first[0] == first[0].round()).all())  # cutmix copies, mixup averages
    assert 15 < whole < 45


def test_mixing_commutes_with_normalisation():
    raw, targets = pixels(8), torch.eye(8)
    spec = InputSpec(16, 3, RGB.mean, RGB.std)
    for alphas in ({"mixup_alpha": 1.0, "cutmix_alpha": 0.0}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}):
        after, _ = mix_batch(EvalTransform(spec)(raw), targets, **alphas, generator=gen(1))
        before, _ = mix_batch(raw.float(), targets, **alphas, generator=gen(1))
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        assert torch.allclose(after, (before / 255 - mean) / std, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.01, 0.2, 0.5, 1.0, 4.0])
def test_proportions_follow_the_beta_distribution(alpha):
    generator = gen(11)
    drawn = np.array([_beta(alpha, generator) for _ in range(4000)])
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    # Below 0.2 double precision rounds most draws to 0 or 1: compared by their share instead.
    if alpha >= 0.2:
        assert stats.kstest(drawn, stats.beta(alpha, alpha).cdf).pvalue > 1e-3
    assert abs((drawn < 0.25).mean() - stats.beta(alpha, alpha).cdf(0.25)) < 0.03


def test_cutmix_box_has_the_area_it_reports():
    generator = gen()
    for kept in (0.0, 0.3, 0.9, 1.0):
        for _ in range(50):
            (rows, cols), share = _cutmix_box((10, 14), kept, generator)
            area = (rows.stop - rows.start) * (cols.stop - cols.start)
            assert area >= 0
            assert 0 <= rows.start <= 10
            assert 0 <= cols.start <= 14
            assert share == pytest.approx(1 - area / 140)
            assert share >= kept - 1e-9


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mixup_alpha": -1.0}, "mixup_alpha = -1.0 in mix_batch: use 0 (off) or a positive number"),
        ({"cutmix_alpha": math.nan}, "cutmix_alpha = nan"),
        ({"targets": torch.arange(16)}, "targets of type int64 and shape (16,)"),
        ({"targets": torch.eye(16).long()}, "targets of type int64 and shape (16, 16)"),
        ({"targets": torch.eye(4)}, "one row for each of the 16 images"),
    ],
)
def test_mixing_refuses_what_it_cannot_mix(change, words):
    images, targets = mixable()
    arguments = {"targets": targets, "mixup_alpha": 1.0, "cutmix_alpha": 1.0, **change}
    with pytest.raises(UsageError) as caught:
        mix_batch(images, **arguments, generator=gen())
    assert words in str(caught.value)


@pytest.mark.parametrize("interpolation", get_args(Interpolation))
@pytest.mark.parametrize(("size_px", "model_px", "channels"), [(32, 192, 3), (28, 64, 1), (64, 24, 3), (9, 10, 3)])
def test_the_models_side_is_reached_as_torch_interpolates(
    interpolation: Interpolation, size_px: int, model_px: int, channels: int
) -> None:
    spec = InputSpec(size_px, channels, (0.5,) * channels, (0.25,) * channels, "crop", interpolation, model_px)
    images = torch.randint(0, 256, (5, channels, size_px, size_px), dtype=torch.uint8)
    resized = EvalTransform(spec)(images)
    mode = "bicubic" if interpolation == "lanczos" else interpolation
    smooth = {} if mode == "nearest" else {"align_corners": False, "antialias": model_px < size_px}
    expected = F.interpolate((images.float() / 255 - 0.5) / 0.25, size=(model_px, model_px), mode=mode, **smooth)
    assert resized.shape == (5, channels, model_px, model_px)
    assert torch.allclose(resized, expected, atol=1e-5)
    assert channels == 1 or resized.is_contiguous(memory_format=torch.channels_last)
    # Nor do a picture's values depend on its batch (but for the last bit, where a library multiplies a single matrix by
    # another kernel), or on the precision around it.
    assert torch.allclose(EvalTransform(spec)(images[3:4]), resized[3:4], rtol=1e-6, atol=1e-6)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(EvalTransform(spec)(images), resized)
