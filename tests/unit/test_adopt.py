"""A plain module becomes a backbone after one pass over a grey image, or stays as it was."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from inlier.backbones.adopt import adopt
from inlier.backbones.base import Classification, Segmentation
from inlier.backbones.outputs import Output
from inlier.errors import Mismatch
from inlier.files import write_tensors
from inlier.monitor import Monitor

IMAGES = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0))


def classifier(classes=4, channels=3):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )


def eighth(classes=5):
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, classes, 2, 2))


class Returns(nn.Module):
    """A network whose logits lie in something else."""

    def __init__(self, network, wrap):
        super().__init__()
        self.network, self.wrap = network, wrap

    def forward(self, x):
        return self.wrap(self.network(x))


def test_logits_a_picture_make_a_classifier():
    backbone = adopt(classifier())
    assert type(backbone.task) is Classification
    assert backbone.task.classes == ("0", "1", "2", "3")
    assert backbone(IMAGES).shape == (2, 4)


def test_logits_at_an_eighth_of_the_size_come_back_at_the_images_own():
    network = eighth()
    backbone = adopt(network, classes=("road", "sky", "car", "tree", "void"))
    assert type(backbone.task) is Segmentation
    assert backbone.task.void == 4
    with torch.no_grad():
        small = network(IMAGES)
    assert small.shape[-2:] == (5, 6)
    assert torch.equal(backbone(IMAGES), F.interpolate(small, (40, 48), mode="bilinear", align_corners=False))


@pytest.mark.parametrize(
    ("wrap", "output", "name"),
    [
        (lambda x: {"out": x, "aux": -x}, None, "out"),
        (lambda x: {"out": -x, "aux": x}, "aux", "aux"),
        (lambda x: (x, x.mean()), None, "0"),
        (lambda x: (-x, x), "1", "1"),
        (lambda x: [-x, x], "-1", "-1"),
    ],
)
def test_logits_in_a_dict_or_a_tuple_are_picked_in_every_pass(wrap, output, name):
    network = classifier()
    backbone = adopt(Returns(network, wrap), output=output)
    assert backbone.task.select == Output(name)
    with torch.no_grad():
        assert torch.equal(backbone(IMAGES), network(IMAGES))


def test_two_outputs_alike_are_asked_about():
    with pytest.raises(TypeError, match=r"'0' \(1, 4\), '1' \(1, 4\)\. Say which"):
        adopt(Returns(classifier(), lambda x: (x, -x)))


def test_without_statistics_the_network_sees_pixels_as_they_are_and_with_them_normalised():
    assert torch.equal(adopt(classifier()).prepare(IMAGES), IMAGES)
    backbone = adopt(classifier(), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), bgr=True, size=(20, 24))
    assert backbone.prepare(IMAGES).shape == (2, 3, 20, 24)
    assert backbone.bgr
    assert torch.equal(adopt(classifier(), mean=(0.5,) * 3).prepare(IMAGES), IMAGES - 0.5)
    assert torch.equal(adopt(classifier(), std=(0.5,) * 3).prepare(IMAGES), IMAGES / 0.5)


def test_a_network_for_grey_images_is_tried_with_one_channel():
    assert adopt(classifier(channels=1))(IMAGES[:, :1]).shape == (2, 4)


def test_a_network_of_one_fixed_size_is_tried_at_usual_sizes():
    digits = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 10))
    assert adopt(digits)(torch.rand(2, 1, 28, 28)).shape == (2, 10)


def test_a_network_of_an_unusual_size_asks_for_it_and_then_takes_any_image():
    with pytest.raises(ValueError, match=r"fails on a grey image of 3 or 1 channels and 224x224, .*--size HxW"):
        adopt(nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 24, 7)))
    backbone = adopt(nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 24, 7)), size=(20, 24))
    assert backbone(IMAGES).shape == (2, 7)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Flatten(2), r"returns \(1, 3, 50176\); logits are \(1, classes\)"),
        (nn.Flatten(0), r"returns \(150528,\); logits are"),
        (nn.AdaptiveAvgPool2d(1), r"returns \(1, 3, 1, 1\): one map of one pixel.*flatten\(1\)"),
    ],
)
def test_what_is_no_shape_of_logits_is_refused(network, message):
    with pytest.raises(ValueError, match=message):
        adopt(network)


def test_another_number_of_names_than_outputs_is_refused():
    with pytest.raises(ValueError, match=r"has 4 outputs, and there are 2 class names: \('a', 'b'\)"):
        adopt(classifier(), classes=("a", "b"))


def test_weights_are_loaded_before_the_network_is_looked_at(tmp_path):
    trained = classifier()
    write_tensors(tmp_path / "w", trained.state_dict())
    backbone = adopt(classifier(), weights=tmp_path / "w")
    assert all(torch.equal(value, trained.state_dict()[name]) for name, value in backbone.network.state_dict().items())
    with pytest.raises(Mismatch, match=r"another shape \(4\.weight"):
        adopt(classifier(classes=5), weights=tmp_path / "w")


@pytest.mark.parametrize("network", [nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(3)), nn.Conv2d(4, 2, 1)])
def test_a_module_that_is_not_taken_keeps_its_modes(network):
    network.train()
    with pytest.raises(ValueError, match=r"logits are|fails on a grey image"):
        adopt(network)
    assert all(module.training for module in network.modules())
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_the_look_at_the_network_changes_nothing_in_it():
    network = eighth()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    adopt(network)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_monitor_is_fitted_to_an_adopted_network_with_two_outputs():
    images = torch.rand(40, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    monitor = Monitor(adopt(Returns(classifier(), lambda x: {"out": x, "aux": -x})), ["mahalanobis", "max_softmax"])
    monitor.fit(images).calibrate(false_alarm_rate=0.1)
    assert monitor(images[:3]).p_value.shape == (3,)
