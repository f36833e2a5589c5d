"""TwinLiteNet: the published weights load strictly and see the road; two heads are four classes, or one of them."""

import pytest
import torch

from inlier.backbones.base import Backbone
from inlier.backbones.load import load_backbone
from inlier.backbones.twinlitenet import (
    JOINT_CLASSES,
    ChannelAttention,
    PositionAttention,
    TwinLiteNet,
    joint_logits,
    twinlitenet,
)
from inlier.datasets.folder import ImageFolder
from inlier.errors import Mismatch
from inlier.files import read_tensors, write_tensors
from inlier.monitor import Monitor


def seeded(seed=0):
    torch.manual_seed(seed)
    return TwinLiteNet(1, 1)


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "w.safetensors"
    write_tensors(path, {f"module.{name}": value for name, value in seeded().state_dict().items()})
    return path


def published(data):
    return data / "weights" / "twinlitenet_bdd100k.safetensors"


def test_the_published_file_loads_to_the_last_tensor(data):
    network = twinlitenet(published(data)).network
    stored, own = read_tensors(published(data))[0], network.state_dict()
    assert set(own) == {name.removeprefix("module.") for name in stored}
    assert all(torch.equal(own[name.removeprefix("module.")], value) for name, value in stored.items())


def test_it_sees_the_road_of_bdd_frames_below_the_horizon_and_lanes_thinly(data):
    backbone = load_backbone(f"twinlitenet:{published(data)}")
    drivable, lane, above = [], [], []
    for batch in ImageFolder(data / "bdd100k_samples_a").batches(1):
        with torch.no_grad():
            predicted = backbone.predict(batch.images)[0]
        drivable.append((predicted >= 2).double().mean().item())
        lane.append((predicted % 2 == 1).double().mean().item())
        above.append((predicted[: len(predicted) // 3] > 0).double().mean().item())
    assert len(drivable) == 6
    assert all(0.08 < share < 0.27 for share in drivable)
    assert all(share < 0.025 for share in lane)
    assert sum(share > 0.004 for share in lane) == 5  # one street is under snow and has no markings
    assert max(above) == 0


def test_pixels_go_in_as_they_are_and_other_scales_lose_the_road(data):
    backbone = twinlitenet(published(data), output="drivable")
    images = torch.cat([batch.images for batch in ImageFolder(data / "bdd100k_samples_a").batches(3)][:1])
    shares = [
        changed.predict(images).double().mean().item()
        for changed in (backbone, backbone.adapted(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))
    ]
    assert shares[0] > 0.09
    assert shares[1] < 0.8 * shares[0]


def test_both_heads_together_are_the_heads_one_by_one(weights):
    images = torch.rand(2, 3, 40, 56, generator=torch.Generator().manual_seed(0))
    both, drivable, lane = (
        twinlitenet(weights, output=output).adapted(size=(40, 56)) for output in ("both", "drivable", "lane")
    )
    assert both.task.classes == JOINT_CLASSES
    assert torch.equal(both.predict(images), 2 * drivable.predict(images) + lane.predict(images))
    joint = both(images).softmax(1).view(2, 2, 2, 40, 56)
    torch.testing.assert_close(joint.sum(2), drivable(images).softmax(1))
    torch.testing.assert_close(joint.sum(1), lane(images).softmax(1))
    torch.testing.assert_close(both(images).logsumexp(1), sum(head(images).logsumexp(1) for head in (drivable, lane)))


def test_joint_logits_are_in_the_order_of_their_names():
    drivable, lane = torch.tensor([1.0, 20.0]), torch.tensor([300.0, 4000.0])
    joint = joint_logits({"drivable": drivable.view(1, 2, 1, 1), "lane": lane.view(1, 2, 1, 1)})
    assert dict(zip(JOINT_CLASSES, joint.flatten().tolist(), strict=True)) == {
        "neither": 301, "lane": 4001, "drivable": 320, "lane on drivable": 4020,
    }  # fmt: skip


def test_a_head_is_an_option_and_has_its_own_fingerprint(weights):
    made = [load_backbone(f"twinlitenet:{weights}", output=output) for output in (None, "drivable", "lane")]
    assert len({backbone.fingerprint() for backbone in made}) == 3
    assert made[2].task.classes == ("no lane", "lane")
    with pytest.raises(LookupError, match=r"has no output 'lanes'\. Did you mean 'lane'"):
        load_backbone(f"twinlitenet:{weights}", output="lanes")


@pytest.mark.parametrize(("height", "width"), [(1, 1), (7, 5), (33, 65), (45, 47)])
def test_images_of_any_size_get_an_answer_of_their_size(height, width):
    raw = seeded().eval()(torch.rand(2, 3, height, width))
    assert {name: logits.shape for name, logits in raw.items()} == dict.fromkeys(
        ("drivable", "lane"), (2, 2, height, width)
    )


def test_position_attention_is_a_weighted_mean_over_all_places():
    torch.manual_seed(0)
    attention = PositionAttention(8)
    attention.gamma.data.fill_(0.7)
    x = torch.rand(1, 8, 2, 3)
    query, key, value = (
        conv(x)[0].flatten(1) for conv in (attention.query_conv, attention.key_conv, attention.value_conv)
    )
    expected = x.clone()
    for place in range(6):
        weight = torch.softmax(torch.stack([query[:, place] @ key[:, other] for other in range(6)]), 0)
        expected[0].flatten(1)[:, place] += 0.7 * (value * weight).sum(1)
    torch.testing.assert_close(attention(x), expected)


def test_channel_attention_looks_at_the_channels_least_like_it():
    attention = ChannelAttention()
    attention.gamma.data.fill_(0.7)
    x = torch.rand(1, 3, 2, 2)
    flat = x[0].flatten(1)
    expected = x.clone()
    for channel in range(3):
        likeness = torch.stack([flat[channel] @ flat[other] for other in range(3)])
        weight = torch.softmax(likeness.max() - likeness, 0)
        expected[0, channel] += 0.7 * (weight[:, None, None] * x[0]).sum(0)
    torch.testing.assert_close(attention(x), expected)


def test_a_monitor_is_fitted_to_both_heads(weights):
    backbone = twinlitenet(weights).adapted(size=(32, 48))
    assert isinstance(backbone, Backbone)
    images = torch.rand(40, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    monitor = Monitor(backbone, ["mahalanobis", "entropy"]).fit(images).calibrate(false_alarm_rate=0.1)
    assert monitor(images[:2]).p_value.shape == (2,)


def test_what_is_no_twinlitenet_is_refused(tmp_path, weights):
    write_tensors(tmp_path / "other.safetensors", {"conv.weight": torch.zeros(1)})
    with pytest.raises(Mismatch, match=r"other\.safetensors' holds no TwinLiteNet"):
        twinlitenet(tmp_path / "other.safetensors")
    state = read_tensors(weights)[0]
    del state["module.up_1_2.bn.bias"]
    write_tensors(tmp_path / "w", state)
    with pytest.raises(Mismatch, match=r"1 missing \(up_1_2\.bn\.bias\)"):
        twinlitenet(tmp_path / "w")
