from __future__ import annotations

import copy
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from eyespot.analysis import heatmaps
from eyespot.analysis.gallery import describe_check
from eyespot.analysis.heatmaps import MapCheck, check_maps, checked_method, heat_maps, summarise_checks
from eyespot.data.input_spec import InputSpec
from eyespot.device import ComputePlan
from eyespot.errors import MissingExtraError, ModelError, UsageError
from eyespot.evaluation.bundle_info import Architecture, BundleInfo, Provenance
from eyespot.evaluation.predictor import Predictor
from eyespot.models.pretrained import PretrainedClassifier
from eyespot.models.registry import build_model, model_names

CNN, VIT, SWIN, MIXER = (
    "resnet10t",
    "test_vit",
    "swin_tiny_patch4_window7_224",
    "mixer_s32_224",
)


def predictor_of(name: str, *, size_px: int = 32, views: str = "none", seed: int = 0, **args: object) -> Predictor:
    """Return a predictor with random weights and batch statistics that were moved."""
    torch.manual_seed(seed)
    model = build_model(name, num_classes=4, size_px=size_px, args=args).eval()
    for buffer_name, buffer in model.named_buffers():
        if buffer_name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    info = BundleInfo(
        architecture=Architecture(name=name),
        num_classes=4,
        class_names=("a", "b", "c", "d"),
        input=InputSpec(size_px, 3, (0.5,) * 3, (0.25,) * 3, "crop", "bilinear"),
        views=views,
        provenance=Provenance(
            recipe="x", dataset="x", dataset_fingerprint="0", seed=0, created="2026-01-01", train_seconds=1
        ),
    )
    return Predictor(model, info, ComputePlan("cpu", "float32", "a test"))


def pixels_of_noise(count: int, size_px: int, seed: int = 0) -> torch.Tensor:
    dice = torch.Generator().manual_seed(seed)
    coarse = torch.rand((count, 3, 4, 4), generator=dice)
    large = nn.functional.interpolate(coarse, size=(size_px, size_px), mode="bilinear")
    return (255 * large).to(torch.uint8)


NETWORKS = [
    *((name, 32) for name in model_names()),
    (CNN, 64),
    (VIT, 160),
    ("pit_ti_224", 224),  # stages hand out a map and a class token
    pytest.param(SWIN, 224, marks=pytest.mark.slow),
    pytest.param(MIXER, 224, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "size_px"), NETWORKS)
def test_adebayo_other_weights_give_another_map(name: str, size_px: int) -> None:
    predictor = predictor_of(name, size_px=size_px)
    pixels, targets = pixels_of_noise(3, size_px), torch.tensor([0, 1, 2])
    heat = heat_maps(predictor, pixels, targets)
    assert heat.shape == (3, size_px, size_px)
    assert heat.dtype == np.float32
    assert (heat.max(axis=(1, 2)) <= 1).all()
    assert heat.any(axis=(1, 2)).any(), "no map has anything in it"
    again = heat_maps(predictor, pixels, targets)
    np.testing.assert_array_equal(heat, again)
    other = heat_maps(predictor_of(name, size_px=size_px, seed=1), pixels, targets)
    similarity = np.corrcoef(heat.ravel(), other.ravel())[0, 1]
    assert not similarity > 0.9, similarity


@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion"])
@pytest.mark.parametrize(("name", "size_px"), [("spot", 32), (VIT, 160)])
def test_adebayo_for_the_methods_of_captum(name: str, size_px: int, method: str) -> None:
    pixels, targets = pixels_of_noise(1, size_px), torch.tensor([1])
    maps = [
        heat_maps(predictor_of(name, size_px=size_px, seed=seed), pixels, targets, method=checked_method(method))
        for seed in (0, 1)
    ]
    assert maps[0].shape == (1, size_px, size_px)
    assert not np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.9


