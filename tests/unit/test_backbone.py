"""Backbones: preprocessing from the file's pixels on, tasks that find the logits, fingerprints, and names for them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from inlier.backbones.base import Backbone, Classification, Segmentation, Task
from inlier.backbones.load import BACKBONES, load_backbone
from inlier.errors import Mismatch
from inlier.files import write_tensors

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


def test_a_dense_answer_has_the_images_size_before_resizing():
    backbone = Backbone(nn.AvgPool2d(2), RGB, size=(4, 4))
    expected = F.interpolate(F.avg_pool2d(backbone.prepare(IMAGES), 2), (6, 8), mode="bilinear", align_corners=False)
    assert torch.equal(backbone(IMAGES), expected)


@pytest.mark.parametrize("size", [None, (3, 5)])
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


def test_running_does_not_change_a_fingerprint():
    backbone = make()
    before = backbone.fingerprint()
    backbone(IMAGES)
    assert backbone.fingerprint() == before


# --- names ------------------------------------------------------------------------------------------------------------


def test_the_packaged_backbone_has_a_name():
    assert load_backbone("street")(IMAGES).shape[0] == 2


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("espnett:x", LookupError, "No backbone named 'espnett'. Did you mean 'espnet'?"),
        ("espnet", ValueError, "Backbone 'espnet' needs weights: write espnet:FILE.safetensors"),
        ("espnet:none.safetensors", FileNotFoundError, "No file 'none.safetensors'"),
        ("street:w.safetensors", ValueError, "has its weights in the package and takes no 'w.safetensors'"),
    ],
)
def test_a_name_that_cannot_be_loaded_says_why(text, error, message):
    with pytest.raises(error) as raised:
        load_backbone(text)
    assert message in str(raised.value)


def test_weights_of_something_else_are_refused(tmp_path):
    write_tensors(tmp_path / "w.safetensors", {"conv.weight": torch.zeros(1)})
    with pytest.raises(Mismatch, match=r"w\.safetensors' holds no ESPNet"):
        load_backbone(f"espnet:{tmp_path / 'w.safetensors'}")


def test_every_name_is_a_backbone_factory():
    assert all(callable(BACKBONES[name]) for name in BACKBONES)
