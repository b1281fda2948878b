"""timm's networks under our heads: protocol, freezing, shapes; no weights are downloaded here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eyespot.errors import ModelError, UsageError
from eyespot.models.pretrained import PretrainedClassifier, backbone_facts, is_backbone, smallest_size_px
from eyespot.models.protocol import ImageClassifier
from eyespot.models.registry import build_model, check_args, model_entry

SMALL = "mobilenetv3_small_050"  # builds in a blink, has batch norms and a head of its own
LITE = "efficientnet_lite0"


def build(name: str = LITE, size_px: int = 32, **args: object) -> PretrainedClassifier:
    torch.manual_seed(0)
    model = build_model(name, num_classes=5, size_px=size_px, args=args)
    assert isinstance(model, PretrainedClassifier)
    return model


def images(size_px: int = 32, count: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, size_px, size_px, generator=torch.Generator().manual_seed(1))


# Keras' counts without top hold the statistics of batch norms too. Its ResNets have biases before batch norms (timm's
# have none), its Inceptions have batch norms without a scale (timm's have one).
@pytest.mark.parametrize(
    ("name", "keras", "only_in_keras", "only_in_timm"),
    [
        ("vgg16", 14_714_688, 0, 0),
        ("resnet50", 23_587_712, 26_560, 0),
        ("resnet101", 42_658_176, 52_672, 0),
        ("densenet121", 7_037_504, 0, 0),
        ("inception_v3", 21_802_784, 0, 17_216),
        ("inception_resnet_v2", 54_336_736, 0, 30_272),
    ],
)
def test_the_studies_backbones_have_their_published_parameters(
    name: str, keras: int, only_in_keras: int, only_in_timm: int
) -> None:
    with torch.device("meta"):
        model = build(name, backbone_facts(name).size_px)
    own = sum(parameter.numel() for parameter in model.backbone.parameters())
    statistics = sum(buffer.numel() for buffer in model.backbone.buffers() if buffer.is_floating_point())
    assert own + statistics + only_in_keras - only_in_timm == keras


@pytest.mark.parametrize(
    ("name", "smallest"), [("vgg16", 32), ("resnet50", 32), ("inception_v3", 75), ("vit_tiny_patch16_224", 224)]
)
def test_the_smallest_size_is_known(name: str, smallest: int) -> None:
    assert smallest_size_px(backbone_facts(name)) == smallest


# Maps, maps with the channels last, tokens, a head with layers of its own, and one without a class token.
@pytest.mark.parametrize(
    ("name", "size_px"),
    [
        (LITE, 32),
        ("vgg11", 32),
        (SMALL, 32),
        ("convnext_atto", 32),
        ("swin_tiny_patch4_window7_224", 224),
        ("vit_tiny_patch16_224", 224),
        ("mixer_s16_224", 224),
    ],
)
def test_every_kind_of_backbone_follows_the_protocol(name: str, size_px: int) -> None:
    model = build(name, size_px).eval()
    assert isinstance(model, ImageClassifier)
    batch = images(size_px, 2)
    with torch.no_grad():
        features = model.forward_features(batch)
        logits = model(batch)
        torch.testing.assert_close(model.forward_head(features), logits)
        vectors = model.forward_head(features, pre_logits=True)
        classifier = model.get_classifier()
        torch.testing.assert_close(classifier(vectors), logits)
    assert features.ndim == 4
    assert vectors.shape == (2, model.num_features)
    assert logits.shape == (2, 5)
    model.reset_classifier(7)
    assert model(batch).shape == (2, 7)


@pytest.mark.parametrize("pool", ["gap", "gmp", "concat", "flatten"])
def test_stored_features_give_the_head_what_the_images_give_it(pool: str) -> None:
    model = build(LITE, 64, pool=pool, hidden=[6]).eval()
    with torch.no_grad():
        stored = model.features_of(images(64))
        assert stored.shape == (3, model.encoded_width)
        torch.testing.assert_close(model.head(model.head_vectors(stored)), model(images(64)))


def test_pools_but_flatten_are_cut_out_of_the_same_features() -> None:
    models = [build(LITE, 64, pool=pool).eval() for pool in ("gap", "gmp", "concat")]
    with torch.no_grad():
        first, *others = (model.features_of(images(64)) for model in models)
        features = models[0].backbone.forward_features(images(64))  # type: ignore[operator]
    assert all(torch.equal(first, other) for other in others)
    torch.testing.assert_close(models[0].head_vectors(first), features.mean((2, 3)))
    torch.testing.assert_close(models[1].head_vectors(first), features.amax((2, 3)))


def test_taps_put_earlier_stages_before_the_last_features() -> None:
    model = build(LITE, 64, taps=2).eval()
    assert model.head_inputs == 40 + 112 + 1280
    batch = images(64)
    with torch.no_grad():
        stages = model.backbone.forward_intermediates(batch, indices=[2, 3], intermediates_only=True)  # type: ignore[operator]
        stored = model.features_of(batch)
        torch.testing.assert_close(stored[:, :40], stages[0].mean((2, 3)))
        torch.testing.assert_close(stored[:, 40:152], stages[1].mean((2, 3)))
        torch.testing.assert_close(model.forward_head(model.forward_features(batch)), model(batch))


def test_more_taps_than_stages_are_refused() -> None:
    with pytest.raises(ModelError, match=r"taps = 9 \(10 stages asked for, it has 5\) .*: ask for fewer"):
        build(taps=9)
    with pytest.raises(ModelError, match="taps with a flatten head"):
        build(taps=1, pool="flatten")


# ------------------------------------------------------------------------------------------------------------ freezing


def trained(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def statistics(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


def test_features_trains_the_head_alone_and_statistics_do_not_move() -> None:
    model = build(hidden=[4], batch_norm=True)
    model.freeze("features")
    assert all(name.startswith("head.") for name in trained(model))
    before = statistics(model)
    model.train()
    for _ in range(3):
        model(images()).sum().backward()
    after = statistics(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert all(name.startswith("head.") for name in moved)
    assert not any(module.training for module in model.backbone.modules())


@pytest.mark.parametrize(
    ("name", "part"),
    [("resnet18", "layer4"), ("vgg11", "features.16"), (LITE, "blocks.5"), ("densenet121", "features.transition3")],
)
def test_the_last_block_is_where_the_maps_are_smallest(name: str, part: str) -> None:
    with torch.device("meta"):
        model = build(name)
    model.freeze("last-block")
    names = [parameter for parameter, _ in model.backbone.named_parameters()]
    first = next(place for place, parameter in enumerate(names) if parameter.startswith(part))
    assert trained(model.backbone) == set(names[first:])


def test_the_last_block_of_resnet50_has_the_published_count() -> None:
    with torch.device("meta"):
        model = build("resnet50")
    model.freeze("last-block")
    moving = sum(b.numel() for b in model.backbone.layer4.buffers() if b.is_floating_point())  # type: ignore[union-attr,operator]
    count = sum(parameter.numel() for parameter in model.backbone.parameters() if parameter.requires_grad)
    biases = 14_976_000 - count  # published for Keras, whose convolutions have biases
    assert biases == 11_264
    assert moving == 2 * biases


def test_frozen_statistics_stay_and_those_of_the_last_block_move() -> None:
    model = build("resnet18", 64)
    model.freeze("last-block")
    before = statistics(model)
    model.train()
    model(images(64)).sum().backward()
    after = statistics(model)
    moved = {name.split(".")[1] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"layer4"}


def test_freeze_until_takes_a_module_or_a_parameter() -> None:
    model = build("resnet18", 64)
    model.freeze("full", "layer3")
    assert {name.split(".")[1] for name in trained(model.backbone) if name.startswith("layer")} <= {"0", "1"}
    assert {name.split(".")[0] for name in trained(model.backbone)} == {"layer3", "layer4"}
    model.freeze("full", "layer4.1.conv2.weight")
    assert "layer4.1.conv1.weight" not in trained(model.backbone)
    assert "layer4.1.conv2.weight" in trained(model.backbone)
    model.freeze("full")
    assert len(trained(model.backbone)) == len(list(model.backbone.parameters()))


def test_freezing_until_something_unknown_names_the_parts() -> None:
    model = build("resnet18")
    with pytest.raises(UsageError, match=r"no 'layr3' with weights to freeze until\. Did you mean 'layer3'"):
        model.freeze("full", "layr3")
    for part in ("maxpool", "fc", "nothing alike"):  # what the line offers, it takes
        with pytest.raises(UsageError) as caught:
            model.freeze("full", part)
        offered = str(caught.value).partition("use one of ")[2].removesuffix(", or a part of one").split(", ")
        assert offered == ["conv1", "bn1", "layer1", "layer2", "layer3", "layer4"]
        for name in offered:
            model.freeze("full", name)


def test_what_is_trained_is_listed_with_counts() -> None:
    model = build("resnet18")
    model.freeze("last-block")
    text = model.describe_training()
    assert text.startswith(
        "trainable, 8,396,293 parameters: layer4 8,393,728, head 2,565; frozen, 2,782,784: conv1 9,408"
    )


def test_depths_rise_from_the_images_to_the_head() -> None:
    model = build("resnet18")
    depths = model.parameter_depths()
    assert depths.keys() == {name for name, _ in model.named_parameters()}
    assert depths["backbone.conv1.weight"] == 0
    assert depths["backbone.layer1.0.conv1.weight"] < depths["backbone.layer4.1.conv2.weight"] < depths["head.0.weight"]


# timm has no list of layers for these.
@pytest.mark.parametrize(
    ("name", "first", "block", "count"),
    [
        ("poolformerv2_s12", "stem.conv.weight", "stages.1.blocks.0", 17),
        ("caformer_s18", "stem.conv.weight", "stages.2.blocks.8", 23),
        ("pit_ti_224", "pos_embed", "transformers.1.blocks.5", 18),
        ("csatv2", "stem_dct.conv_y.weight", "stages.2.9", 26),
    ],
)
def test_depths_follow_the_blocks_where_timm_does_not_say(name: str, first: str, block: str, count: int) -> None:
    with torch.device("meta"):
        model = build(name, backbone_facts(name).size_px)
    assert not hasattr(model.backbone, "group_matcher")
    depths = model.parameter_depths()
    assert depths.keys() == {name for name, _ in model.named_parameters()}
    assert depths[f"backbone.{first}"] == 0
    (own,) = {depth for name, depth in depths.items() if name.startswith(f"backbone.{block}.")}
    assert 0 < own < count
    assert depths["head.0.weight"] == count  # blocks, not hundreds of parameters: the first would have no rate left


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "name", ["hf-hub:timm/resnet18", "local-dir:/tmp/x", "../resnet18", "", "resnet18:x", "nonsense_net"]
)
def test_only_names_of_networks_are_networks(name: str) -> None:
    assert not is_backbone(name)
    with pytest.raises(UsageError, match="Unknown model"):
        model_entry(name)


def test_a_misspelt_backbone_gets_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="Did you mean 'resnet50'"):
        model_entry("resnet5O")


def test_tags_of_weights_are_names_too_and_unknown_ones_are_refused() -> None:
    assert backbone_facts("resnet50.a1_in1k").hub_id == "timm/resnet50.a1_in1k"
    with pytest.raises(UsageError, match="no weights 'nope'"):
        backbone_facts("resnet50.nope")
    with pytest.raises(UsageError, match=r"Did you mean 'a1_in1k'\?: use resnet50, or one of its tags: .*a2_in1k"):
        backbone_facts("resnet50.a1_in1")


def test_fewer_taps_than_none_are_refused() -> None:
    with pytest.raises(ModelError, match="taps = -1 in model"):
        build(taps=-1)


def test_an_alias_takes_the_tag_that_its_facts_name() -> None:
    facts = backbone_facts("efficientnet_lite0")
    assert backbone_facts(f"efficientnet_lite0.{facts.tag}") == facts
    assert is_backbone("efficientnet_lite0.in1k")


def test_a_norm_in_the_backbones_own_head_is_not_counted_to_ours() -> None:
    model = build("test_convnext", 64)
    model.freeze("full")
    ours = sum(parameter.numel() for parameter in model.head.parameters())
    assert f" head {ours:,};" in model.describe_training()
    assert "backbone.head 128" in model.describe_training()


def test_images_that_do_not_pass_name_the_smallest_size() -> None:
    with pytest.raises(ModelError, match="use at least 75 px"):
        build("inception_v3", 40)
    with pytest.raises(
        ModelError, match=r"takes 224x224 px only.*--set input\.size_px=224, with eyespot models --size 224"
    ):
        build("vit_tiny_patch16_224", 96)


# A list of maps, a list of tokens at its own size, one without a head, and one that is no classifier.
@pytest.mark.parametrize(
    ("name", "size_px"),
    [
        ("efficientvim_m1", 224),
        ("efficientvim_m1", 96),
        ("crossvit_9_240", 240),
        ("mobilenetv5_300m_enc", 768),
        ("qwen3_vit_416m_enc", 768),
    ],
)
def test_a_network_that_no_size_helps_cannot_be_used(name: str, size_px: int) -> None:
    with (
        pytest.raises(ModelError, match=r"it cannot be used under a head .*: use another backbone$"),
        torch.device("meta"),
    ):
        build(name, size_px)


def test_a_wrong_size_above_the_smallest_is_not_told_to_grow() -> None:
    with pytest.raises(
        ModelError, match=r"images of 225x225 px do not pass through .*hrnet_w18_small.: --set input\.size_px=224,"
    ):
        build("hrnet_w18_small", 225)


def test_grey_pictures_and_pretrained_weights_are_one_line() -> None:
    model = build_model(SMALL, num_classes=5, in_channels=1, size_px=32)
    assert isinstance(model, PretrainedClassifier)
    with pytest.raises(ModelError, match=r"pretrained weights take RGB .*: leave input\.channels at auto"):
        model.load_backbone(backbone_facts(SMALL), "auto")


def test_the_note_counts_what_gap_really_gives() -> None:
    # Behind its pooling this one has a layer of 1024: 5 x (1024 + 1), not 5 x (288 + 1).
    assert "with gap 5,125" in build(SMALL, 64, pool="flatten").notes()[0]
    assert "head: gap; 5,125 parameters" in build(SMALL, 64).notes()[0]


def test_arguments_are_checked_by_name_and_type() -> None:
    assert check_args(LITE, {"hidden": [512, 256], "dropout": 0}) == {"hidden": (512, 256), "dropout": 0.0}
    for args, words in (
        ({"hidden": [1.5]}, "a list of whole numbers"),
        ({"hiden": [1]}, "Did you mean 'hidden'"),
        ({"batch_norm": 1}, "true or false"),
    ):
        with pytest.raises(UsageError, match=words):
            check_args(LITE, args)  # type: ignore[arg-type]