def plant(predictor: Predictor, row: slice, column: slice) -> nn.Module:
    """Return a network with one bright place as the only thing that class 1 depends on."""

    class Planted(nn.Module):
        num_classes, in_channels, num_features = 4, 3, 3

        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(images, 4)

        def forward_head(self, features: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
            score = features[:, :, row, column].relu().mean((1, 2, 3))
            return torch.stack([0 * score, 4 * score, 0 * score, 0 * score], dim=1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.forward_head(self.forward_features(images))

    return Planted()


def test_a_map_of_a_network_that_nothing_shakes_does_not_pass_the_check() -> None:
    sure = MapCheck(prob=1.0, share=0.2, hidden=0.999996, hidden_elsewhere=0.9999999, kept=1.0, kept_elsewhere=1.0)
    assert "Do not trust this map." in describe_check(sure)
    assert "0 of 1 map point at" in summarise_checks([sure])
    assert replace(sure, hidden=0.998).is_passed


@pytest.mark.parametrize("method", ["integrated-gradients", "occlusion"])
def test_the_place_that_decides_is_hot_and_passes_the_check(method: str) -> None:
    predictor = predictor_of("spot")
    planted = Predictor(plant(predictor, slice(0, 2), slice(6, 8)), predictor.info, predictor.plan)
    pixels, targets = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8), torch.tensor([1])
    heat = heat_maps(planted, pixels, targets, method=checked_method(method))[0]
    assert heat[:8, 24:].mean() > 0.5
    assert heat[16:, :16].max() < 0.05
    (check,) = check_maps(planted, pixels, targets, heat[None])
    assert check is not None
    assert check.is_passed
    assert check.hidden < 0.3 < check.hidden_elsewhere
    assert check.kept > check.kept_elsewhere
    assert "1 of 1 map points at" in summarise_checks([check, None])
    assert "in float32: its probabilities may differ a little" in summarise_checks([check])


def test_gradcam_is_that_of_the_paper() -> None:
    predictor = predictor_of("resnet18-small", size_px=64, width=4)
    pixels = pixels_of_noise(2, 64)
    images = predictor.transform(pixels)
    model = predictor.model
    features = model.forward_features(images).detach().requires_grad_()  # type: ignore[operator]
    logits = model.forward_head(features)  # type: ignore[operator]
    (gradient,) = torch.autograd.grad(logits[0, 2] + logits[1, 3], features)
    expected = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).detach()
    large = nn.functional.interpolate(expected, size=(64, 64), mode="bilinear", align_corners=False)[:, 0].clamp_min(0)
    found = heat_maps(predictor, pixels, torch.tensor([2, 3]))
    assert found.any()
    np.testing.assert_allclose(found, large / large.amax((1, 2), keepdim=True).clamp_min(1e-12), atol=1e-5)


def test_integrated_gradients_add_up_to_the_logit() -> None:
    predictor = predictor_of("convnet3")
    images = predictor.transform(pixels_of_noise(2, 32))
    targets = torch.tensor([0, 3])
    found = heatmaps._integrated_gradients(predictor.model, images, targets, "none")
    with torch.no_grad():
        logits = predictor.model(images) - predictor.model(torch.zeros_like(images))
    expected = logits.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.sum((1, 2, 3)), expected, atol=0.03, rtol=0.05)


def test_the_mirrored_view_is_laid_back() -> None:
    predictor = predictor_of("spot", views="mirror")
    pixels, targets = pixels_of_noise(1, 32), torch.tensor([2])
    heat = heat_maps(predictor, pixels, targets)
    mirrored = heat_maps(predictor, pixels.flip(3), targets)
    np.testing.assert_allclose(heat, mirrored[:, :, ::-1], atol=1e-4)


def test_taps_are_parts_of_one_map() -> None:
    predictor = predictor_of("efficientnet_lite0", size_px=128, pool="concat", taps=2)
    pixels, target = pixels_of_noise(1, 128), torch.tensor([1])
    heat = heat_maps(predictor, pixels, target)
    assert heat.any()
    model = predictor.model
    assert isinstance(model, PretrainedClassifier)
    taps = model.average_width - model.map_shape[0]
    assert taps > 0
    with torch.no_grad():
        model.get_classifier().weight[:, :taps] = 0  # type: ignore[index, operator]
    assert not np.array_equal(heat_maps(predictor, pixels, target), heat)


def test_gradients_are_there_in_inference_mode_and_autocast_and_the_model_stays_as_it_was() -> None:
    predictor = predictor_of("spot")
    pixels, targets = pixels_of_noise(2, 32), torch.tensor([0, 1])
    before = copy.deepcopy(predictor.model.state_dict())
    expected = heat_maps(predictor, pixels, targets)
    for parameter in predictor.model.parameters():
        parameter.requires_grad_(False)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        found = heat_maps(predictor, pixels_of_noise(2, 32), targets)
    np.testing.assert_array_equal(found, expected)
    assert all(torch.equal(value, before[key]) for key, value in predictor.model.state_dict().items())
    assert all(parameter.grad is None for parameter in predictor.model.parameters())
    assert not any(module._forward_hooks for module in predictor.model.modules())


