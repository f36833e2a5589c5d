"""Backbones: preprocessing from the file's pixels on, tasks that find the logits, fingerprints, and
networks that come back as they came."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from inlier.backbones.base import Backbone, Classification, Segmentation, Task
from inlier.backbones.outputs import Output
from inlier.monitor import Monitor

IMAGES = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
RGB = Segmentation(("r", "g", "b"))


def seeded(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return network


# --- preprocessing ----------------------------------------------------------------------------------------------------


def test_prepare_normalises_the_channels_as_the_network_sees_them():
    rgb = Backbone(nn.Identity(), RGB, mean=MEAN, std=STD)
    bgr = Backbone(nn.Identity(), RGB, mean=MEAN, std=STD, bgr=True)
    for c in range(3):
        torch.testing.assert_close(rgb.prepare(IMAGES)[:, c], (IMAGES[:, c] - MEAN[c]) / STD[c])
        torch.testing.assert_close(bgr.prepare(IMAGES)[:, c], (IMAGES[:, 2 - c] - MEAN[c]) / STD[c])


def test_without_statistics_images_pass_as_they_are():
    assert torch.equal(Backbone(nn.Identity(), RGB).prepare(IMAGES), IMAGES)


def test_resizing_is_pillows_bilinear_with_antialiasing():
    prepared = Backbone(nn.Identity(), RGB, size=(3, 5)).prepare(IMAGES)
    for image, small in zip(IMAGES, prepared, strict=True):
        for channel, mine in zip(image, small, strict=True):
            theirs = Image.fromarray(channel.numpy()).resize((5, 3), Image.Resampling.BILINEAR)
            np.testing.assert_allclose(mine, np.asarray(theirs), atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(6, 8), (8, 6), (5, 17)])
def test_one_number_is_the_shorter_side_and_keeps_the_ratio(height, width):
    prepared = Backbone(nn.Identity(), RGB, size=4).prepare(torch.rand(1, 3, height, width))
    short, long = sorted(prepared.shape[-2:])
    assert (short, long) == (4, 4 * max(height, width) // min(height, width))
    assert (prepared.shape[-2] > prepared.shape[-1]) == (height > width)


def test_a_crop_keeps_the_centre_after_resizing():
    cropped = Backbone(nn.Identity(), Classification(tuple("rgb")), size=6, crop=(3, 2))
    whole = Backbone(nn.Identity(), RGB, size=6)
    assert torch.equal(cropped.prepare(IMAGES), whole.prepare(IMAGES)[..., 1:4, 3:5])


def test_bicubic_resizing_is_pillows_and_stays_in_the_unit_interval():
    edges = (IMAGES > 0.5).float()
    prepared = Backbone(nn.Identity(), RGB, size=(9, 13), resample="bicubic").prepare(edges)
    assert (prepared.min(), prepared.max()) == (0, 1)
    for channel, mine in zip(edges.flatten(0, 1), prepared.flatten(0, 1), strict=True):
        theirs = Image.fromarray(channel.numpy()).resize((13, 9), Image.Resampling.BICUBIC)
        np.testing.assert_allclose(mine, np.asarray(theirs).clip(0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("size", "crop"), [(None, (2, 2)), (4, (5, 2)), ((4, 4), (2, 5)), (4, (0, 2)), ((0, 4), None), (0, None)]
)
def test_sizes_and_crops_that_cannot_be_are_refused(size, crop):
    with pytest.raises(ValueError, match=r"must lie within|1 pixel or more"):
        Backbone(nn.Identity(), Classification(tuple("rgb")), size=size, crop=crop)


def test_a_dense_network_is_not_shown_a_crop():
    with pytest.raises(ValueError, match=r"must see the whole image; crop=\(2, 2\) would cut"):
        Backbone(nn.Identity(), RGB, size=4, crop=(2, 2))


def test_a_dense_answer_has_the_images_size_before_resizing():
    backbone = Backbone(nn.AvgPool2d(2), RGB, size=(4, 4))
    expected = F.interpolate(F.avg_pool2d(backbone.prepare(IMAGES), 2), (6, 8), mode="bilinear", align_corners=False)
    assert torch.equal(backbone(IMAGES), expected)


@pytest.mark.parametrize("size", [None, (3, 5), 4])
def test_gradients_reach_the_pixels_of_the_file(size):
    backbone = Backbone(nn.Identity(), RGB, mean=MEAN, std=STD, bgr=True, size=size).double()
    assert torch.autograd.gradcheck(backbone.prepare, (IMAGES[:1].double().requires_grad_(),))


@pytest.mark.parametrize(("mean", "std"), [((0.5,), (1.0, 1.0)), ((0.5,), (0.0,)), ((0.5,), (-1.0,))])
def test_statistics_that_cannot_be_are_refused(mean, std):
    with pytest.raises(ValueError, match="mean and std need one value a channel and std > 0"):
        Backbone(nn.Identity(), RGB, mean=mean, std=std)


# --- eval mode --------------------------------------------------------------------------------------------------------


def test_a_backbone_stays_in_eval_mode_whatever_holds_it():
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.9)).train()
    outer = nn.Sequential(Backbone(network, RGB))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for _ in range(2):
        outer.train()
        outer.requires_grad_(False)
        assert not any(module.training for module in network.modules())
        assert torch.equal(outer(IMAGES), outer(IMAGES))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_one_image_of_a_batch_does_not_change_another():
    network = seeded(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)))
    backbone = Backbone(network, RGB)
    torch.testing.assert_close(backbone(IMAGES)[:1], backbone(IMAGES[:1]))


def test_parameters_need_no_gradient():
    backbone = Backbone(nn.Conv2d(3, 3, 1), RGB)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


# --- the user's module comes back -------------------------------------------------------------------------------------


def partly_frozen():
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, 3, 1))
    network = seeded(nn.Sequential(*layers)).train()
    network[0].bias.requires_grad_(False)
    network[2].eval()
    network[0].register_forward_hook(lambda *_: None)
    return network


def facts(network):
    """Everything of a network that somebody could have changed."""
    return {
        "state": {name: value.clone() for name, value in network.state_dict().items()},
        "training": [module.training for module in network.modules()],
        "requires_grad": [parameter.requires_grad for parameter in network.parameters()],
        "grad": [parameter.grad for parameter in network.parameters()],
        "identity": [id(value) for value in (*network.modules(), *network.parameters(), *network.buffers())],
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in network.modules()
        ],
        "forward": ["forward" in vars(module) for module in network.modules()],
    }


def assert_same(now, before):
    states = now.pop("state"), before.pop("state")
    assert now == before
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert states[0].keys() == states[1].keys()


def test_a_released_network_is_as_it_came():
    network = partly_frozen()
    before = facts(network)
    backbone = Backbone(network, RGB)
    backbone(IMAGES.clone().requires_grad_()).sum().backward()
    assert backbone.release() is network
    assert_same(facts(network), before)


@pytest.mark.parametrize("settings", [{"std": (0.0,)}, {"crop": (1, 1)}, {"size": (0, 1)}])
def test_a_refused_backbone_has_not_touched_the_network(settings):
    network = partly_frozen()
    before = facts(network)
    with pytest.raises(ValueError, match=r"std > 0|must lie within|1 pixel"):
        Backbone(network, RGB, **settings)
    assert_same(facts(network), before)


class Raises(nn.Module):
    def __init__(self, after):
        super().__init__()
        self.left = after

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise RuntimeError("the user's own error")
        return x


@pytest.mark.parametrize("after", [10**6, 0, 1, 3])
def test_fitting_a_monitor_leaves_no_trace_in_the_network_also_when_it_raises(after):
    network = partly_frozen()
    network.append(Raises(after))
    backbone = Backbone(network, RGB)
    before = facts(network)
    images = torch.rand(24, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    monitor = Monitor(backbone, ["mahalanobis", "daain(distance=8)"], seed=0)
    with nullcontext() if after == 10**6 else pytest.raises(RuntimeError, match="the user's own error"):
        monitor.fit(images)
    assert_same(facts(network), before)


# --- the same network with other settings -----------------------------------------------------------------------------


def test_an_adapted_backbone_shares_the_network_and_leaves_the_first_as_it_was():
    first = Backbone(nn.Conv2d(3, 3, 1), RGB, mean=MEAN, std=STD)
    second = first.adapted(mean=(0.5,), std=(2.0,), bgr=True, size=(3, 5))
    assert second.network is first.network
    torch.testing.assert_close(first.prepare(IMAGES), (IMAGES - first.mean) / first.std)
    expected = Backbone(nn.Identity(), RGB, mean=(0.5,), std=(2.0,), bgr=True, size=(3, 5)).prepare(IMAGES)
    assert torch.equal(second.prepare(IMAGES), expected)
    assert first.adapted().fingerprint() == first.fingerprint() != second.fingerprint()


def test_a_given_size_takes_the_place_of_a_crop():
    cropped = Backbone(nn.Identity(), Classification(tuple("rgb")), size=6, crop=(3, 2))
    assert cropped.adapted(size=(4, 5)).prepare(IMAGES).shape[-2:] == (4, 5)
    assert cropped.adapted(bgr=True).prepare(IMAGES).shape[-2:] == (3, 2)


def test_statistics_that_cannot_be_are_refused_when_adapting_too():
    with pytest.raises(ValueError, match="std > 0"):
        Backbone(nn.Identity(), RGB).adapted(mean=MEAN)


# --- tasks ------------------------------------------------------------------------------------------------------------


class Dict(nn.Module):
    def forward(self, x):
        return {"out": x, "aux": -x}


def test_select_picks_the_logits_out_of_what_is_no_tensor():
    backbone = Backbone(Dict(), Segmentation(("r", "g", "b"), select=lambda raw: raw["aux"]))
    assert torch.equal(backbone(IMAGES), -IMAGES)
    assert torch.equal(backbone.predict(IMAGES), (-IMAGES).argmax(1))


def test_an_output_that_is_no_tensor_asks_for_select():
    with pytest.raises(TypeError, match=r"returned dict, not a tensor of logits. Give the task a select= function"):
        Backbone(Dict(), RGB)(IMAGES)


def test_another_number_of_logits_than_classes_is_refused():
    with pytest.raises(ValueError, match=r"returned 3 logits for 2 class names \(\('a', 'b'\)\)"):
        Backbone(nn.Identity(), Segmentation(("a", "b")))(IMAGES)


def test_a_classifier_answers_a_class_an_image():
    network = seeded(nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 8, 4)))
    backbone = Backbone(network, Classification(tuple("abcd")))
    assert backbone(IMAGES).shape == (2, 4)
    assert backbone.predict(IMAGES).shape == (2,)


def test_tasks_know_whether_they_are_dense_and_which_class_is_none():
    assert Segmentation(("road", "void")).void == 1
    assert Segmentation(("road", "none"), void="none").void == 1
    assert Segmentation(("road", "sky")).void is None
    assert Segmentation(("a",)).is_dense
    assert not Classification(("a",)).is_dense
    with pytest.raises(AttributeError, match="must say whether it is dense"):
        Task(("a",)).is_dense  # noqa: B018 (a property that raises)


# --- fingerprints -----------------------------------------------------------------------------------------------------


def make(seed=0, task=RGB, **settings):
    return Backbone(seeded(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), seed), task, **settings)


def test_a_fingerprint_tells_what_was_fitted_to():
    others = [
        make(seed=1),
        make(mean=(0.1,), std=(1.0,)),
        make(std=(2.0,), mean=(0.0,)),
        make(bgr=True),
        make(size=(4, 4)),
        make(task=Segmentation(("r", "g", "x"))),
    ]
    nudged = make()
    nudged.network[1].running_mean[2] += 1e-6
    prints = [backbone.fingerprint() for backbone in (make(), *others, nudged)]
    assert len(set(prints)) == len(prints)
    assert make().fingerprint() == prints[0]


def test_a_fingerprint_is_the_one_that_earlier_artefacts_hold():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    for index, parameter in enumerate(network.parameters()):
        parameter.data = torch.arange(parameter.numel(), dtype=torch.float32).view_as(parameter) / 8 + index
    backbone = Backbone(network, RGB, mean=MEAN, std=STD, bgr=True, size=(4, 6))
    assert backbone.fingerprint() == "c735ae9a21c1b4bdac2d11146c7a0b24f07e30c55754405e21a82adf58466083"


def test_what_was_added_later_counts_in_a_fingerprint_where_it_is_used():
    task = Classification(tuple("rgb"))
    backbones = [
        make(task=task, size=4),
        make(task=task, size=4, crop=(2, 2)),
        make(task=task, size=4, resample="bicubic"),
        make(task=Classification(tuple("rgb"), select=Output("a")), size=4),
        make(task=Classification(tuple("rgb"), select=Output("b")), size=4),
    ]
    assert len({backbone.fingerprint() for backbone in backbones}) == len(backbones)


def test_running_does_not_change_a_fingerprint():
    backbone = make()
    before = backbone.fingerprint()
    backbone(IMAGES)
    assert backbone.fingerprint() == before
