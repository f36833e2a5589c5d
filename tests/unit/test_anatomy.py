"""Anatomy: what a backbone has everywhere and at the ends of its stages; one key a monitor."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inlier.anatomy import Anatomy, KeyRing
from inlier.backbones.base import Backbone, Classification, Segmentation
from inlier.backbones.espnet import CAMVID_CLASSES, ESPNet, ESPNetC
from inlier.errors import Mismatch
from inlier.probe import Probe
from inlier.readers import FeatureMap
from inlier.sampling import blue_noise
from inlier.taps import Tap


def espnet(network):
    return Anatomy.of(Backbone(network, Segmentation(CAMVID_CLASSES)), (64, 96))


def named(shapes):
    return {str(tap): shape for tap, shape in shapes.items()}


def test_espnets_stages_end_where_its_resolution_changes():
    assert named(espnet(ESPNet(12, p=2, q=8, skip="maps+image")).stage_ends()) == {
        "encoder.b1.act": (19, 32, 48),
        "encoder.b2.act": (131, 16, 24),
        "encoder.b3.act": (256, 8, 12),
        "combine_l2_l3.0.act": (24, 16, 24),
        "conv.act": (12, 32, 48),
        "classifier": (12, 64, 96),
    }


def test_espnet_cs_too():
    assert named(espnet(ESPNetC(12, p=2, q=3)).stage_ends()) == {
        "b1.act": (19, 32, 48),
        "b2.act": (131, 16, 24),
        "b3.act": (256, 8, 12),
    }


def test_copies_of_the_image_are_no_stage():
    anatomy = espnet(ESPNetC(12))
    assert Tap("sample2.pool.0") in anatomy.everywhere()
    assert not any("sample" in tap.module for tap in anatomy.stage_ends())


def test_everywhere_is_every_output_in_running_order():
    anatomy = espnet(ESPNetC(12))
    assert all(tap.side == "output" for tap in anatomy.everywhere())
    assert len(anatomy.everywhere()) == len(anatomy.shapes) / 2
    assert list(anatomy.everywhere()) == [tap for tap in anatomy.shapes if tap.side == "output"]


class Functional(nn.Module):
    """A classifier without activation modules; the last of the widest of a stage is its end."""

    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 16, 3, padding=1)
        self.wide_again = nn.Conv2d(16, 16, 3, padding=1)
        self.narrow = nn.Conv2d(16, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 32, 3, stride=2, padding=1)
        self.head = nn.Linear(32, 5)

    def forward(self, x):
        x = F.relu(self.narrow(F.relu(self.wide_again(F.relu(self.wide(x))))))
        return self.head(F.relu(self.down(x)).mean(dim=(2, 3)))


def test_a_net_of_functional_relus_has_stages():
    anatomy = Anatomy.of(Backbone(Functional(), Classification(tuple("abcde"))), (12, 20))
    assert named(anatomy.stage_ends()) == {"wide_again": (16, 12, 20), "down": (32, 6, 10), "head": (5, 1, 1)}


@pytest.mark.parametrize(
    ("network", "deepest"),
    [
        (ESPNet(12, p=2, q=8, skip="maps+image"), {"encoder.b3.act"}),
        (ESPNetC(12, p=2, q=3), {"b3.act"}),
        (Functional(), {"down"}),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 12, 3, padding=1)), {"1"}),
    ],
    ids=["ESPNet", "ESPNet-C", "classifier", "prediction alone"],
)
def test_the_deepest_stage_has_the_fewest_pixels_and_is_not_the_prediction(network, deepest):
    output = Classification(tuple("abcde")) if isinstance(network, Functional) else Segmentation(tuple("abcdefghijkl"))
    anatomy = Anatomy.of(Backbone(network, output), (64, 96))
    assert set(named(anatomy.select("deepest"))) == set(named(anatomy.deepest())) == deepest


def test_the_prediction_is_no_inner_stage_end():
    decoder, encoder = (espnet(net) for net in (ESPNet(12, p=2, q=8, skip="maps+image"), ESPNetC(12, p=2, q=3)))
    assert [str(tap) for tap in decoder.stage_ends() if tap not in decoder.inner_stage_ends()] == ["classifier"]
    assert encoder.inner_stage_ends() == encoder.stage_ends()  # its prediction is narrower than the stage it is in


class Pooled(nn.Module):
    """A classifier whose features are pooled by a module."""

    def __init__(self):
        super().__init__()
        self.stem, self.stage = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.again, self.pool, self.head = nn.Conv2d(16, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.pool(self.again(self.stage(self.stem(x)))).flatten(1))


def test_vectors_are_read_beside_the_deepest_map():
    anatomy = Anatomy.of(Backbone(Pooled(), Classification(tuple("abcd"))), (8, 8))
    assert named(anatomy.deepest()) == {"again": (16, 4, 4), "pool": (16, 1, 1)}
    vectors = Anatomy((1, 1), 3, {Tap("a"): (8, 1, 1), Tap("b"): (4, 1, 1)})
    assert named(vectors.deepest()) == {"a": (8, 1, 1)}


def test_a_net_without_a_stage_says_what_to_do():
    backbone = Backbone(nn.Conv2d(3, 2, 1), Segmentation(("a", "b")))
    with pytest.raises(Mismatch, match="no leaf module that runs once and is wider than the image; name the taps"):
        Anatomy.of(backbone, (8, 8)).stage_ends()


def test_grey_images_are_looked_at_with_one_channel():
    backbone = Backbone(nn.Conv2d(1, 2, 1), Segmentation(("a", "b")))
    anatomy = Anatomy.of(backbone, (8, 8), channels=1)
    assert named(anatomy.shapes) == {":input": (1, 8, 8), "": (2, 8, 8)}
    assert named(anatomy.stage_ends()) == {"": (2, 8, 8)}


LAYERS = {Tap("a"): (4, 20, 20), Tap("b"): (6, 10, 10)}


def test_a_key_ring_draws_one_key_and_keeps_it():
    ring = KeyRing(seed=3)
    key = ring.draw("blue_noise", LAYERS, (20, 20), 5)
    assert key == blue_noise((10, 20, 20), 5, 3)
    assert ring.draw("blue_noise", LAYERS, (20, 20), 5.0) is key
    assert KeyRing(key).draw("blue_noise", LAYERS, (20, 20), 5) is key


def test_every_kind_of_key_has_as_many_points_as_blue_noise():
    counts = {kind: len(KeyRing(seed=3).draw(kind, LAYERS, (20, 20), 5)) for kind in ("blue_noise", "uniform")}
    assert counts["uniform"] == counts["blue_noise"]
    even = KeyRing(seed=3).draw("balanced", LAYERS, (20, 20), 5)
    assert abs(len(even) - counts["blue_noise"]) <= 2
    in_the_first = int((even.points[:, 0] < 4).sum())
    assert abs(in_the_first - (len(even) - in_the_first)) <= 1


def test_an_unknown_kind_of_key_is_named_with_the_nearest():
    with pytest.raises(ValueError, match=r"no key of kind 'balancd'\. Did you mean 'balanced'\?"):
        KeyRing().draw("balancd", LAYERS, (20, 20), 5)


@pytest.mark.parametrize(
    ("kind", "size", "distance", "named"),
    [
        ("blue_noise", (20, 21), 5, "(10, 20, 21)"),
        ("blue_noise", (20, 20), 6, "blue_noise(6)"),
        ("balanced", (20, 20), 5, "balanced(5 over 2 layers)"),
        ("uniform", (20, 20), 5, "uniform(as many as blue_noise(5))"),
    ],
)
def test_a_key_ring_refuses_a_second_key_and_names_both(kind, size, distance, named):
    ring = KeyRing(blue_noise((10, 20, 20), 5, 0))
    with pytest.raises(Mismatch) as error:
        ring.draw(kind, LAYERS, size, distance)
    for part in ("blue_noise(5)", "(10, 20, 20)", named):
        assert part in str(error.value)


def test_looking_at_a_backbone_does_not_change_it():
    backbone = Backbone(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), Segmentation(tuple("abcd")))
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    Anatomy.of(backbone, (6, 6))
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


class Blocks(nn.Module):
    """Two blocks of convolution and batch norm, one module that runs twice, and a head."""

    def __init__(self):
        super().__init__()
        self.level1 = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4))
        self.level2 = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(8, 2, 1)

    def forward(self, x):
        return self.conv(self.act(self.level2(self.act(self.level1(x)))))


@pytest.fixture
def blocks():
    return Anatomy.of(Backbone(Blocks(), Segmentation(("a", "b"))), (8, 12))


@pytest.mark.parametrize(
    ("selection", "taps"),
    [
        ("everywhere", ["level1.0", "level1.1", "level2.0", "level2.1", "conv"]),
        ("conv", ["level1.0", "level2.0", "conv"]),
        ("conv:output", ["conv"]),
        ("batch_norm_inputs", ["level1.1:input", "level2.1:input"]),
        ("level2.0", ["level2.0"]),
        ("level2", ["level2"]),
        ("level1.*", ["level1.0", "level1.1"]),
        ("level[12]:input", ["level1:input", "level2:input"]),
        ("conv:input, level1.0", ["level1.0", "conv:input"]),
        (["level2.1", "level1.1:input"], ["level1.1:input", "level2.1"]),
    ],
)
def test_a_selection_names_taps_in_running_order(blocks, selection, taps):
    assert [str(tap) for tap in blocks.select(selection)] == taps


def test_what_is_selected_has_its_shape(blocks):
    assert blocks.select("level2") == {Tap("level2"): (8, 4, 6)}
    assert blocks.select("stage_ends") == blocks.stage_ends()


@pytest.mark.parametrize(
    ("selection", "error", "told"),
    [
        ("level3.0", ValueError, r"No taps are named 'level3.0'. Did you mean 'level\d.0'"),
        ("evrywhere", ValueError, "Did you mean 'everywhere'"),
        ("level9.*", ValueError, "No module's name fits 'level9.*'"),
        (
            "act",
            Mismatch,
            "Nothing of 'act' can be tapped",
        ),
        ("", ValueError, "No taps are named ''"),
        ([], ValueError, "No taps are named ''"),
    ],
)
def test_a_selection_of_nothing_says_what_there_is(blocks, selection, error, told):
    with pytest.raises(error, match=told):
        blocks.select(selection)


TWO = {Tap("a"): (6, 10, 10), Tap("b"): (4, 5, 5)}


@pytest.mark.parametrize("kind", ["blue_noise", "balanced", "uniform"])
def test_a_key_of_any_kind_is_known_again_and_is_no_other_kind(kind):
    key = KeyRing(seed=3).draw(kind, TWO, (20, 20), 5)
    assert KeyRing(key).draw(kind, TWO, (20, 20), 5.0) is key
    for other in {"blue_noise", "balanced", "uniform"} - {kind}:
        with pytest.raises(Mismatch, match="One monitor has one key"):
            KeyRing(key).draw(other, TWO, (20, 20), 5)
    with pytest.raises(Mismatch, match="One monitor has one key"):
        KeyRing(key).draw(kind, TWO, (20, 20), 6)


def test_a_balanced_key_is_refused_where_the_layers_are_others_though_the_volume_is_the_same():
    ring = KeyRing(seed=0)
    ring.draw("balanced", TWO, (20, 20), 5)
    with pytest.raises(Mismatch, match=r"balanced\(5 over 2 layers\) .* asked for is balanced\(5 over 1 layers\)"):
        ring.draw("balanced", {Tap("c"): (10, 20, 20)}, (20, 20), 5)


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.act(self.bn(self.conv(x))) + x


class Residual(nn.Module):
    """Two stages of blocks, a module that is called like a selection, one that runs twice, and one that never runs."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = nn.Sequential(Block(4), Block(4))
        self.down = nn.Conv2d(4, 8, 2, stride=2)
        self.layer2 = nn.Sequential(Block(8))
        self.twice = nn.Tanh()
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.twice(self.layer1(self.twice(self.conv(x))))
        return self.head(self.layer2(self.down(x)).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def residual():
    return Anatomy.of(Backbone(Residual(), Classification(("a", "b", "c"))), (8, 12))


def test_selections_by_kind_take_what_they_say(residual):
    assert residual.select("everywhere") == residual.everywhere()
    assert residual.select("stage_ends") == residual.stage_ends()
    assert named(residual.select("conv")) == {
        "conv": (4, 8, 12),
        "layer1.0.conv": (4, 8, 12),
        "layer1.1.conv": (4, 8, 12),
        "down": (8, 4, 6),
        "layer2.0.conv": (8, 4, 6),
    }
    assert named(residual.select("batch_norm_inputs")) == {
        "layer1.0.bn:input": (4, 8, 12),
        "layer1.1.bn:input": (4, 8, 12),
        "layer2.0.bn:input": (8, 4, 6),
    }


@pytest.mark.parametrize(
    ("selection", "taps"),
    [
        ("layer1.0.conv", ["layer1.0.conv"]),
        ("layer1.0.conv:input", ["layer1.0.conv:input"]),
        ("conv:output", ["conv"]),
        ("layer1.0", ["layer1.0"]),
        ("layer1:input", ["layer1:input"]),
        (":output", [""]),
        ("layer2.*", ["layer2.0.conv", "layer2.0.bn", "layer2.0.act"]),
        ("*.bn", ["layer1.0.bn", "layer1.1.bn", "layer2.0.bn"]),
        ("layer?.0.bn:input", ["layer1.0.bn:input", "layer2.0.bn:input"]),
        ("layer[12]", ["layer1", "layer2"]),
        ("layer1.[0-9]", ["layer1.0", "layer1.1"]),
        ("head, layer2.0.act ,head", ["layer2.0.act", "head"]),
        (["head", "layer2.0.act"], ["layer2.0.act", "head"]),
        ("batch_norm_inputs,down", ["layer1.0.bn:input", "layer1.1.bn:input", "down", "layer2.0.bn:input"]),
        ("layer1.0,*ayer1.0.act", ["layer1.0.act", "layer1.0"]),
        ("[dtu]*", ["down"]),
    ],
)
def test_patterns_fit_leaves_and_where_they_fit_none_the_blocks(residual, selection, taps):
    assert [str(tap) for tap in residual.select(selection)] == taps


@pytest.mark.parametrize(
    ("selection", "why"),
    [
        ("twice", "runs 2 times in a forward pass"),
        ("twic?:input", "runs 2 times in a forward pass"),
        ("unused", "never runs"),
        ("head,unused*", "never runs"),
    ],
)
def test_what_is_named_and_cannot_be_tapped_is_refused_with_the_reason(residual, selection, why):
    with pytest.raises(Mismatch, match=f"can be tapped: {why}"):
        residual.select(selection)


def test_a_kind_that_the_network_has_not_is_refused():
    anatomy = Anatomy.of(Backbone(nn.Conv2d(3, 2, 1), Segmentation(("a", "b"))), (8, 8))
    with pytest.raises(Mismatch, match="Nothing of 'batch_norm_inputs' can be tapped"):
        anatomy.select("batch_norm_inputs")


def test_a_selected_block_is_read_as_its_output_is(residual):
    backbone = Backbone(Residual(), Classification(("a", "b", "c")))
    ((tap, shape),) = residual.select("layer2.0").items()
    images = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = Probe(backbone, [FeatureMap(tap, shape, "block")])(images).readings["block"]
        network = backbone.network
        x = network.twice(network.layer1(network.twice(network.conv(images))))
        assert torch.equal(seen, network.layer2(network.down(x)))


def test_a_compiled_network_has_nothing_to_select_and_says_what_to_give():
    torch._dynamo.reset()
    anatomy = Anatomy.of(Backbone(torch.compile(Residual(), backend="eager"), Classification(("a", "b", "c"))), (8, 12))
    assert anatomy.everywhere() == {}
    for selection in ("everywhere", "stage_ends", "conv", "_orig_mod.head"):
        with pytest.raises(Mismatch, match=r"the network is compiled: .*`network\._orig_mod`"):
            anatomy.select(selection)


def test_without_the_network_leaves_are_selected_by_name_and_kinds_are_refused(residual):
    absent = Anatomy(residual.size, residual.channels, residual.shapes)
    for selection in ("everywhere", "stage_ends", "layer2.*", "layer1.0.bn:input,head"):
        assert absent.select(selection) == residual.select(selection)
    for selection in ("conv", "batch_norm_inputs"):
        with pytest.raises(Mismatch, match="not known without the network"):
            absent.select(selection)