def test_tiny_pictures_read_an_earlier_layer() -> None:
    predictor = predictor_of("spot", size_px=8)
    assert heatmaps.cam_layer(predictor.model, torch.zeros(1, 3, 8, 8)) is not None
    assert heat_maps(predictor, pixels_of_noise(2, 8), torch.tensor([0, 1])).any()


LAYOUTS = [
    ("resnet10t", 64),  # a map of an earlier stage
    ("spot", 32),  # the map that the head reads
    (VIT, 160),  # tokens behind a class token
    ("test_mambaout", 160),  # channels last, the map that the head reads
    ("test_mambaout", 96),  # channels last, of an earlier stage
    ("pit_ti_224", 224),  # a map beside a class token
    ("hiera_tiny_224", 224),  # tokens window by window
    pytest.param("volo_d1_224", 224, marks=pytest.mark.slow),  # stages of maps with channels last, a head of tokens
    pytest.param("tnt_s_legacy_patch16_224", 224, marks=pytest.mark.slow),  # the inside of patches beside patches
    pytest.param("twins_svt_small", 224, marks=pytest.mark.slow),  # no list of stages: the last tokens
    pytest.param("mvitv2_tiny", 224, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("name", "size_px"), LAYOUTS)
def test_where_the_picture_changes_the_places_change(name: str, size_px: int) -> None:
    predictor = predictor_of(name, size_px=size_px)
    layer = heatmaps.cam_layer(predictor.model, torch.zeros(1, 3, size_px, size_px))
    picture = 0.3 * torch.randn(1, 3, size_px, size_px, generator=torch.Generator().manual_seed(0))
    for down, right in ((0.3, 0.8), (0.7, 0.2)):
        half = size_px // 12
        row, column = int(down * size_px), int(right * size_px)
        other = picture.clone()
        other[:, :, row - half : row + half, column - half : column + half] += 2
        maps, _ = heatmaps._cut(predictor.model, torch.cat([picture, other]), layer)
        places = heatmaps._as_places(maps[-1].detach(), predictor.model, layer)
        assert places is not None
        change = (places[1] - places[0]).abs().sum(0)  # (H', W')
        height, width = change.shape
        hottest = divmod(int(change.argmax()), width)
        assert height == width
        near = max(0.17, 1.1 / height)  # a place, or the reach of a late layer
        assert abs((hottest[0] + 0.5) / height - down) < near, hottest
        assert abs((hottest[1] + 0.5) / width - right) < near, hottest


class Tokens(nn.Module):
    """Stands for a backbone of timm; its one stage before the last hands out what no network should."""

    has_tokens, prefix_tokens = True, 1

    def __init__(self, stages: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*(nn.Flatten() for _ in range(stages)), nn.Linear(48, 4))
        self.backbone.feature_info = [{"module": str(number), "num_chs": 48} for number in range(stages)]

    def stage_modules(self) -> list[nn.Module]:
        return list(self.backbone)[:-1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.backbone(images)  # type: ignore[no-any-return]


def test_a_network_whose_places_are_not_known_is_refused_with_the_true_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    images, targets = torch.zeros(1, 3, 4, 4), torch.tensor([0])
    with pytest.raises(ModelError, match=r"timm does not say which layers.*class token.*--method occlusion"):
        heatmaps._gradcam(Tokens(0), images, targets, "none")
    with pytest.raises(ModelError, match="no layer of the network has places"):
        heatmaps._gradcam(Tokens(2), images, targets, "none")

    def fail(*args: object) -> None:
        raise AttributeError("'dict' object has no attribute 'detach'")

    monkeypatch.setattr(heatmaps, "_cut", fail)
    with pytest.raises(ModelError, match=r"cannot be explained by a layer of it \(AttributeError: 'dict'.*occlusion"):
        heatmaps._gradcam(Tokens(2), images, targets, "none")


def test_a_map_without_anything_is_not_checked() -> None:
    predictor = predictor_of("spot")
    checks = check_maps(predictor, pixels_of_noise(1, 32), torch.tensor([0]), np.zeros((1, 32, 32), np.float32))
    assert checks == [None]
    assert summarise_checks(checks) == ""


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"unknown method 'gradcm'. Did you mean 'gradcam'"):
        checked_method("gradcm")

    class Flat(nn.Module):
        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3), keepdim=True)

    with pytest.raises(ModelError, match=r"no layer of the network has places.*--method occlusion"):
        heatmaps.cam_layer(Flat(), torch.zeros(1, 3, 8, 8))
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(MissingExtraError, match=r'pip install "eyespot\[explain\]"'):
        checked_method("occlusion")  # before training pictures are read for the neighbours
